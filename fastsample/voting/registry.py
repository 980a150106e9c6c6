"""Every rule by name, and the short form in which a command line, a run folder or a report writes one.

majority    beta    beta:confidence=0.9    ahead:k=4,min_votes=3    weighted:by=entropy,how=borda
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

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
    name, _, rest = text.strip().partition(":")
    kind = RULES.get(name.strip().lower().replace("_", "-"))
    if kind is None:
        raise ValueError(f"no rule is called {name!r}; there are {', '.join(RULES)}")
    known: dict[str, Any] = {field.name: field.default for field in fields(kind)}
    values: dict[str, object] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = (p.strip() for p in part.partition("="))
        if key not in known or not equals:
            raise ValueError(f"{name} knows {', '.join(f'{k}={v}' for k, v in known.items())}; got {part!r}")
        wanted: Any = type(known[key])
        try:
            values[key] = wanted(value)
        except ValueError:
            raise ValueError(f"{name}'s {key} is {_NOUNS[wanted]}, got {value!r}") from None
    return kind(**values)  # type: ignore[arg-type]


_NOUNS = {int: "a whole number", float: "a number", str: "a word"}


def name_of(rule: Rule) -> str:
    """The short form; `rule_of(name_of(rule)) == rule`. Fields at their defaults are left out."""
    kinds = {kind: name for name, kind in RULES.items()}
    if type(rule) not in kinds:
        return repr(rule)
    changed = [f"{f.name}={getattr(rule, f.name)}" for f in fields(rule) if getattr(rule, f.name) != f.default]
    return kinds[type(rule)] + (":" + ",".join(changed) if changed else "")
