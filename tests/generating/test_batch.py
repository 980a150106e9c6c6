"""One call for many samples: what it takes, what it gives back, and that a row is the sample that it says it is."""

from __future__ import annotations

import asyncio
import weakref

import bigram
import pytest
import torch
from plain import Letters, write
from tiny import tiny

import fastsample
from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.runners import ExpandedCacheRunner, RecomputeRunner, SharedPrefixRunner
from fastsample.engines.local.tops import PromptReader
from fastsample.generating.prompts import prompts_of

PROMPTS = [[5, 6, 7, 8, 9], [40, 41], [7]]
SETTINGS = {"n": 3, "temperature": 1.2, "top_p": 0.9, "max_new_tokens": 9, "seed": 4}


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


@pytest.fixture(scope="module")
def words():
    """A model and a tokenizer with a chat template: it answers 4 or 5, and then ends."""
    tokenizer = bigram.bigram_tokenizer()
    return bigram.bigram_model(tokenizer), tokenizer


def test_a_batch_says_what_was_written(model):
    """Every row is the plain path's text of its stream; padding, masks, finish reasons and texts fit it."""
    batch = fastsample.generate(model, Letters(), PROMPTS, **SETTINGS)
    assert (len(batch), batch.n, batch.seed) == (9, 3, 4)
    assert batch.prompt.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert batch.ids.shape == batch.mask.shape == batch.logprobs.shape == batch.raw_logprobs.shape
    requests = fastsample.generate_each(model, None, PROMPTS, **SETTINGS).all
    for b, s in enumerate(requests):
        want = write(model, s.request)
        count = len(want)
        assert batch.ids[b].tolist() == want + [0] * (batch.ids.shape[1] - count)
        assert batch.mask[b].tolist() == [True] * count + [False] * (batch.ids.shape[1] - count)
        assert batch.finish[b] == ("eos" if want[-1] == 2 else "length")
        assert batch.texts[b] == Letters().decode(want)
        assert not batch.logprobs[b, count:].any()
        assert s.request.key == (b // 3, b % 3)
    assert len({tuple(row) for row in batch.ids.tolist()}) == 9
    assert batch.prompt_ids.tolist() == [[5, 6, 7, 8, 9], [0, 0, 0, 40, 41], [0, 0, 0, 0, 7]]
    assert batch.prompt_mask.sum(1).tolist() == [5, 2, 1]
    assert batch.errors == {}


def test_log_probabilities_are_the_model_s(model):
    """Both kinds against one forward pass over prompts and samples: of the model, and of what was drawn from."""
    batch = fastsample.generate(model, None, PROMPTS, n=2, temperature=0.7, top_k=20, max_new_tokens=6, seed=1)
    ids, mask = batch.sequences()
    with torch.no_grad():
        logits = model(ids, attention_mask=mask.long()).logits[:, batch.prompt_ids.shape[1] - 1 : -1]
    raw = logits.log_softmax(-1).gather(2, batch.ids[..., None])[..., 0]
    cut = (logits / 0.7).masked_fill(logits < logits.topk(20).values[..., -1:], -torch.inf)
    drawn = cut.log_softmax(-1).gather(2, batch.ids[..., None])[..., 0]
    for got, want in ((batch.raw_logprobs, raw), (batch.logprobs, drawn)):
        assert float((got - want)[batch.mask].abs().max()) <= 1e-4


def test_a_row_is_the_same_beside_any_others(model):
    """Other prompts, their order, the slots and n change no sample of a prompt."""
    whole = fastsample.generate(model, None, PROMPTS, **SETTINGS)
    alone = fastsample.generate(model, None, [PROMPTS[1]], slots=2, **{**SETTINGS, "n": 5})
    for k in range(3):
        assert whole.ids[3 + k][whole.mask[3 + k]].tolist() == alone.ids[k][alone.mask[k]].tolist()


def test_a_prompt_that_is_asked_twice_gets_other_samples(model):
    """As trainers pass them: each prompt repeated, with n = 1."""
    repeated = fastsample.generate(model, None, [PROMPTS[0]] * 3, **{**SETTINGS, "n": 1})
    at_once = fastsample.generate(model, None, [PROMPTS[0]], **SETTINGS)
    assert torch.equal(repeated.ids, at_once.ids)
    assert len(set(at_once.streams.tolist())) == 3


def test_without_a_seed_it_is_fresh(model):
    """Two calls differ; the seed that a batch names gives it again."""
    settings = {**SETTINGS, "seed": None}
    torch.manual_seed(0)
    first, second = (fastsample.generate(model, None, PROMPTS, **settings) for _ in range(2))
    assert first.ids.tolist() != second.ids.tolist()
    assert torch.equal(fastsample.generate(model, None, PROMPTS, **{**settings, "seed": first.seed}).ids, first.ids)


def test_prompts_of_every_kind(words):
    """Texts, chats, ids, and what tokenizers return mean what they say; one alone is one prompt."""
    _, tokenizer = words
    text, chat = "2 + 2?", [{"role": "user", "content": "2 + 2?"}]
    read = tuple(tokenizer(text)["input_ids"])
    asked = tuple(tokenizer(bigram.USER + text + bigram.END + bigram.ASSISTANT)["input_ids"])
    assert prompts_of(tokenizer, text) == [read]
    assert prompts_of(tokenizer, [text, text]) == [read, read]
    assert prompts_of(tokenizer, chat) == [asked]
    assert prompts_of(tokenizer, [chat, text, read]) == [asked, read, read]
    assert prompts_of(None, [3, 4]) == prompts_of(None, torch.tensor([3, 4])) == [(3, 4)]
    assert prompts_of(None, torch.tensor([[3, 4], [5, 6]])) == [(3, 4), (5, 6)]
    padded = tokenizer([text, "2"], return_tensors="pt", padding=True, padding_side="left")
    assert prompts_of(None, padded) == [read, tuple(tokenizer("2")["input_ids"])]


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([], {}, "prompts must be a text, .* got an empty one; name one prompt at least"),
        (7, {}, "prompts must be a text, a chat .* got int"),
        ([[3], 7.5], {}, "prompt 1 must be a text, a chat or token ids, got 7.5"),
        ([[3], "a"], {}, "prompt 1 must be token ids where tokenizer is None, got 'a'; pass one"),
        ([[3], [101]], {}, r"prompt 1: prompt must hold token ids in \[0, 101\), got 101 at place 0"),
        ([[3]], {"n": 0}, "n must be at least 1, got 0"),
        ([[3]], {"temperature": [0.5, 1.0]}, "one for each of the n = 16 samples of a prompt, got 2; name n"),
        ([[3]], {"top_p": 1.5}, r"prompt 0: top_p must be in \(0, 1\], got 1.5"),
        ([[3]], {"top_logprobs": -1}, r"prompt 0: top_logprobs must be a whole number in \[0, 101\], got -1; 5 tells"),
        ([[3]], {"top_logprobs": 102}, r"top_logprobs must be a whole number in \[0, 101\], got 102"),
        ([[3]], {"top_logprobs": True}, r"top_logprobs must be a whole number in \[0, 101\], got True"),
        ([[3]], {"stop": "x"}, "stop strings need the tokenizer"),
        ({"input_ids": [3, 4]}, {}, r"must be \[P, L\], got \(2,\) and \(2,\); call the tokenizer on a list"),
    ],
)
def test_what_cannot_be_served_is_refused(model, prompts, settings, message):
    """One sentence, before anything is written; an engine of the caller's is left empty."""
    engine = LocalEngine(model, None)
    with pytest.raises((ValueError, TypeError), match=message):
        fastsample.generate(model, None, prompts, engine=engine, **settings)
    assert engine.is_idle


