"""What runs of several strategies hold, side by side: of each strategy which questions were right, and what they cost.

`allocation` compares them. Votes of fewer samples, and of some of the temperatures, are in a run of plain samples too;
and so are votes and best-of-n that have the first samples of a question for their own, and the choice of a search
among its own paths and these samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..scoring.base import Scorer
from ..strategies.allocated import chooses_by_scores, heats_behind
from ..strategies.best_of_n import Best
from ..strategies.choice import choose, rule_of_choice
from ..strategies.path import FINAL, in_turn
from ..strategies.path import Path as Leg
from ..strategies.plan import temperatures_of
from ..strategies.records import Written
from ..strategies.registry import method_of
from ..voting.ballots import leader
from .dataset import RunError
from .report import read_run
from .stored import read_paths, read_results
from .stored_tree import StoredScores


@dataclass(frozen=True)
class Text:
    """A finished text: its answer, its tokens, and what scorers gave it, by their names."""

    answer: str | None
    tokens: int
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


Drawn = dict[tuple[float, int], Text]  # by (temperature, k)


@dataclass(frozen=True)
class Arm:
    """A strategy on the same questions: whether it was right, and the tokens that it wrote, by question id.

    scorer:   of its run, or None
    finished: scored texts that it chose among, in the order of their numbers
    """

    name: str
    right: Mapping[str, bool]
    tokens: Mapping[str, int]
    scorer: str | None = None
    finished: Mapping[str, Sequence[Text]] = field(default_factory=dict)


@dataclass
class Arms:
    """What was read.

    arms:         of all runs
    temperatures: of the plain samples; samples: by question, all of them in turn
    drawn:        by question, every text that a vote may count: plain samples, and those of best-of-n
    keys:         right answers; where: the run of plain samples; scorer: of that run, or None
    """

    arms: list[Arm]
    temperatures: tuple[float, ...]
    samples: dict[str, list[Written]]
    keys: dict[str, str]
    where: Path
    scorer: str | None
    drawn: dict[str, Drawn] = field(default_factory=dict)

    def beside(self, k: int, ids: Sequence[str]) -> list[Arm]:
        """The arms as `auto` has them, which draws k first samples: they are the first texts of a vote and of
        best-of-n, and further candidates of any other strategy, which they cost more.

        Where a choice needs scores that no run stores, what the first samples change in it is not known, and is left
        out: the strategy is as often right as without them.
        """
        found = []
        for arm in [*self.arms, *self._votes_behind(k)]:
            method = method_of(arm.name)
            mine = self._with_first(arm, method, k, ids) if isinstance(method, Best) else self._chosen(arm, method, k)
            if mine is not None:
                found.append(mine)
        return found

    def _chosen(self, arm: Arm, method: Any, k: int) -> Arm:
        """A strategy that grows paths of its own, and chooses among the first samples too."""
        tokens = {q: n + sum(s.tokens for s in self.samples.get(q, ())[:k]) for q, n in arm.tokens.items()}
        right, places = dict(arm.right), self._places(in_turn(self.temperatures, k))
        if chooses_by_scores(method, _scorer_of(arm.scorer, [t for mine in arm.finished.values() for t in mine])):
            for q, mine in arm.finished.items():
                first = [self.drawn[q][place] for place in places if place in self.drawn.get(q, ())]
                right[q] = self._is_right(q, [*first, *mine], method, arm)
        return Arm(arm.name, right, tokens)

    def _is_right(self, q: str, texts: Sequence[Text], method: Any, arm: Arm) -> bool:
        """Whether the method chooses a right one of these texts, which stand in the order of their numbers."""
        scored = [t for t in texts if t.answer is not None]
        needs = rule_of_choice(method.how, _scorer_of(arm.scorer, scored)) != "vote"
        if needs and not all(arm.scorer in t.scores for t in scored):
            return arm.right[q]
        paths = [
            Leg(n, None, (), finish="eos", answer=t.answer, scores=t.scores.get(arm.scorer or "", ()))
            for n, t in enumerate(texts)
        ]
        scorer = _scorer_of(arm.scorer, scored) if needs else None
        return choose(paths, scorer, method.how, getattr(method, "aggregate", "last")).answer == self.keys[q]

    @staticmethod
    def _places(temperatures: Sequence[float]) -> list[tuple[float, int]]:
        """(temperature, k) of texts that are drawn at these temperatures; at 0 there is one text."""
        seen = Counter[float]()
        places: dict[tuple[float, int], None] = {}
        for t in temperatures:
            places[t, seen[t]] = None
            seen[t] += t > 0
        return list(places)

    def _votes_behind(self, k: int) -> list[Arm]:
        """Votes with 1, 2, 4, ... texts more than the first samples, by name alone, without those that are read."""
        known = {arm.name for arm in self.arms}
        most = max((len(mine) for mine in self.drawn.values()), default=0)
        several = len(self.temperatures) > 1
        heats = [self.temperatures, *((t,) for t in self.temperatures if several)]
        names = [vote_name(k + 2**i, t) for t in heats for i in range(most.bit_length())]
        return [Arm(name, {}, {}) for name in names if name not in known]

    def _with_first(self, arm: Arm, method: Best, k: int, ids: Sequence[str]) -> Arm | None:
        """A vote or best-of-n whose first k texts are the first samples; None where not all its texts are stored, and
        for a vote that has a name already."""
        is_own = temperatures_of(method.temperatures) == self.temperatures
        if method.how == "vote" and (method.n < k or (method.n == k and not is_own)):
            return None
        places = self._places([*in_turn(self.temperatures, k), *heats_behind(method, self.temperatures, k)])
        right, tokens = {}, {}
        for q in ids:
            if any(place not in self.drawn[q] for place in places):
                return None
            texts = [self.drawn[q][place] for place in places]
            right[q] = self._is_right(q, texts, method, arm)
            tokens[q] = sum(text.tokens for text in texts)
        return Arm(arm.name, right, tokens)


def _scorer_of(name: str | None, texts: Sequence[Text]) -> Scorer | None:
    """What is known of a run's scorer; None without one."""
    if name is None:
        return None
    return StoredScores(name, {("", (n,)): t.scores[name] for n, t in enumerate(texts) if name in t.scores})


