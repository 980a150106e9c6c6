"""Whether an engine can serve a run, said by name before the first request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..engines.base import Engine, Traits
from ..scoring.base import Scorer, bound, layer_read
from ..strategies.question import Settings
from ..voting.registry import name_of, rule_of

# What `Traits.certainty` stands for, in the names of `Rule.needs`.
TOLD = {"full": ("mean_logprob", "self_certainty", "entropy"), "top20": ("self_certainty",), "none": ()}


def missing(needs: tuple[str, ...], certainty: str) -> tuple[str, ...]:
    """What of `needs` an engine of this certainty does not tell."""
    return tuple(need for need in needs if need not in TOLD[certainty])


def fitted(settings: Settings, traits: Traits, scorer: Scorer | None = None) -> Settings:
    """The settings as this engine serves them: in waves where what was started can not be stopped.

    raises: ValueError for a rule or a scorer that needs what the engine does not tell
    """
    rule = rule_of(settings.rule)
    for what, needs in (
        (f"the rule {name_of(rule)}", rule.needs),
        (f"the scorer {getattr(scorer, 'name', '')}", getattr(scorer, "needs", ())),
    ):
        lacking = missing(needs, traits.certainty)
        if lacking:
            can_ask = traits.certainty == "none" and not missing(needs, "top20")
            remedy = "ask it for log-probabilities (--logprobs, top_logprobs=20), or " if can_ask else ""
            raise ValueError(
                f"{what} needs the {lacking[0]} of every token, and the engine {traits.name} does not tell it; "
                f"{remedy}choose a rule that counts votes, such as ahead:k=3"
            )
    if layer_read(scorer) is not None and not traits.states:
        raise ValueError(
            f"the scorer {getattr(scorer, 'name', '')} reads the model's hidden states, and the engine {traits.name} "
            "does not give them; use a local engine"
        )
    return replace(settings, together=False) if traits.cancels == "none" else settings


def serving(scorer: Scorer | None, settings: Settings, engine: Engine, model: Any, tokenizer: Any) -> Scorer | None:
    """The scorer, with the run's model where it needs one. model: None where the engine alone has one, or none

    raises: ValueError for one that this engine or this model cannot serve
    """
    fitted(settings, engine.traits, scorer)
    if scorer is None:
        return None
    return bound(scorer, getattr(engine, "model", None) if model is None else model, tokenizer)
