"""An engine that writes stored legs again: what another method would have chosen on them, without the model.

Every leg's randomness comes from its path, so a leg that a method asks for and that is stored is the one that the model
would write. What is not stored is refused by name: best-of-n, weighted votes, votes and diverse trees of fewer texts
are in a larger run, and another choice of the answer is in any; a beam of another width or another scorer is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..answers.extractors import extractor_of
from ..engines.base import Parked, Request, Sample, Traits
from ..scoring.base import Candidate, Scorer
from ..scoring.verifiers import scorer_of
from ..solving.solve import solve_many
from ..strategies.base import Method
from ..strategies.path import FINAL
from ..strategies.plan import stream_of
from ..strategies.question import Question
from ..strategies.records import Found
from ..strategies.registry import VOTE, method_of, strategy_name
from ..strategies.task import Budget
from ..token_stats import NO_STATS
from .dataset import RunError
from .stored import read_config, read_items, read_paths, read_samples, settings_of
from .texts import line_of

FINISHES = {"limit": "length", "context": "length"}  # what an engine says; whose limit it was, the tree finds out


class NotStoredError(ValueError):
    """A method asked for what the run does not hold; the message names it."""


@dataclass(frozen=True)
class StoredLeg:
    """tokens: appended ones first, without the token that ended it, which is `ended_by`; finish: as in `path.Path`"""

    tokens: tuple[int, ...]
    appended: int
    text: str
    finish: str
    ended_by: int | None

    @property
    def drawn(self) -> int:
        """How many tokens the model drew for it, an EOS included."""
        return len(self.tokens) - self.appended + (self.finish == "eos" and self.ended_by is not None)

    def why_not(self, request: Request) -> str | None:
        """Why it is not what a request would get, in words, or None."""
        shown = self.text.lstrip()
        ends = [end for end in request.until if end in shown]
        if self.finish == "until":
            is_id = self.ended_by is not None and self.ended_by in request.until_ids
            return None if is_id or ends else "ends at a delimiter that is not asked for"
        if self.finish == "cancelled":
            return "was not written to its end"
        if request.until and request.legs == 1 and ends:
            return f"goes on behind {ends[0]!r}, where the leg that is asked for ends"
        if self.drawn > request.max_new_tokens:
            return f"has {self.drawn} tokens, and {request.max_new_tokens} are asked for"
        if self.finish in ("length", "limit") and self.drawn < request.max_new_tokens:
            return f"was cut at {self.drawn} tokens, and {request.max_new_tokens} are asked for"
        return None


@dataclass(frozen=True, eq=False)
class _Place:
    """What is "parked": nothing but its ids."""

    ids: tuple[int, ...]

    @property
    def length(self) -> int:
        """See `Parked`."""
        return len(self.ids)


_Key = tuple[tuple[int, ...], tuple[int, ...], int, float]  # (ids so far, appended ids, stream, temperature)


class StoredTree:
    """Has the methods of a `ParkingEngine`, over the legs of a run. steps: rounds, as no pass is made.

    legs: (ids of the prompt and the path so far, stream, temperature, leg) of each
    """

    def __init__(self, legs: Iterable[tuple[tuple[int, ...], int, float, StoredLeg]], slots: int = 64) -> None:
        self.slots = slots
        self.traits = Traits("stored-tree", "", certainty="none", parks=True)
        self.steps = self.prefill_tokens = 0
        self.waiting: list[Sample] = []
        self.running: list[Sample] = []
        self._legs: dict[_Key, list[StoredLeg]] = {}
        for before, stream, temperature, leg in legs:
            known = self._legs.setdefault((before, leg.tokens[: leg.appended], stream, temperature), [])
            if leg not in known:
                known.append(leg)

    def submit(self, requests: Iterable[Request]) -> list[Sample]:
        """Queue the requests, in order; raises NotStoredError for one that is not stored."""
        samples = []
        for request in requests:
            leg = self._of(request)
            ended = [leg.ended_by] if leg.finish == "eos" and leg.ended_by is not None else []
            tokens = [*leg.tokens, *ended]
            samples.append(
                Sample(
                    request, tokens, text=leg.text, finish=FINISHES.get(leg.finish, leg.finish),
                    stats=[NO_STATS] * len(tokens), appended=leg.appended,
                    ended_by=leg.ended_by if leg.finish == "until" else None,
                    parked=_Place(request.prompt + leg.tokens) if request.park else None,
                )
            )  # fmt: skip
        self.waiting += samples
        return samples

    def cancel(self, samples: Iterable[Sample]) -> None:
        """Take samples out of the batch; they are written already, and are left as they are."""
        unwanted = {id(s) for s in samples}
        self.waiting = [s for s in self.waiting if id(s) not in unwanted]

    def step(self) -> list[Sample]:
        """Hand out everything that waits."""
        self.steps += 1
        done, self.waiting = self.waiting, []
        return done

    def release(self, parked: Iterable[Parked]) -> None:
        """Nothing is kept."""

    def read(self, parked: Parked, tokens: Sequence[int]) -> list[float]:
        """Refused: a run keeps no log-probabilities of single tokens."""
        raise NotStoredError(
            "log-probabilities of given tokens are read by a model, and a run does not keep them; name a scorer that "
            "reads texts, or run it with the model"
        )

    def cut(self, parked: Parked, kept: int) -> Parked:
        """The first ids of a path."""
        assert isinstance(parked, _Place)
        return _Place(parked.ids[:kept])

    def _of(self, request: Request) -> StoredLeg:
        assert request.stream is not None
        known = self._legs.get((request.prompt, request.append, request.stream, request.temperature), [])
        reasons = [leg.why_not(request) for leg in known]
        for leg, reason in zip(known, reasons):
            if reason is None:
                return leg
        number = request.key[1] if isinstance(request.key, tuple) else request.key
        what = f"a leg at temperature {request.temperature:g} that would be path {number}"
        if request.until:
            what += f", up to {request.until[0]!r}"
        why = f"the stored one {reasons[0]}" if reasons else "the run has none there"
        raise NotStoredError(f"the method asks for {what}, and {why}; play one that was written, or run it")


class StoredScores:
    """What the run's scorer said, under its name: (question, token ids) -> one number, or one a leg."""

    def __init__(self, name: str, scores: Mapping[tuple[str, tuple[int, ...]], tuple[float, ...]]) -> None:
        self.name = name
        self.scores = scores
        try:
            known: object = scorer_of(name)
        except (ValueError, ImportError, AttributeError):  # a file or a function that is not here
            known = None
        every = [number for numbers in scores.values() for number in numbers]
        self.is_process = bool(getattr(known, "is_process", any(len(numbers) > 1 for numbers in scores.values())))
        told = getattr(known, "is_probability", None)
        self.is_probability = all(0 <= number <= 1 for number in every) if known is None else bool(told)

    def score(self, candidates: Sequence[Candidate]) -> list[Any]:
        """See `Scorer`; raises NotStoredError for a text that it was not asked about."""
        found = []
        for c in candidates:
            numbers = self.scores.get((c.question, c.tokens))
            if numbers is None:
                raise NotStoredError(
                    f"the scorer {self.name} was not asked about a text of {len(c.tokens)} tokens; name a scorer that "
                    "reads texts, such as math:KEY or module:function"
                )
            found.append(numbers if self.is_process else numbers[0])
        return found