def test_a_text_without_a_template_is_no_chat(model):
    """A chat for a tokenizer that has no template."""
    with pytest.raises(ValueError, match="prompt 0 is a chat, and this tokenizer has no chat template"):
        fastsample.generate(model, Letters(), [{"role": "user", "content": "x"}])


def test_samples_are_handed_out_as_they_end(words):
    """In a loop and by a call, each once, in the order in which they end; and a temperature for each sample."""
    told = []
    batch = fastsample.generate(*words, "<|assistant|>", n=4, temperature=[0.0, 1.0, 1.0, 1.0], on_sample=told.append)
    assert len(told) == len({id(s) for s in told}) == 4
    assert batch.texts[0] == "4"
    assert set(batch.texts) <= {"4", "5"}
    seen = [s.request.key for s in fastsample.generate_each(*words, ["<|assistant|>", "4"], n=2)]
    assert sorted(seen) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert seen[0][0] == 1  # it ends with its first token


def test_async_for(words):
    """The same in an event loop, which goes on with other things meanwhile; leaving early ends the rest."""

    async def collect(leave_after):
        samples = fastsample.generate_each(*words, "<|assistant|>", n=6, seed=3, slots=2)
        seen = []
        async for s in samples:
            seen.append(s.text)
            if len(seen) == leave_after:
                break
        samples.close()
        return seen, samples

    seen, samples = asyncio.run(collect(99))
    assert sorted(seen) == sorted(fastsample.generate(*words, "<|assistant|>", n=6, seed=3).texts)
    seen, samples = asyncio.run(collect(2))
    assert len(seen) == 2
    assert samples.engine.is_idle
    assert {s.finish for s in samples.all} == {"eos", "cancelled"}


