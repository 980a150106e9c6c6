"""The plan of the house: what may import what, who may name transformers and torch's operators, what is explained."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastsample"

# A folder, or a file at the top, is a room. Imports run down only: a room imports rooms of lower floors, and files of
# its own room. This order is all that is kept by hand.
FLOORS = (
    "version tested token_stats fallback words",
    "sampling answers voting torch_ops",
    "shared_prefix info",
    "models",
    "engines scoring",
    "strategies hf",
    "solving generating",
    "evaluation serving trl",
    "inspect_ai lm_eval training",
    "cli",
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms.split()}
STANDARD_LIBRARY_ONLY = ("token_stats", "words", "answers", "voting", "scoring", "strategies", "solving")
LONGEST = 350  # about 300 is the aim
# What transformers calls its arguments and keeps in its configs, where releases differ.
ITS_NAMES = (
    "past_key_values|cache_params|cache_position|position_ids|logits_to_keep|use_cache|return_dict|layer_types|"
    "per_layer_config|kv_sharing_modes|num_kv_shared_layers|_attn_implementation|_pad_token_tensor|prompt_lookup_num_tokens"
)


def name_of(path):
    """fastsample/sampling/api.py -> sampling.api"""
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
            ours |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module)
        elif isinstance(node, ast.Import):
            others |= {alias.name for alias in node.names}
    ours |= {n.removeprefix("fastsample").lstrip(".") for n in others if n.split(".")[0] == "fastsample"}
    ours = {next(name for name in (n, n.rpartition(".")[0]) if name in FILES) for n in ours if n in FILES or known(n)}
    return ours, {n.split(".")[0] for n in others} - {"fastsample"}


def known(name):
    return name.rpartition(".")[0] in FILES


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if name_of(path) != "__init__"}
OWN = pytest.mark.parametrize("name", FILES)


def room_of(name):
    return name.split(".")[0]


def climbs(path, source=None):
    """The imports of a file that do not go down: to a room above, or to another of the same floor."""
    here = room_of(name_of(path))
    return {
        name for name in imports_of(path, source)[0] if room_of(name) != here and FLOOR[room_of(name)] >= FLOOR[here]
    }


@OWN
def test_imports_go_down_only(name):
    """Every room has its floor, and a file imports nothing from above it, not even inside a function."""
    assert room_of(name) in FLOOR, f"{room_of(name)} has no floor yet: give it one in FLOORS"
    assert climbs(FILES[name]) == set()


def test_a_climbing_import_would_be_seen():
    """The check itself can fail: at the top of a file, inside a function, sideways, under the package's full name."""
    path = PACKAGE / "scoring" / "base.py"
    assert climbs(path, "from ..solving.solve import solve") == {"solving.solve"}
    assert climbs(path, "def f():\n    from ..hf import generate") == {"hf.generate"}
    assert climbs(path, "from ..engines.base import Request") == {"engines.base"}
    assert climbs(path, "import fastsample.cli.solve") == {"cli.solve"}
    assert climbs(path, "from ..voting.ballots import Ballot\nfrom .verifiers import scorer_of") == set()


def test_no_circle():
    """Within a room too, imports have an order."""
    imports = {name: {n for n in imports_of(path)[0] if n != name} for name, path in FILES.items()}
    while leaves := [name for name, below in imports.items() if not below]:
        for name in leaves:
            del imports[name]
        for below in imports.values():
            below.difference_update(leaves)
    assert imports == {}


def test_no_room_is_empty():
    """A floor names only rooms that there are."""
    assert {room_of(name) for name in FILES} == set(FLOOR)


