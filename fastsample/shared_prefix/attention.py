"""Attention of every row over a shared prefix and over its own tail, merged by log-sum-exp.

    prefix: all rows' queries against one K/V -> O_p, lse_p        tail: each row against its own K/V -> O_t, lse_t
    O = lerp(O_t, O_p, sigmoid(lse_p - lse_t)), float32            a sink is a third term whose O is 0

Exact up to rounding. The prefix is read once a step instead of once a row, in one matrix product of all rows' queries.
Heads: H query heads share H_kv key heads, G = H / H_kv; the queries of one key head are laid side by side, so that
grouped queries cost no copy of K/V.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..torch_ops import flash, onednn

# Scores of the matrix-product path are made for one key head at a time where they would exceed so many numbers.
SCORES_AT_ONCE = 1 << 24
# A float32 prefix of so many tokens is multiplied by oneDNN instead of torch's fused kernel. Milliseconds, fused and
# oneDNN, on one core of an AMD EPYC 9005 (python bench/attention.py):
#     rows    512 tokens     1,024          2,048          8,192
#        1    0.08   0.18    0.14   0.21    0.32   0.32     1.3    0.9
#       64    0.97   0.70    2.03   1.33    4.05   2.82    16.4   11.8
# By the prefix alone and not by the rows too: a row's bits must not depend on who else is in the batch.
LONG = 2048
# Scores of one product. A step of 64 rows over 2,048 tokens: 248, 242, 230 ms with 2^17, 2^18, 2^20 (all of them); the
# attention of 64 rows over 8,192: 15.6 ms with 2^20, 18.5 with 2^22.
TILE = 1 << 20


class Part(Protocol):
    """What a step's rows look at in one layer: `keys` and `values` are what the model's attention is given for it."""

    keys: Tensor
    values: Tensor
    window: int | None

    def attend(self, query: Tensor, scale: float, softcap: float | None, sinks: Tensor | None) -> Tensor:
        """query [B, H, n, D], sinks [H] or None; returns [B, n, H, Dv] in the dtype of the query."""
        ...


@dataclass(eq=False)
class PrefixPart:
    """The rows of one prefix in one step: K/V `[1, H_kv, P, D]` of the prefix and who looks at it."""

    keys: Tensor
    values: Tensor
    rows: Tensor | None  # [m] int64; None: all rows
    mask: Tensor | None  # [m, n, P] additive; None: everything is seen
    blind: Tensor | None = None  # [m, n] bool: queries that see nothing of this part


@dataclass(eq=False)
class TailPart:
    """All rows' own K/V of one layer in one step, `[B, H_kv, S, D]`, and the prefixes behind them."""

    keys: Tensor
    values: Tensor
    mask: Tensor | None  # [B, n, S] additive; None: everything is seen
    window: int | None
    prefixes: list[PrefixPart] = field(default_factory=list)

    def attend(self, query: Tensor, scale: float, softcap: float | None, sinks: Tensor | None) -> Tensor:
        """See `Part`."""
        return attend(query, self, scale, softcap, sinks)


def attend(query: Tensor, part: TailPart, scale: float, softcap: float | None, sinks: Tensor | None) -> Tensor:
    """query [B, H, n, D], sinks [H] or None; returns [B, n, H, Dv] in the dtype of the query."""
    B, H, n, _ = query.shape
    H_kv, Dv = part.keys.shape[1], part.values.shape[-1]
    G = H // H_kv
    grouped = query.reshape(B, H_kv, G * n, -1)
    out, lse = _attend_block(grouped, part.keys, part.values, _grow(_last(part.mask, n), G), scale, softcap)
    for prefix in part.prefixes:
        some = grouped if prefix.rows is None else grouped[prefix.rows]
        m = some.shape[0]
        mask = None if prefix.mask is None else _grow(_last(prefix.mask, n), G).reshape(1, 1, m * G * n, -1)
        side = some.transpose(0, 1).reshape(1, H_kv, m * G * n, -1)
        out_p, lse_p = _attend_block(side, prefix.keys, prefix.values, mask, scale, softcap, is_shared=True)
        out_p = out_p.reshape(H_kv, m, G * n, Dv).transpose(0, 1)
        lse_p = lse_p.reshape(H_kv, m, G * n).transpose(0, 1)
        if prefix.blind is not None:
            blind = _last(prefix.blind, n)[:, None, None].expand(m, 1, G, n).reshape(m, 1, G * n)
            out_p, lse_p = out_p.masked_fill(blind[..., None], 0), lse_p.masked_fill(blind, -torch.inf)
        if prefix.rows is None:
            out = merge(out, lse, out_p, lse_p)
            lse = lse if sinks is None else torch.logaddexp(lse, lse_p)
        else:
            at = prefix.rows
            out = out.float().index_copy(0, at, merge(out[at], lse[at], out_p, lse_p))
            lse = lse if sinks is None else lse.index_copy(0, at, torch.logaddexp(lse[at], lse_p))
    if sinks is not None:
        weight = torch.sigmoid(lse - sinks.float().view(1, H_kv, G, 1).expand(1, H_kv, G, n).reshape(1, H_kv, G * n))
        out = out.float() * weight[..., None]
    out = out.to(query.dtype).view(B, H_kv, G, n, Dv)
    return out.permute(0, 3, 1, 2, 4).reshape(B, n, H, Dv)


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Tensor:
    """Two attentions over disjoint keys, out [..., Dv] and lse [...], as one over both; a must see at least one key."""
    # In float64, because float32 exp rounds differently in a vector and in what is left over at its end, and so would
    # make a row's result depend on its place in the batch.
    weight = torch.sigmoid(torch.sub(lse_b, lse_a).double()).float()
    return torch.lerp(out_a.float(), out_b.float(), weight[..., None])


