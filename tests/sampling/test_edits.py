"""Penalties, biases and bitmasks: by hand, in exact arithmetic, and the same token on every backend."""

import math

import numpy as np
import pytest
import torch

import fastsample
from fastsample import Edits
from fastsample.sampling.edits import bits_of, columns_of, edited

from .cases import row
from .edit_cases import DTYPES, MASKS, edit_vectors, exactly_edited, mask_of, packed, random_edits, rounded

ALL = dict(
    prompts=[[0, 2]], outputs=[[1, 1]], repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25,
    logit_bias={3: 1.0},
)  # fmt: skip


def test_by_hand():
    """Bias, then repetition, then frequency times the count, then presence: numbers that a person can compute."""
    x = torch.tensor([[4.0, 4.0, -1.0, 0.0, 7.0]])
    assert Edits(**ALL).apply(x).tolist() == [[2.0, 4 / 2 - 0.5 * 2 - 0.25, -2.0, 1.0, 7.0]]
    assert Edits(prompts=[[0]], logit_bias={0: 2.0}, repetition_penalty=2.0).apply(x)[0, 0] == 3.0
    assert Edits(rows=1).apply(x).tolist() == x.tolist()


def test_every_vector(backend):
    """The edited values of exact arithmetic, and their tokens, whatever draws."""
    wrong = []
    for v in edit_vectors():
        found = edited(v.logits, v.edits.columns, v.allowed)[0]
        if found.tolist() != v.edited:
            wrong.append((v.name, v.logits.dtype, found.tolist(), v.edited))
        draws = dict(seed=7, position=3, stream=torch.arange(6), indices=[0] * 6)
        edits = repeated(v.edits, 6)
        allowed = None if v.allowed is None else v.allowed.expand(6, -1)
        if v.tokens[0] < 0:
            with pytest.raises(ValueError, match=r"logits, once edited, must be finite .*row 0 has no finite logit"):
                fastsample.sample(v.logits, edits=edits, allowed=allowed, backend=backend, **draws)
            continue
        tokens = fastsample.sample(v.logits, edits=edits, allowed=allowed, backend=backend, **draws)
        if tokens.tolist() != v.tokens:
            wrong.append((v.name, v.logits.dtype, tokens.tolist(), v.tokens))
    assert not wrong


def test_the_vectors_can_fail():
    """Penalties that come before the biases miss a vector."""
    for v in edit_vectors():
        c = v.edits.columns
        x = edited(v.logits, c._replace(biases=torch.zeros_like(c.biases)), None)
        none = torch.zeros_like(c.presence)
        after = c._replace(repetition=none + 1, frequency=none, presence=none)
        if edited(x, after, v.allowed)[0].tolist() != v.edited:
            return
    raise AssertionError("no vector noticed the other order")


def repeated(edits, rows):
    copied = Edits(rows=edits.rows)
    vars(copied).update(vars(edits))
    copied.keep([0] * rows)
    return copied


def test_exact_arithmetic():
    """Values at random against fractions: every operation rounded once, in the order of the page."""
    rng = np.random.default_rng(3)
    for kind, dtype in DTYPES.items():
        x = torch.tensor(rng.normal(size=400) * 10.0 ** rng.integers(-6, 4, size=400)).to(dtype)[None]
        edits = random_edits(400, 1, rng)
        found = edits.apply(x)[0].tolist()
        ids, counts, biases, *penalties = (c[0].tolist() for c in edits.columns)
        for token, count, bias in zip(ids, counts, biases):
            if token < 0:
                continue
            expected = exactly_edited(float(x[0, token]), count != 0, max(count, 0), bias, tuple(penalties), kind)
            assert found[token] == expected, (kind, token, float(x[0, token]), count, bias, penalties)


