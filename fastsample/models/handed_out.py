"""What a cache handed out in the running step, and whether attention has asked for it."""

from __future__ import annotations

from torch import Tensor

from ..shared_prefix.attention import Part


class HandedOut:
    """By the identity of the key tensor: attention must be given the very same objects.

    Hooks and compilers may drop attributes put on tensors; an entry holds its tensors, so that no id is reused while it
    is listed.
    """

    def __init__(self) -> None:
        self._parts: dict[int, Part] = {}
        self._asked: set[int] = set()
        self.has_been_asked = False  # whether attention has ever asked

    def hand_out(self, part: Part) -> tuple[Tensor, Tensor]:
        """The part's K and V, as `update` of a cache returns them."""
        self._parts[id(part.keys)] = part
        return part.keys, part.values

    def part_of(self, key: Tensor, value: Tensor) -> Part | None:
        """What was handed out as these very tensors in the running step; None for any others."""
        part = self._parts.get(id(key))
        if part is None or part.keys is not key or part.values is not value:
            return None
        self._asked.add(id(key))
        self.has_been_asked = True
        return part

    @property
    def is_ignored(self) -> bool:
        """Whether something was handed out in the running step that attention has not asked for."""
        return len(self._asked) < len(self._parts)

    def forget(self) -> None:
        """Let go of what the step handed out."""
        self._parts, self._asked = {}, set()
