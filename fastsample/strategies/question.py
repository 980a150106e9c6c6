"""What a question is, and how every question of a run is sampled and judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..engines.penalties import NO_PENALTIES, Penalties
from ..voting.registry import name_of, rule_of
from ..voting.rule import Rule
from ..voting.stopping import Majority
from .plan import auto_plan_of, plan_of, temperatures_of
from .records import Written

FULL_VOTE = Majority()
TEMPERATURES = (0.0, 0.4, 0.8)  # docs/voting.md has what 1.2 costs
SPREAD = (0.0, 0.4, 0.8, 1.2)  # of "auto", which chooses among them, and of a run that is to show which ones fit
AUTO = "auto"


@dataclass(frozen=True)
class Settings:
    """How every question of a run is sampled and judged.

    temperatures: several numbers; "auto" or "auto:0.4,0.8" lets a question's votes choose among them (is_adaptive)
    samples:  of each temperature above 0; temperature 0 is drawn once. With "auto", so many on average
    rule:     a rule of `voting`, or its name ("beta:confidence=0.9"), which becomes the rule
    together: start a question's whole budget at once (least waiting) instead of what the rule may need (fewest tokens)
    cut_votes: let samples vote that were cut by max_new_tokens; their texts have not come to their end
    penalties: for repeated tokens, and biases
    system, prompt_template, suffix: see `prompts.prompt_of`; stop: strings that end a sample
    """

    temperatures: tuple[float, ...] = TEMPERATURES
    samples: int = 5
    rule: Rule | str = FULL_VOTE
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_new_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()
    system: str | None = None
    prompt_template: str | None = None
    suffix: str | None = None
    together: bool = False
    cut_votes: bool = False
    is_adaptive: bool = False
    penalties: Penalties = NO_PENALTIES

    def __post_init__(self) -> None:
        rule = rule_of(self.rule)
        object.__setattr__(self, "rule", rule)
        if isinstance(self.temperatures, str) and is_auto(self.temperatures):
            object.__setattr__(self, "temperatures", _among(self.temperatures))
            object.__setattr__(self, "is_adaptive", True)
        if self.is_adaptive and rule.needs_equal_shares:
            raise ValueError(
                f"{name_of(rule)} asks all temperatures for equally many samples, and temperatures=auto gives most to "
                "one; name the temperatures, or another rule"
            )
        for name, what in (("temperatures", "numbers"), ("stop", "texts")):
            value: Any = getattr(self, name)
            if isinstance(value, str | bytes) or not isinstance(value, Iterable):
                raise TypeError(f"{name} must be several {what}, got {value!r}; write ({value!r},)")
            object.__setattr__(self, name, tuple(value))

    def plan(self) -> list[tuple[float, int]]:
        """[(temperature, k)] by sample number; UNDECIDED where votes are still to choose."""
        return (auto_plan_of if self.is_adaptive else plan_of)(self.temperatures, self.samples)


def usual_rule(scorer: Any) -> str:
    """Of a single question that names none: an early exit, but where a scorer is to choose all are written."""
    return "ahead:k=3" if scorer is None else name_of(FULL_VOTE)


def is_auto(text: str) -> bool:
    """Whether temperatures are to choose themselves: "auto", or "auto:" and the set."""
    return text.partition(":")[0].strip() == AUTO


def _among(text: str) -> tuple[float, ...]:
    _, colon, named = text.partition(":")
    return temperatures_of(named) if colon else SPREAD


@dataclass(frozen=True)
class Question:
    """What is asked.

    id:      the caller's name for it
    known:   samples of an earlier run, not to be drawn again
    history: the turns of a chat before it, {"role": ..., "content": ...} each
    prompt:  token ids to use as they are; None has the tokenizer make them of text and history
    """

    text: str
    id: str = ""
    known: tuple[Written, ...] = ()
    history: tuple[Mapping[str, str], ...] = ()
    prompt: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            kind = type(self.text).__name__
            raise TypeError(f"a question must be a text, got {kind} {self.text!r}; solve_many takes several questions")
