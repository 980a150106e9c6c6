"""What it costs here to have 256 samples written by a server at ten tokens a second each.

    python bench/server_cost.py

The server is a made-up one in a process of its own. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

from hostile import Hostile

from fastsample.engines.base import Request
from fastsample.engines.openai.engine import ServerEngine
from fastsample.engines.openai.servers import Server

SAMPLES, ENDLESS = 256, 10**6


def serve() -> None:
    """Ten words a second of every sample, until this process is ended."""
    with Hostile(pause=0.1, length=ENDLESS) as server:
        print(server.url, flush=True)
        time.sleep(3600)


def measure(url: str, seconds: float) -> dict[str, object]:
    """Processor seconds of this process, both of its threads, over so many seconds of the clock."""
    with ServerEngine([Server(url, slots=SAMPLES)]) as engine:
        prompt = engine.tokenizer(engine.tokenizer.apply_chat_template([{"role": "user", "content": "x"}]))["input_ids"]
        samples = engine.submit([Request(prompt, max_new_tokens=ENDLESS) for _ in range(SAMPLES)])
        while min(len(sample.tokens) for sample in samples) < 3:
            engine.step()
        before, cpu, start = sum(len(s.tokens) for s in samples), time.process_time(), time.perf_counter()
        while time.perf_counter() - start < seconds:
            engine.step()
        spent, passed = time.process_time() - cpu, time.perf_counter() - start
        tokens = sum(len(s.tokens) for s in samples) - before
    return {
        "date": str(date.today()),
        "tokens_per_second": round(tokens / passed),
        "of_a_core": round(spent / passed, 3),
        "us_per_token": round(1e6 * spent / tokens, 1),
    }


def main() -> None:
    """Start the server, measure, end it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve()
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        try:
            found = measure(server.stdout.readline().strip(), options.seconds)
        finally:
            server.kill()
    assert found["tokens_per_second"] > 0
    return print(json.dumps(found))


if __name__ == "__main__":
    main()
