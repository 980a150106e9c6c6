"""A strategy that a client names: which one, how large it may be, and by which scorer its texts are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engines.base import Traits
from ..scoring.base import Scorer
from ..scoring.signals import SIGNALS
from ..scoring.verifiers import scorer_of
from ..strategies.base import Method
from ..strategies.question import Question, Settings
from ..strategies.registry import check_fit, method_of, strategy_name
from ..strategies.search import Search
from ..strategies.task import Budget
from ..strategies.tree import Tools

PREFIX = "strategy:"  # MODEL@strategy:beam:n=4
# Numbers that the draw leaves behind: they run nothing, and read nothing of the client's choosing.
SCORERS = ("mean-logprob", *(f"{kind}signal:{name}" for kind in ("", "sigmoid:") for name in SIGNALS))
LEGS = 4  # that one request may have, for each sample


@dataclass(frozen=True)
class Growth:
    """How the texts of a request grow. budget: what it may cost at most; scorer: None where the strategy needs none"""

    method: Method
    name: str
    scorer: Scorer | None
    budget: Budget

    def check(self, traits: Traits) -> None:
        """Raise ValueError for an engine that cannot grow texts leg by leg."""
        if not traits.parks:
            raise ValueError(
                f"strategies need an engine that keeps what it has read, {traits.name} does not; ask for a vote"
            )

    def begin(
        self, engine: Any, tokenizer: Any, question: Question, prompt: tuple[int, ...], settings: Settings,
        extract: Any, serial: int,
    ) -> Search:  # fmt: skip
        """The strategy of one question, over an engine that parks."""
        tools = Tools(self.name, engine, tokenizer, self.scorer, self.budget)
        return Search(self.method, tools, question, prompt, settings, extract, serial)


def growth_of(asked: Mapping[str, Any], samples: int, tokens: int) -> Growth | None:
    """What a request's `strategy`, `scorer` and `budget_tokens` ask for; None for a vote.

    samples: that one request may have; tokens: of each
    raises: ValueError for a strategy or a scorer that there is not, that a client may not name, or that is too large
    """
    given, by, most = asked.get("strategy"), asked.get("scorer"), asked.get("budget_tokens")
    if given is None or given == "vote":
        if by is not None or most is not None:
            raise ValueError("scorer and budget_tokens belong to a strategy; name one, or leave them out")
        return None
    if not isinstance(given, str) or len(given) > 200:
        raise ValueError("strategy must be a short form such as beam:n=4,m=2")
    method = method_of(given)
    if method is None:
        raise ValueError("strategy must be a short form such as beam:n=4,m=2")
    for field, value in vars(method).items():
        if isinstance(value, int) and not isinstance(value, bool) and value > samples:
            raise ValueError(f"{field} of a strategy may be {samples:,} here, got {value:,}; lower it")
    if by is not None and by not in SCORERS:
        raise ValueError(f"scorer must be one of {', '.join(SCORERS)} here")
    scorer = None if by is None else scorer_of(by)
    check_fit(method, scorer)
    limit = samples * tokens
    if most is not None and (type(most) is not int or not 1 <= most <= limit):
        raise ValueError(f"budget_tokens must be a whole number from 1 to {limit:,}")
    budget = Budget(tokens=most or limit, legs=LEGS * samples, scores=LEGS * samples)
    return Growth(method, strategy_name(method), scorer, budget)
