"""The questions of one or more runs as a report's page lists them: the votes of each, and the texts of its samples.

The page must stay small and open offline. So every question's texts are packed (zlib, then base64), as many as there is
room for lie in the page, and the rest in files beside it, which the page loads when a question is opened.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import compress

from ..answers.equivalence import canonical
from ..strategies.records import Written
from . import metrics
from .dataset import Item
from .stored import read_config, read_items, read_results, read_samples, settings_of

PAGE_BYTES = 1_950_000  # of a page with everything in it
FILE_BYTES = 1_000_000  # of a file beside it, about
SNIPPET, QUESTION, ANSWER, TEXT = 240, 10_000, 200, 20_000  # characters shown of each


@dataclass(frozen=True)
class Outcome:
    """One question in one run.

    is_right: of the run's vote; None where the right answer or the result is not there
    votes:    temperature -> answer -> votes; samples: by number, all that were begun
    """

    answer: str | None
    is_right: bool | None
    is_answered: bool
    votes: Mapping[float, Mapping[str, int]]
    samples: Sequence[Written]

    @property
    def is_split(self) -> bool:
        """No answer has more than half of the votes."""
        total = self._total()
        return bool(total) and 2 * total.most_common(1)[0][1] <= sum(total.values())

    @property
    def cut(self) -> int:
        """Samples that were ended by their limit of tokens."""
        return sum(s.finish == "length" for s in self.samples)

    def _total(self) -> Counter[str]:
        total = Counter[str]()
        for votes in self.votes.values():
            total.update(votes)
        return total

    def answers(self) -> list[str]:
        """All answers, the one with most votes first."""
        return [answer for answer, _ in self._total().most_common()]


@dataclass
class Entry:
    """One question, with its outcome in each run of the report; None where the run did not ask it."""

    key: str
    item: Item
    outcomes: list[Outcome | None] = field(default_factory=list)


def entries_of(folders: Sequence[Path]) -> list[Entry]:
    """Every question of the runs, in order; one that several runs asked, under one id and in the same words, is one.

    raises: RunError for a folder without a run, or with files that were edited or damaged
    """
    found: dict[tuple[str, str], Entry] = {}
    taken: set[str] = set()
    for place, folder in enumerate(folders):
        outcomes = outcomes_of(folder)
        for item in read_items(folder):
            entry = found.get((item.id, item.question))
            if entry is None:
                key, turn = item.id, 2
                while key in taken:
                    key, turn = f"{item.id} ({turn})", turn + 1
                taken.add(key)
                entry = found[item.id, item.question] = Entry(key, item)
            entry.outcomes += [None] * (place - len(entry.outcomes))
            entry.outcomes.append(outcomes[item.id])
    for entry in found.values():
        entry.outcomes += [None] * (len(folders) - len(entry.outcomes))
    return list(found.values())


def outcomes_of(folder: Path) -> dict[str, Outcome]:
    """Question id -> what the run came to."""
    plan = settings_of(read_config(folder)).plan()
    samples: dict[str, dict[int, Written]] = {}
    for question, sample in read_samples(folder, plan):
        mine = samples.setdefault(question, {})
        before = mine.get(sample.number)
        if before is None or (sample.is_finished and not before.is_finished):  # of one that was drawn again, the whole
            mine[sample.number] = sample
    results = {r["id"]: r for r in read_results(folder)}
    return {
        item.id: _outcome(results.get(item.id), [s for _, s in sorted(samples.get(item.id, {}).items())])
        for item in read_items(folder)
    }


def _outcome(result: Mapping[str, Any] | None, samples: Sequence[Written]) -> Outcome:
    named = {f"{s.temperature:g}": s.temperature for s in samples}
    votes: dict[float, Counter[str]] = {t: Counter() for t in sorted(named.values())}
    if result is not None and "votes" in result:
        for name, mine in result["votes"].items():
            if name in named:
                votes[named[name]].update(mine)
    else:
        for s in samples:
            if s.is_finished and s.answer is not None:
                votes[s.temperature][s.answer] += 1
    result = result or {}
    return Outcome(result.get("answer"), result.get("is_right"), bool(result), votes, samples)


# --- what the page holds ----------------------------------------------------------------------------------------------


def readable(text: str, most: int) -> str:
    """The text for a page, at most so many characters: what would steer a reader's eye is shown as its code."""
    more = f" ... ({len(text) - most:,} more characters)" if len(text) > most else ""
    kept = text[:most]
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in kept) + more


