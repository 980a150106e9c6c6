"""Penalties and biases of requests: the tokens of transformers' own, in any batch, with the model's own statistics."""

import math

import pytest
import torch
from plain import Letters, write
from tiny import tiny

import fastsample
from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.runners import ExpandedCacheRunner, RecomputeRunner, SharedPrefixRunner
from fastsample.engines.openai.wire import Dialect, body_of, check
from fastsample.engines.penalties import NO_PENALTIES, Penalties

PROMPTS = (tuple(range(3, 33)), (1, 44, 9), (7,))
MANY = (
    NO_PENALTIES,
    Penalties(repetition=1.4),
    Penalties(frequency=0.6, presence=0.3),
    Penalties(repetition=0.9, frequency=-0.2, logit_bias={5: 3.0, 9: -math.inf}),
)


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


def requests():
    return [
        Request(
            PROMPTS[i % 3], temperature=(0.0, 0.8)[i % 2], seed=3, stream=i, max_new_tokens=8 + i, penalties=MANY[i % 4]
        )
        for i in range(8)
    ]


@pytest.mark.parametrize("kind", [SharedPrefixRunner, ExpandedCacheRunner, RecomputeRunner])
@pytest.mark.parametrize("slots", [1, 3, 64])
def test_tokens_equal_the_plain_path(model, kind, slots):
    """Counted step by step in a batch that rows join and leave: the tokens of a count from the beginning."""
    engine = LocalEngine(model, None, slots=slots, runner=kind(model))
    samples = engine.submit(requests())
    engine.run()
    assert [s.tokens for s in samples] == [write(model, s.request) for s in samples]
    plain = engine.submit([Request(**{**vars(s.request), "penalties": NO_PENALTIES}) for s in samples])
    engine.run()
    assert sum(a.tokens != b.tokens for a, b in zip(samples, plain)) >= 4


@pytest.mark.parametrize("penalty", [1.2, 2.5])
def test_greedy_as_in_transformers(model, penalty):
    """The tokens of `generate(repetition_penalty=...)`, one prompt at a time there and all in one batch here."""
    batch = fastsample.generate(
        model, None, [list(p) for p in PROMPTS], n=2, temperature=0, repetition_penalty=penalty, max_new_tokens=20
    )
    for b, p in enumerate(batch.prompt.tolist()):
        ids = torch.tensor([PROMPTS[p]])
        out = model.generate(ids, do_sample=False, repetition_penalty=penalty, max_new_tokens=20, pad_token_id=0)
        assert batch.ids[b][batch.mask[b]].tolist() == out[0, ids.shape[1] :].tolist()


def test_both_kinds_of_log_probabilities(model):
    """`logprobs` are of what was drawn from; `raw_logprobs` are the model's, as if there were no penalty."""
    batch = fastsample.generate(
        model, None, [[5, 6, 7]], n=3, presence_penalty=1.5, logit_bias={8: 2.0}, max_new_tokens=6, eos=(), seed=1
    )
    ids, mask = batch.sequences()
    with torch.no_grad():
        logits = model(ids, attention_mask=mask.long()).logits[:, 2:-1].float()
    raw = logits.log_softmax(-1).gather(-1, batch.ids[..., None])[..., 0]
    assert (raw - batch.raw_logprobs).abs().max() < 1e-4
    for b, tokens in enumerate(batch.ids.tolist()):
        edits = fastsample.Edits(outputs=[[]], presence_penalty=1.5, logit_bias={8: 2.0})
        for step, token in enumerate(tokens):
            p = fastsample.distribution(logits[b, step][None], edits=edits)[0, token]
            assert abs(p.log() - batch.logprobs[b, step]) < 1e-4
            edits.append([token])


def test_16_bits_lose_no_penalty():
    """A penalty below the distance of two logits in bfloat16 counts: the row is edited in float32."""
    model = tiny("llama").to(torch.bfloat16)
    plain, edited = (
        fastsample.generate(model, None, [[5, 6, 7]], n=2, presence_penalty=p, max_new_tokens=4, eos=(), seed=1)
        for p in (0.0, 1e-4)
    )
    assert torch.equal(plain.ids, edited.ids)
    assert not torch.equal(plain.logprobs[:, 1:], edited.logprobs[:, 1:])


