"""What it costs here to have 256 samples written by a server at ten tokens a second each, and who spends it.

    python bench/server_cost.py

The server is a made-up one in a process of its own. Questions of 64 samples of 100 tokens are voted on without a pause,
so that starting, ending and judging are in it. Processor time is taken thread by thread. In the caller's thread it is
the scheduler's (strategies, votes, bookkeeping) and the engine's. In the other one it is that of the connections, which
a second run that throws their bytes away finds, and of the rest: reading, and starting and closing streams early. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

from hostile import Hostile

from fastsample import Settings
from fastsample.engines.base import Sample
from fastsample.engines.openai.engine import ServerEngine
from fastsample.engines.openai.servers import Server
from fastsample.engines.openai.streams import Client
from fastsample.solving.solve import solve_many
from fastsample.strategies.question import Question

SAMPLES, OF_A_QUESTION, WARM = 256, 64, 3.0


def serve(tokens: int) -> None:
    """Ten words a second of every sample, until this process is ended."""
    with Hostile(pause=0.1, length=tokens) as server:
        print(server.url, flush=True)
        time.sleep(3600)


class EnoughError(Exception):
    """All was looked at: what is still open need not be written to its end."""


class Watched(ServerEngine):
    """Knows what its own methods took of the caller's thread, and how many tokens came."""

    inside, ended, depth = 0.0, 0, 0

    def _timed(self, call, *args):
        self.depth += 1
        start = time.thread_time()
        try:
            return call(*args)
        finally:
            self.depth -= 1
            if not self.depth:
                self.inside += time.thread_time() - start

    def step(self) -> list[Sample]:
        """As ever."""
        ended = self._timed(super().step)
        self.ended += sum(len(s.tokens) for s in ended)
        return ended

    def submit(self, requests):
        """As ever."""
        return self._timed(super().submit, requests)

    def cancel(self, samples) -> None:
        """As ever."""
        samples = list(samples)
        self.ended += sum(len(s.tokens) for s in samples if s.finish is None)
        return self._timed(super().cancel, samples)

    def look(self) -> dict[str, float]:
        """All counters now; the other thread tells its own time."""

        async def other() -> float:
            return time.thread_time()

        return {
            "seconds": time.perf_counter(),
            "all": time.process_time(),
            "caller": time.thread_time(),
            "engine": self.inside,
            "reader": asyncio.run_coroutine_threadsafe(other(), self._loop).result(),
            "tokens": self.ended + sum(len(s.tokens) for s in self.running),
            "steps": self.steps,
        }


def vote(url: str, seconds: float, tokens: int) -> dict[str, float]:
    """Votes without a pause; returns what each counter grew by over so many seconds of the clock."""
    looks: list[dict[str, float]] = []
    settings = Settings((0.2, 0.4, 0.6, 0.8), OF_A_QUESTION // 4, "ahead:k=3", max_new_tokens=tokens)
    with Watched([Server(url, slots=SAMPLES)]) as engine:
        start = time.perf_counter()

        def questions() -> Iterator[Question]:
            for n in count():
                yield Question(f"What is {n} + {n}?", str(n))

        step = engine.step

        def watched() -> list[Sample]:
            if len(looks) < 2 and time.perf_counter() - start > WARM + len(looks) * seconds:
                looks.append(engine.look())
                if len(looks) == 2:
                    raise EnoughError
            return step()

        engine.step = watched  # type: ignore[method-assign]
        with suppress(EnoughError):
            for _ in solve_many(
                None, engine.tokenizer, questions(), settings=settings, engine=engine, extractor="number"
            ):
                pass
    return {name: looks[1][name] - looks[0][name] for name in looks[0]}


async def connections(url: str, seconds: float, tokens: int) -> tuple[float, int]:
    """The same streams, their bytes thrown away: processor seconds, and how many parts of a body came."""
    client, came = Client(Server(url), 10, 120), 0
    body = {"model": "words", "messages": [], "max_tokens": tokens, "stream": True}

    def take(data: bytes) -> bool:
        nonlocal came
        came += data.count(b"\n\n")
        return False

    async def one() -> None:
        while True:
            async with client.post("/v1/chat/completions", body) as answer:
                await answer.each(take)

    tasks = [asyncio.create_task(one()) for _ in range(SAMPLES)]
    await asyncio.sleep(WARM)
    before, start = came, time.thread_time()
    await asyncio.sleep(seconds)
    spent, seen = time.thread_time() - start, came - before
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    return spent, seen


def main() -> None:
    """Start the server, measure, end it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--tokens", type=int, default=100, help="of a sample")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.tokens)
    command = [sys.executable, __file__, "--serve", "--tokens", str(options.tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip()
            found = vote(url, options.seconds, options.tokens)
            bare, events = asyncio.run(connections(url, options.seconds, options.tokens))
        finally:
            server.kill()
    assert min(found["tokens"], events) > 0
    passed, tokens = found["seconds"], found["tokens"]
    client = bare / events * tokens
    parts = {
        "all": found["all"],
        "scheduler": found["caller"] - found["engine"],
        "engine, caller's thread": found["engine"],
        "connections": client,
        "reading, starting, closing": found["reader"] - client,
    }
    told = {
        name: {"of_a_core": round(spent / passed, 4), "us_per_token": round(1e6 * spent / tokens, 2)}
        for name, spent in parts.items()
    }
    print("| whose | of a core | us a token |\n|---|---|---|")
    for name, row in told.items():
        print(f"| {name} | {row['of_a_core']:.2%} | {row['us_per_token']} |")
    record = {"date": str(date.today()), "samples": SAMPLES, "seconds": options.seconds}
    record |= {"tokens_per_second": round(tokens / passed), "steps_per_second": round(found["steps"] / passed)}
    return print(json.dumps(record | {"parts": told}))


if __name__ == "__main__":
    main()
