"""What comes back of a question: every sample that was written for it, the votes, the answer, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

from ..engines.base import UNTOLD, Sample
from ..scoring.base import Candidate, Leg
from ..token_stats import NO_MEANS, MeanStats
from ..voting.ballots import Ballot
from .path import Path

# What the means are called in JSON, in the order of `MeanStats`.
MEANS = ("mean_logprob", "mean_raw_logprob", "entropy", "self_certainty")
UNWRITTEN = ("state", "sample")  # fields of `Written` that are never written down


@dataclass(frozen=True)
class Written:
    """One sample of a question, finished or not.

    number:     its place in the question's plan; (seed, stream) and the settings write the same text again
    k:          how many samples of the same temperature come before it
    finish:     "eos", "stop", "length", "cancelled" (the vote was over) or "aborted" (too uncertain: `Confidence`)
    tokens:     how many were written
    means:      of the tokens' statistics, in nats
    score:      a scorer's, None without one
    is_counted: whether the verdict rests on it
    token_ids, certainties: per token; left out of `Result.to_json`
    state:      as in `engines.base.Sample`; never written down
    sample:     the engine's own, where that was to be kept; never written down
    """

    number: int
    temperature: float
    k: int
    stream: int
    text: str
    answer: str | None
    tokens: int
    finish: str
    means: MeanStats = NO_MEANS
    score: float | None = None
    is_counted: bool = False
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    certainties: tuple[float, ...] = field(default=(), repr=False)
    state: Any = field(default=None, repr=False, compare=False)
    sample: Sample | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls, sample: Sample, place: tuple[int, float, int], answer: str | None, finish: str | None = None
    ) -> Written:
        """A sample that ended. place: (number, temperature, k); finish: None is the sample's own."""
        number, temperature, k = place
        return cls(
            number=number,
            temperature=temperature,
            k=k,
            stream=cast(int, sample.request.stream),
            text=sample.text,
            answer=answer,
            tokens=len(sample.tokens),
            finish=finish or sample.finish or "cancelled",
            means=sample.means,
            token_ids=sample.token_ids,
            certainties=tuple(token.self_certainty for token in sample.stats),
            state=sample.state,
        )

    @classmethod
    def of_path(cls, path: Path, score: float | None) -> Written:
        """A path from its root to its end; `k` and `stream` are those of its last leg."""
        drawn = path.drawn()
        ended = (path.ended_by,) if path.finish == "eos" and path.ended_by is not None else ()
        ids = path.written_ids() + ended
        return cls(
            number=path.number,
            temperature=path.temperature,
            k=path.k,
            stream=path.stream,
            text=path.whole(),
            answer=path.answer,
            tokens=len(drawn),
            finish="length" if path.finish in ("limit", "context", "until") else path.finish,
            means=path.means,
            score=score,
            is_counted=path.is_final,
            token_ids=() if UNTOLD in ids else ids,
            certainties=tuple(token.self_certainty for token in drawn),
        )

    def candidate(self, question: str) -> Candidate:
        """As a scorer sees it: one leg."""
        legs = (Leg(self.text, self.means, self.tokens > 0, self.state),)
        return Candidate(question, self.text, self.answer, self.token_ids, self.means, legs)

    @property
    def is_finished(self) -> bool:
        """Whether it was written to its own end."""
        return self.finish in ("eos", "stop", "length")

    def ballot(self, window: int = 0) -> Ballot:
        """Its vote; `window` is the number of tokens over which the lowest certainty is taken."""
        low = lowest(self.certainties, window) if window else None
        return Ballot(self.number, self.temperature, self.answer, self.means, low, self.score)

    def to_json(self, *, full: bool = False) -> dict[str, Any]:
        """A dictionary for `json.dumps`; full adds the token ids and the certainties (0.001 nats)."""
        record: dict[str, Any] = {}
        for name in (f.name for f in fields(self) if f.name not in ("token_ids", "certainties", *UNWRITTEN)):
            record |= dict(zip(MEANS, self.means)) if name == "means" else {name: getattr(self, name)}
        if full:
            record |= {
                "token_ids": list(self.token_ids),
                "certainties": [round(min(c, 1e9), 3) for c in self.certainties],
            }
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Written:
        """The inverse of `to_json`; fields it does not know are passed by."""
        known = {f.name: record[f.name] for f in fields(cls) if f.name in record and f.name not in UNWRITTEN}
        for name in ("token_ids", "certainties"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known, means=MeanStats(*(record.get(name) for name in MEANS)))


def lowest(certainties: Sequence[float], window: int) -> float | None:
    """The lowest mean over `window` tokens in a row; over all of them where there are fewer; None without tokens."""
    if not certainties:
        return None
    span = min(window, len(certainties))
    total = sum(certainties[:span])
    least = total
    for left, entering in zip(certainties, certainties[span:]):
        total += entering - left
        least = min(least, total)
    return least / span


