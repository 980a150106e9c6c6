"""Every rule by name, and the short form in which a command line, a run folder or a report writes one.

majority    beta    beta:confidence=0.9    ahead:k=4,min_votes=3    weighted:by=entropy,how=borda
"""

from __future__ import annotations

from . import short_form
from .rule import Rule
from .stopping import Ahead, Beta, Certified, Decided, Majority, TwoStage, Window
from .weighted import Confidence, Weighted

RULES: dict[str, type[Rule]] = {
    "majority": Majority,
    "decided": Decided,
    "beta": Beta,
    "ahead": Ahead,
    "window": Window,
    "certified": Certified,
    "two-stage": TwoStage,
    "weighted": Weighted,
    "confidence": Confidence,
}


def rule_of(text: str | Rule) -> Rule:
    """The rule that `text` names; a Rule passes through.

    raises: ValueError with the names, fields or bounds that would have been right
    """
    if isinstance(text, Rule):
        return text
    name, kind, rest = short_form.named(RULES, "rule", text)
    parts = filter(None, (part.strip() for part in rest.split(",")))
    return short_form.made(name, kind, parts, words="a word")  # type: ignore[no-any-return]


def name_of(rule: Rule) -> str:
    """The short form; `rule_of(name_of(rule)) == rule`. Fields at their defaults are left out."""
    return short_form.written(RULES, rule) if type(rule) in RULES.values() else repr(rule)
