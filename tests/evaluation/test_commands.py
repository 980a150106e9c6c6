"""fastsample evaluate, report and questions as a user meets them, with a tiny model in a folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import bigram
import pytest
import typer
from signals import hear_ctrl_c
from typer.testing import CliRunner

from fastsample import models
from fastsample.cli.evaluate import evaluate
from fastsample.cli.questions import questions
from fastsample.cli.report import broken, report

ROOT = Path(__file__).parents[2]
app = typer.Typer()
for command in (evaluate, report, questions):
    app.command()(command)

# One digit, then a tail whose length varies: enough steps to be interrupted in.
LONG_TAILS = {
    bigram.ASSISTANT: {"4": 0.6, "5": 0.4},
    "4": {"a": 1.0},
    "5": {"a": 1.0},
    "a": {"a": 0.97, bigram.END: 0.03},
    # The engine is tried on tokens of its own choosing, this one among them; equal logits would prove nothing.
    "\\": {"4": 1.0},
}
OPTIONS = ["--temperatures", "0,0.7,1", "--samples", "6", "--max-new-tokens", "60", "--extractor", r"regex:\d"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(bigram.save_folder(tmp_path_factory.mktemp("model") / "tails", LONG_TAILS))


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    path = tmp_path_factory.mktemp("asked") / "q.jsonl"
    path.write_text(
        "".join(json.dumps({"question": f"{n}?", "answer": str(4 + n % 2), "id": f"q{n}"}) + "\n" for n in range(10))
    )
    return str(path)


WIDE = {"COLUMNS": "80"}


def run(*args, **more):
    return CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False, **more)


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(model, asked, tmp_path_factory):
    """An uninterrupted run of the full vote."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = run("evaluate", asked, "-o", folder, "-m", model, *OPTIONS)
    assert result.exit_code == 0, result.output
    return folder


def test_a_run_holds_everything(whole):
    """A result a question, every sample of every plan once, and the settings."""
    results = lines(whole / "results.jsonl")
    assert {r["id"] for r in results} == {f"q{n}" for n in range(10)}
    assert all(r["is_right"] == (r["answer"] == r["key"]) for r in results)
    samples = Counter((s["question"], s["number"]) for s in lines(whole / "samples.jsonl"))
    assert len(samples) == 10 * 13
    assert set(samples.values()) == {1}
    assert json.loads((whole / "config.json").read_text())["max_new_tokens"] == 60


def start(model, asked, folder, *more):
    code = (
        "import typer, torch; torch.set_num_threads(1); "
        "from fastsample.cli.evaluate import evaluate; typer.run(evaluate)"
    )
    command = [sys.executable, "-c", code, asked, "-o", str(folder), "-m", model, "--slots", "4", *OPTIONS, *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=hear_ctrl_c
    )


def wait_for_samples(child, folder, count):
    deadline = time.monotonic() + 60
    path = folder / "samples.jsonl"
    while time.monotonic() < deadline and child.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"the run did not get to {count} samples: {child.stderr.read()}")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_is_gone_on_with(model, asked, whole, tmp_path, ending):
    """Killed or Ctrl-C'ed in the middle, then --resume: the same samples and results, nothing lost or done twice."""
    folder = tmp_path / "run"
    child = start(model, asked, folder)
    wait_for_samples(child, folder, 30)
    child.send_signal(ending)
    _, said = child.communicate(timeout=60)
    before = (folder / "samples.jsonl").read_bytes()
    assert before.count(b"\n") < 130
    if ending == signal.SIGINT:
        assert child.returncode == 130
        assert "--resume" in said
        assert "Traceback" not in said
    with open(folder / "samples.jsonl", "ab") as file:
        file.write(b'{"question": "q9", "num')
    result = run("evaluate", asked, "-o", folder, "-m", model, "--slots", "4", *OPTIONS, "--resume")
    assert result.exit_code == 0, result.output
    assert (folder / "samples.jsonl").read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    samples = {(s["question"], s["number"]): s["text"] for s in lines(folder / "samples.jsonl")}
    assert len(lines(folder / "samples.jsonl")) == len(samples)
    assert samples == {(s["question"], s["number"]): s["text"] for s in lines(whole / "samples.jsonl")}
    kept = ("answer", "votes", "tokens", "is_right", "counted")
    by_id = [{r["id"]: {k: r[k] for k in kept} for r in lines(f / "results.jsonl")} for f in (folder, whole)]
    assert by_id[0] == by_id[1]


