"""Several methods side by side in one question: what they yield is asked for as one round."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from .base import Grow, Read, Score


def together(searches: Iterable[Generator[Grow | Score | Read, Any, Any]]) -> Generator[Any, Any, list[Any]]:
    """Run generators side by side; `results = yield from together([...])`, in their order.

    Scores and reads are served until every one that is left wants to grow; then they grow in one `Grow`.
    """
    running = dict(enumerate(searches))
    results: dict[int, Any] = {}
    wanted: dict[int, Any] = {}

    def go_on(place: int, value: Any) -> None:
        try:
            wanted[place] = running[place].send(value)
        except StopIteration as done:
            results[place] = done.value
            del running[place]

    try:
        for place in list(running):
            go_on(place, None)
        while running:
            reads = [(place, w) for place, w in sorted(wanted.items()) if isinstance(w, Read)]
            scores = [(place, w) for place, w in sorted(wanted.items()) if isinstance(w, Score)]
            if reads:
                place, read = reads[0]
                del wanted[place]
                go_on(place, (yield read))
            elif scores:
                by = scores[0][1].by
                group = [(place, score) for place, score in scores if score.by is by]
                numbers = yield Score([path for _, score in group for path in score.paths], by)
                _give(group, numbers, wanted, go_on, lambda score: len(score.paths))
            else:
                rounds = [(place, w) for place, w in sorted(wanted.items()) if isinstance(w, Grow)]
                if len(rounds) < len(wanted):
                    odd = next(w for w in wanted.values() if not isinstance(w, Grow))
                    raise TypeError(f"a method yields Grow, Score or Read, got {type(odd).__name__}")
                asks = [ask for _, grow in rounds for ask in grow.asks]
                kept = [path for _, grow in rounds for path in grow.keep]
                paths = yield Grow(asks, kept, all(grow.ends for _, grow in rounds))
                _give(rounds, paths, wanted, go_on, lambda grow: len(grow.asks))
    finally:
        for search in running.values():
            search.close()
    return [results[place] for place in sorted(results)]


def _give(group: Any, values: Any, wanted: Any, go_on: Any, count: Any) -> None:
    """Hand each of a group its own part of the values."""
    start = 0
    for place, want in group:
        end = start + count(want)
        del wanted[place]
        go_on(place, values[start:end])
        start = end
