"""Linear layers of a decoding step on the CPU, through oneDNN.

A step multiplies few rows by large weights. In float32 torch takes another library for that, which is slower on some
processors, and in every dtype a weight in oneDNN's own layout ("packed") is read faster than a plain one:

    milliseconds, one core of an AMD EPYC 9005      F.linear  oneDNN  packed
    64 x 576 by 576 x 1536, float32                     1.43    0.69    0.58
                            bfloat16                    0.45    0.36    0.31
    2 x 576 by 576 x 1536,  float32                     0.39    0.22    0.22
    1 x 576 by 576 x 49152, float32                     10.3     7.1     4.6
                            bfloat16                     5.5     5.5     2.3

And one row's result is the same in a batch of any size, bit for bit, which torch's own float32 products do not give.
Packed weights are a second copy of the weights. The two operators are private to torch: where they are missing or fail
on a small example, `why_not` says so and the caller keeps torch's own layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .writes import writes_of

PACKED_FOR = 64  # the number of rows that oneDNN lays the weight out for; 1 ... 512 rows run equally well on it


def forward_of(layer: nn.Linear, *, prepack: bool = False) -> Callable[[Tensor], Tensor]:
    """The layer's forward through oneDNN: x [..., K] to [..., M]. Reads the layer's parameters as they are when called.

    prepack: make a packed copy of the weight (its bytes again) and read that; it is made again when the weight changed
    """
    return _packed(layer) if prepack else _plain(layer)


def why_not(model: nn.Module, device: str | None = None) -> str | None:
    """Why oneDNN cannot run the model's linear layers, in one sentence, or None; device: instead of where they are."""
    weight = next((m.weight for m in model.modules() if type(m) is nn.Linear), None)
    if weight is None:
        return "the model has no plain linear layer"
    where = torch.device(device) if device else weight.device
    if where.type != "cpu":
        return f"the model is on {where}"
    if weight.dtype not in (torch.float32, torch.bfloat16):
        return f"the weights are {weight.dtype}"
    return missing(weight.dtype)


@cache
def missing(dtype: torch.dtype) -> str | None:
    """Why there is no `product` for a dtype on this machine, in one sentence, or None."""
    try:
        weight = torch.arange(32 * 16).reshape(32, 16).remainder(7).to(dtype)
        x = torch.arange(3 * 16).reshape(3, 1, 16).remainder(5).to(dtype)
        want = (x.float() @ weight.float().T + 1).to(dtype)
        bias = torch.ones(32, dtype=dtype)
        for w in (weight, weight.T.contiguous().T, _pack(weight)):
            if not torch.equal(_run(x, w, bias), want):
                return f"oneDNN's linear operator of torch {torch.__version__} gives another result"
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"torch {torch.__version__} has no oneDNN linear operator for {dtype}: {str(error).splitlines()[0]}"
    return None


@cache
def rounds_alike(dtype: torch.dtype) -> bool:
    """Whether a row's product is the same bits among any number of rows: so from torch 2.13 on, and not in 2.8."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 576, generator=generator).to(dtype) for n in (64, 128))
    whole = product(x, weight)
    return all(torch.equal(product(x[:n], weight), whole[:n]) for n in (1, 2, 3, 5, 8, 15, 16, 33))


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] times the transposed weight [M, K], plain, a transposed view or packed: [..., M].

    With a weight of one layout, a row's result is the same bits among any number of rows (held for 1 ... 200 rows,
    float32 and bfloat16).
    """
    if x.numel() > x.shape[-1]:
        return _run(x, weight, bias)
    # One row may take another kernel, whose rounding differs; two take the one of all larger batches.
    return _run(torch.cat([x.reshape(1, -1)] * 2), weight, bias)[:1].reshape(*x.shape[:-1], -1)


def _run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_FOR)


def _plain(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if x.dtype != layer.weight.dtype or layer.weight.device.type != "cpu":
            return nn.functional.linear(x, layer.weight, layer.bias)
        return _run(x, layer.weight, layer.bias)  # and not `product`: one row as two would take a quarter longer

    return forward


def _packed(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    known = _pack(layer.weight), layer.weight, writes_of(layer.weight)

    def forward(x: Tensor) -> Tensor:
        nonlocal known
        weight = layer.weight
        if x.dtype != weight.dtype or x.device != weight.device or weight.device.type != "cpu":
            return nn.functional.linear(x, weight, layer.bias)
        if known[1] is not weight or known[2] != writes_of(weight):  # replaced, or written to since
            known = _pack(weight), weight, writes_of(weight)
        return product(x, known[0], layer.bias)

    return forward


def packed_bytes(model: Any, device: str | None = None) -> int:
    """What `prepack=True` adds, in bytes: on the model's device, or on another that it is planned for.

    SmolLM2-135M by this sum 538 MB in float32 and 269 in bfloat16; its process grew by 535 and 264.
    """
    if why_not(model, device) is not None:
        return 0
    return sum(m.weight.nbytes for m in model.modules() if type(m) is nn.Linear)