def test_a_sample_without_a_token_fails_alone(model):
    """Where biases forbid everything, it says so, and the others are written."""
    vocabulary = model.config.vocab_size
    engine = LocalEngine(model, None)
    forbidden = Penalties(logit_bias=dict.fromkeys(range(vocabulary), -math.inf))
    bad, good = engine.submit([Request((5, 6), penalties=forbidden), Request((5, 6), penalties=MANY[1], seed=2)])
    engine.run()
    assert (bad.finish, bad.tokens) == ("failed", [])
    assert "has no finite logit" in bad.error
    assert good.finish in ("eos", "length")


def test_penalties_behind_a_processor(model):
    """The processor's scores are what the penalties change, and a forbidden end stays forbidden."""
    only = lambda ids, scores: torch.where(torch.arange(scores.shape[1]) < 12, scores, -math.inf)  # noqa: E731
    engine = LocalEngine(model, None)
    asked = Request((5, 6), seed=2, max_new_tokens=12, min_new_tokens=12, logits_processor=only, penalties=MANY[2],
                    stream=0)  # fmt: skip
    (sample,) = engine.submit([asked])
    engine.run()
    assert sample.tokens == write(model, asked)
    assert len(sample.tokens) == 12
    assert max(sample.tokens) < 12


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (dict(repetition_penalty=0), ValueError, "repetition_penalty must be above 0 and finite, got 0; 1 changes"),
        (dict(repetition_penalty=[1.0]), TypeError, "repetition_penalty must be a number"),
        (dict(presence_penalty=math.nan), ValueError, "presence_penalty must be finite, got nan; 0 changes nothing"),
        (dict(logit_bias={3: math.inf}), ValueError, "logit_bias must be finite, or -inf .* for token 3"),
        (dict(logit_bias={"3": 1.0}), TypeError, "logit_bias must be for token ids, got '3'"),
        (dict(logit_bias={-1: 1.0}), ValueError, "logit_bias must be for token ids of the vocabulary, got -1"),
        (dict(logit_bias=7), TypeError, "logit_bias must be a dictionary"),
        (dict(logit_bias={10**6: 1.0}), ValueError, "logit_bias must hold token ids in .* got 1000000"),
    ],
)
def test_bad_penalties(model, given, error, message):
    """Rule, value and remedy, before anything is written."""
    with pytest.raises(error, match=message):
        fastsample.generate(model, Letters(), [[5]], **given)


def test_what_is_sent_to_a_server():
    """OpenAI's fields to all, the repetition penalty to those that know it; others refuse it in a sentence."""
    request = Request((1,), penalties=Penalties(1.2, 0.5, -0.5, {7: -math.inf, 3: 2.0}))
    body = body_of(request, Dialect("vllm", "m", takes_ids=True), 1)
    assert body["repetition_penalty"] == 1.2
    assert (body["frequency_penalty"], body["presence_penalty"]) == (0.5, -0.5)
    assert body["logit_bias"] == {"3": 2.0, "7": -100.0}
    plain = body_of(Request((1,)), Dialect("openai", "m", takes_ids=True), 1)
    assert not {"repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias"} & plain.keys()
    with pytest.raises(ValueError, match="repetition_penalty is no field of OpenAI's"):
        check(request, Dialect("openai", "m", takes_ids=True))


def test_settings_are_stored_and_read_again():
    """As numbers in config.json; settings without penalties look as they always did."""
    from fastsample.evaluation.stored import settings_of

    penalties = Penalties(1.5, logit_bias={3: -math.inf})
    stored = {"rule": "majority", "temperatures": [1.0], "samples": 2, "penalties": penalties.to_json()}
    assert settings_of(stored).penalties == penalties
    del stored["penalties"]
    assert settings_of(stored).penalties == NO_PENALTIES


def test_statistics_beside_a_row_that_fails():
    """A row whose logits hold a NaN fails alone; the penalised row beside it keeps the model's statistics."""
    from fastsample.engines.local.batch import own_stats

    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    logits[1, 7] = float("nan")
    bad, good = own_stats(logits, None, [1, 2], [0, -1, 9])
    log_p = logits[2].double().log_softmax(0)
    assert all(math.isnan(value) for value in bad)
    assert abs(good[0] - float(log_p[9])) < 1e-5
    assert abs(good[1] + float((log_p * log_p.exp()).sum())) < 1e-5
    assert abs(own_stats(logits, torch.tensor([2, 2]), [1], [0, 9])[0][0] - float(log_p[9])) < 1e-5
