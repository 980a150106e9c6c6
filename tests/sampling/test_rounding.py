"""How far whole weights lead away from an exact softmax: the bound of docs/the_draw.md, on rows made to reach it."""

import math
from pathlib import Path

import numpy as np
import pytest

from fastsample.sampling.reference import filtered

PAGE = " ".join((Path(__file__).parents[2] / "docs" / "the_draw.md").read_text().split())
VOCAB = 151_936
CHUNKS = -(-VOCAB // 256)
LOST = -30.00001 * math.log(2)  # below its chunk's maximum by so much, a weight is just below 1 and becomes 0
UNIT = 2.0**-30


def distance(x, temperature=1.0):
    """Total variation of the draw's probabilities from those of float64."""
    x, temperature = x.astype(np.float32), float(np.float32(temperature))
    drawn = filtered(x, temperature, 0, 1.0, 0.0).probabilities()[: len(x)]
    d = x.astype(np.float64) / temperature
    exact = np.exp(d - d.max())
    return 0.5 * float(np.abs(drawn - exact / exact.sum()).sum())


def masses():
    """Every chunk but the first has one token, whose mass is just below 1."""
    x = np.full(VOCAB, -np.inf)
    x[::256] = LOST
    x[0] = 0
    return x


def weights():
    """Every token but the first of a chunk has a weight just below 1."""
    x = np.full(VOCAB, LOST)
    x[::256] = 0
    return x


def both():
    """The first chunk loses by its weights, each other one its whole mass."""
    x = masses()
    x[1:256] = LOST
    return x


def two_levels(gap):
    """One token above all others, which share the rest: their common distance is rounded once, for all."""
    x = np.full(VOCAB, -float(gap))
    x[70_000] = 0
    return x


RNG = np.random.default_rng(1)
NORMAL = RNG.normal(size=VOCAB)
ROWS = {
    "masses": (masses(), 1.0),
    "weights": (weights(), 1.0),
    "both": (both(), 1.0),
    "flat": (NORMAL * 0.01, 1.0),
    "normal": (NORMAL, 1.0),
    "wide": (NORMAL * 3, 0.7),
    "far from 0": (np.float32(NORMAL + 300), 1.3),
    "cold": (NORMAL * 1e-30, 1e-31),
    "hot": (NORMAL * 1e30, 1e31),
    **{f"two levels, {gap}": (two_levels(gap), 1.0) for gap in (9.3, 11.0, 12.5, 14.1)},
}


@pytest.mark.parametrize("name", ROWS)
def test_the_bound_holds(name):
    """Of any row: (chunks + 2,150) 2^-30; of the worst that we can make: (chunks + 256) 2^-30."""
    found = distance(*ROWS[name])
    assert found <= (CHUNKS + 256) * UNIT
    assert "half the sum of all differences is at most (chunks + 2,150) x 2^-30" in PAGE
    assert "(chunks + 256) x 2^-30" in PAGE


def test_the_bound_is_needed():
    """The row that loses by weights and by masses comes within a tenth of it: 2e-7 would be wrong."""
    assert distance(both()) >= 0.9 * (CHUNKS + 256) * UNIT >= 7e-7
    assert "7.9e-7" in PAGE
