"""The caches that `bench/prefix.py` compares, driven alike (prefill a prompt, fork it, step), and their peak memory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import torch


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The largest resident size while it runs, over the one at its start; sampled every 5 ms."""

    def __enter__(self):
        self.start = self.top = resident()
        self.is_done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self):
        while not self.is_done.wait(0.005):
            self.top = max(self.top, resident())

    def __exit__(self, *_):
        self.is_done.set()
        self.thread.join()
        self.top = max(self.top, resident())

    @property
    def bytes(self) -> int:
        return self.top - self.start


class Shared:
    def __init__(self, model, prepack):
        from fastsample.engines.local.runners import SharedPrefixRunner

        self.engine = SharedPrefixRunner(model, prepack=prepack)

    def prefill(self, prompt):
        self.prefix = self.engine.prefill(prompt)

    def fork(self, rows):
        self.engine.add(self.prefix, rows)

    def step(self, tokens):
        return self.engine.step(tokens)


class Transformers:
    """The peers that run on the caches of transformers, as `generate` drives them."""

    def __init__(self, model, kind, length):
        self.model, self.kind, self.length = model, kind, length

    @torch.inference_mode()
    def prefill(self, prompt):
        from transformers import DynamicCache

        self.prompt = len(prompt)
        self.cache = DynamicCache(config=self.model.config)
        self.model(input_ids=torch.tensor([prompt]), past_key_values=self.cache, use_cache=True, logits_to_keep=1)

    @torch.inference_mode()
    def fork(self, rows):
        from transformers import StaticCache

        if self.kind == "static":
            filled = StaticCache(config=self.model.config, max_cache_len=self.length)
            for i, layer in enumerate(self.cache.layers):
                filled.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), i)
            self.cache = filled
        else:
            self.cache.batch_repeat_interleave(rows)
        self.mask = torch.ones(rows, self.prompt, dtype=torch.long)

    @torch.inference_mode()
    def step(self, tokens):
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        inputs = self.model.prepare_inputs_for_generation(
            tokens[:, None], past_key_values=self.cache, attention_mask=self.mask, use_cache=True
        )
        inputs["input_ids"] = tokens[:, None]
        logits = self.model(**inputs, return_dict=True).logits
        return logits[:, -1].to(copy=True, dtype=torch.float32)
