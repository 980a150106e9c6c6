"""A question file: one JSON object a line, read with every complaint named by its line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass


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
    """
    items: dict[str, Item] = {}
    complaints = []
    for number, line in enumerate(lines, 1):
        text = line.strip().lstrip("\ufeff")
        if not text:
            continue
        try:
            item = _item(text, number)
            if item.id in items:
                raise RunError(f"the id {item.id!r} has been used before; ids must differ")
        except RunError as error:
            complaints.append(f"line {number}: {error}")
        else:
            items[item.id] = item
    return list(items.values()), complaints


def _item(text: str, number: int) -> Item:
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RunError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise RunError(f"a line must be an object with question and answer, got {type(record).__name__}")
    for name in ("question", "answer"):
        if name not in record:
            raise RunError(f"the field {name!r} is missing")
    question, answer, own = record["question"], record["answer"], record.get("id")
    if not isinstance(question, str) or not question.strip():
        raise RunError(f"question must be text that is not empty, got {question!r:.60}")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
        raise RunError(f"answer must be text or a number, got {answer!r:.60}")
    if isinstance(own, bool) or not isinstance(own, str | int | None):
        raise RunError(f"id must be text or a whole number, got {own!r:.60}")
    return Item(str(number) if own is None else str(own), question, None if answer is None else str(answer))
