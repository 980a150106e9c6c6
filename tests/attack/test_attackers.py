"""The attackers can find something: each is fed a fault, and names the seed and the turn that show it."""

from __future__ import annotations

import gc
import importlib.util
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sampling.cases import vectors

from attack import draws, engine, files, lasting, races, runs, turns, verifier
from attack.oracle import Draws, Oracle
from fastsample.engines.local.runners import SharedPrefixRunner

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("attack_tool", ROOT / "tools" / "attack.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    return Oracle(tmp_path_factory.mktemp("oracle"))


def test_the_oracle_draws_every_vector(oracle):
    """It is a second program of the contract: its tokens and kept counts are those that are stored."""
    for v in vectors():
        p, n = v.parameters, len(v.seeds)
        filters = [
            np.array([p[name]], dtype)
            for name, dtype in (("temperature", "f4"), ("top_k", "i4"), ("top_p", "f4"), ("min_p", "f4"))
        ]
        randomness = [np.array(values, np.int64) for values in (v.seeds, v.streams, v.positions)]
        zeros = np.zeros(n, np.int64)
        tokens, kept = oracle(Draws(v.logits.numpy(), zeros[:1], *filters, zeros, *randomness))
        assert tokens.tolist() == v.tokens, v.name
        assert v.kept < 0 or set(kept.tolist()) == {v.kept}, v.name


@pytest.mark.parametrize("what", ["token", "kept"])
def test_a_wrong_draw_is_found_and_named(oracle, monkeypatch, capsys, what):
    """One token, or one kept count, of thousands is off: the turn is named, and shows it again."""
    whole = draws.drawn_by

    def off(backend, given, part, with_stats):
        tokens, kept = whole(backend, given, part, True)
        if given.logits.shape[1] > 40:
            (tokens if what == "token" else kept)[len(tokens) // 2] += 1
        return tokens, kept

    monkeypatch.setattr(draws, "prepare", lambda place: draws.Prepared(oracle, draws.backends()[1:]))
    monkeypatch.setattr(draws, "drawn_by", off)
    monkeypatch.setattr(draws, "compare", lambda *a, c=draws.compare: c(*a[:-1], True))
    outcome = turns.attack(draws, "draws", seconds=0.5, seed=5)
    assert outcome.failed
    assert f"draws --seed 5 --turn {outcome.failed[0]}:" in capsys.readouterr().out
    assert turns.attack(draws, "draws", seconds=0, seed=5, turn=outcome.failed[0]).failed == [outcome.failed[0]]
    monkeypatch.setattr(draws, "drawn_by", whole)
    again = turns.attack(draws, "draws", seconds=0, seed=5, turn=outcome.failed[0])
    assert (again.failed, again.turns) == ([], 1)
    assert again.counts["draws"] > 0


def test_turns_are_fixed_by_the_seed(oracle):
    """The same numbers give the same batch, others another."""
    batches = [draws.batch(random.Random(f"1/{n}")) for n in (3, 3, 4)]
    assert torch.equal(batches[0].logits, batches[1].logits) or batches[0].logits.isnan().any()
    assert (batches[0].draws.seed == batches[1].draws.seed).all()
    assert batches[0].draws.seed.tolist() != batches[2].draws.seed.tolist()


def test_a_wrong_row_is_found_by_the_schedules(monkeypatch):
    """Rows that are swapped once in a while end in a difference."""
    step = SharedPrefixRunner.step
    monkeypatch.setattr(engine, "prepare", lambda place: [engine.Model("llama")])
    assert turns.attack(engine, "engine", seconds=0.2, seed=3).failed == []
    monkeypatch.setattr(SharedPrefixRunner, "step", lambda self, tokens: step(self, tokens).flip(0))
    monkeypatch.setattr(engine, "LADDER", (SharedPrefixRunner,))
    assert turns.attack(engine, "engine", seconds=2, seed=3).failed


def test_a_run_with_a_sample_twice_or_lost_is_found(tmp_path):
    """The check behind every attack on a folder: a line too many, one too few, another text, half a line."""
    attacked, _ = runs.prepare(tmp_path)
    folder = attacked.place / "whole"
    attacked.check(folder)
    path = folder / "samples.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    other = lines[0].replace(b'"text": "', b'"text": "x')
    for changed in ([*lines, lines[0]], lines[1:], [other, *lines[1:]], [*lines[:-1], lines[-1][:-1]]):
        path.write_bytes(b"".join(changed))
        with pytest.raises(AssertionError):
            attacked.check(folder)


def test_what_happens_apart_is_told(monkeypatch):
    """A hang, an error, a death and a control character are failures; a result comes back."""
    monkeypatch.setattr(files, "SECONDS", 1)
    assert files.apart(lambda: "fine") == "fine"
    for work, part in (
        (lambda: time.sleep(60), "no end within 1 s"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: os._exit(0), "the process died"),
        (lambda: os.kill(os.getpid(), 9), "the process died"),
        (lambda: bytearray(1 << 40), "MemoryError"),
        (lambda: files.check_said(3, ""), "AssertionError"),
        (lambda: files.check_said(2, "a\x1b[2J"), "AssertionError"),
    ):
        with pytest.raises(AssertionError, match=part):
            files.apart(work)


@pytest.mark.skipif(verifier.why_not() is not None, reason=str(verifier.why_not()))
def test_a_verdict_that_is_forged_is_found(monkeypatch, tmp_path):
    """So is a scorer that leaves something behind."""
    prepared = verifier.prepare(tmp_path)
    monkeypatch.setattr(verifier, "run_python", lambda *_: True)
    with pytest.raises(AssertionError, match="a wrong program passed"):
        verifier.turn(prepared, random.Random(1))
    monkeypatch.setattr(verifier, "run_python", lambda *_: (prepared.place / "left").mkdir())
    with pytest.raises(AssertionError):
        verifier.turn(prepared, random.Random(1))
    prepared.victim.communicate()
    prepared.server.close()


@pytest.mark.slow
def test_a_race_is_found(tmp_path):
    """Four threads that add to one number without a lock."""
    right, wrong = "std::atomic<int64_t> compared{0}, different{0};", "int64_t compared = 0, different = 0;"
    source = races.SOURCE.read_text()
    assert right in source
    racing = tmp_path / "racing.cpp"
    racing.write_text(source.replace(right, wrong).replace('"../../csrc/', f'"{races.ROOT}/csrc/'))
    try:
        program = races.prepare(tmp_path, racing)
    except turns.MissingError as error:
        pytest.skip(str(error))
    with pytest.raises(AssertionError, match="data race"):
        races.turn(program, random.Random(1))


def test_memory_that_grows_is_found(monkeypatch):
    """An engine keeps what it should not, while as much goes that others had left to the collector."""
    prepared, kept = lasting.prepare(None), []
    monkeypatch.setattr(lasting, "TOKENS", 600)
    run = lasting.LocalEngine.run

    def keeps(self):
        kept.append(b"x" * (1 << 26))
        if len(kept) == 3:
            gc.collect()
        return run(self)

    monkeypatch.setattr(lasting.LocalEngine, "run", keeps)
    others = [b"x" * (1 << 29)]
    others.append(others)
    gc.collect()  # what has outlived a collection is looked at rarely
    del others
    with pytest.raises(AssertionError, match="bytes more after"):
        lasting.memory(prepared, "llama", random.Random(1))


@pytest.mark.parametrize("kind", [lasting.pairs, lasting.threads])
def test_a_text_that_threads_change_is_found(kind, monkeypatch):
    """An engine that writes something else where another thread is about."""
    prepared, alone = lasting.prepare(Path()), lasting.written
    changed = lambda model: alone(model)[::-1] if threading.active_count() > 1 else alone(model)  # noqa: E731
    monkeypatch.setattr(lasting, "written", changed)
    with pytest.raises(AssertionError, match="llama"):
        kind(prepared, "llama", random.Random(1))


def test_the_line_of_an_attacker():
    """What, how many, how many turns differed, seed; and why nothing was done, where nothing was."""
    module = SimpleNamespace(
        WHAT="things", COUNTED="n", prepare=lambda place: place, turn=lambda p, c: Counter(n=2, m=1)
    )
    line = turns.attack(module, "x", seconds=0, seed=7).line(module)
    assert '"attack": "x", "what": "things", "count": 2, "counted": "n", "different": 0' in line

    def missing(place):
        raise turns.MissingError("there is no tool")

    module.prepare = missing
    assert '"why not": "there is no tool"' in turns.attack(module, "x", seconds=0, seed=7).line(module)


RUN = {"attack": "runs", "what": "w", "count": 1200, "counted": "kills", "different": 0, "seed": 3, "asked": 60.0,
       "counts": {"kills": 1200, "pairs": 7}, "machine": "m", "day": "2026-01-01"}  # fmt: skip


def test_the_page_counts_every_run_that_is_kept(tmp_path, monkeypatch):
    """Runs of one attacker are summed; the same turns once more count once."""
    monkeypatch.setattr(tool, "RUNS", tmp_path / "runs.jsonl")
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
    tool.PAGE.write_text(f"a\n{tool.BEGIN}\n{tool.END}\nb\n")
    later = RUN | {"seed": 4, "different": 1, "day": "2026-01-05"}
    for run in (RUN, RUN | {"attack": "draws", "count": 5}, later, later):
        tool.write(run)
    assert len(tool.RUNS.read_text().splitlines()) == 3
    command = "`python tools/attack.py {} --seconds 60 --seed {}`, m, {}"
    assert tool.PAGE.read_text().splitlines()[2:] == [
        "| what | count | different | in it | runs | the last one |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| w | 5 kills | 0 | pairs: 7 | 1, 2026-01-01 | {command.format('draws', 3, '2026-01-01')} |",
        f"| w | 2,400 kills | 1 | pairs: 14 | 2 since 2026-01-01 | {command.format('runs', 4, '2026-01-05')} |",
        tool.END,
        "b",
    ]


@pytest.mark.slow
def test_the_command():
    """One attacker for a second; one that there is not."""
    command = [sys.executable, "tools/attack.py"]
    done = subprocess.run([*command, "draws", "--seconds", "1"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| 0 |" in done.stdout
    done = subprocess.run([*command, "x"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "attackers must be some of draws" in done.stderr
