"""What a run of the strategy `efforts` says of each level: right answers, and the tokens that they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ..answers.equivalence import canonical
from ..strategies.budget_forcing import Efforts
from ..strategies.registry import method_of
from .metrics import mean_interval
from .stored import read_config, read_items
from .texts import Text, texts_of


@dataclass(frozen=True)
class Level:
    """A level of effort on all questions with a key.

    texts:     that were written; right: the mean over questions of the share of right ones, [low, high] 95 %, drawn by
               question; solved: questions with a right text among them
    tokens:    of a text, the mean; right_tokens: of a right one, None without any; cut: the share that met its limit
    shortest:  questions whose shortest right text, of all levels, is of this one
    """

    name: str
    questions: int
    texts: int
    right: float
    low: float
    high: float
    solved: int
    tokens: float
    right_tokens: float | None
    cut: float
    shortest: int


def levels_of(folder: Path) -> list[Level]:
    """A row for each level of effort, in the run's order; [] for a run of another strategy.

    raises: RunError for a folder without a run, or with a damaged one
    """
    config = read_config(folder)
    method = method_of(config["strategy"]) if "strategy" in config else None
    if not isinstance(method, Efforts):
        return []
    keys = {item.id: canonical(item.answer) or "" for item in read_items(folder) if item.answer is not None}
    by: dict[str, dict[str, list[Text]]] = {}
    best: dict[str, Text] = {}
    for q, text in texts_of(folder, config, keys):
        by.setdefault(text.effort, {}).setdefault(q, []).append(text)
        if text.is_right and not text.is_cut and (q not in best or text.tokens < best[q].tokens):
            best[q] = text
    return [_level(name, by[name], list(best.values())) for name in method.levels.split("/") if name in by]


def _level(name: str, asked: dict[str, list[Text]], best: Sequence[Text]) -> Level:
    texts = [text for mine in asked.values() for text in mine]
    shares = [fmean(text.is_right for text in mine) for mine in asked.values()]
    right = [text.tokens for text in texts if text.is_right]
    low, high = mean_interval(shares)
    return Level(
        name, len(asked), len(texts), fmean(shares), low, high, sum(share > 0 for share in shares),
        fmean(text.tokens for text in texts), fmean(right) if right else None, fmean(text.is_cut for text in texts),
        sum(text.effort == name for text in best),
    )  # fmt: skip


HEADS = ("effort", "right %", "95 %", "solved", "tokens", "of a right one", "cut %", "shortest")


def cells(level: Level) -> tuple[str, ...]:
    """A level as text, in the order of HEADS."""
    return (
        level.name,
        f"{100 * level.right:.1f}",
        f"{100 * level.low:.1f} to {100 * level.high:.1f}",
        f"{level.solved} of {level.questions}",
        f"{level.tokens:,.0f}",
        "" if level.right_tokens is None else f"{level.right_tokens:,.0f}",
        f"{100 * level.cut:.0f}",
        f"{level.shortest}",
    )
