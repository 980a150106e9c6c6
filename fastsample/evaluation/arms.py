"""What runs of several strategies hold, side by side: of each strategy which questions were right, and what they cost.

`allocation` compares them. Votes of fewer samples, and of some of the temperatures, are in a run of plain samples too;
and so is a vote that has the first samples of a question for its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..strategies.best_of_n import Best
from ..strategies.path import in_turn
from ..strategies.plan import temperatures_of
from ..strategies.records import Written
from ..strategies.registry import method_of
from ..voting.ballots import leader
from .dataset import RunError
from .report import read_run
from .stored import read_paths, read_results

Drawn = dict[tuple[float, int], "tuple[str | None, int]"]  # (temperature, k) -> (answer, tokens)


@dataclass(frozen=True)
class Arm:
    """A strategy on the same questions: whether it was right, and the tokens that it wrote, by question id."""

    name: str
    right: Mapping[str, bool]
    tokens: Mapping[str, int]


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
        """The arms as `auto` has them, which draws k first samples: they are a vote's own, and cost any other more."""
        spent = {q: sum(s.tokens for s in self.samples[q][:k]) for q in ids}
        found = []
        for arm in [*self.arms, *self._votes_behind(k)]:
            method = method_of(arm.name)
            if isinstance(method, Best) and method.how == "vote":
                mixed = self._with_first(arm.name, method, k, ids)
                if mixed is not None:
                    found.append(mixed)
            else:
                found.append(Arm(arm.name, arm.right, {q: n + spent.get(q, 0) for q, n in arm.tokens.items()}))
        return found

    def _votes_behind(self, k: int) -> list[Arm]:
        """Votes with 1, 2, 4, ... texts more than the first samples, by name alone, without those that are read."""
        known = {arm.name for arm in self.arms}
        most = max((len(mine) for mine in self.drawn.values()), default=0)
        several = len(self.temperatures) > 1
        heats = [self.temperatures, *((t,) for t in self.temperatures if several)]
        names = [vote_name(k + 2**i, t) for t in heats for i in range(most.bit_length())]
        return [Arm(name, {}, {}) for name in names if name not in known]

    def _with_first(self, name: str, method: Best, k: int, ids: Sequence[str]) -> Arm | None:
        """A vote of n texts whose first k are the first samples; None where not all of its texts are stored."""
        temperatures = temperatures_of(method.temperatures)
        is_own = temperatures == self.temperatures
        if method.n < k or (method.n == k and not is_own):  # the same vote has a name already
            return None
        first = in_turn(self.temperatures, k)
        more = in_turn(temperatures, method.n)[k:] if is_own else in_turn(temperatures, method.n - k)
        seen = Counter[float]()
        places: dict[tuple[float, int], None] = {}
        for t in [*first, *more]:
            places[t, seen[t]] = None
            seen[t] += t > 0  # at 0 there is one text
        right, tokens = {}, {}
        for q in ids:
            known = self.drawn[q]
            if any(place not in known for place in places):
                return None
            texts = [known[place] for place in places]
            right[q] = leader(Counter(answer for answer, _ in texts if answer is not None))[0] == self.keys[q]
            tokens[q] = sum(n for _, n in texts)
        return Arm(name, right, tokens)


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
            method = method_of(name)
            done = {r["id"]: r for r in read_results(folder)}
            mine = {q: r for q, r in done.items() if r["is_right"] is not None}
            arms[name] = Arm(
                name, {q: r["is_right"] for q, r in mine.items()}, {q: r["tokens"] for q, r in mine.items()}
            )
            if isinstance(method, Best):
                for path in read_paths(folder):
                    if path["parent"] is not None:
                        text = path["answer"], len(path["tokens"]) + (path["finish"] == "eos")
                        drawn.setdefault(path["question"], {}).setdefault((path["temperature"], path["k"]), text)
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
            drawn.setdefault(q, {}).update({(s.temperature, s.k): (s.answer, s.tokens) for s in samples.values()})
        for temperatures in [warm, *((t,) for t in warm if len(warm) > 1)]:
            for arm in _votes_of(temperatures, whole, known):
                arms.setdefault(arm.name, arm)
    if not votes:
        raise RunError(
            "no run of plain samples is among these, and they say how hard a question is; add one of evaluate"
        )
    warm, whole, folder, scorer = votes[0]
    return Arms(list(arms.values()), warm, _in_turn(whole, warm), common or {}, folder, scorer, drawn)


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
