"""Rollouts for reinforcement learning: n samples of each prompt, log-probabilities, rewards, advantages, one update.

    python examples/rollouts.py

One step of a policy gradient with the group's mean as the baseline (as in GRPO), by hand. The engine is made once: it
sees that the weights have changed, and reads the prompts again.
"""

from __future__ import annotations

import torch

import fastsample
from fastsample.engines.local.engine import LocalEngine

PROMPTS = ["3 + 4 =", "6 + 2 =", "9 - 5 =", "2 + 2 ="]
ANSWERS = ["7", "8", "4", "4"]


def rewards_of(batch, answers):
    """[B]: 1 where the text begins with the right answer."""
    right = [text.strip().startswith(answers[p]) for text, p in zip(batch.texts, batch.prompt.tolist())]
    return torch.tensor(right, dtype=torch.float32)


def log_probabilities(model, batch, temperature):
    """[B, L], with a gradient: of the batch's tokens under the model as it is now, at the temperature of the draw."""
    ids, mask = batch.sequences()
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions).logits
    logits = logits[:, batch.prompt_ids.shape[1] - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(2, batch.ids[..., None])[..., 0]


def step(model, tokenizer, engine, optimizer, n=8, temperature=1.0, max_new_tokens=8, seed=None):
    """One round: write, score, update. Returns (the batch, the mean reward, the largest error of the ratio)."""
    batch = fastsample.generate(
        model, tokenizer, PROMPTS, n=n, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed, engine=engine
    )
    rewards = rewards_of(batch, ANSWERS)
    groups = rewards.view(len(PROMPTS), n)
    advantages = (groups - groups.mean(1, keepdim=True)).flatten()
    ratio = (log_probabilities(model, batch, temperature) - batch.logprobs).exp()  # 1, until the weights change
    loss = -(ratio * advantages[:, None] * batch.mask).sum() / batch.mask.sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return batch, float(rewards.mean()), float((ratio.detach() - 1)[batch.mask].abs().max())


if __name__ == "__main__":
    model, tokenizer = fastsample.models.load()
    engine = LocalEngine(model, tokenizer, slots=64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for number in range(2):
        batch, reward, off = step(model, tokenizer, engine, optimizer)
        print(f"step {number}: {len(batch)} samples, mean reward {reward:.3f}, ratio off by {off:.1e} at most")
