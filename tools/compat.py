"""Runs the tests of what meets transformers on each of a list of its releases, and writes docs/compatibility.md.

    python tools/compat.py                        all of tools/releases.py, the locked one and the newest there is
    python tools/compat.py --only 5.0.0,newest    these; the table is printed, and written only with --write
    python tools/compat.py --tests tests/hf -k x  fewer tests
    python tools/compat.py --refresh              makes tools/releases.py anew, from what there is today

It fails where a release fails a test, or does not give the shared prefix to one of the architectures that are asked.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import overlays
from engines_given import ARCHITECTURES, SHARED
from lock import versions_here
from releases import RELEASES
from requirements import ROOT

TESTS = ("tests/models", "tests/shared_prefix", "tests/engines", "tests/hf")
MARKS = "not slow"
MINUTES = 60  # that a release may take: a test that hangs is a failure too
PAGE = ROOT / "docs/compatibility.md"
BEGIN, END = "<!-- written by tools/compat.py: begin -->", "<!-- written by tools/compat.py: end -->"
HEAD = ("transformers", "which", "passed", "failed", "skipped", "seconds", "shared prefix", "beside it", "tested with")


@dataclass
class Outcome:
    """What one release of transformers gave."""

    version: str
    which: str
    beside: list[str]
    engines: dict[str, str]
    passed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def unshared(self) -> list[str]:
        """The architectures that do not get the shared prefix."""
        return [name for name in ARCHITECTURES if self.engines.get(name) != SHARED]

    def complaints(self) -> list[str]:
        """A sentence for all that is wrong; none where nothing is."""
        failed = [f"{name} fails" for name in self.failures]
        unshared = [f"{name} must get {SHARED}, got {self.engines.get(name)}" for name in self.unshared]
        return [f"transformers {self.version}: {sentence}" for sentence in failed + unshared]

    def cells(self, day: str) -> tuple[str, ...]:
        """The release's line of the table."""
        shared = f"{len(ARCHITECTURES) - len(self.unshared)} of {len(ARCHITECTURES)}"
        counts = (self.passed, len(self.failures), self.skipped, round(self.seconds))
        place = f"Python {'.'.join(map(str, sys.version_info[:2]))}, torch {versions_here()['torch']}, {day}"
        return (self.version, self.which, *map(str, counts), shared, ", ".join(self.beside) or "the lock", place)


def matrix() -> dict[str, str]:
    """Release -> which of them it is, the oldest first: the list, the locked one and the newest for this Python."""
    there = overlays.available()
    which = {version: [why] for version, (why, _) in RELEASES.items() if version in there}
    which.setdefault(versions_here()["transformers"], []).append("locked")
    which.setdefault(there[0], []).append("newest")
    return {version: ", ".join(which[version]) for version in reversed(there) if version in which}


def chosen(only: str | None) -> dict[str, str]:
    """The part of the matrix that `--only` names, by release or as `locked` or `newest`."""
    every = matrix()
    if not only:
        return every
    part = {}
    for name in only.split(","):
        found = [version for version, which in every.items() if name == version or name in which.split(", ")]
        if not found:
            raise SystemExit(f"--only must name releases of the list, got {name}; the list: {', '.join(every)}")
        part.update({version: every[version] for version in found})
    return part


def outcome_of(version: str, which: str, tests: list[str], keyword: str | None) -> Outcome:
    """Asks for the engines and runs the tests over this release's overlay."""
    folder = overlays.overlay(version, RELEASES.get(version, ("", ""))[1].split())
    environment = overlays.over(folder)
    probe = [sys.executable, str(ROOT / "tools/engines_given.py")]
    asked = subprocess.run(probe, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    outcome = Outcome(version, which, overlays.beside(folder), json.loads(asked.stdout.splitlines()[-1]))
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", MARKS, "-n", "2", "--dist", "loadfile", f"--junitxml={report}"]
        command += ["-p", "no:cacheprovider", *tests, *(["-k", keyword] if keyword else [])]
        try:
            done = subprocess.run(command, env=environment, cwd=ROOT, timeout=60 * MINUTES).returncode
        except subprocess.TimeoutExpired:
            done = f"none after {MINUTES} minutes"
        if not report.exists():
            outcome.failures.append(f"pytest must end with a report, and its exit code was {done}: it")
            return outcome
        _read(report, outcome)
    if not outcome.passed and not outcome.failures:
        outcome.failures.append("no test was found: it")
    return outcome


def _read(report: Path, outcome: Outcome) -> None:
    """Counts the tests of pytest's report; a file that cannot be collected counts as a failure."""
    suite = xml.etree.ElementTree.parse(report).find("testsuite")
    outcome.seconds = float(suite.get("time"))
    for case in suite.iter("testcase"):
        name = f"{case.get('classname').replace('.', '/')}.py::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failures.append(name)
        elif case.find("skipped") is not None:
            outcome.skipped += 1
        else:
            outcome.passed += 1


def table(lines: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (HEAD, ["---"] * len(HEAD), *lines))


def written(page: str, lines: list[tuple[str, ...]], *, keep: bool) -> str:
    """The page with these lines in its table; the others stay where `keep`, the oldest release first."""
    before, rest = page.split(BEGIN)
    old, after = rest.split(END)
    known = {}
    if keep:
        cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in old.strip().splitlines()[2:]]
        known = {line[0]: tuple(line) for line in cells}
    known.update({line[0]: line for line in lines})
    ordered = sorted(known, key=lambda version: tuple(map(int, version.split("."))))
    return f"{before}{BEGIN}\n{table([known[version] for version in ordered])}\n{END}{after}"


def main() -> int:
    """Refreshes the list, or tests the releases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="releases, comma-separated; `locked` and `newest` are two of them")
    parser.add_argument("--tests", help="folders or files, comma-separated")
    parser.add_argument("-k", dest="keyword", help="pytest's -k")
    parser.add_argument("--write", action="store_true", help="write the lines of a part into the table too")
    parser.add_argument("--refresh", action="store_true", help="make the list anew and do nothing else")
    options = parser.parse_args()
    if options.refresh:
        from quarters import refresh

        return refresh()
    part = bool(options.only or options.tests or options.keyword)
    tests = options.tests.split(",") if options.tests else list(TESTS)
    outcomes = []
    for version, which in chosen(options.only).items():
        print(f"--- transformers {version} ({which})", flush=True)
        outcomes.append(outcome_of(version, which, tests, options.keyword))
    lines = [outcome.cells(datetime.date.today().isoformat()) for outcome in outcomes]
    print("\n" + table(lines))
    if options.write or not part:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), lines, keep=part), encoding="utf-8")
    complaints = [sentence for outcome in outcomes for sentence in outcome.complaints()]
    print("\n".join(complaints))
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
