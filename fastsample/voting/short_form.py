"""The short form of a rule or a strategy, and what it names: name:field=value,field=value, defaults left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

NUMBERS = {int: "a whole number", float: "a number"}


def named(kinds: Mapping[str, type], noun: str, text: str, *, before: str = "") -> tuple[str, type, str]:
    """(name, kind, what stands behind the colon). before: a name that is none of the kinds, for the error."""
    name, _, rest = text.strip().partition(":")
    kind = kinds.get(name.strip().lower().replace("_", "-"))
    if kind is None:
        known = [before, *kinds] if before else kinds
        raise ValueError(f"no {noun} is called {name!r}; there are {', '.join(known)}")
    return name, kind, rest


def made(
    name: str,
    kind: type,
    parts: Iterable[str],
    *,
    words: str,
    text_of: Callable[[str], str] = str.strip,
    value_of: Callable[[object], str] = str,
) -> Any:
    """The dataclass with these fields.

    words: what a text is called in an error; text_of: its value, as written; value_of: a value in an error
    """
    known: dict[str, Any] = {field.name: field.default for field in fields(kind)}
    values: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        key = key.strip()
        if key not in known or not equals:
            raise ValueError(f"{name} knows {', '.join(f'{k}={value_of(v)}' for k, v in known.items())}; got {part!r}")
        wanted: Any = type(known[key])
        try:
            values[key] = text_of(value) if wanted is str else wanted(value.strip())
        except ValueError:
            raise ValueError(f"{name}'s {key} is {NUMBERS.get(wanted, words)}, got {value!r}") from None
    return kind(**values)


def written(kinds: Mapping[str, type], one: Any, value_of: Callable[[object], str] = str) -> str:
    """The short form of one of these kinds."""
    (name,) = [name for name, kind in kinds.items() if kind is type(one)]
    changed = [f"{f.name}={value_of(getattr(one, f.name))}" for f in fields(one) if getattr(one, f.name) != f.default]
    return name + (":" + ",".join(changed) if changed else "")