def _last(mask: Any, n: int) -> Any:
    """[m, n', ...] -> [m, n, ...]: a model may drop the queries whose logits nobody asked for, and keeps the last."""
    return mask if mask is None or mask.shape[1] == n else mask[:, -n:]


def _grow(mask: Tensor | None, G: int) -> Any:
    """[m, n, S] -> [m, 1, G * n, S], the query layout of grouped heads."""
    if mask is None:
        return None
    m, n, S = mask.shape
    return mask[:, None, None].expand(m, 1, G, n, S).reshape(m, 1, G * n, S)


def _attend_block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    *,
    is_shared: bool = False,
) -> tuple[Tensor, Tensor]:
    """q [b, h, L, D], k [b, h, S, D], v [b, h, S, Dv], S >= 1; returns out [b, h, L, Dv] and lse [b, h, L] float32.

    is_shared: the L queries belong to many rows, so that L changes with the batch
    """
    if is_shared and mask is None and k.shape[2] >= LONG and _has_product(q):
        return _products(q, k, v, scale, softcap)
    if softcap is None and flash.is_fastest(q, k, v):
        return flash.attend(q, k, v, mask, scale, is_shared=is_shared)
    if q.shape[1] > 1 and q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] > SCORES_AT_ONCE:
        heads = [
            _matmul(q[:, i : i + 1], k[:, i : i + 1], v[:, i : i + 1], mask, scale, softcap) for i in range(q.shape[1])
        ]
        return torch.cat([out for out, _ in heads], 1), torch.cat([lse for _, lse in heads], 1)
    return _matmul(q, k, v, mask, scale, softcap)


def _has_product(q: Tensor) -> bool:
    """Half precision is left to the fused kernel: its scores are float32, a product's would be rounded to q's dtype."""
    return q.dtype == torch.float32 and q.device.type == "cpu" and onednn.missing(q.dtype) is None


def _products(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None) -> tuple[Tensor, Tensor]:
    """Two products of oneDNN and a softmax between them, a head and so many queries at a time; b = 1.

    The log-sum-exp comes from the softmax: its largest probability is exp(m - lse), where m is the largest score.
    """
    heads, L, P = q.shape[1], q.shape[2], k.shape[2]
    q = q * scale
    size = max(32, TILE // P)
    outs, lses = [], []
    for head in range(heads):
        for start in range(0, L, size):
            scores = onednn.product(q[0, head, start : start + size], k[0, head])
            if softcap is not None:
                scores = scores.div_(softcap).tanh_().mul_(softcap)
            p = scores.softmax(-1)
            # In float64, as in `merge`: float32 log rounds differently in a vector and in what is left over.
            lses.append(scores.amax(-1).double() - p.amax(-1).double().log())
            outs.append(onednn.product(p, v[0, head].T))
    return torch.cat(outs).view(1, heads, L, -1), torch.cat(lses).float().view(1, heads, L)


def _matmul(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    scores = torch.matmul(q, k.transpose(2, 3)).float().mul_(scale)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    if mask is not None:
        scores += mask
    lse = scores.logsumexp(-1)
    return torch.matmul(scores.sub_(lse[..., None]).exp_().to(v.dtype), v), lse
