"""Which answer a text comes to, in the words of its end. What cannot be told is None: an unsure sample does not vote.

A number counts where the last sentence states it: behind an equals sign or a verb ("leaves 10 apples"),
in front of "is the" or "are left", or alone. "7 is a larger number than 3." states 7; "17 is not a prime number." and
"3 boxes with 4 apples each" state none. Standard library only.
"""

from __future__ import annotations

import re

TAIL = 1_000  # characters of the text's end in which a statement is looked for
MOST_WORDS = 4  # of an answer that is no number
NEAR = 25  # characters between "the answer is" and its number

NUMBER = re.compile(
    r"(?<![\w.,/^])[-−+]?[$€£]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:(?<=\d)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d{1,3}\b)?(?:\s?/\s?\d+)?(?:\s?\\?%)?"
)
_VALUE = re.compile(r"\\[dt]?frac\{\d+\}\{\d+\}|(?<![\d:])\d{1,2}:\d{2}(?![\d:])|" + NUMBER.pattern)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_VERB = re.compile(
    r"\b(?:is|are|was|were|be|becomes?|equals?|equal|has|have|had|gets?|gives?|giving|leaves?|leaving|left with|makes?|"
    r"costs?|totals?|need|needs|spends?|earns?|takes?|traveled|sold)\b|[:≈]|\\approx",
    re.IGNORECASE,
)
_NOT = re.compile(r"\b(?:not|never|cannot|no longer)\b|n't\b|\?", re.IGNORECASE)
_THAN = re.compile(r"\bthan\b", re.IGNORECASE)
_SUBJECT = re.compile(r"^[^.,\d]{0,30}?\b(?:(?:is|are) (?:the|left|remaining)\b|left|remain|in total)", re.IGNORECASE)
_GOES_ON = re.compile(r"^\s*(?:[-+*/^×÷=√:]|\\|x\s*\d|times\b)")  # a calculation, a ratio, "5 times larger": no value
_IS_PART = re.compile(r"(?:[{:√^_#]|\\\w*\{?)$")  # what stands before a number that belongs to something else
_SPEAKS = re.compile(r"(?:that|because|to|if|when|what)\b", re.IGNORECASE)
_JUDGES = frozenset(["correct", "incorrect", "right", "wrong", "unknown", "unclear", "given"])
_LETTER = re.compile(r"^[^\w(]{0,4}(?:\(([A-J])\)|(?:option |choice )?([A-J])(?:[).:]|[^\w'’]{0,3}$))")
_YES_NO = re.compile(r"^\W{0,4}(yes|no)\b(?=\s*(?:[.,!;:]|$|\n))", re.IGNORECASE)
_NAME = re.compile(r"\b(?:is|was|are) ((?:[A-Z][\w'’-]{0,30} ?){1,3})(?=[.,!]|$)")


def stated(text: str) -> str | None:
    """The answer that a text without a box and without "the answer is" comes to, or None."""
    text = text.strip()
    letter = _first_letter(text)
    if letter is not None:
        return letter
    word = _YES_NO.match(text[:40])
    if word is not None:
        return word[1]
    sentences = [s for s in _SENTENCE.split(text[-TAIL:]) if s and not s.isspace()]
    if sentences and NUMBER.search(sentences[-1]):
        return number_in(sentences[-1])
    if len(sentences) != 1 or len(text) > TAIL or _NOT.search(text):
        return None
    if len(text.split()) <= MOST_WORDS and "answer" not in text.lower():
        return text.strip(" .!*`\"'") or None
    name = _NAME.search(text[:300])
    return name[1].strip() if name else None


def said(phrase: str) -> str | None:
    """The answer in what follows "the answer is", "answer:" or "####"; None where it is none."""
    phrase = phrase.strip(" \t*_$")
    letter = _LETTER.match(phrase)
    if letter is not None:
        return letter[1] or letter[2]
    sentence = _SENTENCE.split(phrase)[0].strip()
    first = _VALUE.search(sentence)
    if first is not None:
        is_near = first.start() <= NEAR and not _NOT.search(sentence[: first.start()])
        if is_near and not _GOES_ON.match(sentence[first.end() :]) and not _belongs(sentence, first.start()):
            return first.group().strip()
        return number_in("is " + sentence) if "=" in sentence else None
    words = re.split(r"(?<=\w)[.;!](?:\s|$)", sentence)[0].strip(" .*")
    if not 0 < len(words.split()) <= MOST_WORDS or words.lower() in _JUDGES or _SPEAKS.match(words):
        return None
    return None if _NOT.search(words) else words


def number_in(sentence: str) -> str | None:
    """The number that a sentence states, as it is written there, or None where it states none or several."""
    if _NOT.search(sentence):
        return None
    spans = [m.span() for m in _VALUE.finditer(sentence)]
    start, end = spans[-1]
    last = sentence[start:end].strip()
    behind, before = sentence[end:], sentence[spans[-2][1] if len(spans) > 1 else 0 : start]
    if _GOES_ON.match(behind) or _belongs(sentence, start):
        return None
    if len(spans) == 2 and _THAN.search(before):
        a, b = spans[0]
        return sentence[a:b].strip()
    if "=" in before:
        return last if before.rstrip(" $\\(").endswith(("=", "≈")) else None
    if _THAN.search(before):
        return None
    if _VERB.search(before) or _SUBJECT.match(behind):
        return last
    return last if len(spans) == 1 and len(sentence.split()) <= MOST_WORDS else None


def _belongs(sentence: str, start: int) -> bool:
    """Whether the number there is a part of something else: of a ratio, a root, a power, a piece of LaTeX."""
    return not sentence.startswith("\\", start) and bool(_IS_PART.search(sentence[max(0, start - 12) : start]))


def _first_letter(text: str) -> str | None:
    """The letter of a text that begins with one option, and names no other at the beginning of a line."""
    found = _LETTER.match(text[:80])
    if found is None:
        return None
    letter = found[1] or found[2]
    others = re.findall(r"(?m)^[^\S\n]{0,4}\(?([A-J])[).:]", text[:TAIL])
    return letter if set(others) <= {letter} else None