def read_arms(folders: Sequence[Path]) -> Arms:
    """The runs, read; raises RunError for runs that cannot be compared."""
    arms: dict[str, Arm] = {}
    votes: list[tuple[tuple[float, ...], dict[str, dict[int, Written]], Path, str | None]] = []
    drawn: dict[str, Drawn] = {}
    common: dict[str, str] | None = None
    for folder in folders:
        config, keys, stored = read_run(folder)
        known = {q: key for q, key in keys.items() if key is not None}
        if common is not None and any(known[q] != common[q] for q in known.keys() & common.keys()):
            raise RunError(f"{folder} and {folders[0]} have other keys for the same question ids; evaluate one file")
        common = known if common is None else common
        if "strategy" in config:
            name = config["strategy"]
            method, scorer = method_of(name), config.get("scorer")
            done = {r["id"]: r for r in read_results(folder)}
            mine = {q: r for q, r in done.items() if r["is_right"] is not None}
            finished: dict[str, list[Text]] = {}
            for path in sorted(read_paths(folder), key=lambda record: record["number"]):
                if path["parent"] is None or path["finish"] not in FINAL:
                    continue
                given = {scorer: tuple(path["scores"])} if scorer is not None and path["scores"] else {}
                text = Text(path["answer"], len(path["tokens"]) + (path["finish"] == "eos"), given)
                if given:
                    finished.setdefault(path["question"], []).append(text)
                if isinstance(method, Best):
                    _add(drawn.setdefault(path["question"], {}), (path["temperature"], path["k"]), text)
            right, tokens = ({q: r[field] for q, r in mine.items()} for field in ("is_right", "tokens"))
            arms[name] = Arm(name, right, tokens, scorer, finished)
            continue
        warm = tuple(t for t in config["temperatures"] if t > 0)
        whole = {q: s for q, s in stored.items() if q in known and len(s) >= config["samples"] * len(warm)}
        if not warm or not whole or config.get("is_adaptive"):
            raise RunError(
                f"{folder} keeps no whole budget above temperature 0; run evaluate with the rule majority and named "
                "temperatures"
            )
        votes.append((warm, whole, folder, config.get("scorer")))
        for q, samples in whole.items():
            for s in samples.values():
                _add(drawn.setdefault(q, {}), (s.temperature, s.k), _text_of(s, config.get("scorer")))
        for temperatures in [warm, *((t,) for t in warm if len(warm) > 1)]:
            for arm in _votes_of(temperatures, whole, known):
                arms.setdefault(arm.name, arm)
    if not votes:
        raise RunError(
            "no run of plain samples is among these, and they say how hard a question is; add one of evaluate"
        )
    warm, whole, folder, scorer = votes[0]
    return Arms(list(arms.values()), warm, _in_turn(whole, warm), common or {}, folder, scorer, drawn)


def _add(known: Drawn, place: tuple[float, int], text: Text) -> None:
    """Enter a text, which another run may hold too, with the numbers of another scorer."""
    before = known.get(place)
    known[place] = text if before is None else replace(before, scores={**before.scores, **text.scores})


def _text_of(s: Written, scorer: str | None) -> Text:
    return Text(s.answer, s.tokens, {} if scorer is None or s.score is None else {scorer: (s.score,)})


def vote_name(n: int, temperatures: Sequence[float]) -> str:
    """The short form of a vote of n texts."""
    return f"best:n={n},how=vote,temperatures={'/'.join(f'{t:g}' for t in temperatures)}"


def _votes_of(
    temperatures: Sequence[float], whole: dict[str, dict[int, Written]], keys: Mapping[str, str]
) -> list[Arm]:
    """Votes of 1, 2, 4, ... samples at these temperatures in turn: the samples that best:how=vote would draw."""
    drawn = _in_turn(whole, temperatures)
    most = min(map(len, drawn.values()))
    arms = []
    for n in sorted({2**i for i in range(most.bit_length())} | {most}):
        right = {
            q: leader(Counter(s.answer for s in mine[:n] if s.answer is not None))[0] == keys[q]
            for q, mine in drawn.items()
        }
        tokens = {q: sum(s.tokens for s in mine[:n]) for q, mine in drawn.items()}
        arms.append(Arm(vote_name(n, temperatures), right, tokens))
    return arms


def _in_turn(whole: dict[str, dict[int, Written]], temperatures: Sequence[float]) -> dict[str, list[Written]]:
    drawn = {}
    for q, mine in whole.items():
        by = {(s.temperature, s.k): s for s in mine.values()}
        heats, seen, found = in_turn(temperatures, len(mine)), Counter[float](), []
        for t in heats:
            if (t, seen[t]) not in by:
                break
            found.append(by[t, seen[t]])
            seen[t] += 1
        drawn[q] = found
    return drawn
