"""The report's page: nothing that a run holds becomes markup, or steers a terminal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fastsample.cli.evaluate import evaluate
from fastsample.cli.report import report

app = typer.Typer()
for command in (evaluate, report):
    app.command()(command)
OPTIONS = ["--temperatures", "0.5,1", "--samples", "2", "--max-new-tokens", "4", "--extractor", r"regex:\d"]


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)


@pytest.fixture
def whole(tiny_folder, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}?", "answer": "4", "id": f"q{n}"}) + "\n" for n in range(3)))
    result = run("evaluate", path, "-o", tmp_path / "whole", "-m", tiny_folder, *OPTIONS)
    assert result.exit_code == 0, result.output
    return tmp_path / "whole"


HOSTILE = "<script>alert(1)</script></style><img src=x>\x1b[2J\x07\u202e\ud800[/bold][red]" + "y" * 100_000


def test_nothing_on_the_page_is_markup_of_the_run_s(whole, tmp_path):
    """Ids, texts, settings and the folder's name reach the page escaped, short and without control characters."""
    folder = tmp_path / "run<script>[" / "[x]<b>"
    folder.parent.mkdir()
    shutil.copytree(whole, folder)
    for name, fields in (
        ("config.json", ("model", HOSTILE, "dtype")),
        ("questions.jsonl", ("question",)),
        ("samples.jsonl", ("text",)),
    ):
        lines = (folder / name).read_text().splitlines()
        records = [json.loads("\n".join(lines))] if name == "config.json" else [json.loads(line) for line in lines]
        for record in records:
            record |= dict.fromkeys(fields, HOSTILE)
        (folder / name).write_text("".join(json.dumps(r) + "\n" for r in records))
    for path in (folder / "questions.jsonl", folder / "samples.jsonl", folder / "results.jsonl"):
        path.write_text(path.read_text().replace('"q1"', json.dumps("q1" + HOSTILE)))
    result = run("report", folder)
    assert result.exit_code == 0, result.output
    page = Path(folder / "report.html").read_text()
    assert page.count("<script") == page.count("<img") == 0
    assert page.count("</style>") - page.count("<svg") <= 1
    for bad in "\x1b\x07\u202e":
        assert bad not in page
        assert bad not in result.output
    assert "y" * 1000 not in page
    assert "&lt;script&gt;" in page
    said = run("report", folder, "--json")
    assert said.exit_code == 0
    assert json.loads(said.stdout.splitlines()[0])[0]["config"]["model"] == HOSTILE
