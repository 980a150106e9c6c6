"""Hostile rows and parameters, drawn by every instruction set and by the oracle.

A draw is one output row of one call of the compiled extension: one read of its row of logits, one token, and in a
quarter of the calls its statistics. Its token is compared with the oracle's by ==, its `kept` where there are
statistics. Draws of a call share rows and filters in groups of up to 256, with randomness of their own: each group is a
case. A few draws of each call are held against the reference too, which is slow. In a fifth of the calls the rows are
edited first, by penalties, biases and a bitmask.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sampling.cases import ROWS, backends, row, select

from attack.edited import Edited, any_edits
from attack.oracle import Draws, Oracle
from fastsample.sampling.api import empty_stats
from fastsample.sampling.contract import Case
from fastsample.sampling.dispatch import load_backend

WHAT = "hostile rows, dtypes, strides and parameters, on every instruction set, against an oracle of its own"
COUNTED = "draws"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EDGES = (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257, 511, 512, 513, 768, 1000)
HOSTILE = ("bits", "exponents", "gaps", "ties", "neighbours", "largest", "subnormal", "invalid", "sparse", "edges of z")
SLOW = "cpu:x86-64"  # has no fused multiply-add and takes five times as long: it draws an eighth of each batch
SPECIAL = (0, 1, -1, 2**63 - 1, -(2**63), 2**32, 2**32 - 1, -(2**32))


def hostile(kind: str, vocab: int, rng: np.random.Generator) -> np.ndarray:
    """[V] float32, with values that the named kind of trouble is made of."""
    if kind == "bits":  # any float at all, subnormals, huge ones and negative zeros among them; infinities cut off
        x = rng.integers(0, 2**32, vocab, dtype=np.uint64).astype(np.uint32).view(np.float32)
        return np.where(np.isfinite(x), x, np.float32(0))
    if kind == "exponents":  # a gap below the maximum at every exponent
        return (-np.ldexp(1 + rng.random(vocab), rng.integers(-30, 8, vocab))).astype(np.float32)
    if kind == "gaps":  # around the places where weights and scales become 0
        gaps = rng.choice([0, 20.7, 20.8, 22.18, 22.2, 44.3, 44.4, 88, 103, 104], vocab)
        return (-gaps * rng.choice([1, 1.0001, 0.9999])).astype(np.float32)
    if kind == "ties":
        return rng.choice([0.0, -0.0, -1.0, np.float32(-1 - 2**-23)], vocab, p=[0.2, 0.2, 0.3, 0.3]).astype(np.float32)
    if kind == "neighbours":  # consecutive floats
        start = np.float32(rng.choice([1.0, -1.0, 1e-3, -300.0, 2.0**-126])).view(np.int32)
        return (start + rng.integers(0, 40, vocab).astype(np.int32)).view(np.float32)
    if kind == "largest":
        return rng.choice([3.4028235e38, -3.4028235e38, 1e38, -1e38, 0.0], vocab).astype(np.float32)
    if kind == "subnormal":
        return (rng.integers(-(2**23), 2**23, vocab) * 2.0**-149).astype(np.float32)
    if kind == "invalid":
        x = rng.normal(size=vocab).astype(np.float32)
        x[rng.integers(vocab)] = rng.choice([np.nan, -np.nan, np.inf])
        if rng.random() < 0.3:
            x[:] = -np.inf
        if rng.random() < 0.3:  # a signalling NaN with a payload
            x.view(np.uint32)[rng.integers(vocab)] = 0x7F800001 | int(rng.integers(2**22))
        return x
    if kind == "sparse":
        x = np.full(vocab, -np.inf, np.float32)
        x[rng.integers(vocab, size=1 + vocab // 100)] = rng.normal(size=1 + vocab // 100)
        return x
    return (-rng.integers(0, 140, vocab) / (2 * 1.4426950408889634)).astype(np.float32)  # z near n and n + 1/2


def any_row(vocab: int, rng: np.random.Generator) -> np.ndarray:
    """[V] float32 of a kind chosen at random."""
    place = int(rng.integers(len(ROWS) + len(HOSTILE)))
    x = row(ROWS[place], vocab, rng).numpy() if place < len(ROWS) else hostile(HOSTILE[place - len(ROWS)], vocab, rng)
    if rng.random() < 0.1:
        x = x.copy()
        x[rng.random(vocab) < 0.3] = -np.inf
    return x


def filters(groups: int, vocab: int, rng: np.random.Generator) -> list[np.ndarray]:
    """temperature, top_k, top_p and min_p, [G] each: usual values, and the ends of their types."""
    temperature = rng.choice(
        [0, 1e-45, 1e-38, 1e-4, 0.3, 0.7, 1, 1.3, 5, 100, 1e10, 1e30, 3e38, np.inf], groups
    ).astype(np.float32)
    spread = rng.random(groups) < 0.4
    temperature[spread] = np.exp2(rng.uniform(-4, 4, spread.sum()))
    top_k = rng.choice([0, 0, 0, 1, 2, 5, 40, vocab - 1, vocab, vocab + 1, 2**31 - 1], groups).clip(0).astype(np.int32)
    inner = rng.random(groups) < 0.3
    top_k[inner] = rng.integers(1, vocab + 1, inner.sum())
    top_p = rng.choice(
        [1, 1, 1, 0.9, 0.5, 0.95, 1 - 2.0**-24, 1 - 2.0**-12, 1e-3, 2.0**-30, 2.0**-31, 1e-20, 1e-45], groups
    ).astype(np.float32)
    spread = rng.random(groups) < 0.3
    top_p[spread] = 1 - rng.random(spread.sum()).astype(np.float32)
    min_p = rng.choice([0, 0, 0, 0, 0.05, 0.5, 1, 1 - 2.0**-24, 1e-9, 1e-45], groups).astype(np.float32)
    return [temperature, top_k, top_p, min_p]


def numbers(count: int, rng: np.random.Generator) -> np.ndarray:
    """[B] int64: any, or from the ends of the type."""
    if rng.random() < 0.2:
        return rng.choice(np.array(SPECIAL, np.int64), count)
    return rng.integers(-(2**63), 2**63 - 1, count, dtype=np.int64)


class Batch(NamedTuple):
    """What one turn draws: the logits as the kernel is given them, and all of it as the oracle is.

    rows: [G], the row of each group in `logits`; edits: what the kernel does to it first, and the oracle is given done
    """

    logits: torch.Tensor
    draws: Draws
    rows: np.ndarray
    edits: Edited | None


def size(choose: random.Random) -> tuple[int, int, int]:
    """A vocabulary, and how many rows and draws a turn has with it: small ones make many draws a second."""
    kind = choose.random()
    if kind < 0.6:
        return int(300 ** choose.random()), 24, 6144
    if kind < 0.9:
        return choose.choice(EDGES), 16, 4096
    if kind < 0.99:
        return choose.randint(1000, 9000), 8, 1024
    return choose.choice([32_768, 49_152, 65_537, 151_936]), 2, 32


def batch(choose: random.Random) -> Batch:
    """Rows in memory of some dtype and stride, and draws from them."""
    rng = np.random.default_rng(choose.getrandbits(64))
    vocab, count, draws = size(choose)
    rows = np.stack([any_row(vocab, rng) for _ in range(count)])
    dtype = choose.choice(DTYPES)
    pad, lead = choose.choice([0, 0, 1, 3, 64]), choose.choice([0, 0, 1])
    wide = torch.full((count * choose.choice([1, 2]), lead + vocab + pad), torch.nan).to(dtype)
    logits = wide[:: len(wide) // count, lead : lead + vocab]
    with np.errstate(over="ignore"):
        logits.copy_(torch.from_numpy(rows))
    if choose.random() < 0.05:
        logits = logits[:1].expand(count, vocab)
    groups = max(count, draws // 256) if choose.random() < 0.8 else 1
    group = np.sort(rng.integers(groups, size=draws)) if choose.random() < 0.5 else rng.integers(groups, size=draws)
    seed, stream, position = (numbers(draws, rng) for _ in range(3))
    of_groups, usual = rng.integers(count, size=groups), filters(groups, vocab, rng)
    given, rows, edits = np.ascontiguousarray(logits.float().numpy()), of_groups, None
    if choose.random() < 0.2:
        edits = any_edits(groups, vocab, rng)
        given = np.stack([edits.row(given[of_groups[g]], g, dtype) for g in range(groups)])
        rows = np.arange(groups)
    return Batch(logits, Draws(given, rows, *usual, group, seed, stream, position), of_groups, edits)


def case_of(given: Batch, part: slice) -> Case:
    """The call for some of the draws; parameters that are the same for all are numbers, the others columns."""
    d = given.draws
    group = d.group[part]
    columns = [torch.from_numpy(np.ascontiguousarray(values[group])) for values in d[2:6]]
    if len(d.rows) == 1:
        columns = [column[0].item() for column in columns]
    seed, stream, position = (torch.from_numpy(np.ascontiguousarray(values[part])) for values in d[7:10])
    case = Case.of(given.logits, *columns, seed, stream, position, torch.from_numpy(given.rows[group]))
    case.check_values()
    return case if given.edits is None else given.edits.of(case, group)


def drawn_by(backend: str, given: Batch, part: slice, with_stats: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The backend's tokens and, with statistics, its kept counts."""
    case = case_of(given, part)
    tokens, stats = torch.full((case.rows,), -2), empty_stats(case) if with_stats else None
    load_backend(backend).sample(case, tokens, stats)
    return tokens.numpy(), None if stats is None else stats.kept.numpy()


