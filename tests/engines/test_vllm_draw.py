"""Our draw inside vLLM, over a stand-in: the batch as it changes, and what is refused.

The real one is in tests/front_ends/test_real_vllm.py.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import vllm_standin
from vllm_cases import PROMPTS, requests, text_of

from fastsample.engines.base import Request
from fastsample.engines.vllm.asked import asked_in
from fastsample.engines.vllm.versions import objection
from fastsample.fallback import FallbackWarning


@pytest.mark.parametrize("runner", [1, 2])
def test_tokens_do_not_depend_on_what_shares_the_batch(engine_of, runner):
    """Rows come, leave, move, change places and begin again: each text is the one that is written alone."""
    engine = engine_of(runner=runner, restless=1)
    written = []
    for seed in range(3):
        samples = engine.submit(requests(25, seed))
        dice = random.Random(seed)
        while not engine.is_idle:
            engine.step()
            if engine.running and dice.random() < 0.1:
                engine.cancel([dice.choice(engine.running)])
        written += samples
    whole = [s for s in written if s.finish != "cancelled"]
    assert len(whole) > 40
    for s in whole:
        assert s.tokens == text_of(s.request)
        assert s.finish == ("eos" if s.tokens[-1] == 0 else "length")
    assert sum(s.finish == "cancelled" for s in written) > 3


def test_a_wrong_row_would_be_seen(engine_of, fast_draw, monkeypatch):
    """The twin: a draw that does not follow rows that change places writes other texts."""
    whole = fast_draw.update_state

    def forgetful(self, update):
        kept = [move for move in update.moved if move[2].name != "SWAP"] if update else []
        whole(self, update and SimpleNamespace(**vars(update) | {"moved": kept}))

    monkeypatch.setattr(fast_draw, "update_state", forgetful)
    engine = engine_of(restless=1)
    samples = engine.submit(requests(25))
    engine.run()
    assert any(s.tokens != text_of(s.request) for s in samples)


@pytest.mark.parametrize("runner", [1, 2])
def test_other_requests_are_left_alone(engine_of, runner):
    """In a batch with ours, who asks for nothing of ours gets vLLM's own token; and we get ours."""
    engine = engine_of(runner=runner)
    params = vllm_standin.SamplingParams(temperature=0.0, max_tokens=9, output_kind=vllm_standin.Kind.DELTA)
    for n in range(3):
        engine.engine.add_request(f"theirs {n}", {"prompt_token_ids": list(PROMPTS[n])}, params)
    theirs = {}
    step = engine.engine.step

    def watched():
        outputs = step()
        for output in outputs:
            theirs.setdefault(output.request_id, []).extend(output.outputs[0].token_ids)
        return outputs

    engine.engine.step = watched
    samples = engine.submit(requests(8))
    engine.run()
    assert [s.tokens for s in samples] == [text_of(s.request) for s in samples]
    for n in range(3):
        greedy = Request(PROMPTS[n], temperature=0.0, stream=0, max_new_tokens=9)
        assert theirs[f"theirs {n}"] == text_of(greedy)[: len(theirs[f"theirs {n}"])]


@pytest.mark.parametrize("runner", [1, 2])
def test_a_row_of_nan_harms_no_other(engine_of, runner, caplog):
    """vLLM takes a token of its own for it, and it is told once; the others are drawn as ever."""

    def row_of(ids):
        row = vllm_standin.row_of(ids)
        if ids[0] == 68:
            row[40] = torch.nan
        return row

    engine = engine_of(runner=runner, row_of=row_of)
    samples = engine.submit([replace(r, temperature=1.0, max_new_tokens=4) for r in requests(12)])
    engine.run()
    fine = [s for s in samples if s.request.prompt[0] != 68]
    assert 0 < len(fine) < 12
    assert [s.tokens for s in fine] == [text_of(s.request) for s in fine]
    assert [r.message.count("a row holds a NaN") for r in caplog.records] == [1]


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"fs_temprature": 1}, "fastsample draws by fs_temperature, .*, got fs_temprature"),
        ({"fs_temperature": -1}, r"fs_temperature must be a finite number of at least 0; .*, got -1"),
        ({"fs_temperature": float("nan")}, "fs_temperature must be"),
        ({"fs_temperature": "1"}, "fs_temperature must be"),
        ({"fs_top_p": 0}, r"fs_top_p must be in \(0, 1\]"),
        ({"fs_top_k": 2.5}, "fs_top_k must be a whole number"),
        ({"fs_min_p": 1.5}, "fs_min_p must be"),
        ({"fs_seed": 2**63}, "fs_seed must be a whole number of 64 bits"),
        ({"fs_stream": True}, "fs_stream must be"),
    ],
)
def test_a_bad_field_is_refused_before_it_is_queued(fast_draw, sent, sentence):
    """By the rule, the value and what to do."""
    with pytest.raises(ValueError, match=sentence):
        fast_draw.validate_params(vllm_standin.SamplingParams(temperature=0.0, extra_args=sent))


def test_what_would_work_on_a_drawn_token_is_refused(fast_draw):
    """vLLM's own temperature and penalties beside our fields; without our fields they are vLLM's business."""
    ours = {"fs_seed": 1}
    for name, value in (("temperature", 0.7), ("repetition_penalty", 1.2), ("presence_penalty", 0.5)):
        params = vllm_standin.SamplingParams(**{"temperature": 0.0, name: value}, extra_args=ours)
        with pytest.raises(ValueError, match=f"{name} must be . where fastsample draws, got {value}"):
            fast_draw.validate_params(params)
        fast_draw.validate_params(replace(params, extra_args={"theirs": 1}))
    fast_draw.validate_params(vllm_standin.SamplingParams(temperature=0.0, extra_args=ours))
    assert asked_in(None) is None
    assert asked_in({"theirs": 1}) is None


def test_one_class_is_both_interfaces(fast_draw):
    """Both of vLLM's loaders ask for a subclass of their own."""
    assert issubclass(fast_draw, vllm_standin.V1Processor)
    assert issubclass(fast_draw, vllm_standin.V2Processor)
    assert not fast_draw(None, torch.device("cpu"), False).is_argmax_invariant()


def test_another_release_is_named(monkeypatch):
    """A release that was not tested is a warning with its number, and not a refusal."""
    with pytest.warns(FallbackWarning, match=r"tested with vLLM 0.32, and this is 0.41.2"):
        vllm_standin.stand_in(monkeypatch, __version__="0.41.2")
    sys.modules["vllm"].__version__ = "0.32.7+cpu"
    assert objection() is None
