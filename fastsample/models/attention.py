"""The attention and the mask function that transformers calls while a shared cache is stepped.

They are registered once under NAME and keep nothing: what a step hands out lies on its cache, and which cache is being
stepped is known inside of the step alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any, Protocol, TypeVar

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from ..shared_prefix.attention import Part

NAME = "shared_prefix"
T = TypeVar("T")


class SharingError(RuntimeError):
    """The model's attention asked for something that a shared prefix cannot give; the message says what."""


class HandsOut(Protocol):
    """A cache that knows what it handed out in the running step."""

    def part_of(self, key: Tensor, value: Tensor) -> Part | None:
        """The part that belongs to these very tensors, once; None for any others."""
        ...


_stepped: ContextVar[tuple[HandsOut | None, bool]] = ContextVar("stepped", default=(None, False))


def in_step(cache: HandsOut, call: Callable[[], T], *, drops_softcap: bool = False) -> T:
    """What `call` returns; the forward pass in it attends over the shared prefixes and tails of `cache`.

    That holds in a context of its own, which nothing survives: an interrupt may come at any line.

    drops_softcap: leave out the soft-capping that the model asks for, because its own attention does
    """

    def inside() -> T:
        _stepped.set((cache, drops_softcap))
        return call()

    return copy_context().run(inside)


def is_stepping(cache: HandsOut) -> bool:
    """Whether this is inside `in_step(cache, ...)`."""
    return _stepped.get()[0] is cache


def shared_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: query [B, H, n, D]; returns ([B, n, H, Dv], None).

    raises: SharingError unless key and value are what the cache's `update` returned in this step
    """
    (cache, drops_softcap), name = _stepped.get(), type(module).__name__
    if cache is None:
        raise SharingError(f"{name} attends outside of a step over a shared cache")
    part = cache.part_of(key, value)
    if part is None:
        raise SharingError(f"{name} changes K/V between the cache and the attention")
    if kwargs.get("position_bias") is not None:
        raise SharingError(f"{name} adds a position bias to the scores")
    if dropout:
        raise SharingError(f"{name} asks for attention dropout; call model.eval()")
    if sliding_window is not None and sliding_window != part.window:
        raise SharingError(f"{name} has a window of {sliding_window}, its cache {part.window}")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    return part.attend(query, scale, None if drops_softcap else softcap, s_aux), None


def shared_mask(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> None:
    """The mask function that transformers calls: the cache knows what each row sees, so padding has no place here."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise SharingError("attention_mask holds zeros; a shared prefix has one unpadded prompt for all its rows")


AttentionInterface.register(NAME, shared_attention)
# Without a mask function of its own, transformers would ignore padding in silence.
AttentionMaskInterface.register(NAME, shared_mask)
