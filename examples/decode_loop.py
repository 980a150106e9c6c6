"""A decode loop written by hand: a transformers model, its cache, and a `Sampler` that counts the positions.

    python examples/decode_loop.py "7 + 5 ="

Four samples of one prompt, each at a temperature of its own. A row leaves the batch where its text ends.
"""

from __future__ import annotations

import sys

import torch

import fastsample
from fastsample.models.compat import Signature

TEMPERATURES = [0.0, 0.4, 0.8, 1.2]


@torch.inference_mode()
def write(model, tokenizer, prompt, temperatures, max_new_tokens=24, seed=7):
    """A text for each temperature."""
    ids = tokenizer([prompt] * len(temperatures), return_tensors="pt")["input_ids"]
    sampler = fastsample.Sampler(temperature=temperatures, top_p=0.95, seed=seed, position=ids.shape[1])
    texts: list[list[int]] = [[] for _ in temperatures]
    alive = torch.arange(len(temperatures))  # which text each row of the batch writes
    forward, cache = Signature.of(model), None  # the argument of the cache has had three names
    for _ in range(max_new_tokens):
        logits, cache = forward.call(model, ids, cache)
        tokens = sampler(logits)
        for row, token in zip(alive.tolist(), tokens.tolist()):
            texts[row].append(token)
        going = (tokens != tokenizer.eos_token_id).nonzero().flatten()
        if not len(going):
            break
        if len(going) < len(tokens):  # the others keep their noise: it belongs to the text and not to the row
            sampler.keep(going)
            cache.reorder_cache(going)
            alive = alive[going]
        ids = tokens[going, None]
    return [tokenizer.decode(text, skip_special_tokens=True) for text in texts]


if __name__ == "__main__":
    model, tokenizer = fastsample.models.load()
    prompt = sys.argv[1] if len(sys.argv) > 1 else "7 + 5 ="
    for temperature, text in zip(TEMPERATURES, write(model, tokenizer, prompt, TEMPERATURES)):
        print(f"T {temperature}: {text!r}")
