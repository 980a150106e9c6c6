"""vLLM itself, on a CPU: our draw in it writes our own engine's texts, in this program and as a server."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import vllm_real
import vllm_standin
from typer.testing import CliRunner

from fastsample import Settings, solve, solve_many
from fastsample.cli import main
from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.openai.engine import ServerEngine
from fastsample.strategies.question import Question

pytestmark = [pytest.mark.slow, pytest.mark.skipif(vllm_real.why_not() is not None, reason=str(vllm_real.why_not()))]
ASKED = (
    "What is 2 + 2?",
    "Name a city.",
    "Tell me a story of a fox.",
    "Count to ten.",
    "What is the capital of France?",
)
EASY = tuple(Question(f"What is {a} + {a}? Answer with one number.", str(a)) for a in range(2, 8))


@pytest.fixture(scope="module")
def small():
    """What vLLM reads from the environment, for its processes that this one starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in vllm_real.SMALL.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def engine(small):
    """In this program; prompts of more than 128 tokens are read in pieces."""
    from fastsample.engines.vllm.loading import load

    options = vllm_real.OPTIONS | {"max_num_batched_tokens": 128, "max_num_seqs": 16}
    with load(None, dtype="float32", slots=16, logprobs=True, options=options) as made:
        yield made


def prompt(tokenizer, text):
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
    )
    return tuple(tokenizer(chat, add_special_tokens=False)["input_ids"])


def requests(tokenizer):
    """Twenty-two: filters of every kind, hot and cold, short and long prompts, stop strings, ends of their own."""
    found = [
        Request(
            prompt(tokenizer, ASKED[n % 5]),
            temperature=(0.0, 0.4, 0.8, 1.2, 2.5)[n * 7 % 5],
            top_p=(1.0, 0.9)[n % 2],
            top_k=(0, 0, 50)[n % 3],
            min_p=(0.0, 0.05)[n // 2 % 2],
            seed=n // 10,
            stream=1000 - n,
            max_new_tokens=8 + n,
            stop=((), ("\n",), ("5", "fox"))[n % 3],
        )
        for n in range(20)
    ]
    long = prompt(tokenizer, f"Remember {' '.join(map(str, range(100, 200)))}. " + ASKED[0])
    assert len(long) > 300
    found.append(Request(long, temperature=0.8, top_p=0.9, stream=5, max_new_tokens=16))
    return [*found, replace(found[2], min_new_tokens=20, max_new_tokens=30, eos=(*range(10, 3000), 28))]


@pytest.fixture(scope="module")
def own(embedded):
    """What our engine writes for them, all in one batch."""
    model, tokenizer = embedded
    engine = LocalEngine(model, tokenizer, slots=22)
    samples = engine.submit(requests(tokenizer))
    engine.run()
    return samples


@pytest.mark.parametrize("together", [22, 5, 1])
def test_its_texts_are_our_own(engine, own, together):
    """Tokens, texts and ends, `==`, in batches of 16, 5 and 1, prompts read in pieces beside texts that are written."""
    asked = requests(engine.tokenizer)
    assert [r.prompt for r in asked] == [s.request.prompt for s in own]
    for at in range(0, 22 if together > 1 else 4, together):
        samples = engine.submit(asked[at : at + together])
        engine.run()
        for s, ours in zip(samples, own[at:]):
            assert (s.tokens, s.text, s.finish) == (ours.tokens, ours.text, ours.finish)
            told = [t.raw_logprob for t in s.stats]
            assert told == pytest.approx([t.raw_logprob for t in ours.stats], abs=1e-3)


def test_its_vote_is_our_own(engine, embedded):
    """Six questions with early exit: every answer, verdict, count and finished text."""
    settings = Settings((0.4, 0.8), 6, "ahead:k=3", top_p=0.9, max_new_tokens=24, seed=3, together=False)
    both = []
    for model, tokenizer, by in ((None, engine.tokenizer, engine), (*embedded, None)):
        results = solve_many(model, tokenizer, EASY, settings=settings, extractor="number", engine=by, slots=16)
        both.append({r.id: r for r in results})
    theirs, ours = both
    assert engine.is_idle
    for name, mine in ours.items():
        got = theirs[name]
        assert (got.answer, got.status, got.votes, got.counted) == (mine.answer, mine.status, mine.votes, mine.counted)
        texts = {s.number: s.text for s in mine.samples if s.is_counted}
        assert texts == {s.number: s.text for s in got.samples if s.is_counted}


def test_what_is_cancelled_leaves_at_once(engine):
    """What vLLM goes on to write for others is theirs alone, and the cancelled sample's news is dropped."""
    long = Request(prompt(engine.tokenizer, "Count from 1 to 1000."), temperature=0.9, max_new_tokens=600, eos=())
    samples = engine.submit([replace(long, stream=n) for n in range(16)])
    while sum(len(s.tokens) for s in samples) < 16 * 6:
        engine.step()
    written = [len(s.tokens) for s in samples]
    engine.cancel(samples)
    (other,) = engine.submit([replace(long, stream=0, max_new_tokens=3)])
    before = engine.steps
    engine.run()
    assert engine.steps - before < 10  # and not six hundred
    assert [len(s.tokens) for s in samples] == written
    assert other.tokens == samples[0].tokens[:3]


def test_other_requests_share_its_batch(engine, monkeypatch):
    """Greedy ones of vLLM's own are as without us; our fields are refused by our sentence."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    ids = {"type": "token", "prompt_token_ids": list(prompt(engine.tokenizer, ASKED[4]))}
    engine.engine.add_request("theirs", ids, SamplingParams(temperature=0, max_tokens=8))
    (ours,) = engine.submit([Request(tuple(ids["prompt_token_ids"]), temperature=0.0, max_new_tokens=8)])
    step, theirs = engine.engine.step, []

    def watched():
        outputs = step()
        theirs.extend(output for output in outputs if output.request_id == "theirs")
        return outputs

    monkeypatch.setattr(engine.engine, "step", watched)
    engine.run()
    while not theirs[-1].finished:
        watched()
    assert list(theirs[-1].outputs[0].token_ids) == ours.tokens
    with pytest.raises(VLLMValidationError, match="fs_top_p must be in"):
        engine.engine.add_request("bad", ids, SamplingParams(temperature=0, extra_args={"fs_top_p": 3.0}))
    bad = SamplingParams(temperature=0, repetition_penalty=1.3, extra_args={"fs_seed": 3})
    with pytest.raises(VLLMValidationError, match="repetition_penalty must be 1 where fastsample draws"):
        engine.engine.add_request("bad", ids, bad)


def test_both_loaders_take_the_class(small):
    """V1's and V2's own; V2's part draws our token over a made-up layout of its batch, as no CPU of ours can run it."""
    from vllm.v1.sample.logits_processor import build_logitsprocs
    from vllm.v1.worker.gpu.sample.logits_processor import build_custom_logits_processors

    from fastsample import sample
    from fastsample.engines.vllm.draw import FastDraw

    device = torch.device("cpu")
    config = SimpleNamespace(speculative_config=None, scheduler_config=SimpleNamespace(max_num_seqs=4))
    found = build_logitsprocs(config, device, False, False, [vllm_real.DRAW])
    assert isinstance(found.non_argmax_invariant[-1], FastDraw)
    names = ("all_token_ids", "prompt_len", "prefill_len", "total_len")
    states = SimpleNamespace(device=device, max_num_reqs=4, vocab_size=128, **dict.fromkeys(names))
    (draw,) = build_custom_logits_processors(None, states, False, [vllm_real.DRAW])
    from vllm import SamplingParams

    ours = {"fs_temperature": 0.9, "fs_top_p": 0.9, "fs_seed": 4, "fs_stream": 6}
    assert draw.add_request(2, SamplingParams(temperature=0, extra_args=ours))
    assert not draw.add_request(0, SamplingParams(temperature=0))
    draw.apply_staged_writes()
    rows = torch.stack([vllm_standin.row_of((1, 2)), vllm_standin.row_of((3, 4))])
    slots = torch.tensor([2, 0], dtype=torch.int32)
    context = SimpleNamespace(expanded_idx_mapping=slots, idx_mapping_np=slots.numpy(), pos=torch.tensor([11, 5]))
    drawn = draw.apply(rows.clone(), context)
    token = int(sample(rows[:1], temperature=0.9, top_p=0.9, seed=4, stream=[6], position=12))
    assert int(drawn[0].argmax()) == token
    assert torch.equal(drawn[1], rows[1])


def test_as_a_command(small, tmp_path):
    """evaluate --engine vllm: a run folder as any other, and nothing but our own lines on standard output."""
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps({"question": q.text, "answer": str(2 * int(q.id))}) + "\n" for q in EASY))
    words = ["evaluate", str(questions), "--out", str(tmp_path / "run"), "--engine", "vllm", "--slots", "16"]
    words += ["--vllm", "enforce_eager=true", "--vllm", "max_model_len=1024", "--temperatures", "0.5,0.9"]
    found = CliRunner().invoke(main, [*words, "--samples", "3", "--max-new-tokens", "12"])
    assert found.exit_code == 0, found.output
    assert "6 of 6 questions answered, 0 failed" in found.output
    assert found.stdout == ""
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["draws"], config["engine_model"]) == ("fastsample", "SmolLM2-135M-Instruct")
    report = CliRunner().invoke(main, ["report", str(tmp_path / "run")])
    assert report.exit_code == 0, report.output