@dataclass(frozen=True)
class Result:
    """The answer to one question and everything it rests on. `to_json` gives plain values.

    status:        "easy" (the rule stopped), "hard" (TwoStage never came to agree), "budget" (all was spent), "error"
    votes, shares: per temperature, written as text: answer -> number or share of that temperature's counted votes
    tokens:        written for this question, cancelled and aborted samples included; without the prompt
    budget_tokens: what the whole plan would have cost: exact where every sample finished, otherwise estimated from
                   the mean length of the finished samples of the same temperature; where none of a temperature
                   finished, from the least of the other means, so that a saving is not overstated
    steps:         forward passes in which it had a row; rounds: how often samples were started
    unparsable:    counted samples without an answer; cut: counted samples that ended by their length, which have
                   none unless the settings let them vote; seconds: from its start to the verdict
    engine:        what wrote the samples; engine_reason: why not a faster one and what that costs, None for the fastest
    """

    id: str
    question: str
    answer: str | None
    status: str
    reason: str
    rule: str
    planned: int
    seed: int
    votes: dict[str, dict[str, int]] = field(default_factory=dict)
    shares: dict[str, dict[str, float]] = field(default_factory=dict)
    samples: tuple[Written, ...] = ()
    counted: int = 0
    cancelled: int = 0
    tokens: int = 0
    budget_tokens: int = 0
    prompt_tokens: int = 0
    steps: int = 0
    rounds: int = 0
    unparsable: int = 0
    cut: int = 0
    is_tie: bool = False
    seconds: float = 0.0
    error: str | None = None
    engine: str = ""
    engine_reason: str | None = None

    def to_json(self, *, samples: bool = True) -> dict[str, Any]:
        """A dictionary for `json.dumps`; samples=False leaves the samples out."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "samples"}
        return record | ({"samples": [s.to_json() for s in self.samples]} if samples else {})


@dataclass(frozen=True)
class Found(Result):
    """What a search gives beside the fields of `Result`: its `samples` are the finished paths.

    status:   "found", "spent" (the budget; the answer is the best until there), "none" (no path with an answer)
    strategy: its short form, "beam:n=16,m=4"; scorer: its name
    score:    of the chosen path, or of all that say the same (weighted)
    paths:    all that was written, roots included; legs: how many of them; merged: equal ones that were made one
    dropped:  that were not continued though they might have been
    appended_tokens: that were put behind a path and not drawn; depth: legs of the longest path
    scored:   texts that a scorer looked at
    reread:   whether paths were read again to be continued, because the engine keeps none
    """

    text: str = ""
    strategy: str = ""
    scorer: str | None = None
    score: float | None = None
    paths: tuple[Path, ...] = ()
    legs: int = 0
    merged: int = 0
    dropped: int = 0
    appended_tokens: int = 0
    scored: int = 0
    depth: int = 0
    reread: bool = False

    def to_json(self, *, samples: bool = True) -> dict[str, Any]:
        """A dictionary for `json.dumps`; samples=False leaves samples and paths out."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("samples", "paths")}
        if samples:
            record |= {name: [one.to_json() for one in getattr(self, name)] for name in ("samples", "paths")}
        return record


def elected(result: Result) -> Written | None:
    """The sample that is shown for the answer: the first counted one that gave it, else the first that ended.

    Of a search, the path that was chosen.
    """
    ended = [s for s in result.samples if s.is_finished]
    if isinstance(result, Found):
        return next((s for s in ended if s.text == result.text), None)
    return next((s for s in ended if s.answer == result.answer and s.is_counted), ended[0] if ended else None)


def votes_of(samples: Sequence[Written]) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """(votes, shares) per temperature of the counted samples; temperatures without a vote are there, empty."""
    votes: dict[str, Counter[str]] = {}
    for sample in samples:
        mine = votes.setdefault(f"{sample.temperature:g}", Counter())
        if sample.is_counted and sample.answer is not None:
            mine[sample.answer] += 1
    ordered = {t: dict(c.most_common()) for t, c in sorted(votes.items(), key=lambda item: float(item[0]))}
    shares = {t: {a: round(n / sum(c.values()), 6) for a, n in c.items()} for t, c in ordered.items()}
    return ordered, shares


def budget_tokens(samples: Sequence[Written], plan: Sequence[float]) -> int:
    """Tokens of the whole plan, by the mean length of each temperature's finished samples or the least of the means."""
    lengths: dict[float, list[int]] = {}
    for sample in samples:
        if sample.is_finished:
            lengths.setdefault(sample.temperature, []).append(sample.tokens)
    if not lengths:
        return sum(s.tokens for s in samples)
    means = {t: sum(ns) / len(ns) for t, ns in lengths.items()}
    least = min(means.values())  # temperature 0 goes round in circles to the limit: its length says nothing of others
    total = sum(means.get(t, least) for t in plan)
    return max(round(total), sum(s.tokens for s in samples))