def test_rounding_to_16_bits():
    """The compiled rounding to bfloat16 and float16, at ties, at the ends and below the smallest normal numbers."""
    values = [1 + 2.0**-8, 1 + 3 * 2.0**-8, 65519.996, 65520.0, 2.0**-25, 3 * 2.0**-25, 2.0**-14 - 2.0**-26, 5e-8, 0.1]
    values += [
        s * v for s in (-1, 1) for v in np.random.default_rng(1).normal(size=300) * 2.0 ** np.arange(-30, 0, 0.1)
    ]
    for kind in ("bfloat16", "float16"):
        x = torch.zeros(1, len(values), dtype=DTYPES[kind])
        bias = {i: v for i, v in enumerate(values) if abs(v) < 65520 or kind == "bfloat16"}
        edits = Edits(logit_bias=bias, rows=1)
        expected = [float(rounded(float(np.float32(bias.get(i, 0))), kind)) for i in range(len(values))]
        assert edits.apply(x)[0].tolist() == expected
        a = fastsample.distribution(x, edits=edits)
        assert torch.equal(a, fastsample.distribution(torch.tensor([expected], dtype=DTYPES[kind])))


@pytest.mark.parametrize("kind", ["normal", "flat", "masked", "few values", "peaked", "signed zeros and subnormals"])
def test_the_edits_are_those_of_the_reference(backend, kind):
    """The tokens, kept counts and probabilities of a call with edits are those of the edited rows, to the bit."""
    rng = np.random.default_rng(sum(map(ord, kind)))
    for vocab in (1, 31, 256, 257, 1000, 5000):
        for dtype in DTYPES.values():
            x = torch.stack([row(kind, vocab, rng) for _ in MASKS]).to(dtype)
            edits = random_edits(vocab, len(MASKS), rng)
            allowed = packed([mask_of(name, vocab, rng) for name in MASKS], vocab)
            if kind in ("masked", "flat"):  # a bitmask alone
                edits = None
            y = edited(x, edits.columns if edits else None, allowed)
            alive = (y > -math.inf).any(1)
            x, y, allowed = x[alive], y[alive], allowed[alive]
            if edits is not None:
                edits.keep(alive.nonzero()[:, 0])
            parameters = dict(
                temperature=float(rng.choice([0.0, 0.7, 1.0])), top_k=int(rng.choice([0, 5, 300])),
                top_p=float(rng.choice([1.0, 0.9])), min_p=float(rng.choice([0.0, 0.1])),
            )  # fmt: skip
            noise = dict(seed=3, stream=torch.arange(len(x)))
            both = dict(edits=edits, allowed=allowed, backend=backend)
            found, stats = fastsample.sample(x, **parameters, **noise, **both, return_stats=True)
            expected, wanted = fastsample.sample(y, **parameters, **noise, return_stats=True, backend=backend)
            where = (vocab, dtype, parameters)
            assert torch.equal(found, expected), where
            assert all(torch.equal(a, b) for a, b in zip(stats, wanted)), where
            p = fastsample.distribution(x, **parameters, **both)
            assert torch.equal(p, fastsample.distribution(y, **parameters, backend=backend)), where


def test_threads_and_indices(threads, backend):
    """Rows that several threads share, and many draws from one row with edits of their own."""
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.normal(size=(2, 70_000)).astype(np.float32)) * 3
    indices = torch.tensor([1, 0, 1])
    edits = random_edits(70_000, 3, rng)
    allowed = packed([None, mask_of("most", 70_000, rng), mask_of("few", 70_000, rng)], 70_000)
    y = edited(x[indices], edits.columns, allowed)
    for n in (1, 2, 8):
        threads(n)
        both = dict(edits=edits, allowed=allowed, top_p=0.9, seed=1, backend=backend)
        found = [fastsample.sample(x, indices=indices, **both).tolist()]
        found += [fastsample.sample(x[indices], **both).tolist()]
        assert found == [fastsample.sample(y, top_p=0.9, seed=1).tolist()] * 2


def test_masked_tokens_may_hold_anything(backend):
    """A NaN that the bitmask forbids is never looked at; a row without an allowed token is named."""
    x = torch.randn(2, 600)
    x[0, 7], x[0, 300:600] = float("nan"), math.inf
    allowed = torch.ones(2, 600, dtype=torch.bool)
    allowed[0, 7], allowed[0, 300:] = False, False
    assert fastsample.sample(x, allowed=allowed, seed=1, backend=backend)[0] < 300
    allowed[1] = False
    with pytest.raises(ValueError, match=r"logits, once edited, .*row 1 has no finite logit"):
        fastsample.sample(x, allowed=allowed, backend=backend)
    with pytest.raises(ValueError, match="row 0 holds a NaN"):
        fastsample.sample(x, allowed=~allowed, backend=backend)


