"""Edits by name and at random, and the same in exact arithmetic, by a program that shares no code with the sampler."""

from __future__ import annotations

import json
import math
import struct
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fastsample import Edits
from fastsample.sampling.edits import bits_of

VECTORS = Path(__file__).parent.parent / "data" / "edit_vectors.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FORMATS = {"float32": (24, -149, 128), "bfloat16": (8, -133, 128), "float16": (11, -24, 16)}  # digits, lowest, end
MASKS = ("none", "few", "most", "halves", "whole chunks", "all")


class EditVector(NamedTuple):
    """One row and its edits, with the bits of the edited row and the tokens drawn from it."""

    name: str
    logits: torch.Tensor  # [1, V]
    edits: Edits
    allowed: torch.Tensor | None  # [1, words] int32
    edited: list[float]  # V values of the dtype
    tokens: list[int]  # of streams 0, 1, ... with seed 7 at position 3


def edit_vectors() -> list[EditVector]:
    found = []
    for case in json.loads(VECTORS.read_text()):
        logits = torch.tensor([[number(h) for h in case["logits"]]], dtype=DTYPES[case["dtype"]])
        allowed = None if case["allowed"] is None else torch.tensor([case["allowed"]], dtype=torch.int32)
        edits = Edits(
            prompts=[case["prompt"]],
            outputs=[case["output"]],
            logit_bias={int(token): number(bias) for token, bias in case["bias"].items()},
            **{name: number(case[name]) for name in ("repetition_penalty", "frequency_penalty", "presence_penalty")},
        )
        values = [number(h) for h in case["edited"]]
        found.append(EditVector(case["name"], logits, edits, allowed, values, case["tokens"]))
    return found


def number(text: str) -> float:
    return float.fromhex(text)


def rounded(value: Fraction | float, kind: str) -> Fraction | float:
    """The nearest number of a format, ties to even; infinities and NaN stay."""
    if isinstance(value, float) and not math.isfinite(value):
        return value
    value = Fraction(value)
    digits, lowest, end = FORMATS[kind]
    if value == 0:
        return Fraction(0)
    exponent = max(_exponent(abs(value)) - digits + 1, lowest)
    near = Fraction(round(value / Fraction(2) ** exponent)) * Fraction(2) ** exponent  # Python's round: ties to even
    return math.copysign(math.inf, value) if abs(near) >= Fraction(2) ** end else near


def _exponent(value: Fraction) -> int:
    """floor(log2) of a value > 0."""
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    return guess if Fraction(2) ** guess <= value else guess - 1


def exactly_edited(x: float, prompt: int, output: int, bias: float, penalties: tuple[float, ...], kind: str) -> float:
    """The formulas of docs/the_draw.md for one token: how often it stands in the prompt and in the output."""
    repetition, frequency, presence = (Fraction(p) for p in penalties)
    step = lambda value: rounded(value, "float32")  # noqa: E731
    if not math.isfinite(x) or not math.isfinite(bias):  # only -inf is met here, and it stays
        return -math.inf
    value = step(Fraction(x) + Fraction(bias))
    if prompt or output:
        value = step(value / repetition if value > 0 else value * repetition)
    value = step(value - step(frequency * output))
    value = step(value - (presence if output else 0))
    return float(rounded(value, kind))


def hexadecimal(value: float) -> str:
    return float(value).hex()


def float32_of(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def mask_of(kind: str, vocab: int, rng: np.random.Generator) -> torch.Tensor | None:
    """[V] bool with one token at least, or None."""
    if kind == "none":
        return None
    allowed = rng.random(vocab) < {"few": 0.01, "most": 0.99}.get(kind, 0.5)
    if kind == "whole chunks":
        allowed = np.repeat(rng.random(-(-vocab // 256)) < 0.5, 256)[:vocab]
    if kind == "all":
        allowed[:] = True
    allowed[rng.integers(vocab)] = True
    return torch.from_numpy(allowed)


def random_edits(vocab: int, rows: int, rng: np.random.Generator, device: str = "cpu") -> Edits:
    """Rows with nothing, with a prompt alone, with both and biases; counts from 1 to many."""
    lists = lambda most: [rng.integers(vocab, size=rng.integers(most)) for _ in range(rows)]  # noqa: E731
    biases = [
        {int(t): float(rng.choice([-math.inf, 2.5, -0.1, 100.0])) for t in rng.integers(vocab, size=rng.integers(4))}
        for _ in range(rows)
    ]
    outputs = [np.repeat(o, rng.integers(1, 4, size=len(o))) for o in lists(30)]
    column = lambda values: torch.tensor(rng.choice(values, rows), dtype=torch.float32, device=device)  # noqa: E731
    edits = Edits(
        prompts=lists(60),
        outputs=outputs,
        repetition_penalty=column([1.0, 1.1, 0.7, 3.0]),
        frequency_penalty=column([0.0, 0.3, -0.25]),
        presence_penalty=column([0.0, 0.4, -1.5]),
        logit_bias=biases,
        device=device,
    )
    edits.append(torch.from_numpy(rng.integers(vocab, size=rows)).to(device))
    return edits


def packed(masks: list[torch.Tensor | None], vocab: int) -> torch.Tensor:
    """[B, words] int32 of these, None as all."""
    return torch.stack([bits_of(torch.ones(vocab, dtype=torch.bool) if m is None else m) for m in masks])
