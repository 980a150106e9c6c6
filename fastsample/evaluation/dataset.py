"""A question file: one JSON object a line, read with every complaint named by its line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any


class RunError(ValueError):
    """A run's folder or a question file cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Item:
    """One line of a question file. answer: the right one, or None where it is not known."""

    id: str
    question: str
    answer: str | None = None


def read_questions(lines: Iterable[str]) -> tuple[list[Item], list[str]]:
    """(items, complaints) of a question file in JSONL; a complaint names its line and what is wrong with it.

    Fields: `question`, `answer` and an optional `id` (the line number where it is missing).

    lines: decoded with errors="surrogateescape", so that a line which is not UTF-8 is told like any other mistake
    """
    items: dict[str, Item] = {}
    complaints = []
    for number, line in enumerate(lines, 1):
        text = line.strip().lstrip("\ufeff")
        if not text:
            continue
        try:
            _must_be_text("the line", text, "is not UTF-8")
            item = item_of(parsed(text), number)
            for name, value in (("question", item.question), ("answer", item.answer), ("id", item.id)):
                _must_be_text(name, value or "", "holds half of a character")
            if item.id in items:
                raise RunError(f"the id {shown(item.id)} has been used before; ids must differ")
        except RunError as error:
            complaints.append(f"line {number}: {error}")
        else:
            items[item.id] = item
    return list(items.values()), complaints


def check_items(items: Iterable[Item]) -> None:
    """Refuse items of a caller's that could not be told apart in a run; raises RunError."""
    seen: set[str] = set()
    for item in items:
        if not isinstance(item.id, str) or not isinstance(item.question, str):
            raise RunError(f"an item's id and question must be text, got {shown(item.id)} and {shown(item.question)}")
        if item.id in seen:
            raise RunError(f"the id {shown(item.id)} is used twice; ids must differ")
        seen.add(item.id)


def parsed(text: str | bytes) -> Any:
    """The value of one line of JSON; raises RunError for anything that is none, NaN and Infinity among it."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise RunError("not JSON: nested too deeply") from None
    except ValueError as error:  # of JSON, of UTF-8, or of a number too long for Python
        if "integer string conversion" in str(error):
            raise RunError("a number has more digits than can be read; write it as text, in quotes") from None
        raise RunError(f"not JSON: {error}") from None


def shown(value: object) -> str:
    """A wrong value as a message quotes it: short, whatever it is."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def item_of(record: Any, number: int) -> Item:
    """The item that a line's JSON value describes; raises RunError with what is wrong with it."""
    if not isinstance(record, dict):
        raise RunError(f"a line must be an object with question and answer, got {type(record).__name__}")
    for name in ("question", "answer"):
        if name not in record:
            raise RunError(f"the field {name!r} is missing")
    question, answer, own = record["question"], record["answer"], record.get("id")
    if not isinstance(question, str) or not question.strip():
        raise RunError(f"question must be text that is not empty, got {shown(question)}")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
        raise RunError(f"answer must be text or a number, got {shown(answer)}")
    if isinstance(answer, float) and not isfinite(answer):
        raise RunError("answer must be text or a finite number; write one that is too large as text, in quotes")
    if isinstance(own, bool) or not isinstance(own, str | int | None):
        raise RunError(f"id must be text or a whole number, got {shown(own)}")
    return Item(str(number) if own is None else str(own), question, None if answer is None else str(answer))


def _must_be_text(name: str, text: str, rule: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(text[error.start]):04x}"
        if "\udc80" <= text[error.start] <= "\udcff" and name == "the line":
            found = f"byte 0x{ord(text[error.start]) - 0xDC00:02x}"
        raise RunError(f"{name} {rule} ({found}); save the file as UTF-8, or write the character itself") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
