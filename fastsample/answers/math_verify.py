"""Math-Verify behind a wall: LaTeX answers are parsed by a child process that is ended when it takes too long.

What a model writes can keep a computer algebra system busy for ever (9**9**9**9). Needs the package math-verify.
"""

from __future__ import annotations

from typing import Any

from .child import Child

SECONDS = 5.0
MAX_LATEX = 2_000


def extract(text: str, *, seconds: float = SECONDS) -> str | None:
    """An extractor: what Math-Verify reads as the text's answer, written in one form; None where it reads nothing."""
    found = _ask({"do": "parse", "text": text[-MAX_LATEX:]}, seconds)
    return str(found) if found else None


def are_equal(key: str, answer: str, *, seconds: float = SECONDS) -> bool:
    """Whether the two are the same mathematical object; False where that took longer than `seconds`.

    Math-Verify's comparison is not symmetric: `key` is the right answer, `answer` what is to be judged.
    """
    if max(len(key), len(answer)) > MAX_LATEX:
        return False
    return bool(_ask({"do": "compare", "key": key, "answer": answer}, seconds))


def _ask(question: dict[str, Any], seconds: float) -> Any:
    try:
        return _CHILD.ask(question, seconds)
    except TimeoutError:
        return None
    except ChildProcessError:
        raise ValueError(
            "the extractor math needs Math-Verify, which cannot be imported; pip install math-verify"
        ) from None


_CHILD = Child("""
import logging
logging.disable(logging.CRITICAL)
from math_verify import parse, verify

def read(text):
    found = parse("$" + text.replace("$", "") + "$", parsing_timeout=None)
    return found or parse(text, parsing_timeout=None)

def answer(question):
    if question["do"] == "parse":
        found = parse(question["text"], parsing_timeout=None)
        return str(found[0])[:2000] if found else None
    return bool(verify(read(question["key"]), read(question["answer"]), timeout_seconds=None))
""")
