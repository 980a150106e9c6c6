"""How many columns of storage a tail has: doubled as it grows, whole vectors, at most those of its layer's window."""

from __future__ import annotations

FIRST_TAIL = 16  # columns of storage that a tail gets at first; then doubled whenever it is full
VECTOR = 16  # columns that the CPU's kernels sum side by side


def allocated(tokens: int, ring: int | None = None) -> int:
    """The columns of storage that a tail of so many tokens has: doubled until they suffice, or those of its ring."""
    columns = FIRST_TAIL
    while columns < tokens:
        columns *= 2
    return columns if ring is None else min(columns, ring)


def ring_of(window: int, queries: int = 1) -> int:
    """Columns for a tail in a windowed layer: all that the first and the last of a step's new tokens see."""
    return whole(window - 1 + queries)


def whole(columns: int) -> int:
    """Whole vectors of columns, so that a row's sums do not depend on how many the longest row has."""
    return -(-columns // VECTOR) * VECTOR