def compare(name: str, given: Batch, expected: tuple[np.ndarray, np.ndarray], part: slice, with_stats: bool) -> int:
    """Raise AssertionError where a token or a kept count differs; returns how many were compared."""
    tokens, kept = drawn_by(select(name), given, part, with_stats)
    pairs = [("token", tokens, expected[0][part])] + ([("kept", kept, expected[1][part])] if with_stats else [])
    for what, found, wanted in pairs:
        different = np.flatnonzero(found != wanted)
        if len(different):
            d, b = given.draws, int(different[0])
            g = d.group[part][b]
            filters_of = [values[g].item() for values in d[2:6]]
            raise AssertionError(
                f"{name}: {len(different)} of {len(found)} differ; draw {b} has {what} {found[b]}, not {wanted[b]}: "
                f"V = {given.logits.shape[1]}, {given.logits.dtype}, row {given.rows[g]}, "
                f"temperature, top_k, top_p, min_p = {filters_of}" + (", edited" if given.edits is not None else "")
            )
    return len(tokens)


class Prepared(NamedTuple):
    """The oracle, and the names of what is attacked."""

    oracle: Oracle
    names: list[str]


def prepare(place: Path) -> Prepared:
    """Build the oracle."""
    return Prepared(Oracle(place), backends()[1:])


def turn(prepared: Prepared, choose: random.Random) -> Counter[str]:
    """One batch, by each instruction set: whole, or cut in two, with one thread or several."""
    given = batch(choose)
    expected = prepared.oracle(given.draws)
    counts = Counter(cases=len(given.draws.rows))
    count = len(given.draws.group)
    for name in prepared.names:
        torch.set_num_threads(choose.choice([1, 1, 1, 2, 3, 5]))
        with_stats = choose.random() < 0.25
        first, last = (0, count) if name != SLOW else (start := choose.randrange(count), min(count, start + count // 8))
        cut = choose.randint(first, last) if choose.random() < 0.3 else last
        for part in (slice(first, cut), slice(cut, last)):
            if part.start < part.stop:
                found = compare(name, given, expected, part, with_stats)
                counts.update({"draws": found, f"draws of {name}": found})
                if given.edits is not None:
                    counts["draws from edited rows"] += found
    torch.set_num_threads(1)
    some = choose.randrange(count)
    counts["draws held against the reference"] += compare("reference", given, expected, slice(some, some + 2), True)
    return counts
