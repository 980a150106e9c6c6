"""A world of right and wrong legs, whose chances a person can compute: for search without a large reward model.

A text has `depth` legs, each a token of its own: right with chance p as long as all before it are right; wrong stays
wrong. Its answer is "right", or one of eight wrong ones. All chances come from (seed, stream, position), as a sampler's
do, so that the real rules of the streams are under test.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, cos, exp, log, pi, sqrt

from scripted import EOS, ScriptedEngine, chance

PROMPT = 3  # tokens: a question's number in the first
RIGHT, LAST = 1, 2  # bits of a token; the others are drawn, so that no two legs are equal
ZIPF = [1 / k for k in range(1, 9)]


def is_right(tokens):
    return all(token & RIGHT for token in tokens)


def wrong_answer(token):
    """One of eight, the first the most frequent."""
    place = chance("wrong", token) * sum(ZIPF)
    for k, weight in enumerate(ZIPF):
        place -= weight
        if place < 0:
            return f"wrong{k}"
    return "wrong7"


class Tokens:
    """Legs as text: r or w and a blank line; the last one says its answer."""

    chat_template = None
    eos_token_id = EOS

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [int(text) * 4 + 4, 4, 4] if add_special_tokens else [ord(c) * 4 for c in text]}

    def decode(self, ids, skip_special_tokens=True):
        legs = [i for i in ids if i != EOS]
        texts = ["r\n\n" if leg & RIGHT else "w\n\n" for leg in legs]
        if legs and legs[-1] & LAST:
            texts[-1] = "answer: " + ("right" if is_right(legs) else wrong_answer(legs[-1]))
        return "".join(texts)


def answer(text):
    return text.rpartition("answer: ")[2] if "answer: " in text else None


def world(p=0.5, depth=6, slots=64):
    """The engine of such a world; a question is a number written as text."""

    def next_token(request, ids):
        legs = ids[PROMPT:]
        if len(legs) == depth:
            return EOS
        draw = chance("leg", request.seed, request.stream, len(ids))
        bits = int(chance("bits", request.seed, request.stream, len(ids)) * 2**40)
        right = is_right(legs) and draw < p
        return bits << 2 | LAST * (len(legs) + 1 == depth) | RIGHT * right

    return ScriptedEngine(next_token, Tokens(), slots)


def ends(candidate):
    """How many tokens there are up to the end of each leg: a text that was asked for at once is one leg of many."""
    count, counts = 0, []
    for leg in candidate.legs:
        count += leg.text.count("\n\n") + ("answer" in leg.text)
        counts.append(count)
    return counts


@dataclass
class Oracle:
    """1 for a leg as long as all is right, 0 from the first wrong one on; sign -1 turns it round."""

    sign: int = 1
    name: str = "oracle"
    is_process: bool = True
    is_probability: bool = True
    calls: int = 0

    def score(self, candidates):
        self.calls += 1
        return [tuple(self._of(c.tokens[:end]) for end in ends(c)) for c in candidates]

    def _of(self, tokens):
        return float(is_right(tokens)) if self.sign > 0 else float(not is_right(tokens))


@dataclass
class Noisy:
    """sigmoid(mu (2 right - 1) + 1.5 z) in [0.02, 0.98], z an AR(1) along the path (0.5); with chance e a wrong leg is
    an exploit: it and all behind it get 0.99."""

    mu: float = 1.2
    e: float = 0.0
    name: str = "noisy"
    is_process: bool = True
    is_probability: bool = True

    def score(self, candidates):
        return [tuple(self._legs(c.tokens)[end - 1] for end in ends(c)) for c in candidates]

    def _legs(self, tokens):
        z, numbers, fooled = 0.0, [], False
        for n, token in enumerate(tokens):
            right = is_right(tokens[: n + 1])
            z = 0.5 * z + sqrt(0.75) * normal(token)
            fooled = fooled or (not right and chance("exploit", token) < self.e)
            value = 1 / (1 + exp(-(self.mu * (2 * right - 1) + 1.5 * z)))
            numbers.append(0.99 if fooled else min(0.98, max(0.02, value)))
        return tuple(numbers)


def normal(token):
    return sqrt(-2 * log(1 - chance("u", token))) * cos(2 * pi * chance("v", token))


@dataclass
class Constant:
    """The same number for everything."""

    name: str = "constant"
    is_process: bool = True
    is_probability: bool = True

    def score(self, candidates):
        return [(0.5,) * len(c.legs) for c in candidates]


# How often each method finds the right answer by an oracle: depth legs, each right with chance p.


def best_of(p, depth, n):
    """One of n independent texts."""
    return 1 - (1 - p**depth) ** n


def dvts(p, depth, n, m):
    """One of n / m chains, each of depth choices among m."""
    return 1 - (1 - (1 - (1 - p) ** m) ** depth) ** (n // m)


def beam(p, depth, n, m):
    """The chain of the number of right paths among n; of r right ones min(r, n/m) are kept, and make m each."""
    chances = {n: 1.0}  # right paths that could be asked for: the root counts as n places
    for level in range(depth):
        following = {}
        for right, weight in chances.items():
            places = n if level == 0 else min(right, n // m) * m
            for r in range(places + 1):
                following[r] = following.get(r, 0.0) + weight * comb(places, r) * p**r * (1 - p) ** (places - r)
        chances = following
    return 1 - chances.get(0, 0.0)
