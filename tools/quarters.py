"""Makes tools/releases.py: the first release of transformers that the package is for, the last one of each quarter
that is over, and the last of each of the two newest series. uv can say what the newest was on a given day."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.version import Version
from requirements import requirement

TABLE = Path(__file__).with_name("releases.py")
# Requirements whose later releases broke earlier releases of transformers: huggingface_hub 1.33 refuses the configs of
# 5.4.0, which call a truth value an int.
OF_ITS_TIME = ("huggingface-hub", "tokenizers", "safetensors")


def refresh() -> int:
    """Writes the list and prints it."""
    today = datetime.date.today()
    first, newest = _found(requirement("transformers"), lowest=True), _found("transformers")
    before = _found(f"transformers<{'.'.join(newest.split('.')[:2])}")
    which: dict[str, list[str]] = {first: ["the first"]}
    days: dict[str, datetime.date] = {}
    for day, name in _quarters(today):
        last = _found("transformers", day)
        if Version(last) < Version(first):
            break
        which.setdefault(last, []).append(f"the last of {name}")
        days[last] = days[first] = day
    for version in (before, newest):
        which.setdefault(version, []).append(f"of the last two series on {today}")
    lines = []
    for version in sorted(which, key=Version):
        there = _resolved(f"transformers=={version}", days.get(version))
        pins = " ".join(f"{name}=={there[name]}" for name in OF_ITS_TIME)
        lines.append(f'    "{version}": ("{", ".join(which[version])}", "{pins}"),')
    head = TABLE.read_text(encoding="utf-8").partition("RELEASES")[0]
    TABLE.write_text("\n".join([f"{head}RELEASES = {{", *lines, "}", ""]), encoding="utf-8")
    print("\n".join(lines))
    return 0


def _quarters(today: datetime.date) -> Iterator[tuple[datetime.date, str]]:
    """(the day after it, its name) of each quarter that is over, the last one first, without end."""
    quarter = 4 * today.year + (today.month - 1) // 3  # the one that is not over, counted from the year 0
    while True:
        year, number = divmod(quarter, 4)
        quarter -= 1
        yield datetime.date(year, 3 * number + 1, 1), f"{quarter // 4} Q{quarter % 4 + 1}"


def _found(wanted: str, before: datetime.date | None = None, *, lowest: bool = False) -> str:
    """The release of transformers that uv takes for this requirement, on this Python."""
    return _resolved(wanted, before, "--no-deps", *(["--resolution=lowest"] if lowest else []))["transformers"]


def _resolved(wanted: str, before: datetime.date | None, *options: str) -> dict[str, str]:
    """Package -> version: what uv takes for this requirement, of what there was before a day."""
    python = ".".join(map(str, sys.version_info[:2]))
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += [f"--python-version={python}", *options, *([f"--exclude-newer={before}T00:00:00Z"] if before else [])]
    done = subprocess.run([*command, "-"], input=wanted, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"uv must find {wanted} before {before or 'today'}, and said:\n{done.stderr}")
    return dict(line.split(" ;")[0].split("==") for line in done.stdout.splitlines())
