"""Sixty-four clients at `fastsample serve` for a while: some hang up, some send rubbish, some ask for votes.

    python bench/serve.py --seconds 600

Over a tiny model, so that what is measured is the server: every status that clients were told, rows and requests left
at the end, and memory after each tenth of the time. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

import aiohttp
import torch
from served import local, serving

CLIENTS, PARTS = 64, 10
EXPECTED = {200, 400, 404, 413, 415, 429}
SOME_END = {"<|assistant|>": {"a": 1.0}, "a": {"a": 0.97, "<|end|>": 0.03}}


def megabytes() -> float:
    """Resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def body_of(choose: random.Random) -> tuple[bytes, str]:
    """(a body, its content type), one in eight of them rubbish."""
    asked = {"model": "tiny", "messages": [{"role": "user", "content": f"{choose.random()}?"}], "max_tokens": 60}
    asked |= {"stream": choose.random() < 0.5, "n": choose.randint(1, 4)}
    if choose.random() < 0.3:
        asked |= {"n": 1, "fastsample": {"rule": "ahead:k=2", "samples": 4, "temperatures": [0.5, 1.0]}}
    kind = choose.randrange(8)
    if kind == 0:
        asked |= choose.choice(
            [{"n": 10**6}, {"model": "x"}, {"temperature": "hot"}, {"chat_template": "{{ 1 }}"}, {"q": 1}]
        )
    data = json.dumps(asked).encode()
    if kind == 1:
        data = choose.choice([b"{", b"\xff\xfe", b"null", b"[" * 5000, b" " * (1 << 21)])
    return data, "text/plain" if choose.random() < 0.02 else "application/json"


async def client(url: str, end: float, seed: int, told: Counter) -> None:
    """Asks until the end; hangs up in the middle of three streams in ten."""
    choose = random.Random(seed)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_read=60)) as http:
        while time.monotonic() < end:
            data, kind = body_of(choose)
            leaves = choose.random() < 0.3
            try:
                async with http.post(url, data=data, headers={"content-type": kind}) as answer:
                    told[answer.status] += 1
                    async for _ in answer.content.iter_any():
                        if leaves and choose.random() < 0.2:
                            told["hung up"] += 1
                            answer.close()
                            break
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                told[type(error).__name__] += 1


def main() -> None:
    """Run, then look that nothing is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    told: Counter = Counter()
    with serving(*local(SOME_END, slots=32), most=48) as served:
        url = served.url + "/v1/chat/completions"

        async def all_of(seconds: float, seed: int) -> None:
            end = time.monotonic() + seconds
            await asyncio.gather(*(client(url, end, seed + i, told) for i in range(CLIENTS)))

        sizes = []
        for part in range(PARTS):
            asyncio.run(all_of(options.seconds / PARTS, 1000 * part))
            sizes.append(round(megabytes(), 1))
        deadline = time.monotonic() + 2
        while (served.engine.running or served.service.desk.jobs) and time.monotonic() < deadline:
            time.sleep(0.01)
        left = (len(served.engine.running), len(served.service.desk.jobs))
        faults = served.service.desk.faults
    strange = {str(k): v for k, v in told.items() if k not in EXPECTED | {"hung up"}}
    assert left == (0, 0), left
    assert faults == 0
    assert not strange, strange
    record = {"date": str(date.today()), "seconds": options.seconds, "told": {str(k): v for k, v in told.items()},
              "megabytes": sizes, "left": left}  # fmt: skip
    print(json.dumps(record))


if __name__ == "__main__":
    main()
