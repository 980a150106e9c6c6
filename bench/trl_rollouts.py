"""TRL's rollouts by this package, and by TRL's own `generate`: seconds for 16 generations of one prompt.

    python bench/trl_rollouts.py [--rounds 3] [--prompt-tokens 508] [--tokens 64] [--generations 16]
                                  [--threads 1] [--prepack]

One GRPOTrainer over SmolLM2-135M in float32, asked for its completions as in a step: `_generate`, once by its own way
and once by `rollout_func`. Before anything is timed, the log-probabilities of the rollout are held against the model's
own, after its weights have changed. The last line is JSON. Needs `pip install ".[trl]"`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings

import torch
import transformers

import fastsample
from fastsample import models

warnings.simplefilter("ignore")
WORDS = "Reason step by step about the following numbers and say which of them is the largest one of all: "


def trainer_of(model, tokenizer, folder, a, rollout):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        output_dir=folder, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
        per_device_train_batch_size=a.generations, num_generations=a.generations, max_completion_length=a.tokens,
        max_steps=1, seed=1,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": [tokenizer.decode([])]})
    return GRPOTrainer(model, lambda completions, **_: [0.0] * len(completions), args, data,
                       processing_class=tokenizer, rollout_func=rollout)  # fmt: skip


def worst_logprob(model, written):
    """The largest difference between a rollout's log-probabilities and one forward pass of the model."""
    worst = 0.0
    model.eval()
    for prompt, ids, logprobs in zip(written["prompt_ids"], written["completion_ids"], written["logprobs"]):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        own = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        worst = max(worst, float((own - torch.tensor(logprobs)).abs().max()))
    model.train()
    return worst


def change_weights(model):
    """A step of the optimizer that trainers take by default."""
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True).step()
    model.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=508)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--generations", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prepack", action="store_true", help="as in fastsample.trl.rollout")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    model, tokenizer = models.load(dtype=torch.float32, progress=lambda line: None)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ids = tokenizer(WORDS + " ".join(str(7 * i % 997) for i in range(a.prompt_tokens)))["input_ids"]
    prompt = tokenizer.decode(ids[: a.prompt_tokens])
    rollout = fastsample.trl.rollout(prepack=a.prepack)
    with tempfile.TemporaryDirectory() as folder:
        ways = {"trl": trainer_of(model, tokenizer, folder, a, None),
                "fastsample": trainer_of(model, tokenizer, folder, a, rollout)}  # fmt: skip
        batch = [prompt] * a.generations
        change_weights(model)
        written = rollout(batch, ways["fastsample"])
        worst = worst_logprob(model, written)
        if worst > 1e-3:
            raise SystemExit(f"the log-probabilities are off by {worst:.1e}: nothing is timed")
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        processor: dict[str, list[float]] = {name: [] for name in ways}
        tokens: dict[str, list[int]] = {name: [] for name in ways}
        for number in range(a.rounds):
            change_weights(model)
            for name, trainer in ways.items():
                torch.manual_seed(number)
                start, start_cpu = time.perf_counter(), time.process_time()
                prompt_ids, completion_ids, *_ = trainer._generate(batch)
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - start_cpu)
                tokens[name].append(sum(map(len, completion_ids)))
                print(f"{name:>10}: {seconds[name][-1]:6.1f} s, {processor[name][-1]:6.1f} s of processor, "
                      f"{tokens[name][-1]} tokens", flush=True)  # fmt: skip
    median = {name: statistics.median(values) for name, values in processor.items()}
    ratio = median["trl"] / median["fastsample"]
    print(
        f"a prompt of {len(prompt_ids[0])} tokens, {a.generations} generations: {ratio:.1f} times, medians of processor"
    )
    print(json.dumps({
        "machine": platform.processor() or platform.machine(), "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__, "transformers": transformers.__version__, "trl": __import__("trl").__version__,
        "threads": a.threads, "prepack": a.prepack, "prompt_tokens": len(prompt_ids[0]), "generations": a.generations,
        "max_tokens": a.tokens, "tokens": tokens, "seconds": seconds, "processor_seconds": processor, "times": ratio,
        "logprobs_off_by": worst,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
