"""Which of a question's finished paths answers it: the best, the heaviest answer, or the most frequent one."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

from ..scoring.base import AGGREGATES, Scorer, aggregate, is_probability, is_process
from ..voting.ballots import leader
from ..words import plural
from .base import Choice
from .path import Path

HOWS = ("auto", "best", "weighted", "vote", "tie")


def needed(name: str, scorer: Scorer | None, *, process: bool) -> Scorer:
    """The scorer; raises ValueError without one, or for one of whole texts where legs are to be scored."""
    if scorer is None:
        raise ValueError(f"{name} needs a scorer, got none; name one, signal:raw_logprob for example")
    if process and not is_process(scorer):
        raise ValueError(
            f"{name} scores unfinished paths and {scorer.name} judges finished ones only; use best or weighted, or a "
            "scorer that gives a number a leg, such as signal:raw_logprob"
        )
    return scorer


def check_choice(how: str, aggregate_how: str, scorer: Scorer | None) -> None:
    """Raise ValueError for words that are none, or that this scorer cannot serve."""
    if how not in HOWS:
        raise ValueError(f"how must be one of {', '.join(HOWS)}, got {how!r}")
    if aggregate_how not in AGGREGATES:
        raise ValueError(f"aggregate must be one of {', '.join(AGGREGATES)}, got {aggregate_how!r}")
    if scorer is not None and not is_probability(scorer):
        for asked, words in ((how == "weighted", "weighted votes need"), (aggregate_how == "prod", "products need")):
            if asked:
                raise ValueError(
                    f"{words} scores in [0, 1], {scorer.name} gives any number; use how=best, or sigmoid:{scorer.name}"
                )


def check_how(how: str, scorer: Scorer | None) -> None:
    """The same for whole texts, of which all but a plain vote needs a scorer."""
    if how != "vote":
        check_choice(how, "last", needed(f"how={how}", scorer, process=False))


def rule_of_choice(how: str, scorer: Scorer | None) -> str:
    """What `auto` stands for, see `choose`; any other word stands for itself."""
    if how != "auto":
        return how
    return "vote" if scorer is None else "weighted" if is_probability(scorer) else "best"


def choose(paths: Sequence[Path], scorer: Scorer | None, how: str = "auto", aggregate_how: str = "last") -> Choice:
    """Choose among the finished ones of these paths.

    best:     the highest score             weighted: the answer with the largest sum of scores
    vote:     the most frequent answer      tie:      the same, a tie decided by the highest score
    auto:     weighted for a scorer of probabilities, best for any other, vote without one

    Ties go to the path with the smaller number. A path without an answer is never chosen while another has one.
    """
    check_choice(how, aggregate_how, scorer)
    finished = sorted((p for p in paths if p.is_final), key=lambda p: p.number)
    able = [p for p in finished if p.answer is not None]
    if not able:
        where = (
            f"none of {plural(len(finished), 'finished path')} has an answer" if finished else "no path came to its end"
        )
        return Choice(finished[0] if finished else None, reason=where)
    scored = {p: aggregate(p.scores, aggregate_how) for p in able if p.scores}
    how = rule_of_choice(how, scorer)
    if how != "vote" and not scored:
        if scorer is None:
            raise ValueError(f"how={how} needs a scorer, got none; name one (signal:raw_logprob, ...), or use how=vote")
        how = "vote"
    if how == "best":
        top = _top(scored)
        return Choice(top, top.answer, scored[top], f"best of {len(scored)}: {scored[top]:.4g}, path {top.number}")
    if how == "weighted":
        sums = {a: fsum(scored[p] for p in scored if p.answer == a) for a in _answers(list(scored))}
        answer, is_tie = leader(sums)
        most = max(sums.values())
        said = f"weighted: {most:.4g} of {fsum(sums.values()):.4g} in {plural(len(scored), 'path')}"
        said += "; tied" * is_tie
        return Choice(_top({p: s for p, s in scored.items() if p.answer == answer}), answer, most, said)
    counts = {a: sum(p.answer == a for p in able) for a in _answers(able)}
    answer, is_tie = leader(counts)
    votes = max(counts.values())
    said = f"{votes} of {len(able)} votes"
    heads = {p: s for p, s in scored.items() if p.answer is not None and counts[p.answer] == votes}
    if how == "tie" and is_tie and heads:
        top = _top(heads)
        return Choice(top, top.answer, heads[top], f"{said}, tied; the best score among them is {heads[top]:.4g}")
    first = next(p for p in able if p.answer == answer)
    return Choice(first, answer, scored.get(first), said + (", tied; the answer given first wins" * is_tie))


def _top(scored: dict[Path, float]) -> Path:
    return max(scored, key=lambda path: (scored[path], -path.number))


def _answers(paths: Sequence[Path]) -> list[str]:
    return list(dict.fromkeys(p.answer for p in paths if p.answer is not None))
