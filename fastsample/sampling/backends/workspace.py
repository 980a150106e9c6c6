"""Memory of the GPU backends: edited rows, and Triton's scratch, which is kept.

Scratch is one set of tensors per device and stream, made again when a call needs more. Calls on one stream follow each
other on the device, so they can share it; two streams never do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..contract import Case


def room_for_edited(case: Case) -> Tensor:
    """[B, V] logits to be written, each row at a multiple of 16 bytes; they belong to the call."""
    vocab = case.logits.shape[1]
    return case.logits.new_empty(case.rows, -(-vocab // 8) * 8)[:, :vocab]


class Workspaces:
    """dtypes: of the tensors of a set."""

    def __init__(self, dtypes: Sequence[torch.dtype]) -> None:
        self._dtypes = dtypes
        self._kept: dict[tuple[torch.device, int], list[Tensor]] = {}

    def get(self, device: torch.device, stream: int, sizes: Sequence[int]) -> list[Tensor]:
        """1-D tensors of at least `sizes` elements, for the current stream of `device` (its handle; 0 on a CPU)."""
        # Memory made during a capture belongs to the graph: it must not be kept for calls outside, nor theirs taken.
        is_capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        key = device, stream
        kept = [] if is_capturing else self._kept.get(key, [])
        if not kept or any(t.numel() < size for t, size in zip(kept, sizes)):
            # Never smaller than before: calls that need more of one and less of another would take turns for ever.
            sizes = [max(size, t.numel()) for size, t in zip(sizes, kept)] if kept else sizes
            kept = [torch.empty(size, dtype=dtype, device=device) for size, dtype in zip(sizes, self._dtypes)]
            if not is_capturing:
                self._kept[key] = kept
        return kept