# --- as a server -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(engine):
    """One after the other: two of them would share two cores."""
    engine.close()
    with vllm_real.server(slots=16) as address:
        yield address


def test_a_server_writes_our_texts(url, own, embedded):
    """Found by asking; token ids in and out, `==`."""
    with ServerEngine([url], embedded[1]) as server:
        assert (server.traits.draws, server.traits.token_ids) == ("fastsample", True)
        assert server.watch() is None
        asked = [replace(r, stop=()) for r in requests(embedded[1])[:12]]
        samples = server.submit(asked)
        server.run()
        for s, ours in zip(samples, own):
            assert s.tokens[: len(ours.tokens)] == ours.tokens
            assert s.error is None


def test_a_vote_over_a_server_ends_early(url):
    """Chats; counted by the server: what was written is what came, and at most a token a sample more."""
    with ServerEngine([url]) as server:
        costs = {}
        for rule in ("majority", "ahead:k=2"):
            before = vllm_real.settled(url)[0]
            result = solve(
                None, server.tokenizer, EASY[0].text, temperatures=(0.2, 0.6), samples=8, rule=rule, engine=server,
                max_new_tokens=24, together=False,
            )  # fmt: skip
            costs[rule] = vllm_real.settled(url)[0] - before
            assert 0 <= costs[rule] - result.tokens <= len(result.samples)
        assert costs["ahead:k=2"] < 0.6 * costs["majority"]
