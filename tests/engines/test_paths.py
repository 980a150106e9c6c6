"""Texts written leg by leg: parked, continued, forked, appended to, cut and read, against the same text in one go."""

from __future__ import annotations

import pytest
import torch
from plain import Letters, write
from tiny import OWN_CACHES, sharing, tiny

from fastsample.engines.base import Request, is_parking
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.runners import ExpandedCacheRunner, RecomputeRunner, SharedPrefixRunner

PROMPT = tuple(3 + 7 * i % 90 for i in range(21))
MODELS = ("llama", "mistral", "gemma3_text", "gpt2", "mamba")
KINDS = [SharedPrefixRunner, ExpandedCacheRunner, RecomputeRunner]
NOT_SERVED = {("mamba", SharedPrefixRunner), *((name, ExpandedCacheRunner) for name in OWN_CACHES)}
SERVED = [(name, kind) for name in MODELS for kind in KINDS if (name, kind) not in NOT_SERVED]
EVERY = pytest.mark.parametrize(("name", "kind"), SERVED)


def engine_of(name, kind, **options):
    model = sharing(name) if kind is SharedPrefixRunner else tiny(name)
    return model, LocalEngine(model, Letters(), runner=kind(model), **options)


def asked(engine, *requests):
    """The finished samples of these requests."""
    samples = engine.submit(requests)
    while any(s.finish is None for s in samples):
        engine.step()
    return samples


def leg(prompt, after=None, n=5, **changes):
    return Request(tuple(prompt), after=after, max_new_tokens=n, eos=(), park=True, seed=4, **changes)


def ids_of(sample):
    return (*sample.request.prompt, *sample.tokens)


def whole(model, ids):
    """The logits [n, V] after each of the ids, read as a whole."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


def logits_of(sample):
    """What a parked path says of the next token."""
    return sample.parked._prefix.logits[0]


def assert_close(sample, model):
    """Whatever was parked says what reading its whole text says, within rounding."""
    want = whole(model, ids_of(sample))[-1]
    assert float((logits_of(sample) - want).abs().max()) <= 1e-5 * max(1.0, float(want.abs().max()))


@EVERY
def test_legs_equal_one_go(name, kind):
    """Three streams in legs of 7, 1, 13 and 9 tokens, beside each other: the tokens of one request of 30."""
    model, engine = engine_of(name, kind)
    want = [write(model, leg(PROMPT, stream=i, n=30), eos=()) for i in range(3)]
    ends, got = [None] * 3, [[] for _ in range(3)]
    for n in (7, 1, 13, 9):
        ends = asked(engine, *(
            leg((*PROMPT, *got[i]), None if end is None else end.parked, n, stream=i) for i, end in enumerate(ends)
        ))  # fmt: skip
        for tokens, s in zip(got, ends):
            tokens += s.tokens
            assert s.finish == "length"
            assert s.parked.length == len(PROMPT) + len(tokens)
            assert_close(s, model)
    assert got == want
    assert engine.prefill_tokens == len(PROMPT)


@EVERY
def test_forks_write_what_their_whole_text_would(name, kind):
    """Two paths, forked three times each with streams of their own, in one batch of rows of two lengths."""
    model, engine = engine_of(name, kind)
    paths = asked(engine, leg(PROMPT, n=14, stream=1), leg(PROMPT, n=3, stream=2))
    children = asked(engine, *(leg(ids_of(p), p.parked, n=6, stream=9 + i) for i in range(3) for p in paths))
    for s in children:
        plain = Request(s.request.prompt, seed=4, stream=s.request.stream, max_new_tokens=6)
        assert s.tokens == write(model, plain, eos=())
        assert_close(s, model)
    assert len({tuple(s.tokens) for s in children}) >= 3  # a random Mamba likes to repeat itself


@EVERY
def test_append_equals_reading_the_same_ids(name, kind):
    """Behind a prompt and behind paths, of one, three and twenty tokens; forks of one append read it once."""
    model, engine = engine_of(name, kind)
    (path,) = asked(engine, leg(PROMPT, n=6, stream=1))
    before = engine.steps
    asks = [(PROMPT, None, (8, 9, 10)), (ids_of(path), path.parked, (8,)), (ids_of(path), path.parked, (8,)),
            (ids_of(path), path.parked, tuple(range(20, 40)))]  # fmt: skip
    samples = asked(engine, *(leg(p, after, 4, append=more, stream=i) for i, (p, after, more) in enumerate(asks)))
    for s, (prompt, _, more) in zip(samples, asks):
        assert s.appended == len(more)
        assert s.tokens[: len(more)] == list(more)
        assert all(t.logprob != t.logprob for t in s.stats[: len(more)])
        plain = Request((*prompt, *more), seed=4, stream=s.request.stream, max_new_tokens=4)
        assert s.tokens[len(more) :] == write(model, plain, eos=())
        assert_close(s, model)
    assert engine.steps == before + 3 + 4  # one pass for each length of what was appended, one for each token


@EVERY
def test_cut_and_go_on(name, kind):
    """Inside the last leg, at its beginning, inside an earlier one, at the prompt's end and inside the prompt."""
    model, engine = engine_of(name, kind)
    (first,) = asked(engine, leg(PROMPT, n=15, stream=1))
    (last,) = asked(engine, leg(ids_of(first), first.parked, 15, stream=1))
    ids = ids_of(last)
    lossy = (len(ids) - 1, len(ids) - 8, len(PROMPT) + 3)  # what a window of 12 sees before them is gone
    for kept in (len(ids), *lossy, len(ids) - 14, len(ids) - 15, len(PROMPT), 5):
        cut = engine.cut(last.parked, kept)
        assert cut.length == kept
        want = whole(model, ids[:kept])[-1]
        assert float((cut._prefix.logits[0] - want).abs().max()) <= 2e-5 * max(1.0, float(want.abs().max()))
        (s,) = asked(engine, leg(ids[:kept], cut, 8, stream=3))
        assert s.tokens == write(model, Request(ids[:kept], seed=4, stream=3, max_new_tokens=8), eos=())
        if kind is SharedPrefixRunner:
            is_lost = kept < len(PROMPT) or (kept in lossy and name in ("mistral", "gemma3_text"))
            assert ("read again" in (cut.note or "")) == is_lost
    assert_close(last, model)