def test_a_place_that_cannot_be_written_is_told_before_a_model_is_loaded(asked, tmp_path, monkeypatch):
    """No room is to be made there, and nothing to be gone on with: another place is the remedy."""
    monkeypatch.setattr(models, "load", lambda *args, **more: pytest.fail("the model was loaded"))
    (tmp_path / "file").write_text("")
    result = run("evaluate", asked, "-o", tmp_path / "file" / "run", *OPTIONS)
    assert result.exit_code == 2, result.output
    assert "cannot be made: Not a directory; name a place that can be written with --out" in result.output
    assert "make room" not in result.output


def test_resume_of_nothing_is_refused(asked, tmp_path, monkeypatch):
    """A name that was misspelt would begin another run."""
    monkeypatch.setattr(models, "load", lambda *args, **more: pytest.fail("the model was loaded"))
    result = run("evaluate", asked, "-o", tmp_path / "rnu", *OPTIONS, "--resume")
    assert result.exit_code == 2, result.output
    assert (
        f"--resume goes on with a run, and there is no {tmp_path / 'rnu'}; leave it out to begin one" in result.output
    )
    assert not (tmp_path / "rnu").exists()


def test_bad_lines_are_told_and_the_rest_is_done(model, tmp_path):
    """Exit code 1, the line's number, a question too long for the model, and the good questions answered."""
    path = tmp_path / "q.jsonl"
    long = json.dumps({"question": "x" * 700, "answer": "4"})
    path.write_text('{"question": "1?", "answer": "4"}\n{"question"\n' + long + "\n")
    result = run("evaluate", path, "-o", tmp_path / "run", "-m", model, *OPTIONS)
    assert result.exit_code == 1
    assert "line 2: not JSON" in result.output
    assert "3: ValueError" in result.output
    assert [r["id"] for r in lines(tmp_path / "run" / "results.jsonl")] == ["1"]


