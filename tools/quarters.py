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


def refresh() -> int:
    """Writes the list and prints it."""
    today = datetime.date.today()
    first = _found(requirement("transformers"), "--resolution=lowest")
    newest = _found("transformers")
    which = {first: ["the first"]}
    for day, name in _quarters(today):
        last = _found("transformers", f"--exclude-newer={day}T00:00:00Z")
        if Version(last) <= Version(first):
            break
        which.setdefault(last, []).append(f"the last of {name}")
    before = _found(f"transformers<{'.'.join(newest.split('.')[:2])}")
    for version in (before, newest):
        which.setdefault(version, []).append(f"of the last two series on {today}")
    lines = [f'    "{version}": "{", ".join(which[version])}",' for version in sorted(which, key=Version)]
    head = TABLE.read_text(encoding="utf-8").partition("\n")[0]
    TABLE.write_text("\n".join([head, "", "RELEASES = {", *lines, "}", ""]), encoding="utf-8")
    print("\n".join(lines))
    return 0


def _quarters(today: datetime.date) -> Iterator[tuple[datetime.date, str]]:
    """(the day after it, its name) of each quarter that is over, the last one first, without end."""
    quarter = 4 * today.year + (today.month - 1) // 3  # the one that is not over, counted from the year 0
    while True:
        year, number = divmod(quarter, 4)
        quarter -= 1
        yield datetime.date(year, 3 * number + 1, 1), f"{quarter // 4} Q{quarter % 4 + 1}"


def _found(wanted: str, *options: str) -> str:
    """The release that uv takes for this requirement, on this Python."""
    python = ".".join(map(str, sys.version_info[:2]))
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-deps", "--no-header", "--no-annotate"]
    command += [f"--python-version={python}", *options, "-"]
    done = subprocess.run(command, input=wanted, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"uv must find a release of {wanted}, and said:\n{done.stderr}")
    return done.stdout.strip().partition("==")[2]
