"""From a sample's text to its answer. An extractor is `text -> str | None`; None never votes.

Nothing here evaluates what a model wrote, and every step is bounded by MAX_TEXT characters; a pattern of the caller's
by time. Standard library only.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import cast

from .child import Child
from .statements import NUMBER, said, stated

MAX_TEXT = 20_000  # an answer is looked for in the last so many characters
REGEX_SECONDS = 2.0  # for the caller's own pattern on one text

Extractor = Callable[[str], "str | None"]

_MARK = re.compile(r"(?:\banswers?\b\W{0,6}?(?:\bis\b|:|=)|####)[\s*:=]{0,20}", re.IGNORECASE)


def boxed(text: str) -> str | None:
    r"""The content of the last complete \boxed{...}, braces matched; the innermost where they nest."""
    text = text[-MAX_TEXT:]
    opened: list[int | None] = []
    best: tuple[int, str] | None = None
    at = 0
    while at < len(text):
        if text.startswith(("\\boxed{", "\\fbox{"), at):
            at = text.index("{", at) + 1
            opened.append(at)
            continue
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == "{":
            opened.append(None)
        elif text[at] == "}" and opened:
            start = opened.pop()
            if start is not None and (best is None or start > best[0]):
                best = start, text[start:at]
        at += 1
    return best[1].strip() or None if best else None


def last_number(text: str) -> str | None:
    """The last number of the text: sign, thousands separators, decimals, a/b and per cent included."""
    found = None
    for match in NUMBER.finditer(text[-MAX_TEXT:]):
        found = match
    return found.group().strip() if found else None


def choice(text: str) -> str | None:
    """The letter A ... J of a multiple choice: after "answer is", else the last "(B)", else a line "B" or "B) ..."."""
    text = text[-MAX_TEXT:].replace("*", "")
    for pattern in (
        r"(?i:\banswer\b\W{0,6}?(?:\bis\b|:)\W{0,10}(?:option\s+|choice\s+)?)\(?([A-J])\b(?![\w'’])",
        r"\\boxed\{(?:\\text\{)?\s*\(?([A-J])\b",
        r"\(([A-J])\)",
        # Not \s: each of many empty lines would look through all that follow.
        r"(?m:^[^\S\n]*(?:option\s+|choice\s+)?([A-J])(?:[^\S\n]*$|[).:]))",
    ):
        letters = re.findall(pattern, text)
        if letters:
            return str(letters[-1])
    return None


def last_line(text: str) -> str | None:
    """The last line that is not empty."""
    lines = [line.strip() for line in text[-MAX_TEXT:].splitlines()]
    return next((line for line in reversed(lines) if line), None)


def auto(text: str) -> str | None:
    r"""\boxed{}, else what the last "answer is", "answer:" or "####" says, else what the text's end states.

    None where a careful reader would not be sure: see `statements`.
    """
    found = boxed(text)
    if found is not None:
        return found
    tail = text[-MAX_TEXT:]
    end = None
    for mark in _MARK.finditer(tail):
        end = mark.end()
    return stated(tail) if end is None else said(tail[end : end + 300].partition("\n")[0])


def regex(pattern: str, *, seconds: float = REGEX_SECONDS) -> Extractor:
    """An extractor: the last match's first group (or the whole match).

    seconds: a pattern can take for ever on a text, so it is run by another process, for at most so long
    raises: ValueError for what is no pattern; the extractor raises it after `seconds`
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None

    def extract(text: str) -> str | None:
        try:
            found = _SEARCHER.ask([pattern, text[-MAX_TEXT:]], seconds)
        except TimeoutError:
            raise ValueError(
                f"a regular expression must be done with a text within {seconds:g} s, {pattern!r} was not; a "
                "repetition inside a repetition, or beside one that matches the same, tries every way to share a text"
            ) from None
        return None if found is None else str(found)

    return extract


_SEARCHER = Child("""
import re

def answer(question):
    pattern, text = question
    compiled, found = re.compile(pattern), None
    for match in compiled.finditer(text):
        found = match
    return found and (found.group(1) if compiled.groups else found.group())
""")


EXTRACTORS: dict[str, Extractor] = {
    "auto": auto,
    "boxed": boxed,
    "number": last_number,
    "choice": choice,
    "last-line": last_line,
}


def extractor_of(name: str | Extractor) -> Extractor:
    """The extractor called `name`: one of EXTRACTORS, "regex:PATTERN", "module:function", "math" (Math-Verify), or
    any callable as it is.

    raises: ValueError with the names there are, or with what is wrong with the import path
    """
    if not isinstance(name, str):
        return name
    if name in EXTRACTORS:
        return EXTRACTORS[name]
    head, colon, rest = name.partition(":")
    if head == "regex" and rest:
        return regex(rest)
    if name == "math":
        from .math_verify import extract

        return extract
    if colon and rest:
        return cast(Extractor, callable_of(name))
    raise ValueError(
        f"no extractor is called {name!r}; there are {', '.join(EXTRACTORS)}, math, regex:... and module:function"
    )


def callable_of(path: str) -> Callable[..., object]:
    """What "module:function" names; raises ValueError saying which part of it is not there."""
    module, _, attribute = path.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{path!r}: {error}; the path is module:function, importable from here") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{path!r}: {module} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{path!r} is no function")
    return found