def replay_strategy(
    folder: str | Path,
    strategy: str | Method | None = None,
    *,
    scorer: str | Scorer | None = None,
    tokenizer: Any = None,
) -> Iterator[Found]:
    """Every answered question of a run, as the strategy would have answered it on what is stored.

    folder:    a run of `evaluate`: of a method, or of plain samples, whose texts `best` would draw
    strategy:  None is the run's own
    scorer:    None is what the run's own said; another one must read texts alone
    tokenizer: the model's; only methods with prompts of their own need it
    yields:    in the order of the questions; `steps` are rounds, and `seconds` those of the replay

    raises: NotStoredError, with the question's id, for what the run does not hold; RunError for a damaged folder;
            ValueError for a strategy that grows nothing, or a scorer that needs a model
    """
    folder = Path(folder)
    config, items = read_config(folder), {item.id: item for item in read_items(folder)}
    strategy = config.get("strategy") if strategy is None else strategy
    if strategy is None or method_of(strategy) is None:
        shown = VOTE if strategy is None else strategy_name(strategy)
        raise ValueError(f"a strategy that grows texts is replayed, such as best:n=4,how=vote, got {shown}")
    questions, legs, answers, scores = _read(folder, config, items)
    budget = config.get("budget")
    name = config.get("scorer")
    if scorer is None or (isinstance(scorer, str) and scorer == name):
        scorer = StoredScores(name, scores) if name is not None else None
    run = solve_many(
        None,
        tokenizer,
        questions,
        settings=settings_of(config),
        extractor=_Answers(answers, config.get("extractor", "auto")),
        engine=StoredTree(legs),
        scorer=scorer,
        strategy=strategy,
        budget=Budget(**budget) if budget else None,
    )
    found: dict[str, Found] = {}
    for result in run:
        if result.error is not None:
            raise NotStoredError(f"{folder}, question {result.id}: {result.error.partition(': ')[2] or result.error}")
        assert isinstance(result, Found)
        found[result.id] = result
    yield from (found[question.id] for question in questions)


