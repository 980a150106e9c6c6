"""Parameters at the borders of their types: a scalar means what a [B] tensor of it means, and what float32 holds."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import fastsample
from fastsample.sampling.values import as_float32

LOGITS = torch.randn(3, 1000, generator=torch.Generator().manual_seed(1))
NAN, INF, TINY = math.nan, math.inf, 2.0**-149  # the smallest float32 above 0
FLOATS = (
    *(0.0, -0.0, 1.0, 0.5, NAN, INF, -INF, 1e-300, -1e-300, 5e-324, 1e-50, -1e-50, 7e-46, 7.1e-46, TINY, -TINY),
    *(1e-45, 1e-40, 2.0**-126, 1 + 1e-9, 1 + 1e-7, 1 - 1e-9, 3.5e38, -3.5e38, 1e39, 1e300, (2 - 2**-24) * 2.0**127),
)
WHOLES = (0, 1, 7, -1, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, -(2**63))
LARGE = (2**63, 2**64, -(2**63) - 1, 10**400, -(10**400), 10**5000)


def outcome(**parameters):
    """The tokens, or the class of the error and the head of its message."""
    try:
        return fastsample.sample(LOGITS, seed=3, **parameters).tolist()
    except (ValueError, TypeError) as error:
        return type(error), str(error).split(", got")[0]


@pytest.mark.parametrize("value", FLOATS)
@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p"])
@pytest.mark.parametrize("beside", [{}, dict(top_k=3)], ids=["alone", "top_k"])
def test_a_scalar_is_a_column_of_itself(name, value, beside):
    """As a number, a numpy number, a list, and a tensor of either width: one outcome, and never an endless search."""
    scalar = outcome(**{name: value}, **beside)
    forms = [np.float64(value), [value] * 3, torch.tensor(value), torch.full((3,), value, dtype=torch.float64)]
    with np.errstate(over="ignore"):
        forms.append(np.float32(value))
    for form in forms:
        assert outcome(**{name: form}, **beside) == scalar, form


@pytest.mark.parametrize("value", WHOLES)
@pytest.mark.parametrize("name", ["top_k", "seed", "position"])
def test_a_whole_scalar_is_a_column_of_itself(name, value):
    """To the last bit of an int64; a top_k beyond the vocabulary is off in every width."""
    if name == "seed":
        scalar = fastsample.sample(LOGITS, seed=value).tolist()
        assert fastsample.sample(LOGITS, seed=np.int64(value)).tolist() == scalar
        assert fastsample.sample(LOGITS, seed=[value] * 3).tolist() == scalar
        return
    scalar = outcome(**{name: value})
    for form in (np.int64(value), [value] * 3, torch.tensor(value), torch.full((3,), value, dtype=torch.int64)):
        assert outcome(**{name: form}) == scalar, form


@pytest.mark.parametrize("value", LARGE, ids=["2**63", "2**64", "-2**63-1", "10**400", "-10**400", "10**5000"])
@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "min_p", "seed", "position"])
def test_integers_of_any_size(name, value):
    """What no type holds is a ValueError with a sentence; a huge top_k is off."""
    if name == "top_k" and value > 0:
        assert fastsample.sample(LOGITS, top_k=value, seed=3).tolist() == outcome()
    elif name == "temperature" and 0 < value < 10**400:
        assert outcome(temperature=value) == outcome(temperature=float(value))
    else:
        with pytest.raises(ValueError, match=f"{name} must .*got") as raised:
            fastsample.sample(LOGITS, **{name: value})
        assert len(str(raised.value)) < 200
    with pytest.raises(ValueError, match=f"{name} must"):
        fastsample.sample(LOGITS, **{name: [-1 if name.startswith("t") else 0, 10**400, 1]})


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        (dict(top_p=1e-50), ValueError, r"top_p must be in \(0, 1\], got 1e-50, which is 0 in float32; 1 keeps every"),
        (dict(top_p=-1e-50), ValueError, "got -1e-50, which is 0 in float32"),
        (
            dict(top_p=torch.tensor([1.0, 1e-50, 1.0], dtype=torch.float64)),
            ValueError,
            r"top_p must be in \(0, 1\], got 0 \(in float32\) at row 1; 1 keeps every token",
        ),
        (dict(temperature=10**400), ValueError, "temperature must fit in a float32, got an integer of 1329 bits; pass"),
        (dict(temperature=Fraction(10**400)), ValueError, "temperature must fit in a float32"),
        (dict(top_k=NAN), TypeError, "top_k must be a whole number, got nan"),
        (dict(top_k=INF), TypeError, "top_k must be a whole number, got inf"),
        (dict(seed=-INF), TypeError, "seed must be a whole number, got -inf"),
        (dict(position=NAN), TypeError, "position must be a whole number, got nan"),
        (dict(seed=10**400), ValueError, "seed must fit in 64 bits .*got an integer of 1329 bits; take it modulo"),
        (dict(seed=torch.zeros(3, dtype=torch.uint64)), TypeError, "seed must hold whole numbers, got .*uint64"),
        (dict(stream=[2**63, 0, 1]), ValueError, "stream must hold numbers that fit in 64 bits"),
        (dict(stream=np.int64(5)), TypeError, "stream must be None or a .* tensor, got 5"),
        (dict(indices=[2**63]), ValueError, "indices must hold numbers that fit in 64 bits"),
        (dict(temperature=True), TypeError, "temperature must hold real numbers, got dtype torch.bool"),
        (dict(temperature=np.True_), TypeError, "temperature must hold real numbers, got dtype torch.bool"),
        (dict(top_k=True), TypeError, "top_k must hold whole numbers, got dtype torch.bool"),
        (dict(seed=False), TypeError, "seed must hold whole numbers, got dtype torch.bool"),
        (dict(top_k=[True, True, False]), TypeError, "top_k must hold whole numbers, got dtype torch.bool"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_no_type_holds_is_refused(parameters, error, message):
    """With the value as it was given, and what became of it."""
    with pytest.raises(error, match=message):
        fastsample.sample(LOGITS, **parameters)


def test_the_hottest_temperature_is_a_flat_row():
    """c is clamped to the smallest normal float32, so an infinite temperature is one, and 1e39 is it."""
    hottest = outcome(temperature=INF)
    assert outcome(temperature=1e39) == hottest
    assert outcome(temperature=torch.tensor([1e39] * 3)) == hottest
    p = fastsample.distribution(LOGITS, temperature=INF)
    assert (p - 1e-3).abs().max() <= 1e-8


def test_the_coldest_temperature_is_the_argmax():
    """A subnormal temperature clamps c at the largest float32; one that float32 does not hold is 0."""
    greedy = LOGITS.argmax(1).tolist()
    for temperature in (TINY, 1e-40, 1e-50, -1e-50, 0, -0.0):
        assert outcome(temperature=temperature) == greedy


def test_the_smallest_parameters():
    """The smallest top_p keeps one token; the smallest min_p keeps those within 149 powers of two."""
    assert outcome(top_p=TINY) == LOGITS.argmax(1).tolist()
    assert outcome(min_p=TINY) == outcome()
    x = torch.tensor([[0.0, -103.2, -103.4]])  # 2^-148.9 and 2^-149.2 of the first
    stats = fastsample.sample(x, min_p=TINY, return_stats=True)[1]
    assert stats.kept.tolist() == [2]
    assert fastsample.sample(x, min_p=1e-50, return_stats=True)[1].kept.tolist() == [3]


def test_a_width_that_wraps_does_not():
    """An unsigned top_k of 32 bits is off where it is large, not negative."""
    assert outcome(top_k=torch.tensor([2**32 - 1] * 3, dtype=torch.uint32)) == outcome()


def test_rounding_to_float32():
    """Like numpy's, from subnormals to overflow and through ties, in a process that flushes subnormals too."""
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2**64, 20_000, dtype=np.uint64).view(np.float64)
    spread = 2.0 ** rng.uniform(-160, 130, 20_000)
    ties = 2.0 ** rng.integers(-153, 129, 20_000) * (1 + rng.integers(0, 64, 20_000) / 2**27)
    edges = [0.0, INF, -INF, 2.0**-150, 3 * 2.0**-150, 7e-46, (2 - 2**-24) * 2.0**127, (2 - 2**-23) * 2.0**127]
    values = np.concatenate([values[~np.isnan(values)], spread, ties, edges])
    with np.errstate(over="ignore", under="ignore"):
        expected = values.astype(np.float32).astype(np.float64).tolist()
    assert [as_float32(v) for v in values.tolist()] == expected
    assert math.isnan(as_float32(NAN))
    flushes = torch.set_flush_denormal(True)
    try:
        found = [as_float32(v) for v in values.tolist()]
    finally:
        torch.set_flush_denormal(False)
    assert not flushes or found == expected


def test_compiled_code_takes_any_scalar():
    """A new temperature is no new graph beyond the second, and a top_p that float32 does not hold is refused."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(lambda x, t: fastsample.sample(x, temperature=t, seed=0), backend=count, fullgraph=True)
    for t in (0.7, 0.8, 0.9, 1.0, 1.1):
        assert torch.equal(compiled(LOGITS, t), fastsample.sample(LOGITS, temperature=t, seed=0))
    assert len(graphs) <= 2
    nucleus = torch.compile(lambda x: fastsample.sample(x, top_p=1e-50), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"top_p must be in \(0, 1\], got 0 \(in float32\) at row 0"):
        nucleus(LOGITS)
