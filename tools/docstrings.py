"""For griffe, which reads our docstrings for mkdocs: lists of arguments keep their lines.

Our docstrings name an argument a line, `name: what it is`, and Markdown would run these lines together. So a paragraph
of such lines becomes a block.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# `name:`, `a, b:`, `[B]  text` or a line that goes on with what stands above, indented.
NAMED = re.compile(r"^[\w\[\]*,.` ]{1,40}(:|  )")


def as_markdown(text: str) -> str:
    """A docstring with its paragraphs of named lines as blocks; the first one is a sentence and stays."""
    first, *more = re.split(r"\n\s*\n", text)
    return "\n\n".join([first, *(f"```text\n{part}\n```" if is_list(part) else part for part in more)])


def is_list(paragraph: str) -> bool:
    """Whether every line names something, or goes on with the line above, further in."""
    if paragraph.startswith("```"):
        return False
    lines = paragraph.splitlines()
    return NAMED.match(lines[0]) is not None and all(NAMED.match(line) or line.startswith("  ") for line in lines)


class Blocks(griffe.Extension):
    """Applies `as_markdown` to every docstring."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