def line_of(entry: Entry) -> dict[str, Any]:
    """What the list of questions shows of one, as plain values."""
    right = None if entry.item.answer is None else canonical(entry.item.answer)
    return {
        "key": readable(entry.key, ANSWER),
        "question": readable(" ".join(entry.item.question.split()), SNIPPET),
        "right": None if right is None else readable(right, ANSWER),
        "runs": [None if o is None else _run_line(o, right) for o in entry.outcomes],
    }


def _run_line(outcome: Outcome, right: str | None) -> dict[str, Any]:
    temperatures = sorted(outcome.votes)
    by = {t: [s for s in outcome.samples if s.temperature == t] for t in temperatures}
    return {
        "answer": None if outcome.answer is None else readable(outcome.answer, ANSWER),
        "state": {True: "right", False: "wrong", None: "unknown" if outcome.is_answered else "open"}[outcome.is_right],
        "split": outcome.is_split,
        "temperatures": [f"{t:g}" for t in temperatures],
        # [answer, is right, is the run's, votes by temperature]
        "votes": [
            [readable(a, ANSWER), a == right, a == outcome.answer, [outcome.votes[t].get(a, 0) for t in temperatures]]
            for a in outcome.answers()
        ],
        "samples": [len(by[t]) for t in temperatures],
        "silent": [sum(s.is_finished and s.answer is None for s in by[t]) for t in temperatures],
        "cut": [sum(s.finish == "length" for s in by[t]) for t in temperatures],
    }


def texts_of(entry: Entry) -> dict[str, Any]:
    """The question in full and every sample: [temperature, k, answer, is right, tokens, finish, score, text]."""
    right = None if entry.item.answer is None else canonical(entry.item.answer)
    return {
        "question": readable(entry.item.question, QUESTION),
        "runs": [
            [
                [
                    f"{s.temperature:g}",
                    s.k,
                    None if s.answer is None else readable(s.answer, ANSWER),
                    s.answer is not None and s.answer == right,
                    s.tokens,
                    s.finish,
                    s.score,
                    readable(s.text, TEXT),
                ]
                for s in (outcome.samples if outcome else ())
            ]
            for outcome in entry.outcomes
        ],
    }


def packed(value: object) -> str:
    """JSON, zlib, base64: letters that mean nothing to a browser, wherever they stand."""
    return b64encode(compress(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), 9)).decode()


@dataclass(frozen=True)
class Shelf:
    """Packed questions: `index` and `inside` go into the page, `beside` into numbered files.

    index:  the lines of the list, and in which file each question's texts are (-1: in the page)
    inside: a question's place in the list -> its texts; beside: the same for each file
    """

    index: str
    inside: Mapping[int, str]
    beside: Sequence[Mapping[int, str]]


def shelf_of(entries: Sequence[Entry], names: Sequence[str], room: int) -> Shelf:
    """Pack the questions of these runs; `room` is how many bytes the page has left for all of it."""
    texts = [packed(texts_of(entry)) for entry in entries]
    lines = [line_of(entry) for entry in entries]
    left = room - len(packed([lines, names, [0] * len(lines)])) - 64 * 1024
    inside: dict[int, str] = {}
    beside: list[dict[int, str]] = []
    files: list[int] = []
    size = 0
    for place, text in enumerate(texts):
        if not beside and len(text) + 16 <= left:
            inside[place] = text
            left -= len(text) + 16
        else:
            if not beside or size + len(text) > FILE_BYTES:
                beside.append({})
                size = 0
            beside[-1][place] = text
            size += len(text)
        files.append(len(beside) - 1)
    return Shelf(packed({"runs": list(names), "questions": lines, "files": files}), inside, beside)


# --- runs side by side ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two runs on the questions that both judged: counts, and the 95 % interval of right(second) - right(first)."""

    questions: int
    both: int
    first_only: int
    second_only: int
    neither: int
    low: float
    high: float


def pairs_of(entries: Sequence[Entry], runs: int) -> Iterator[tuple[int, Pair]]:
    """(number of a later run, its comparison with the first), for each that has a judged question in common with it."""
    for place in range(1, runs):
        marks = []
        for entry in entries:
            first, second = entry.outcomes[0], entry.outcomes[place]
            if first and second and first.is_right is not None and second.is_right is not None:
                marks.append((first.is_right, second.is_right))
        if marks:
            counts = Counter(marks)
            low, high = metrics.paired_interval([b for _, b in marks], [a for a, _ in marks])
            yield (
                place,
                Pair(
                    len(marks),
                    counts[True, True],
                    counts[True, False],
                    counts[False, True],
                    counts[False, False],
                    low,
                    high,
                ),
            )