def test_a_task_that_is_cancelled_leaves_the_engine_idle(words):
    """In the middle of a step, which another thread is inside of."""

    async def main():
        samples = fastsample.generate_each(*words, ["4", "<|assistant|>"], n=3, min_new_tokens=200, max_new_tokens=200)

        async def read():
            async for _ in samples:
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return samples

    assert asyncio.run(main()).engine.is_idle


def test_a_sample_that_fails_leaves_the_others_whole(model):
    """Logits of NaN after one token: the batch says which rows failed and why."""
    broken = tiny("llama")
    with torch.no_grad():
        broken.model.embed_tokens.weight[7] = torch.nan
    batch = fastsample.generate(broken, None, [[5, 6], [7]], n=2, temperature=0.0, max_new_tokens=1)
    assert batch.finish == ("length", "length", "failed", "failed")
    assert set(batch.errors) == {2, 3}
    assert "holds a NaN" in batch.errors[2]
    rows = batch.to_list()
    assert [len(row["ids"]) for row in rows] == [1, 1, 0, 0]
    assert rows[3]["error"] == batch.errors[3]


def test_the_plain_list(model):
    """`to_list` has every field without padding, and `to` moves the tensors alone."""
    batch = fastsample.generate(model, Letters(), PROMPTS, **SETTINGS)
    for b, row in enumerate(batch.to_list()):
        assert (row["prompt"], row["number"]) == (b // 3, b % 3)
        assert len(row["ids"]) == len(row["logprobs"]) == len(row["raw_logprobs"]) == int(batch.mask[b].sum())
        assert row["ids"] == batch.ids[b][batch.mask[b]].tolist()
        assert (row["text"], row["finish"], row["stream"]) == (batch.texts[b], batch.finish[b], batch.streams[b])
    moved = batch.to("meta")
    assert moved.ids.is_meta
    assert moved.texts == batch.texts


def test_the_bar(model, capsys):
    """Asked for, it is on standard error alone, and counts samples."""
    pytest.importorskip("rich")
    fastsample.generate(model, None, PROMPTS, progress=True, **SETTINGS)
    out, err = capsys.readouterr()
    assert out == ""
    assert "9/9" in err


def test_an_engine_that_is_used_again_sees_new_weights():
    """The loop of a trainer: write, change the weights in place, write again."""
    trained = tiny("llama")
    engine = LocalEngine(trained, None)
    for _ in range(2):
        samples = fastsample.generate_each(trained, None, PROMPTS, engine=engine, **SETTINGS)
        for s in samples:
            assert s.tokens == write(trained, s.request)
        with torch.no_grad():
            for p in trained.parameters():
                p.mul_(1.3)


@pytest.mark.parametrize("runner", [SharedPrefixRunner, ExpandedCacheRunner, RecomputeRunner])
def test_the_likeliest_tokens_are_the_model_s(model, runner):
    """Of every step and of the prompt, in all three ways to serve a model, against one forward pass over everything."""
    engine = LocalEngine(model, None, runner=runner(model), prefill_block=2)
    read = []
    engine.runner.prefill = watched(engine.runner.prefill, read)
    asked = {"n": 2, "temperature": 0.7, "top_k": 20, "max_new_tokens": 6, "seed": 1}
    batch = fastsample.generate(model, None, PROMPTS, engine=engine, top_logprobs=4, prompt_logprobs=True, **asked)
    assert sorted(map(len, read)) == sorted(map(len, PROMPTS))  # each prompt was read once
    ids, mask = batch.sequences()
    width = batch.prompt_ids.shape[1]
    with torch.no_grad():
        logprobs = model(ids, attention_mask=mask.long()).logits.log_softmax(-1)
    values, top = logprobs[:, width - 1 : -1].topk(4)
    assert batch.top_ids.shape == batch.top_logprobs.shape == (6, batch.ids.shape[1], 4)
    assert torch.equal(batch.top_ids[batch.mask], top[batch.mask])
    assert float((batch.top_logprobs - values)[batch.mask].abs().max()) <= 1e-4
    assert not batch.top_logprobs[~batch.mask].any()
    values, top = logprobs[::2, : width - 1].topk(4)
    own = logprobs[::2, : width - 1].gather(2, batch.prompt_ids[:, 1:, None])[..., 0]
    for p, prompt in enumerate(PROMPTS):
        first = width - len(prompt)
        assert batch.prompt_logprobs[p, first].isnan()
        assert batch.prompt_top_logprobs[p, first].isnan().all()
        assert not batch.prompt_logprobs[p, :first].any()
        assert torch.equal(batch.prompt_top_ids[p, first + 1 :], top[p, first:])
        for got, want in ((batch.prompt_logprobs, own), (batch.prompt_top_logprobs, values)):
            assert not (got[p, first + 1 :] - want[p, first:]).abs().gt(1e-4).any()
    plain = fastsample.generate(model, None, PROMPTS, **asked)
    assert torch.equal(plain.ids, batch.ids)
    assert plain.top_ids is plain.prompt_logprobs is plain.prompt_top_ids is None
    (row, *_), (bare, *_) = batch.to_list(), plain.to_list()
    assert row.keys() - bare.keys() == {"top_ids", "top_logprobs"}
    assert torch.tensor(row["top_ids"]).shape == (len(row["ids"]), 4)
    assert batch.to("cpu").top_ids is batch.top_ids


def watched(prefill, read):
    def prefills(prompt, *arguments):
        read.append(prompt)
        return prefill(prompt, *arguments)

    return prefills


def test_a_prompt_is_read_again_only_where_it_was_not_asked(model):
    """One engine: plain, then with what the prompt says, then with less of it; and the rows beside are as they were."""
    engine = LocalEngine(model, None)
    plain = engine.submit([Request((5, 6, 7), max_new_tokens=30, eos=())])
    engine.step()
    told = engine.submit([Request((5, 6, 7), prompt_logprobs=True, top_logprobs=3, max_new_tokens=20, eos=())])
    engine.step()
    assert engine.prefill_tokens == 6
    fewer = engine.submit([Request((5, 6, 7), prompt_logprobs=True, max_new_tokens=2, eos=(), min_new_tokens=1)])
    engine.run()
    assert engine.prefill_tokens == 6
    assert [s.prompt_stats and s.prompt_stats.most for s in (*plain, *told, *fewer)] == [None, 3, 0]
    assert fewer[0].prompt_stats.logprobs[1:] == told[0].prompt_stats.logprobs[1:]
    assert [len(s.tops) for s in (*plain, *told, *fewer)] == [0, 20, 0]
    want = write(model, plain[0].request)  # ends at EOS
    assert plain[0].tokens[: len(want)] == want


def test_what_a_processor_forbids_is_likely_to_the_model_all_the_same(model):
    """The likeliest tokens are the model's own, before a processor or a minimum length edits the row."""
    engine = LocalEngine(model, None)
    ban = lambda ids, scores: scores.index_fill(1, scores.argmax(), -torch.inf)  # noqa: E731
    (edited,) = engine.submit([Request((5, 6), temperature=0, top_logprobs=2, logits_processor=ban, max_new_tokens=3)])
    engine.run()
    assert [top.ids[1] for top in edited.tops] == edited.tokens
    assert [top.logprobs[1] for top in edited.tops] == pytest.approx([s.raw_logprob for s in edited.stats], abs=1e-5)


def test_no_more_than_a_block_of_a_prompt_s_logits_is_held(model):
    """A prompt of 1,000 tokens, read in blocks of 50: what is told is whole, and no logits outlive their block."""
    seen = []

    class Reader(PromptReader):
        def __call__(self, logits):
            seen.append((len(logits), weakref.ref(logits)))
            assert sum(ref() is not None for _, ref in seen) == 1
            super().__call__(logits)

    prompt = [7 * i % 100 for i in range(1000)]
    reader = Reader(prompt, 2)
    SharedPrefixRunner(model).prefill(prompt, 50, None, reader)
    assert [n for n, _ in seen] == [50] * 20
    assert len(reader.stats.logprobs) == len(reader.stats.tops) == 1000