@EVERY
def test_read_equals_the_sampler_s_log_probabilities(name, kind):
    """Of the tokens that were drawn, under the model's own row; the path stays as it was."""
    model, engine = engine_of(name, kind)
    (path,) = asked(engine, leg(PROMPT, n=6, stream=1))
    (more,) = asked(engine, leg(ids_of(path), path.parked, 17, stream=1, temperature=0.6, top_p=0.9))
    raw = [t.raw_logprob for t in more.stats]
    assert engine.read(path.parked, more.tokens) == pytest.approx(raw, abs=1e-4)
    assert engine.read(path.parked, more.tokens[:1]) == pytest.approx(raw[:1], abs=1e-4)
    assert engine.read(path.parked, []) == []
    assert_close(path, model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_that_ended_by_a_token_is_parked_without_it(kind):
    """An EOS and an until-id are not part of what is gone on from, and appended tokens follow the last real one."""
    model, engine = engine_of("llama", kind)
    (free,) = asked(engine, leg(PROMPT, n=12, stream=1))
    end = free.tokens[6]
    at = free.tokens.index(end)
    by_eos = Request(PROMPT, seed=4, stream=1, max_new_tokens=12, eos=(end,), park=True)
    (eos,) = asked(engine, by_eos)
    assert (eos.finish, eos.tokens, eos.ended_by) == ("eos", free.tokens[: at + 1], None)
    (until,) = asked(engine, leg(PROMPT, n=12, stream=1, until_ids=(end,)))
    assert (until.finish, until.tokens, until.ended_by) == ("until", free.tokens[:at], end)
    assert len(until.stats) == at
    for s in (eos, until):
        assert s.parked.length == len(PROMPT) + at
        (more,) = asked(engine, leg((*PROMPT, *free.tokens[:at]), s.parked, 5, append=(8, 9), stream=1))
        plain = Request((*PROMPT, *free.tokens[:at], 8, 9), seed=4, stream=1, max_new_tokens=5)
        assert more.tokens[2:] == write(model, plain, eos=())
    first = asked(engine, leg(PROMPT, n=12, stream=1, until_ids=(free.tokens[0],)))[0]
    assert (first.finish, first.tokens, first.parked.length) == ("until", [], len(PROMPT))
    (again,) = asked(engine, leg(PROMPT, first.parked, 12, stream=1))
    assert again.tokens == free.tokens


def test_a_released_path_is_never_read_again():
    """A ValueError at submit; one that is released while a request waits for it fails, and the others go on."""
    _, engine = engine_of("llama", SharedPrefixRunner, slots=1)
    (path,) = asked(engine, leg(PROMPT, stream=1))
    ids = ids_of(path)
    other, waits = engine.submit([leg(PROMPT, stream=2), leg(ids, path.parked, stream=3)])
    engine.step()
    engine.release([path.parked])
    engine.release([path.parked])
    engine.run()
    assert other.finish == "length"
    assert waits.finish == "failed"
    assert "one of 26 tokens that was released; release it later" in waits.error
    for call in (lambda: engine.submit([leg(ids, path.parked)]), lambda: engine.read(path.parked, [5]),
                 lambda: engine.cut(path.parked, 3)):  # fmt: skip
        with pytest.raises(ValueError, match="was released"):
            call()
    assert engine.is_idle


def test_memory_of_what_is_released_is_free():
    """Segments live as long as somebody can go on from them: a parent's as long as its child's."""
    import gc
    import weakref

    _, engine = engine_of("mistral", SharedPrefixRunner)
    (path,) = asked(engine, leg(PROMPT, n=20, stream=1))
    (child,) = asked(engine, leg(ids_of(path), path.parked, 20, stream=1))
    parent, leaf = weakref.ref(path.parked._prefix.cache), weakref.ref(child.parked._prefix.cache)
    assert leaf().parent is parent()
    engine.release([path.parked])
    gc.collect()
    assert parent() is not None
    engine.release([child.parked])
    gc.collect()
    assert parent() is None
    assert leaf() is None
    assert engine.runner.rows == ()


def test_weights_that_change_make_parked_paths_stale():
    """They were read with other weights; the ids may be sent as a prompt."""
    model, engine = engine_of("llama", SharedPrefixRunner)
    (path,) = asked(engine, leg(PROMPT, stream=1))
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    with pytest.raises(ValueError, match="read before they changed; send its ids as a prompt"):
        engine.submit([leg(ids_of(path), path.parked)])


def test_bad_asks():
    """Rule, value and remedy."""
    _, engine = engine_of("llama", SharedPrefixRunner)
    (path,) = asked(engine, leg(PROMPT, stream=1))
    ids = ids_of(path)
    _, other = engine_of("llama", SharedPrefixRunner)
    for request, message in (
        (leg(ids[:-1], path.parked), "prompt must hold the 26 ids that the parked path covers, got 25; put further"),
        (leg((*ids[:-1], 3 + ids[-1] % 90), path.parked), "at place 25; pass the path's own ids"),
        (leg(ids, append=(7.5,)), "append must hold whole numbers, got 7.5 at place 0"),
        (leg(ids, append=(101,)), r"append must hold token ids in \[0, 101\), got 101"),
        (leg(ids, append=(5,) * 2022), "2048 tokens leave 2021 behind the prompt, got 2022; shorten it"),
        (leg(ids, until="x"), r"until must be a tuple of strings, got the string 'x'; write \('x',\)"),
        (leg(ids, until=("",)), "until strings must not be empty"),
        (leg(ids, until=("x",), stop=("x",)), "in stop or in until, got 'x' in both"),
        (leg(ids, until_ids=(-1,)), "until_ids must hold token ids"),
        (leg(ids, legs=0), "legs must be at least 1, got 0"),
        (leg(ids, after="path"), "must be what a LocalEngine parked, got str"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            engine.submit([request])
    with pytest.raises(ValueError, match="continued by the engine that parked it"):
        other.submit([leg(ids, path.parked)])
    for kept in (0, 27):
        with pytest.raises(ValueError, match=rf"kept must be in \[1, 26\], the ids of the parked path, got {kept}"):
            engine.cut(path.parked, kept)
    with pytest.raises(ValueError, match="2048 tokens leave 2022 behind the path, got 2023"):
        engine.read(path.parked, [5] * 2023)
    assert is_parking(engine)
    assert engine.is_idle


@EVERY
def test_cancelled_in_the_middle(name, kind):
    """A leg that is cancelled keeps nothing and disturbs nobody, before and after its last token."""
    model, engine = engine_of(name, kind)
    (path,) = asked(engine, leg(PROMPT, n=4, stream=1))
    samples = engine.submit([leg(ids_of(path), path.parked, 8, stream=i) for i in range(4)])
    for _ in range(3):
        engine.step()
    engine.cancel(samples[:1])
    while len(samples[1].tokens) < 8:
        engine.step()
    assert samples[1].finish is None  # the closing step is still to come
    engine.cancel(samples[1:2])
    engine.run()
    assert [s.finish for s in samples] == ["cancelled", "cancelled", "length", "length"]
    assert samples[0].parked is None
    for s in samples[2:]:
        assert s.tokens == write(
            model, Request(s.request.prompt, seed=4, stream=s.request.stream, max_new_tokens=8), eos=()
        )
        assert_close(s, model)
    assert engine.runner.rows == ()


def test_what_a_row_leaves_behind_harms_nobody():
    """A token whose embedding is NaN ends its own sample; the next one in the same place writes as if alone."""
    model = tiny("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[50] = torch.nan
        model.lm_head.weight[50] = -1.0
    engine = LocalEngine(model, None, slots=2, runner=SharedPrefixRunner(model))
    path, bad, good = engine.submit([
        leg(PROMPT, n=20, stream=1), leg(PROMPT, append=(5, 50), stream=1), leg(PROMPT, n=8, stream=2)
    ])  # fmt: skip
    engine.run()
    assert bad.finish == "failed"
    assert (path.finish, good.finish) == ("length", "length")
    assert good.tokens == write(model, Request(PROMPT, seed=4, stream=2, max_new_tokens=8), eos=())
