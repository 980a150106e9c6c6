"""How many bytes a run takes, and how many samples fit: what `fastsample plan` prints.

Per token and layer a cache holds 2 * H_kv * D numbers (K and V). Shared, the prompt is stored once and each sample has
a tail, whose storage doubles as it grows and stops at a layer's window; repeated, each sample holds its own copy of the
prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...models import compat
from ...shared_prefix.sizes import allocated, ring_of
from ...torch_ops import onednn
from ..base import Sample


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one run; `fits` is the largest number of samples that a budget allows, None without a budget."""

    prompt_tokens: int
    samples: int
    max_new_tokens: int
    weights: int
    prefix: int  # the prompt's K/V, once
    tails: int  # the samples' own K/V at full length, as allocated
    logits: int  # one row of float32 logits a sample
    repeated: int  # the K/V of prompt and samples where each sample holds its own copy
    parked: int  # paths that are kept beside the batch: the K/V of their own tokens and a row of logits each
    packed: int  # a second copy of the linear layers' weights, where the shared run prepacks them
    budget: int | None
    fits_shared: int | None
    fits_repeated: int | None

    @property
    def shared_total(self) -> int:
        """Bytes of a run with one stored prompt."""
        return self.weights + self.packed + self.prefix + self.tails + self.logits + self.parked

    @property
    def repeated_total(self) -> int:
        """Bytes of a run in which every sample holds the prompt."""
        return self.weights + self.repeated + self.logits

    def sentence(self) -> str:
        """The plan in words, for an error message."""
        fits = "" if self.fits_shared is None else f"; {self.fits_shared} samples would fit"
        packed = f", packed weights {megabytes(self.packed)}" if self.packed else ""
        parked = f", parked paths {megabytes(self.parked)}" if self.parked else ""
        return (
            f"{self.samples} samples of up to {self.max_new_tokens} tokens over a prompt of {self.prompt_tokens} take "
            f"{megabytes(self.shared_total)}: weights {megabytes(self.weights)}{packed}, "
            f"prompt {megabytes(self.prefix)}, samples {megabytes(self.tails)}, "
            f"logits {megabytes(self.logits)}{parked}{fits}"
        )


def memory_plan(
    config: Any,
    *,
    prompt_tokens: int,
    samples: int,
    max_new_tokens: int,
    weights: int,
    bytes_per_number: int,
    packed: int = 0,
    parked: int = 0,
    budget: int | None = None,
) -> MemoryPlan:
    """The bytes of `samples` continuations of one prompt.

    config:           the model's transformers config
    weights:          bytes of the model's parameters (`weight_bytes`)
    bytes_per_number: of the cache's dtype: 4 for float32, 2 for bfloat16
    packed:           bytes of the shared run's packed weights (`onednn.packed_bytes`)
    parked:           paths kept beside the batch, each with `max_new_tokens` tokens behind the one that it continues
    budget:           bytes that there are, or None

    raises: ValueError for a number below 1 (parked: 0)
    """
    for name, value in (("prompt_tokens", prompt_tokens), ("samples", samples), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if parked < 0:
        raise ValueError(f"parked must be at least 0, got {parked}")
    text = config.get_text_config(decoder=True)
    layers = compat.kv_layers(text)
    prefix = sum(width * min(prompt_tokens, window - 1 if window else prompt_tokens) for width, window in layers)
    tail = sum(width * allocated(max_new_tokens, window and ring_of(window)) for width, window in layers)
    length = prompt_tokens + max_new_tokens
    copy = sum(width * min(length, window if window else length) for width, window in layers)
    row = 4 * text.vocab_size
    b = bytes_per_number
    path = sum(width * min(max_new_tokens, window or max_new_tokens) for width, window in layers) + text.vocab_size
    fits = (None, None)
    if budget is not None:
        left = budget - weights
        fits = (
            max(0, (left - packed - b * (prefix + path * parked)) // (b * tail + row)),
            max(0, left // (b * copy + row)),
        )
    return MemoryPlan(prompt_tokens, samples, max_new_tokens, weights, b * prefix, b * tail * samples, row * samples,
                b * copy * samples, b * path * parked, packed, budget, *fits)  # fmt: skip


def weight_bytes(model: Any) -> int:
    """Bytes of the parameters and buffers, tied ones counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def available_bytes(device: Any = "cpu") -> int | None:
    """Bytes that are free for us on the device now; None where that cannot be told."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [_linux_available(), _group_available()]
    return min((n for n in found if n is not None), default=None)


def _linux_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kilobytes is None else 1024 * int(kilobytes)


def _group_available() -> int | None:
    """What a container's own limit leaves."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return None if limit == "max" else int(limit) - used
    except (OSError, ValueError):
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; torch on a CPU says it by the words of a RuntimeError alone."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def megabytes(n: int) -> str:
    """1,234 MB, or 1.23 GB from ten thousand megabytes on."""
    return f"{n / 1e6:,.0f} MB" if n < 1e10 else f"{n / 1e9:,.1f} GB"


def memory_plan_of(
    model: Any,
    *,
    prompt_tokens: int,
    samples: int,
    max_new_tokens: int,
    packed: int = 0,
    parked: int = 0,
    budget: int | None = None,
) -> MemoryPlan:
    """`memory_plan` for a loaded model; budget None = its weights, packed ones too, and what is free there now."""
    weight = model.get_input_embeddings().weight
    weights = weight_bytes(model)
    if budget is None:
        free = available_bytes(weight.device)
        budget = None if free is None else free + weights + packed
    return memory_plan(
        model.config,
        prompt_tokens=prompt_tokens,
        samples=samples,
        max_new_tokens=max_new_tokens,
        weights=weights,
        bytes_per_number=weight.element_size(),
        packed=packed,
        parked=parked,
        budget=budget,
    )


@contextmanager
def memory_explained(model: Any, asked: Callable[[], Sequence[Sample]], *, is_packed: bool) -> Iterator[None]:
    """Turn a lack of memory into a MemoryError that says the plan's numbers for the samples that were asked for."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        samples = asked()
        if not samples or not is_out_of_memory(error):
            raise
        plan = memory_plan_of(
            model,
            prompt_tokens=max(len(s.request.prompt) for s in samples),
            samples=len(samples),
            max_new_tokens=max(s.request.max_new_tokens for s in samples),
            packed=onednn.packed_bytes(model) if is_packed else 0,
        )
        raise MemoryError(f"memory must hold the batch, got {plan.sentence()}; lower slots or the samples") from error
