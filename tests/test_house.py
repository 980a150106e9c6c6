"""The plan of the house: what may import what, what an import costs, how long a file is, and a README that runs."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastsample"

# From the ground up. A module imports from lower floors, or from its own where that makes no circle.
FLOORS = (
    ("version", "contract", "memory", "request", "text", "unpacking"),
    ("tally", "answers", "latex", "metrics"),
    ("voting", "weighing", "verifiers"),
    ("reference",),
    ("backends",),
    ("sampling", "attention", "linear"),
    ("info", "prefix_cache", "sight", "tails", "checks", "models"),
    ("engine", "handshake", "rows"),
    ("generation",),
    ("rules", "results", "prompts", "inquiry", "runs"),
    ("crowd", "consensus", "processors", "hf", "replay", "report", "plots"),
    ("cli",),
)
# These stand beside the ground: the standard library and one another, nothing else.
BESIDE = {"answers", "latex", "metrics", "tally", "verifiers", "voting", "weighing", "rules"}
KNOW_TRANSFORMERS = {"prefix_cache", "tails", "attention", "processors", "hf", "models", "unpacking"}
LONGEST = 350  # about 300 is the aim


def name_of(path):
    """fastsample/backends/cpu.py -> backends.cpu"""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def is_for_types(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(path, source=None):
    """(modules of ours, packages of others) that a file imports anywhere, types aside."""
    tree = ast.parse(source or path.read_text())
    skipped = {id(n) for node in ast.walk(tree) if is_for_types(node) for n in ast.walk(node)}
    place = list(path.relative_to(PACKAGE).with_suffix("").parts[:-1])
    ours, others = set(), set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            base = place[: len(place) - node.level + 1] + (node.module.split(".") if node.module else [])
            ours |= {".".join(base)} if node.module else {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module)
        elif isinstance(node, ast.Import):
            others |= {alias.name for alias in node.names}
    ours |= {n.removeprefix("fastsample").lstrip(".") for n in others if n.split(".")[0] == "fastsample"}
    return ours - {""}, {n.split(".")[0] for n in others} - {"fastsample"}


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if name_of(path) != "__init__"}
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}


def floor_of(name):
    return FLOOR.get(name, FLOOR.get(name.split(".")[0]))


def climbs(path, source=None):
    """The imports of a file that go up."""
    here = floor_of(name_of(path))
    return {name for name in imports_of(path, source)[0] if (floor_of(name) or 0) > here}


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down_only(name):
    """Every module has its floor and imports nothing from above it, not even inside a function."""
    assert floor_of(name) is not None, f"{name} has no floor yet: give it one in FLOORS"
    assert climbs(FILES[name]) == set()


def test_a_climbing_import_would_be_seen():
    """The check itself can fail: at the top of a file, inside a function, and under the package's full name."""
    path = PACKAGE / "sampling.py"
    assert climbs(path, "from .generation import Request") == {"generation"}
    assert climbs(path, "def f():\n    from . import hf") == {"hf"}
    assert climbs(path, "import fastsample.cli.solve") == {"cli.solve"}
    assert climbs(path, "from .contract import Case") == set()


def test_no_circle():
    """Within a floor too, imports have an order."""
    imports = {name: {n for n in imports_of(path)[0] if n in FILES} for name, path in FILES.items()}
    while leaves := [name for name, below in imports.items() if not below]:
        for name in leaves:
            del imports[name]
        for below in imports.values():
            below.difference_update(leaves)
    assert imports == {}


@pytest.mark.parametrize("name", sorted(BESIDE))
def test_what_stands_beside_the_ground_needs_nothing(name):
    """Voting and answers: the standard library at the top of the file, math-verify inside a function at most."""
    ours, others = imports_of(FILES[name])
    assert ours <= BESIDE
    assert others - sys.stdlib_module_names - {"__future__"} <= {"math_verify", "latex2sympy2_extended"}
    top = {
        alias.name.split(".")[0] for n in ast.parse(FILES[name].read_text()).body for alias in getattr(n, "names", [])
    }
    assert not top & {"math_verify", "latex2sympy2_extended"}


def test_few_know_transformers():
    """Everybody else works with what these hand out."""
    knowing = {name for name, path in FILES.items() if "transformers" in imports_of(path)[1]}
    assert knowing <= KNOW_TRANSFORMERS


def test_backends_do_not_know_each_other():
    """A backend imports the contract, files whose names begin with its own, and the scratch memory that two share."""
    for name, path in FILES.items():
        if name.startswith("backends."):
            own = name.split(".")[1].split("_")[0]
            for other in imports_of(path)[0]:
                is_own = other.startswith((f"backends.{own}", "backends.workspace"))
                assert is_own or not other.startswith("backends."), (name, other)


@pytest.mark.parametrize("name", FILES)
def test_files_stay_short(name):
    """A longer one is asking to be two."""
    assert len(FILES[name].read_text().splitlines()) <= LONGEST


IMPORT = """
import sys, time
import torch, torch.library, numpy
before, start = set(sys.modules), time.perf_counter()
import fastsample
fastsample.sample, fastsample.Stats, fastsample.distribution
print((time.perf_counter() - start) * 1000)
print(*(set(sys.modules) - before))
"""


def test_import_is_quick_and_brings_little():
    """Beyond torch: under 50 ms in the best of three, and neither triton, transformers nor a compiled extension."""
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, cwd=ROOT, check=True)
        milliseconds, brought = done.stdout.splitlines()
        times.append(float(milliseconds))
        roots = {name.split(".")[0] for name in brought.split()}
        assert not roots & {"triton", "transformers", "typer", "rich"}
        assert not [name for name in brought.split() if name.startswith(("fastsample._", "fastsample.backends."))]
        if times[-1] < 50:
            return
    pytest.fail(f"import fastsample took {min(times):.0f} ms beyond torch")


README = (ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.model
def test_readme_snippets_run_in_order(embedded):
    """The python blocks, pasted one after the other into one session; torch's own lines among them."""
    session = {"__name__": "__main__"}
    snippets = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    assert len(snippets) >= 3
    for number, snippet in enumerate(snippets, 1):
        exec(compile(snippet, f"README.md, python block {number}", "exec"), session)


def test_readme_commands_are_understood():
    """Every `fastsample` line of the bash blocks parses: commands and options are those that there are."""
    from typer.main import get_command

    from fastsample.cli import main

    blocks = "\n".join(re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", README, re.M | re.S)).replace("\\\n", " ")
    lines = [
        line.removeprefix("$ ") for line in blocks.splitlines() if line.removeprefix("$ ").startswith("fastsample ")
    ]
    assert lines
    for line in lines:
        words = shlex.split(line.split(" > ")[0].split(" | ")[0], comments=True)[1:]
        group = get_command(main)
        with group.make_context("fastsample", words[:1]) as context:
            name, command, _ = group.resolve_command(context, words)
            command.make_context(name, words[1:], parent=context)
