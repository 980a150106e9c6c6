"""What pyproject.toml asks for, read from the file itself, so that no script keeps a second list."""

from __future__ import annotations

import re
import sys
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib  # Python 3.10 has none, and a new environment nothing but pip

ROOT = Path(__file__).resolve().parents[1]


@cache
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def build_requirements() -> list[str]:
    """What building the package needs."""
    return list(project()["build-system"]["requires"])


def lowest_python() -> str:
    """The oldest Python that the package is for: 3.10."""
    return project()["project"]["requires-python"].removeprefix(">=")


def requirements() -> list[str]:
    """Everything that the package asks for: to be built, to run, and for its extras."""
    table = project()["project"]
    return [*build_requirements(), *table["dependencies"], *chain(*table["optional-dependencies"].values())]


def requirement(name: str) -> str:
    """What the package asks for of one package, as it is written."""
    return next(one for one in requirements() if canonical(re.split(r"[^\w.-]", one)[0]) == canonical(name))


def canonical(name: str) -> str:
    """A package's name in the one spelling that can be compared."""
    return re.sub(r"[-_.]+", "-", name).lower()
