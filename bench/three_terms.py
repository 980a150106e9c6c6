"""Sums of three terms, which the embedded model gets right one time in eight: questions, prompt, and a plain reader."""

from __future__ import annotations

import copy
import random

from fastsample.evaluation.dataset import Item
from fastsample.strategies.question import Settings

EXAMPLES = ((2, "+", 3, "+", 1), (5, "-", 1, "-", 2), (1, "+", 4, "-", 3), (4, "-", 2, "+", 5))
EXTRACTOR = r"regex:=\s*(-?\d+)\s*$"


def written(a, one, b, other, c):
    """The sum as text."""
    return f"{a} {one} {b} {other} {c}"


def solved(a, one, b, other, c):
    """Its two lines."""
    first = a + b if one == "+" else a - b
    return f"= {first} {other} {c}", f"= {first + c if other == '+' else first - c}"


def items():
    """All 496 sums of terms from 1 to 5 that are no example, in an order that is drawn once."""
    terms, signs = range(1, 6), "+-"
    sums = [(a, one, b, other, c) for a in terms for one in signs for b in terms for other in signs for c in terms]
    random.Random(0).shuffle(sums)
    return [Item(written(*s), written(*s), solved(*s)[1][2:]) for s in sums if s not in EXAMPLES]


def settings():
    """Four solved examples, then the question; a blank line ends a text."""
    shown = "\n".join("\n".join((written(*s), *solved(*s))) + "\n" for s in EXAMPLES)
    return Settings(max_new_tokens=32, stop=("\n\n",), prompt_template=shown + "\n{question}\n")


def plain(tokenizer):
    """The tokenizer without its chat template: the examples are a text to be continued, not a chat."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = None
    return tokenizer
