"""torch's fused attention for the CPU, which also returns the log-sum-exp that merging two parts needs.

The operator is private to torch. It is tried once for each dtype; where it is missing or answers wrongly, plain
products take its place, and `missing` says why.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def is_fastest(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the fused kernel can serve q [b, h, L, D], k [b, h, S, D], v [b, h, S, Dv], and is the fastest way.

    Its float16 is slower than plain products.
    """
    is_served = q.device.type == "cpu" and q.dtype != torch.float16 and k.shape[-1] == v.shape[-1]
    return is_served and missing(q.dtype) is None


@cache
def missing(dtype: torch.dtype) -> str | None:
    """Why there is no fused attention for a dtype on this machine, in one sentence, or None."""
    try:
        q, k, v = (torch.linspace(-1, 1, 2 * n * 16).reshape(1, 2, n, 16).to(dtype) for n in (3, 5, 5))
        mask = torch.zeros(1, 1, 3, 5, dtype=dtype)
        mask[..., 4] = -torch.inf
        out, lse = _run(q, k, v, mask, 0.3)
        scores = q.double() @ k.double().transpose(2, 3) * 0.3 + mask.double()
        want = scores.softmax(-1) @ v.double()
        bound = 1e-5 if dtype in (torch.float32, torch.float64) else 3e-2
        if not bool(((out - want).abs() <= bound).all() and ((lse - scores.logsumexp(-1)).abs() <= bound).all()):
            return f"the fused attention of torch {torch.__version__} gives another result"
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        return f"torch {torch.__version__} has no fused attention for {dtype}: {str(error).splitlines()[0]}"
    return None


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, *, is_shared: bool
) -> tuple[Tensor, Tensor]:
    """softmax(q k' scale + mask) v and its log-sum-exp, [b, h, L, Dv] and [b, h, L] float32; S >= 1.

    mask: additive, in the dtype of q, or None. An empty K/V would end the process; the LSE is not contiguous.
    is_shared: the queries belong to many rows, so that L changes with the batch

    The kernel works on 32 queries at a time, and a rest of one to three takes products that round in another way (seen
    for every length from 1 to 200, float32 and bfloat16). A rest of four keeps a row's result the same in every batch.
    """
    L = q.shape[2]
    if is_shared and mask is None and 1 <= L % 32 <= 3:
        out, lse = _run(torch.nn.functional.pad(q, (0, 0, 0, 4 - L % 32)), k, v, None, scale)
        return out[:, :, :L], lse[:, :, :L]
    return _run(q, k, v, mask, scale)


def _run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask, scale=scale)
