"""The standing attack: looks for wrong tokens, lost samples, hangs and open doors, and writes docs/reliability.md.

    python tools/attack.py                          every attacker, an hour in all; the table is printed
    python tools/attack.py --seconds 200            the same in 200 seconds
    python tools/attack.py draws --seconds 60       one of them
    python tools/attack.py draws --seed 7 --turn 3  one turn again, where a failure named it
    python tools/attack.py --write                  kept in bench/attacks.jsonl, and counted in docs/reliability.md

Each attacker is a file of tests/attack, and works in a process of its own. What it does is chosen by the seed. It ends
with one line of JSON, and the tool with exit code 1 where anything differed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]
SHARES = {"draws": 30, "engine": 16, "interrupts": 6, "runs": 20, "files": 9, "lasting": 6}
SHARES |= {"verifier": 5, "fuzz": 5, "machines": 3, "races": 2}
RUNS = ROOT / "bench" / "attacks.jsonl"  # what was ever run and kept, a line each
PAGE = ROOT / "docs" / "reliability.md"  # the sums of it
BEGIN, END = "<!-- written by tools/attack.py: begin -->", "<!-- written by tools/attack.py: end -->"
HEAD = ("what", "count", "different", "in it", "runs", "the last one")
GRACE = 300  # seconds beyond its time after which an attacker hangs


def place() -> str:
    """The machine and what runs on it, as a table says it."""
    import torch

    import fastsample

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    best = fastsample.info()["instruction_set"]
    return f"{name} ({best}), Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"


def cells(runs: list[dict]) -> tuple[str, ...]:
    """An attacker's line of the table: the sums of its runs, and the command of the last."""
    last = runs[-1]
    command = f"`python tools/attack.py {last['attack']} --seconds {last['asked']:g} --seed {last['seed']}`"
    count = f"{sum(run['count'] for run in runs):,} {last['counted']}"
    counts = sum((Counter(run["counts"]) for run in runs), Counter())
    inside = "; ".join(f"{name}: {n:,}" for name, n in sorted(counts.items()) if name != last["counted"])
    if last.get("why not"):
        count, inside = "none", last["why not"]
    different = sum(run["different"] for run in runs)
    since = f"{len(runs)} since {runs[0]['day']}" if len(runs) > 1 else f"1, {last['day']}"
    return (last["what"], count, f"{different:,}", inside, since, f"{command}, {last['machine']}, {last['day']}")


def table(runs: list[dict]) -> str:
    """A table in Markdown, a line for each attacker."""
    of = {name: [run for run in runs if run["attack"] == name] for name in SHARES}
    rows = [cells(found) for found in of.values() if found]
    return "\n".join("| " + " | ".join(line) + " |" for line in (HEAD, ["---"] * len(HEAD), *rows))


def kept(runs: list[dict], run: dict) -> list[dict]:
    """The runs and this one; it takes the place of one that did the same turns."""
    same = ("attack", "seed", "asked")
    return [old for old in runs if any(old[key] != run[key] for key in same)] + [run]


def write(run: dict) -> None:
    """Keep a run, and make the page's table of all that were kept."""
    lines = RUNS.read_text(encoding="utf-8").splitlines() if RUNS.exists() else []
    runs = kept([json.loads(line) for line in lines], run)
    RUNS.write_text("".join(json.dumps(one) + "\n" for one in runs), encoding="utf-8")
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(runs)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def apart(name: str, seconds: float, seed: int) -> dict:
    """What an attacker says that works in a process of its own; one that dies or hangs is a difference."""
    command = [sys.executable, __file__, "--here", name, "--seconds", f"{seconds:g}", "--seed", str(seed)]
    record = {"attack": name, "seed": seed, "count": 0, "different": 1, "counts": {}}
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds + GRACE)
    except subprocess.TimeoutExpired:
        print(f"{name} --seed {seed}: no end {GRACE} seconds after its time", flush=True)
    else:
        *said, last = done.stdout.splitlines() or [""]
        print("\n".join(said), end="\n" * bool(said), flush=True)
        if done.returncode == 0:
            record = json.loads(last)
        else:
            print(f"{last}\n{name} --seed {seed}: ended with exit code {done.returncode}", flush=True)
    module = importlib.import_module(f"attack.{name}")
    return {"what": module.WHAT, "counted": module.COUNTED} | record | {"asked": seconds}


def main() -> int:
    """Attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attackers", nargs="*", metavar="attacker", help=", ".join(SHARES))
    parser.add_argument("--seconds", type=float, default=3600, help="in all")
    parser.add_argument("--seed", type=int, help="1; with --write the day, so that every day adds other turns")
    parser.add_argument("--turn", type=int, help="one turn again")
    parser.add_argument("--keep", action="store_true", help="fuzz: put what reached new code into its corpus")
    parser.add_argument("--write", action="store_true", help="keep the runs, and count them in docs/reliability.md")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [name for name in options.attackers if name not in SHARES]
    if unknown:
        parser.error(f"attackers must be some of {', '.join(SHARES)}, got {unknown[0]}")
    today = datetime.date.today()
    seed = options.seed if options.seed is not None else int(today.strftime("%Y%m%d")) if options.write else 1
    sys.path[:0] = PATHS
    names = options.attackers or list(SHARES)
    if options.here or options.keep or options.turn is not None:
        from attack.turns import attack

        (name,) = names
        module = importlib.import_module(f"attack.{name}")
        outcome = attack(module, name, seconds=options.seconds, seed=seed, turn=options.turn, keeps=options.keep)
        print(outcome.line(module), flush=True)
        return bool(outcome.failed) and not options.here
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(PATHS)}
    runs, told = [], {"machine": place(), "day": today.isoformat()}
    for name in names:
        share = SHARES[name] / sum(SHARES[n] for n in names)
        runs.append(apart(name, round(options.seconds * share), seed) | told)
        print(json.dumps(runs[-1]), flush=True)
        if options.write:
            write(runs[-1])
    print("\n" + table(runs))
    return any(run["different"] for run in runs)


if __name__ == "__main__":
    sys.exit(main())
