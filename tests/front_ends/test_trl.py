"""Rollouts for TRL, with its real GRPOTrainer: it learns from what the model says, each prompt read once."""

from __future__ import annotations

import warnings
from itertools import pairwise
from types import SimpleNamespace

import bigram
import pytest
import torch
from tiny import tiny

import fastsample

pytest.importorskip("trl", reason="TRL is not installed; `make engines` installs it and runs this")

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

N = 4
TEXTS = ["3 + 4 =", "What is 6 + 2, in one number? It is"]
CHATS = [[{"role": "user", "content": text}] for text in TEXTS]


def longer_is_better(completions, **_):
    return [float(len(str(c))) for c in completions]


def trainer_of(model, tokenizer, prompts, folder, rollout, **settings):
    args = GRPOConfig(
        output_dir=str(folder), use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
        per_device_train_batch_size=len(prompts) * N, num_generations=N, max_completion_length=6, learning_rate=0.05,
        lr_scheduler_type="constant", max_steps=3, seed=5, **{"bf16": False, **settings},
    )  # fmt: skip
    return GRPOTrainer(
        model, longer_is_better, args, Dataset.from_dict({"prompt": prompts}), processing_class=tokenizer,
        rollout_func=rollout,
    )  # fmt: skip


def model_and_tokenizer():
    """Random weights behind a tokenizer of 259 tokens: what comes next depends on the whole text."""
    tokenizer = bigram.bigram_tokenizer()
    model = tiny("llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, tokenizer


def own_logprobs(model, prompt, completion, temperature):
    """Of every token, by one plain forward pass of the model as it is now."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / temperature
    model.train()
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


@pytest.mark.parametrize("prompts", [TEXTS, CHATS], ids=["texts", "chats"])
def test_real_steps(prompts, tmp_path):
    """Three updates: before each, the log-probabilities are the model's own, and every prompt was read once."""
    model, tokenizer = model_and_tokenizer()
    ours, seen = fastsample.trl.rollout(), []

    def watched(prompts, trainer):
        read = 0 if ours._engine is None else ours._engine.prefill_tokens
        written = ours(prompts, trainer)
        off = [
            (torch.tensor(logprobs) - own_logprobs(model, p, c, 0.8)).abs().max()
            for p, c, logprobs in zip(*(written[k] for k in ("prompt_ids", "completion_ids", "logprobs")))
        ]
        expected, _, _ = trainer._tokenize_prompts(prompts)
        assert written["prompt_ids"] == expected
        distinct = {tuple(p) for p in written["prompt_ids"]}
        assert len(distinct) == len(TEXTS)
        assert ours._engine.prefill_tokens - read == sum(map(len, distinct))
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        seen.append((float(max(off)), weights, written))
        return written

    trainer = trainer_of(model, tokenizer, prompts, tmp_path, watched, temperature=0.8)
    trainer.train()
    assert len(seen) == 3
    assert all(off <= 1e-4 for off, _, _ in seen)
    for (_, before, one), (_, after, two) in pairwise(seen):
        assert not torch.equal(before, after)
        assert one["completion_ids"] != two["completion_ids"]
    # The twin: the log-probabilities of the first call are not those of the changed model.
    first = seen[0][2]
    stale = own_logprobs(model, first["prompt_ids"][0], first["completion_ids"][0], 0.8)
    assert float((torch.tensor(first["logprobs"][0]) - stale).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", ["bfloat16", "lora"])
def test_trainers_of_other_kinds_share_the_prompt_too(kind, tmp_path):
    """Mixed precision and adapters wrap the model once more: it still is served the fastest way, without a warning."""
    model, tokenizer = model_and_tokenizer()
    settings = {"bf16": True} if kind == "bfloat16" else {}
    if kind == "lora":
        peft = pytest.importorskip("peft", reason="peft is not installed; `make engines` installs it and runs this")
        config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
        model = peft.get_peft_model(model, config)
    ours, off = fastsample.trl.rollout(), []

    def watched(prompts, trainer):
        written = ours(prompts, trainer)
        for p, c, logprobs in zip(*(written[k] for k in ("prompt_ids", "completion_ids", "logprobs"))):
            off.append(float((torch.tensor(logprobs) - own_logprobs(model, p, c, 1.0)).abs().max()))
        return written

    with warnings.catch_warnings():
        warnings.simplefilter("error", fastsample.FallbackWarning)
        trainer_of(model, tokenizer, TEXTS, tmp_path, watched, **settings).train()
    assert ours._engine.traits.name == "shared-prefix"
    assert len(off) == 3 * N * len(TEXTS)
    assert max(off) <= (0.3 if kind == "bfloat16" else 1e-4)


def test_calls_of_one_step_differ(tmp_path):
    """Two calls in one step write other texts; a new rollout of the same seed writes the first one's again."""
    model, tokenizer = model_and_tokenizer()
    trainer = trainer_of(model, tokenizer, TEXTS, tmp_path, fastsample.trl.rollout())
    prompts = [text for text in TEXTS for _ in range(N)]
    one, two = (trainer.rollout_func(prompts, trainer)["completion_ids"] for _ in range(2))
    assert one != two
    assert len(set(map(tuple, one))) == 2 * N
    assert fastsample.trl.rollout()(prompts, trainer)["completion_ids"] == one


def test_seeds_count_calls_steps_and_processes():
    """No two alike; and a run that goes on at step 7 gets the seeds that it would have had."""

    def seed(rollout, step=0, rank=0):
        state, accelerator = SimpleNamespace(global_step=step), SimpleNamespace(process_index=rank)
        return rollout._seed(SimpleNamespace(args=SimpleNamespace(seed=5), state=state, accelerator=accelerator))

    whole = fastsample.trl.rollout()
    seeds = [seed(whole, step) for step in (0, 0, 7, 7)]
    others = [seed(fastsample.trl.rollout(), rank=rank) for rank in (1, 2)]
    assert len({*seeds, *others}) == 6
    assert all(0 <= s < 2**63 for s in seeds)
    gone_on = fastsample.trl.rollout()
    assert [seed(gone_on, 7), seed(gone_on, 7)] == seeds[2:]


def test_completions_end_where_trl_ends_them(tmp_path):
    """By EOS, which is among the ids, or by the trainer's length; top_k reaches the draw."""
    tokenizer = bigram.bigram_tokenizer()
    trainer = trainer_of(
        bigram.bigram_model(tokenizer), tokenizer, CHATS[:1], tmp_path, fastsample.trl.rollout(), top_k=1
    )
    written = trainer.rollout_func(CHATS[:1] * N, trainer)
    four, end = tokenizer.convert_tokens_to_ids(["4", bigram.END])
    assert written["completion_ids"] == [[four, end]] * N
    trainer.max_completion_length = 1
    assert trainer.rollout_func(CHATS[:1] * N, trainer)["completion_ids"] == [[four]] * N


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"repetition_penalty": 1.1}, "repetition_penalty must be 1 here, got 1.1"),
        ({"generation_kwargs": {"num_beams": 2}}, "generation_kwargs must name no others .* got num_beams"),
    ],
)
def test_settings_that_cannot_be_served(settings, words, tmp_path):
    """Refused by name, before anything is written."""
    model, tokenizer = model_and_tokenizer()
    trainer = trainer_of(model, tokenizer, TEXTS, tmp_path, fastsample.trl.rollout(), **settings)
    with pytest.raises(ValueError, match=words):
        trainer.train()


def test_what_else_is_refused(tmp_path):
    """Images, tools, shards, no slots: one sentence each."""
    model, tokenizer = model_and_tokenizer()
    ours = fastsample.trl.rollout()
    trainer = trainer_of(model, tokenizer, TEXTS, tmp_path, ours)
    picture = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    with pytest.raises(ValueError, match="must be text here, got one with image"):
        ours([picture], trainer)
    trainer.tools = [len]
    with pytest.raises(ValueError, match="has tools or environments"):
        ours(TEXTS, trainer)
    trainer.tools, trainer.is_fsdp_enabled = [], True
    with pytest.raises(ValueError, match="weights lie in shards"):
        ours(TEXTS, trainer)
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        fastsample.trl.rollout(slots=0)