def test_an_extractor_that_raises_loses_nothing(model, asked, tmp_path, monkeypatch):
    """A callable of the user's that fails on some texts: those questions fail, by name, and the rest is answered."""
    (tmp_path / "mine.py").write_text(
        "def read(text):\n    if text[0] == '5': raise RuntimeError('no fives')\n    return text[:1]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = [*OPTIONS[:-1], "mine:read"]
    result = run(
        "evaluate", asked, "-o", tmp_path / "run", "-m", model, *options, "--temperatures", "0", "--samples", "1"
    )
    failing = run("evaluate", asked, "-o", tmp_path / "run2", "-m", model, *options)
    assert result.exit_code == 0
    assert failing.exit_code == 1
    assert "RuntimeError: no fives" in failing.output


@pytest.mark.parametrize(
    ("content", "args", "part"),
    [
        ("", [], "holds no question"),
        ("\n\n", [], "holds no question"),
        (None, [], "cannot be read"),
        ('{"question": "1?", "answer": "4"}\n', ["--rule", "best"], "no rule is called 'best'"),
        ('{"question": "1?", "answer": "4"}\n', ["--samples", "0"], "samples must be at least 1"),
        ('{"question": "1?", "answer": "4"}\n', ["--temperatures", "hot"], "temperatures must be"),
        ('{"question": "1?", "answer": "4"}\n', ["--extractor", "no.such:f"], "importable from here"),
        ('{"question": "1?", "answer": "4"}\n', ["-m", "/no/such/model"], "no"),
    ],
)
def test_bad_usage(content, args, part, tmp_path, model):
    """Exit code 2 and one sentence."""
    path = tmp_path / "q.jsonl"
    if content is not None:
        path.write_text(content)
    result = run("evaluate", path, "-o", tmp_path / "run", "-m", model, *args)
    assert result.exit_code == 2, result.output
    assert part in result.output


def test_another_configuration_is_refused(whole, asked, model):
    """--resume with other settings names them."""
    result = run("evaluate", asked, "-o", whole, "-m", model, *OPTIONS, "--seed", "5", "--resume")
    assert result.exit_code == 2
    assert "seed: 0 in the run, 5 now" in result.output


def test_replayed_rules_are_the_rules_that_run(whole, model, asked, tmp_path):
    """A rule replayed on the stored samples takes the tokens, the steps and the answers of a run with that rule."""
    result = run("evaluate", asked, "-o", tmp_path / "beta", "-m", model, *OPTIONS, "--rule", "ahead:k=2")
    assert result.exit_code == 0, result.output
    said = run("report", whole, "--rule", "ahead:k=2", "-o", tmp_path / "r.html", "--json")
    assert said.exit_code == 0, said.output
    row = json.loads(said.stdout.splitlines()[0])[0]["rows"][1]
    live = lines(tmp_path / "beta" / "results.jsonl")
    assert row["tokens"] == pytest.approx(sum(r["tokens"] for r in live) / 10)
    assert row["steps"] == sum(line["steps"] for line in lines(tmp_path / "beta" / "sessions.jsonl"))
    assert row["accuracy"] == sum(r["is_right"] for r in live) / 10


def test_the_report_is_one_page_that_needs_no_network(whole, tmp_path):
    """Tables, three plots, the plain comparison of temperatures; no address is fetched by anything in it."""
    page = tmp_path / "r.html"
    result = run("report", whole, whole, "-o", page)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert text.count("<h2>") == 2  # one for each run
    assert "At equal tokens" in text
    assert "two-stage" in text
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert text.count("<svg") == 12  # three plots of each run, for a wide page and for a narrow one
    for fetched in ("src=", "@import", "url(http", "<script>import", "<link", 'href="http', "fetch("):
        assert fetched not in text


def test_names_are_whole_in_a_terminal_of_80_columns(whole, tmp_path):
    """A rule's name goes over lines behind `:` and `,` alone; nothing is wider than the terminal, nothing is cut."""
    rules = ["beta:confidence=0.9", "weighted:by=self_certainty,how=borda"]
    said = run("report", whole, "-o", tmp_path / "r.html", *(a for rule in rules for a in ("--rule", rule)), env=WIDE)
    lines = [line for line in said.output.splitlines() if str(tmp_path) not in line]  # a path is never broken
    assert max(map(len, lines)) <= 80
    for words in (
        "beta:confidence=0.9",
        "weighted:",
        "by=self_certainty,",
        "how=borda",
        "majority",
        "samples",
        "temperature",
    ):
        assert any(re.search(rf"(?:^|\s){re.escape(words)}(?:\s|$|by)", line) for line in lines), words
    assert "…" not in said.output
    assert broken("weighted:by=self_certainty,how=borda", 18) == "weighted:\nby=self_certainty,\nhow=borda"
    assert broken("beta:confidence=0.9", 26) == "beta:confidence=0.9"


def test_a_run_that_stopped_early_is_not_replayed(model, asked, tmp_path):
    """The questions on which a rule saved nothing are the hardest ones: comparing rules on them alone would mislead."""
    run("evaluate", asked, "-o", tmp_path / "run", "-m", model, *OPTIONS, "--rule", "ahead:k=2")
    said = run("report", tmp_path / "run", "--json")
    assert said.exit_code == 0, said.output
    page = json.loads(said.stdout.splitlines()[0])[0]
    assert (page["rows"], page["live"]["questions"]) == ([], 10)
    assert "does not stop early" in (tmp_path / "run" / "report.html").read_text()


def test_report_refuses_what_is_no_run(tmp_path):
    """A folder without a run, and a rule that does not exist."""
    assert run("report", tmp_path).exit_code == 2
    assert run("report", tmp_path, "--rule", "best").exit_code == 2


def test_questions():
    """Different questions, the same for the same seed, in the format that evaluate reads."""
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    args = [
        "questions",
        "chain_sum",
        "-n",
        "20",
        "--set",
        "max_terms=2",
        "--set",
        "max_digits=1",
        "--set",
        "min_digits=1",
    ]
    first, second, other = run(*args, "--seed", "1"), run(*args, "--seed", "1"), run(*args, "--seed", "2")
    records = [json.loads(line) for line in first.stdout.splitlines()]
    assert first.exit_code == 0
    assert first.stdout == second.stdout != other.stdout
    assert len({r["question"] for r in records}) == len({r["id"] for r in records}) == 20
    assert all(isinstance(r["answer"], str) for r in records)
    assert "chain_sum" in run("questions").stdout.split()


def test_puzzles_of_arc_1d(tmp_path):
    """They are puzzles, of lines, with all their pairs; another data set does not tell them."""
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    from fastsample.training.puzzles import OF_A_LINE, read_puzzles

    done = run("questions", "arc_1d", "--puzzles", "-n", "5", "--set", "min_size=8", "--set", "max_size=10")
    path = tmp_path / "p.jsonl"
    path.write_text(done.stdout)
    puzzles = read_puzzles([path])
    assert [(len(p.train), len(p.test), p.symmetries()) for p in puzzles] == [(3, 1, OF_A_LINE)] * 5
    refused = run("questions", "chain_sum", "--puzzles")
    assert (refused.exit_code, "tells all its pairs" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    "args", [["nosuch"], ["chain_sum", "--set", "nosuch=1"], ["chain_sum", "--set", "x"], ["chain_sum", "-n", "0"]]
)
def test_questions_refuses(args):
    """A data set, a setting or a number that does not exist."""
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    result = run("questions", *args)
    assert result.exit_code == 2
    assert "fastsample:" in result.output
