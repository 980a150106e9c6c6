"""What an engine has kept of a text, and what a request that continues it must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...models.forward import Prefix
from ..base import Request


class ReleasedError(ValueError):
    """A parked path that cannot be continued any more."""


class KeptPath:
    """A parked path of a `LocalEngine`; owner: the runner that has it.

    ids:  what it covers, from the beginning of the prompt
    note: why it was read again when it was cut, so that it may round differently; None where it was not
    """

    def __init__(self, owner: Any, prefix: Prefix, ids: Sequence[int], weights: Any, note: str | None = None) -> None:
        self.ids = tuple(ids)
        self.note = note
        self._owner = owner
        self._prefix: Prefix | None = prefix
        self._weights = weights

    @property
    def length(self) -> int:
        """The token ids that it covers."""
        return len(self.ids)

    def release(self) -> None:
        """Let go of its memory."""
        self._prefix = None

    def prefix(self, owner: Any, weights: Any) -> Prefix:
        """What rows go on from. raises: ValueError where it is released, another engine's or of other weights"""
        if self._owner is not owner:
            raise ReleasedError(
                "a parked path must be continued by the engine that parked it, before it is refreshed; "
                "send its ids as a prompt"
            )
        if self._prefix is None:
            raise ReleasedError(
                f"a parked path must be kept until it is asked for the last time, got one of {self.length} tokens that "
                "was released; release it later, or send its ids as a prompt"
            )
        if self._weights != weights:
            raise ReleasedError(
                f"a parked path must be of the model's present weights, got one of {self.length} tokens that was read "
                "before they changed; send its ids as a prompt"
            )
        return self._prefix


def path_of(parked: Any) -> KeptPath:
    """The same object. raises: TypeError for what no engine of this kind has parked"""
    if not isinstance(parked, KeptPath):
        raise TypeError(f"a parked path must be what a LocalEngine parked, got {type(parked).__name__}")
    return parked


def prefix_after(request: Request, owner: Any, weights: Any) -> Prefix:
    """What a request with `after` goes on from. raises: as `KeptPath.prefix`; ValueError where the prompt is another"""
    parked = path_of(request.after)
    prefix = parked.prefix(owner, weights)
    if len(request.prompt) != parked.length:
        raise ValueError(
            f"prompt must hold the {parked.length} ids that the parked path covers, got {len(request.prompt)}; "
            "put further ids into append"
        )
    if request.prompt != parked.ids:
        place = next(i for i, (a, b) in enumerate(zip(request.prompt, parked.ids)) if a != b)
        raise ValueError(
            f"prompt must hold the ids that the parked path covers, got {request.prompt[place]} for "
            f"{parked.ids[place]} at place {place}; pass the path's own ids"
        )
    return prefix
