"""Words that go with numbers."""

from __future__ import annotations


def plural(n: int, noun: str) -> str:
    """1, 'step' -> '1 step'; 2, 'step' -> '2 steps'."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
