"""The standing attack: looks for wrong tokens, lost samples, hangs and open doors, and writes docs/reliability.md.

    python tools/attack.py                          every attacker, an hour in all; the table is printed
    python tools/attack.py --seconds 200            the same in 200 seconds
    python tools/attack.py draws --seconds 60       one of them
    python tools/attack.py draws --seed 7 --turn 3  one turn again, where a failure named it
    python tools/attack.py --write                  the lines go into docs/reliability.md too, for older ones

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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]
SHARES = {"draws": 30, "engine": 16, "interrupts": 6, "runs": 20, "files": 9, "lasting": 6}
SHARES |= {"verifier": 5, "fuzz": 5, "machines": 3, "races": 2}
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- written by tools/attack.py: begin -->", "<!-- written by tools/attack.py: end -->"
HEAD = ("what", "count", "different", "in it", "command", "machine, day")
GRACE = 300  # seconds beyond its time after which an attacker hangs


def place() -> str:
    """The machine and what runs on it, as a table says it."""
    import torch

    import fastsample

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    best = fastsample.info()["instruction_set"]
    return (
        f"{name} ({best}), Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}, "
        f"{datetime.date.today().isoformat()}"
    )


def cells(record: dict, machine: str) -> tuple[str, ...]:
    """An attacker's line of the table."""
    command = f"`python tools/attack.py {record['attack']} --seconds {record['asked']:g} --seed {record['seed']}`"
    count = f"{record['count']:,} {record['counted']}"
    inside = "; ".join(f"{name}: {n:,}" for name, n in record["counts"].items() if name != record["counted"])
    if record.get("why not"):
        count, inside = "none", record["why not"]
    return (record["what"], count, f"{record['different']:,}", inside, command, machine)


def table(rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (HEAD, ["---"] * len(HEAD), *rows))


def written(page: str, rows: dict[str, tuple[str, ...]]) -> str:
    """The page with these attackers' lines in its table; those of the others stay."""
    before, rest = page.split(BEGIN)
    old, after = rest.split(END)
    known = {}
    for line in old.strip().splitlines()[2:]:
        found = tuple(cell.strip() for cell in line.strip("| ").split(" | "))
        known[found[4].split()[2]] = found
    known |= rows
    return f"{before}{BEGIN}\n{table([known[name] for name in SHARES if name in known])}\n{END}{after}"


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
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--turn", type=int, help="one turn again")
    parser.add_argument("--keep", action="store_true", help="fuzz: put what reached new code into its corpus")
    parser.add_argument("--write", action="store_true", help="into docs/reliability.md")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [name for name in options.attackers if name not in SHARES]
    if unknown:
        parser.error(f"attackers must be some of {', '.join(SHARES)}, got {unknown[0]}")
    sys.path[:0] = PATHS
    names = options.attackers or list(SHARES)
    if options.here or options.keep or options.turn is not None:
        from attack.turns import attack

        (name,) = names
        module = importlib.import_module(f"attack.{name}")
        outcome = attack(
            module, name, seconds=options.seconds, seed=options.seed, turn=options.turn, keeps=options.keep
        )
        print(outcome.line(module), flush=True)
        return bool(outcome.failed) and not options.here
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(PATHS)}
    rows, machine, different = {}, place(), 0
    for name in names:
        share = SHARES[name] / sum(SHARES[n] for n in names)
        record = apart(name, round(options.seconds * share), options.seed)
        print(json.dumps(record), flush=True)
        rows[name], different = cells(record, machine), different + record["different"]
        if options.write:
            PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), {name: rows[name]}), encoding="utf-8")
    print("\n" + table(list(rows.values())))
    return different > 0


if __name__ == "__main__":
    sys.exit(main())