@dataclass(frozen=True)
class _Answers:
    """The stored answer of a stored text; of any other, what the run's extractor reads."""

    stored: Mapping[str, str | None]
    extractor: str

    def __call__(self, text: str) -> str | None:
        return self.stored[text] if text in self.stored else extractor_of(self.extractor)(text)


_Legs = list[tuple[tuple[int, ...], int, float, StoredLeg]]
_Scores = dict[tuple[str, tuple[int, ...]], tuple[float, ...]]


def _read(
    folder: Path, config: Mapping[str, Any], items: Mapping[str, Any]
) -> tuple[list[Question], _Legs, dict[str, str | None], _Scores]:
    """(questions with their prompts, legs, answers by text, scores) of a run."""
    legs: _Legs = []
    answers: dict[str, str | None] = {}
    scores: _Scores = {}
    if "strategy" not in config:
        return _plain(folder, items)
    trees: dict[str, dict[int, dict[str, Any]]] = {}
    for record in read_paths(folder):
        if record["question"] in items:
            trees.setdefault(record["question"], {})[record["number"]] = record
    questions = []
    for q, tree in trees.items():
        root = tree.get(0)
        if root is None or "prompt" not in root:
            raise RunError(f"{folder}: the prompt of question {q} is not in paths.jsonl; the file was damaged")
        questions.append(Question(items[q].question, q, prompt=tuple(root["prompt"])))
        for record in tree.values():
            if record["parent"] is None:
                continue
            line = line_of(record, tree, f"{folder}, question {q}")
            prompt, written = tuple(line[0].get("prompt", ())), tuple(t for leg in line[1:] for t in leg["tokens"])
            tokens = tuple(record["tokens"])
            if record["scores"]:
                scores[items[q].question, written] = tuple(map(float, record["scores"]))
            if record["finish"] == "cut":
                continue
            leg = StoredLeg(tokens, record["appended"], record["text"], record["finish"], record.get("ended_by"))
            before = prompt + written[: len(written) - len(tokens)]
            legs.append((before, record["stream"], record["temperature"], leg))
            if record["finish"] in FINAL:
                text = "".join(one["text"] for one in line[1:])
                answers[text] = record["answer"] or answers.get(text)  # a critique of the same words has none
    return questions, legs, answers, scores


def _plain(folder: Path, items: Mapping[str, Any]) -> tuple[list[Question], _Legs, dict[str, str | None], _Scores]:
    """The same of plain samples: each is a leg of its question's root, whose ids nobody needs: its number stands there.

    A sample's stream is that of (prompt, temperature, k), so with such a prompt it is found anew.
    """
    legs: _Legs = []
    answers: dict[str, str | None] = {}
    scores: _Scores = {}
    places: dict[str, int] = {}
    for q, s in read_samples(folder):
        if q not in items or not s.is_finished or (s.tokens and not s.token_ids):
            continue
        prompt = (places.setdefault(q, len(places)),)
        has_eos = s.finish == "eos" and bool(s.token_ids)
        tokens, end = (s.token_ids[:-1], s.token_ids[-1]) if has_eos else (s.token_ids, None)
        leg = StoredLeg(tokens, 0, s.text, "limit" if s.finish == "length" else s.finish, end)
        legs.append((prompt, stream_of(prompt, s.temperature, s.k), s.temperature, leg))
        if s.finish != "length":  # a vote passes by what was cut; `best` reads it
            answers[s.text] = s.answer
        if s.score is not None:
            scores[items[q].question, tokens] = (s.score,)
    return [Question(items[q].question, q, prompt=(n,)) for q, n in places.items()], legs, answers, scores