@pytest.mark.parametrize("room", STANDARD_LIBRARY_ONLY)
def test_votes_need_neither_torch_nor_transformers(room):
    """Whoever votes over another engine than ours imports the standard library alone, at the top of every file."""
    code = (
        "import sys, importlib, pkgutil\n"
        f"room = importlib.import_module('fastsample.{room}')\n"
        "for found in pkgutil.walk_packages(getattr(room, '__path__', ()), room.__name__ + '.'):\n"
        "    importlib.import_module(found.name)\n"
        "print(*(m for m in sys.modules if '.' not in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not set(done.stdout.split()) & {"torch", "transformers", "numpy", "math_verify", "triton"}


def names_transformers(name, source=None):
    """Whether a file imports transformers or writes one of its argument names, in code or in text."""
    text = source or FILES[name].read_text()
    return "transformers" in imports_of(FILES[name], text)[1] or bool(re.search(rf"\b({ITS_NAMES})\b", text))


@OWN
def test_only_its_room_and_hf_know_transformers(name):
    """Everybody else works with what these hand out."""
    assert room_of(name) in ("models", "hf") or not names_transformers(name)


@OWN
def test_only_compat_knows_what_differs_between_releases(name):
    """The argument names that changed, or may, are written in one file."""
    text = FILES[name].read_text()
    assert name == "models.compat" or not re.search(rf"\b({ITS_NAMES})\b", text)
    assert not re.search(r"transformers\.__version__|version\.parse", text)


@OWN
def test_only_torch_ops_names_torch_s_own_operators(name):
    """torch.ops is private in all but name: each operator has one file, a trial and a way around."""
    assert room_of(name) == "torch_ops" or "torch.ops" not in FILES[name].read_text()


def test_the_searches_can_find_something():
    """The twins of the three laws above: the words are there where they may be."""
    assert names_transformers("models.compat")
    assert names_transformers("engines.base", "def f(**kwargs): return kwargs['past_key_values']")
    assert names_transformers("engines.base", "from transformers import Cache")
    assert "torch.ops" in FILES["torch_ops.flash"].read_text()


def test_backends_do_not_know_each_other():
    """A backend imports the contract, files of its own, and the arguments and memory that two share."""
    for name, path in FILES.items():
        if name.startswith("sampling.backends."):
            own = ".".join(name.split(".")[:3])
            for other in imports_of(path)[0]:
                is_shared = other.startswith((own, "sampling.backends.arguments", "sampling.backends.workspace"))
                assert is_shared or not other.startswith("sampling.backends."), (name, other)


@OWN
def test_files_stay_short(name):
    """A longer one is asking to be two."""
    assert len(FILES[name].read_text().splitlines()) <= LONGEST


def unexplained(path, source=None):
    """Public classes, functions and methods of a file without a docstring; Triton's kernels are explained by files."""
    found = []

    def look(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
                is_overload = any("overload" in ast.unparse(d) for d in child.decorator_list)
                if not is_overload and not ast.get_docstring(child):
                    found.append(f"{prefix}{child.name}")
                if isinstance(child, ast.ClassDef):
                    look(child, f"{prefix}{child.name}.")

    look(ast.parse(source or path.read_text()), "")
    return found


@OWN
def test_everything_public_is_explained(name):
    """A docstring for every public class, function and method, and for every file that has code."""
    assert unexplained(FILES[name]) == []
    assert ast.get_docstring(ast.parse(FILES[name].read_text()))


def test_a_missing_docstring_would_be_seen():
    """The twin: a function, a method; private ones and functions inside functions are left alone."""
    source = 'class A:\n    "A."\n    def f(self): ...\n    def _g(self): ...\ndef h():\n    def inner(): ...\n'
    assert unexplained(None, source) == ["A.f", "h"]


IMPORT = """
import sys
import torch, torch.library, numpy
before = set(sys.modules)
import fastsample
fastsample.sample, fastsample.Stats, fastsample.distribution
print(*(set(sys.modules) - before))
"""


def test_import_brings_little():
    """Beyond torch: fewer than thirty modules, and neither triton, transformers nor a compiled extension."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, cwd=ROOT, check=True)
    brought = done.stdout.split()
    assert not {name.split(".")[0] for name in brought} & {"triton", "transformers", "typer", "rich"}
    assert not [name for name in brought if name.startswith("fastsample.sampling.backends.")]
    assert 0 < len(brought) < 30, sorted(brought)


def test_public_names_are_there():
    """What the README imports, each from its home."""
    import fastsample

    assert set(dir(fastsample)) == {*fastsample.__all__, "hf", "models", "trl"}
    for name in fastsample.__all__:
        assert getattr(fastsample, name) is not None
    assert callable(fastsample.models.load)
    with pytest.raises(AttributeError, match="no attribute 'consensus'"):
        fastsample.consensus  # noqa: B018


OLD_NAMES = (
    r"fastsample\.(prefix_cache|handshake|inquiry|crowd|consensus|weighing|unpacking|sight|generation|request)\b|"
    r"\b(TextStream|ExpandedEngine|RepeatedEngine|SharedEngine|StoredGenerator|verifier_of|plan_for|Inquiry|Crowd)\b"
)


def test_no_old_name_is_left():
    """The names of the first house are gone from code and tests; a reader would look for them in vain."""
    files = [p for folder in ("fastsample", "tests", "bench") for p in (ROOT / folder).rglob("*.py")]
    found = [p.name for p in files if p != Path(__file__) and re.search(OLD_NAMES, p.read_text())]
    assert found == []


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def unpinned(text):
    """The actions of a workflow that are not named by a commit's hash, with the version behind it."""
    return [a for a in re.findall(r"uses: (.*)", text) if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", a)]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_pinned_and_may_only_read(path):
    """An action's tag can be moved to other code, and a workflow's token could write to the repository."""
    text = path.read_text()
    assert unpinned(text) == []
    assert re.findall(r"^ *permissions:.*\n((?: +\w+: \w+\n)*)", text, re.M) == ["  contents: read\n"]
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")
    assert not re.search(r"pip(?:x run| install) (?!--)[\w-]+(?!==)(?: |$)", text, re.M)


def test_a_tag_would_be_seen():
    """The twin: a tag, a branch, a hash without its version."""
    bad = ["actions/checkout@v4", "a/b@main # v1.0.0", "a/b@" + "0" * 40]
    assert unpinned("".join(f"- uses: {a}\n" for a in bad)) == bad
    assert WORKFLOWS
