"""One form for answers that are equal, so that they can be counted together.

Numbers are read by their digits, powers and sums stay text. Standard library only.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from hashlib import blake2b

MAX_ANSWER = 300  # longer ones are compared by their hash
MAX_DIGITS = 200  # longer numbers are compared as text
ROUNDS = 8  # readings of what a reading left


def canonical(answer: str) -> str | None:
    r"""One form for equal answers: 0.5, 1/2, \frac{1}{2} and 50\% are "0.5"; 1,000 is "1000"; x = 3 is "3".

    returns: None where nothing is left to compare; at most MAX_ANSWER characters
    """
    form = _once(answer)
    for _ in range(ROUNDS):  # what one reading brings together, the next may read as markup: \~0
        if form is None or (again := _once(form)) == form:
            return form
        form = again
    return form


def _once(answer: str) -> str | None:
    if len(answer) > 10 * MAX_ANSWER:
        return "#" + blake2b(answer.encode("utf-8", "replace"), digest_size=16).hexdigest()
    text = _plain(answer)
    if not text:
        return None
    value = number_of(text)
    if value is not None:
        return _digits(value)
    text = re.sub(r"\s*([-+*/^=,;:()\[\]{}<>|])\s*", r"\1", text)
    text = text.upper() if len(text) == len(text.upper()) == 1 else text.casefold()
    if len(text) > MAX_ANSWER:
        return "#" + blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return text


def _plain(text: str) -> str:
    """Without markup that changes no value: dollars, \\text, \\left, thin spaces, quotes, a closing full stop."""
    text = unicodedata.normalize("NFKC", text).replace("−", "-").replace("–", "-").replace("⁄", "/")
    text = re.sub(r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])|\\[!,;: ()\[\]]|\\q?quad(?![A-Za-z])|~", " ", text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    for _ in range(4):
        text = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox|boxed|fbox)\s*\{([^{}]*)\}", r" \1 ", text)
        text = " ".join(text.split()).strip("*`_\"'“”‘’ ")
        text = re.sub(r"^\$(.*?)\$$", r"\1", text).replace("\\$", "$").replace("\\%", "%").strip()
        text = text[:1] + text[1:].rstrip(".,;:!?")
        text = re.sub(r"^\((-?[^()\s,]{1,40})\)$", r"\1", text)
        text = re.sub(r"^[A-Za-z](?:_?\w{1,3})?\s*=\s*(?=\S)", "", text)
    return text


def number_of(text: str) -> Fraction | None:
    r"""The value of a plain number, a/b, \frac{a}{b}, a mixed number or a percentage; None for anything else."""
    text = text.strip()
    if len(text) > MAX_DIGITS:
        return None
    percent = text.endswith("%")
    text = re.sub(r"^([-+]?)\s*[$€£]\s*", r"\1", text.rstrip("% "))
    text = re.sub(r"\\frac\s*(?:\{([^{}]+)\}|(\d))\s*(?:\{([^{}]+)\}|(\d))", r" \1\2/\3\4", text).strip()
    text = re.sub(r"^([-+])\s+", r"\1", text)
    match = re.fullmatch(r"([-+]?)(?:(\d+)\s+)?([^\s/]+)(?:\s*/\s*([^\s/]+))?", text)
    if not match:
        return None
    sign, whole, above, below = match.groups()
    top, bottom = _decimal(above), _decimal(below) if below is not None else Fraction(1)
    if top is None or not bottom or (whole is not None and below is None):
        return None
    value = top / bottom + int(whole or 0)
    return (-value if sign == "-" else value) / (100 if percent else 1)


def _decimal(text: str) -> Fraction | None:
    match = re.fullmatch(r"([-+]?)(\d{1,3}(?:,\d{3})+|\d*)(?:\.(\d*))?(?:[eE]([-+]?\d{1,2}))?", text)
    if not match or not (match[2] or match[3]):
        return None
    whole, part = (match[2] or "0").replace(",", ""), match[3] or ""
    value = Fraction(int(whole + part), 10 ** len(part)) * Fraction(10) ** int(match[4] or 0)
    return -value if match[1] == "-" else value


def _digits(value: Fraction) -> str:
    """As a finite decimal where there is one, else n/d."""
    rest, places = value.denominator, 0
    while rest % 10 == 0 or rest % 2 == 0 or rest % 5 == 0:
        rest //= 10 if rest % 10 == 0 else 2 if rest % 2 == 0 else 5
        places += 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    text = digits if not places else f"{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 else text
