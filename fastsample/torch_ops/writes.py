"""Whether a tensor was written to since: by torch's own count, and by the optimizers that it does not count.

torch counts what is written into a tensor in place (`_version`). The fused optimizers write without being counted
(torch 2.13: AdamW(fused=True), which trainers take by default), so that their steps are counted here.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

from torch import Tensor

_stepped: Counter[int] = Counter()  # by the id of a parameter; an id that is given anew goes on counting


def writes_of(tensor: Tensor) -> tuple[int, int]:
    """Changes with every write into the tensor but two: through `.data`, and into one made in inference mode."""
    _watch_optimizers()
    return 0 if tensor.is_inference() else tensor._version, _stepped[id(tensor)]


@cache
def _watch_optimizers() -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(_count)


def _count(optimizer: Any, *_: Any) -> None:
    _stepped.update(id(p) for group in optimizer.param_groups for p in group["params"])
