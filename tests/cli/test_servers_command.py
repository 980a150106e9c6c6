"""solve and evaluate over servers, from the command line: what is answered, what is refused, what stays secret."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import Hostile
from typer.testing import CliRunner

from fastsample.cli import main

ROOT = Path(__file__).parent.parent.parent


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_solve_over_a_server():
    """The answer and its record; the engine's name in it, and neither URL nor key."""
    with Hostile(key="sk-1") as server:
        words = (
            "solve",
            "2 + 2?",
            "--base-url",
            server.url,
            "--temperatures",
            "0.5",
            "--samples",
            "9",
            "--rule",
            "ahead:k=2",
        )
        found = CliRunner(env={"FASTSAMPLE_API_KEY": "sk-1"}).invoke(
            main, [*words, "--waves", "--extractor", "regex:^.*:(.)", "--json"]
        )
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout)
    assert (record["answer"], record["engine"], record["model"], record["device"]) == ("5", "openai", "words", None)
    assert record["counted"] == 2
    assert "sk-1" not in found.output
    assert server.url not in found.stdout


def test_evaluate_over_two_servers(tmp_path):
    """One run folder; --resume has nothing to do."""
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps({"question": f"{n}?", "answer": "5"}) + "\n" for n in range(8)))
    with Hostile() as one, Hostile() as other:
        words = [
            "evaluate", questions, "--out", tmp_path / "run", "--engine", "openai", "--server", one.url,
            "--server", other.url, "--model", "words", "--temperatures", "0.5", "--samples", "2",
            "--extractor", "regex:^.*:(.)",
        ]  # fmt: skip
        found = run(*words)
        assert found.exit_code == 0, found.output
        assert "8 of 8 questions answered, 0 failed" in found.output
        assert len(one.asked) + len(other.asked) == 16
        assert min(len(one.asked), len(other.asked)) > 0
        assert run(*words, "--resume").exit_code == 0
        assert len(one.asked) + len(other.asked) == 16
    assert json.loads((tmp_path / "run/config.json").read_text())["engine"] == "openai"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--engine", "openai"), "--engine openai needs a server"),
        (("--engine", "tgi"), "engine must be local, openai or vllm, got 'tgi'"),
        (("--engine", "local", "--base-url", "http://x"), "leave --base-url out"),
        (("--base-url", "http://127.0.0.1:9"), "no server answers at http://127.0.0.1:9"),
        (("--base-url", "nowhere"), "must be a URL such as"),
        (("--base-url", "http://127.0.0.1:9", "--prepack"), "leave them out"),
        (("--logprobs",), "leave it out"),
    ],
)
def test_one_sentence(words, sentence):
    """Bad usage: exit code 2, nothing else."""
    found = run("solve", "2 + 2?", *words)
    assert found.exit_code == 2
    assert sentence in found.output
    assert "Traceback" not in found.output


def test_a_rule_that_needs_more_than_the_server_tells():
    """Before the first request."""
    with Hostile() as server:
        found = run("solve", "2 + 2?", "--base-url", server.url, "--rule", "confidence")
        assert found.exit_code == 2
        assert "the rule confidence needs the self_certainty of every token" in found.output
        assert server.asked == []


def test_torch_is_not_loaded():
    """For a question that servers answer."""
    code = (
        "import sys; sys.modules['torch'] = None; from fastsample.cli import main; "
        "main(['solve', '2 + 2?', '--base-url', sys.argv[1], '--samples', '1'], standalone_mode=False)"
    )
    with Hostile() as server:
        done = subprocess.run([sys.executable, "-c", code, server.url], capture_output=True, text=True, cwd=ROOT)
    assert "answer" in done.stdout, done.stderr
