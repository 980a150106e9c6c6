"""Prints the lower bounds of pyproject.toml as constraints for pip: `make compat-min` tests with these versions."""

from __future__ import annotations

import re

from requirements import requirements


def lowest(wanted: list[str]) -> list[str]:
    """A line for each requirement, `name==bound`, markers kept. A bound that is missing cannot be tested."""
    lines = set()
    for one in wanted:
        if one.startswith("fastsample["):
            continue
        found = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)(\s*;.*)?", one)
        if not found:
            raise SystemExit(f"a requirement must be written name>=version, got {one}; only that has one lower bound")
        name, bound, marker = found.groups()
        lines.add(f"{name}=={bound}{marker or ''}")
    return sorted(lines)


if __name__ == "__main__":
    print("\n".join(lowest(requirements())))
