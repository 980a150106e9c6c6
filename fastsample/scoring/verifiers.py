"""Scorers of whole samples: right or wrong by a key or by tests, a function of the caller's, the model's own odds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

from ..answers.equivalence import canonical
from ..answers.extractors import callable_of
from .base import Candidate, Scorer
from .head import Head
from .sandbox import code_of, run_python, why_not
from .signals import Sigmoid, Signal
from .yes_no import Judge

Verify = Callable[[str, "str | None", str], float]  # (question, answer, text) -> number
FORMS = (
    "mean-logprob, exact:KEY, math:KEY, key (evaluate's own keys), python:TESTS.py, python-unsafe:TESTS.py, "
    "module:function, signal:BY, judge or head:FILE (a number a leg), or sigmoid:SCORER"
)


@dataclass(frozen=True)
class MeanLogprob:
    """The model's own score: the mean log-probability of the sample's tokens, in nats; 0 for a sample without any."""

    name: str = "mean-logprob"
    needs: ClassVar[tuple[str, ...]] = ("mean_logprob",)  # of `Rule.needs`

    def score(self, candidates: Sequence[Candidate]) -> list[float]:
        """See `Scorer`."""
        return [c.means.logprob or 0.0 for c in candidates]


@dataclass(frozen=True)
class ExactMatch:
    """1.0 where the answer equals `key` in canonical form (0.5 and 1/2 are equal), else 0.0."""

    key: str
    is_probability: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """exact:KEY"""
        return f"exact:{self.key}"

    def score(self, candidates: Sequence[Candidate]) -> list[float]:
        """See `Scorer`."""
        right = canonical(self.key)
        return [float(c.answer is not None and right is not None and canonical(c.answer) == right) for c in candidates]


@dataclass(frozen=True)
class Keys:
    """1.0 where the answer is that of the question in `by_question`, in canonical form, else 0.0.

    `evaluate` fills it in from its questions: what a scorer that always knew would choose, and verdicts for rollouts.
    by_question: question -> right answer, or None where it is not known
    """

    by_question: Mapping[str, str | None] = field(default_factory=dict)
    name: ClassVar[str] = "key"
    is_probability: ClassVar[bool] = True

    def bound(self, model: object, tokenizer: object) -> Keys:
        """Itself; raises ValueError where it has no key at all, before anything is written."""
        if not self.by_question:
            raise ValueError("the scorer key is for evaluate, which has a key for each question; name exact:KEY")
        return self

    def score(self, candidates: Sequence[Candidate]) -> list[float]:
        """See `Scorer`; raises ValueError for a question whose key it does not have."""
        numbers = []
        for c in candidates:
            key = self.by_question.get(c.question)
            if key is None:
                raise ValueError(f"the scorer key has no key for {c.question[:60]!r}; give its line an answer")
            numbers += ExactMatch(key).score([c])
        return numbers


@dataclass(frozen=True)
class MathVerify:
    """1.0 where Math-Verify finds the answer equal to `key`, in canonical form or as LaTeX, else 0.0.

    seconds: after so long the comparison is given up and the answer is wrong
    """

    key: str
    seconds: float = 5.0
    is_probability: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """math:KEY"""
        return f"math:{self.key}"

    def score(self, candidates: Sequence[Candidate]) -> list[float]:
        """See `Scorer`."""
        from ..answers.math_verify import are_equal

        plain = ExactMatch(self.key).score(candidates)
        return [
            is_equal or float(c.answer is not None and are_equal(self.key, c.answer, seconds=self.seconds))
            for is_equal, c in zip(plain, candidates)
        ]


@dataclass(frozen=True)
class PythonTests:
    """1.0 where `tests` run to their end on the code in the text, else 0.0.

    The code is that of the last ``` block, or the whole text. The tests run in another process than the code and reach
    it by the names it defines; docs/security.md says what that means for them, and what the code can still do.

    tests:     Python source that raises where the code is wrong, such as "assert add(1, 2) == 3"
    seconds:   of the clock, for code and tests together; megabytes: of memory, for each of its processes
    is_jailed: False runs the code without walls: it can do what you can do

    raises: ValueError where walls are asked for and this system allows none
    """

    tests: str = field(repr=False)
    seconds: float = 5.0
    megabytes: int = 512
    name: str = "python"
    is_jailed: bool = True
    is_probability: ClassVar[bool] = True

    def __post_init__(self) -> None:
        reason = why_not() if self.is_jailed else None
        if reason is not None:
            raise ValueError(
                f"code of a model is run behind walls, and {reason}; python-unsafe:TESTS.py (is_jailed=False) runs it "
                "without them: it can do what you can do"
            )

    def score(self, candidates: Sequence[Candidate]) -> list[float]:
        """See `Scorer`."""
        return [
            float(run_python(code_of(c.text), self.tests, self.seconds, self.megabytes, is_jailed=self.is_jailed))
            for c in candidates
        ]


@dataclass(frozen=True)
class Function:
    """A function (question, answer or None, text) -> number of the caller's, asked for one sample after the other."""

    function: Verify
    name: str = "function"

    def score(self, candidates: Sequence[Candidate]) -> list[float]:
        """See `Scorer`."""
        return [self.function(c.question, c.answer, c.text) for c in candidates]


def scorer_of(given: str | Scorer | Verify) -> Scorer:
    """The scorer that a name (FORMS) stands for; a function is wrapped, a scorer is returned as it is.

    raises: ValueError with the forms there are
    """
    if not isinstance(given, str):
        if hasattr(given, "score"):
            return cast(Scorer, given)
        return Function(given, name=getattr(given, "__name__", "function"))
    if given == "mean-logprob":
        return MeanLogprob()
    if given == "judge":
        return Judge()
    if given == "key":
        return Keys()
    kind, colon, rest = given.partition(":")
    if not colon or not rest:
        raise ValueError(f"a scorer is {FORMS}, got {given!r}")
    if kind == "signal":
        return Signal(rest)
    if kind == "head":
        return Head.load(rest)
    if kind == "sigmoid":
        return Sigmoid(scorer_of(rest))
    if kind == "exact":
        return ExactMatch(rest)
    if kind == "math":
        return MathVerify(rest)
    if kind in ("python", "python-unsafe"):
        try:
            with open(rest, encoding="utf-8") as file:
                return PythonTests(file.read(), name=given, is_jailed=kind == "python")
        except OSError as error:
            raise ValueError(f"{rest} cannot be read: {error.strerror}") from None
    return Function(cast(Verify, callable_of(given)), name=given)
