"""GRPO with TRL: its trainer learns, this package writes the completions, each prompt read once for all of its own.

    pip install ".[trl]"
    python examples/grpo.py

One real step over four prompts: eight completions each, rewarded where they begin with the right number.
"""

from __future__ import annotations

import tempfile
import time

import fastsample

PROMPTS = ["3 + 4 =", "6 + 2 =", "9 - 5 =", "2 + 2 ="]
ANSWERS = ["7", "8", "4", "4"]


def is_right(completions, answer, **_):
    """A reward for each completion, as TRL asks for it: 1 where it begins with the answer."""
    return [float(text.strip().startswith(a)) for text, a in zip(completions, answer)]


def train(model, tokenizer, *, generations=8, steps=1, max_completion_length=8, folder=None):
    """Some steps of GRPO. Returns what TRL logged of each."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    with tempfile.TemporaryDirectory() as scratch:
        args = GRPOConfig(
            output_dir=folder or scratch,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            per_device_train_batch_size=len(PROMPTS) * generations,
            num_generations=generations,
            max_completion_length=max_completion_length,
            max_steps=steps,
            logging_steps=1,
        )
        trainer = GRPOTrainer(
            model,
            is_right,
            args,
            Dataset.from_dict({"prompt": PROMPTS, "answer": ANSWERS}),
            processing_class=tokenizer,
            rollout_func=fastsample.trl.rollout(),
        )
        trainer.train()
    return [line for line in trainer.state.log_history if "reward" in line]


if __name__ == "__main__":
    model, tokenizer = fastsample.models.load()
    start = time.perf_counter()
    for number, line in enumerate(train(model, tokenizer)):
        print(f"step {number}: mean reward {line['reward']:.3f}, mean length {line['completions/mean_length']:.1f}")
    print(f"{len(PROMPTS)} prompts, 8 completions each")
    print(f"{time.perf_counter() - start:.1f} s")