def test_masks_of_any_shape():
    """Bits beyond the vocabulary, a row for all, any row stride, and bool are the same mask."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, 70, generator=g)
    wanted = torch.rand(70, generator=g) < 0.3
    bits = bits_of(wanted)
    assert bits.dtype == torch.int32
    assert [bool(bits[i // 32] >> i % 32 & 1) for i in range(70)] == wanted.tolist()
    wide = torch.zeros(3, 8, dtype=torch.int32)
    wide[:, :3] = bits
    wide[:, 2] |= 1 << 31 | 1 << 6
    tokens = fastsample.sample(x, seed=1, allowed=wanted)
    assert wanted[tokens].all()
    for mask in (bits, bits.expand(3, 3), wide[:, :3], wanted.expand(3, 70)):
        assert torch.equal(fastsample.sample(x, seed=1, allowed=mask), tokens)


def test_counting():
    """`append` counts as a new object that is given all tokens does: of new tokens and of others, past any capacity."""
    rng = np.random.default_rng(2)
    prompts = [[5, 6, 7], []]
    edits = Edits(prompts=prompts, repetition_penalty=1.3, frequency_penalty=0.2, logit_bias={9: -2.0})
    outputs = [[], []]
    x = torch.randn(2, 90)
    for step in range(80):
        tokens = rng.integers(60, size=2)
        if step == 7:
            tokens[0] = -1  # an invalid row draws nothing
        for row_, token in zip(outputs, tokens):
            row_ += [token] if token >= 0 else []
        edits.append(torch.from_numpy(tokens))
        whole = Edits(
            prompts=prompts, outputs=outputs, repetition_penalty=1.3, frequency_penalty=0.2, logit_bias={9: -2.0}
        )
        assert torch.equal(edits.apply(x), whole.apply(x))
    assert edits.columns.ids.shape[1] < 200
    edits.keep([1])
    assert torch.equal(edits.apply(x[1:]), whole.apply(x)[1:])


def test_a_sampler_counts():
    """A decode loop with `Sampler` draws what `sample` draws that is given the tokens so far; `keep` keeps counting."""
    x = [torch.randn(3, 40) for _ in range(6)]
    penalties = dict(repetition_penalty=1.5, presence_penalty=[0.5, 1.0, 0.0])
    sampler = fastsample.Sampler(seed=5, edits=Edits(prompts=[[1], [2], [3]], **penalties))
    outputs = [[], [], []]
    for step in range(6):
        edits = Edits(prompts=[[1], [2], [3]], outputs=outputs, **penalties)
        found = sampler(x[step], return_stats=True)[0] if step % 2 else sampler(x[step])
        assert found.tolist() == fastsample.sample(x[step], seed=5, position=step, edits=edits).tolist()
        outputs = [[*o, t] for o, t in zip(outputs, found.tolist())]
    sampler.keep([2, 0])
    edits = Edits(prompts=[[3], [1]], outputs=[outputs[2], outputs[0]], repetition_penalty=1.5,
                  presence_penalty=[0.0, 0.5])  # fmt: skip
    only = torch.zeros(40, dtype=torch.bool)
    only[outputs[2][-1]] = True
    found = sampler(x[0][:2], allowed=only)
    assert found.tolist() == [outputs[2][-1]] * 2
    edits.append(found)
    assert torch.equal(edits.apply(x[1][:2]), sampler.edits.apply(x[1][:2]))


def test_as_the_processors_of_transformers():
    """Repetition penalty and single-token biases to the bit, in float32."""
    from transformers import RepetitionPenaltyLogitsProcessor, SequenceBiasLogitsProcessor

    x = torch.randn(2, 50) * 5
    ids = torch.randint(50, (2, 20))
    edits = Edits(prompts=ids, repetition_penalty=1.3, logit_bias={3: 2.5, 4: -7.0})
    expected = SequenceBiasLogitsProcessor([[[3], 2.5], [[4], -7.0]])(ids, x)
    assert torch.equal(edits.apply(x), RepetitionPenaltyLogitsProcessor(1.3)(ids, expected))


def test_compiled():
    """Through `torch.compile`, with tokens counted outside of the graph."""
    edits = Edits(prompts=[[1, 2], [3]], repetition_penalty=2.0, frequency_penalty=1.0)

    @torch.compile(fullgraph=True, backend="eager")
    def step(logits, allowed):
        return fastsample.sample(logits, edits=edits, allowed=allowed, seed=2)

    for _ in range(3):
        x = torch.randn(2, 64)
        allowed = bits_of(torch.rand(2, 64) < 0.6)
        expected = fastsample.sample(edited(x, columns_of(edits, 2, x), allowed), seed=2)
        assert torch.equal(step(x, allowed), expected)
        edits.append(expected)


X = torch.zeros(2, 40)
BAD = [
    (dict(repetition_penalty=0, rows=2), ValueError, "repetition_penalty must be above 0 and finite, got 0; 1 changes"),
    (dict(repetition_penalty=[1.0, -2.0]), ValueError, "got -2 at row 1; 1 changes nothing"),
    (dict(frequency_penalty=math.nan, rows=2), ValueError, "frequency_penalty must be finite, got nan; 0 changes"),
    (dict(presence_penalty=math.inf, rows=2), ValueError, "presence_penalty must be finite, got inf"),
    (dict(presence_penalty="much", rows=2), TypeError, "presence_penalty"),
    (dict(logit_bias={3: math.inf}, rows=2), ValueError, "logit_bias must be finite, or -inf to forbid .*token 3"),
    (dict(logit_bias={3: 1e39}, rows=2), ValueError, "logit_bias must be finite"),
    (dict(logit_bias={"3": 1.0}, rows=2), TypeError, "logit_bias must be for token ids, got '3'"),
    (dict(logit_bias={-1: 1.0}, rows=2), ValueError, "logit_bias must hold token ids of the vocabulary, got -1"),
    (dict(logit_bias=[{1: 1.0}, 5]), TypeError, "logit_bias must be a dictionary"),
    (dict(logit_bias={3: 1.0}), ValueError, "rows must be given where nothing else has a value a row"),
    (dict(prompts=[[1], [2]], outputs=[[1]]), ValueError, "same number of rows.* prompts has 2, outputs has 1"),
    (dict(prompts="a text"), TypeError, "prompts must be token ids, got str; call the tokenizer"),
    (dict(prompts=[["a"], [1]]), TypeError, "prompts must be a list of token ids for each row.*row 0"),
    (dict(prompts=[[1], [2.5]]), TypeError, "at row 1"),
    (dict(prompts=[[1], [-100]]), ValueError, "prompts must hold token ids .*got -100 at row 1; leave padding out"),
    (dict(prompts=[[1], [40]]), ValueError, r"edits must name token ids in \[0, 40\), .*got 40 at row 1"),
    (dict(prompts=[[1]]), ValueError, "edits must have a row for each of the 2 rows drawn, got 1; call keep"),
]


@pytest.mark.parametrize(("given", "error", "message"), BAD, ids=[b[2][:40] for b in BAD])
def test_bad_edits(given, error, message):
    """Rule, value and remedy, where the edits are made or where they meet the logits."""
    with pytest.raises(error, match=message):
        fastsample.sample(X, edits=Edits(**given))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (dict(edits={3: 1.0}), TypeError, "edits must be None or fastsample.Edits, got dict"),
        (
            dict(allowed=torch.zeros(2, 2)),
            TypeError,
            r"allowed must be int32 \[2, 2\], a bit a token, or bool \[2, 40\]",
        ),
        (dict(allowed=[[1]]), TypeError, "got list"),
        (dict(allowed=torch.zeros(2, 3, dtype=torch.int32)), ValueError, r"got shape \(2, 3\)"),
        (dict(allowed=torch.zeros(3, 40, dtype=torch.bool)), ValueError, r"got shape \(3, 40\)"),
        (dict(allowed=torch.zeros(2, 2, dtype=torch.int32, device="meta")), ValueError, "on the device of the logits"),
        (dict(edits=Edits(rows=2, device="meta")), ValueError, "edits must be on the device of the logits, cpu"),
    ],
)
def test_bad_masks(given, error, message):
    """A wrong type, shape or device."""
    for function in (fastsample.sample, fastsample.distribution):
        with pytest.raises(error, match=message):
            function(X, **given)
