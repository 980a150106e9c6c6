"""The report's page: nothing that a run holds becomes markup, or steers a terminal."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64decode
from itertools import pairwise
from pathlib import Path
from zlib import decompress

import pytest
import typer
from stored_run import keep, settings, written
from typer.testing import CliRunner

from fastsample.cli.evaluate import evaluate
from fastsample.cli.report import report
from fastsample.evaluation import explorer
from fastsample.evaluation.dataset import Item, RunError
from fastsample.evaluation.explorer import Entry, Outcome, entries_of, outcomes_of, pairs_of, readable, shelf_of
from fastsample.evaluation.plots import letters, spread
from fastsample.evaluation.report import report_of

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
    assert page.count("<script") == page.count("</script") == 3  # the list, its texts and the page's own script
    assert page.count("<img") == 0
    assert page.count("</style>") - page.count("<svg") <= 1
    for bad in "\x1b\x07\u202e":
        assert bad not in page
        assert bad not in result.output
    assert "y" * 1000 not in page
    assert "&lt;script&gt;" in page
    said = run("report", folder, "--json")
    assert said.exit_code == 0
    assert json.loads(said.stdout.splitlines()[0])[0]["config"]["model"] == HOSTILE


# --- what stands on it ------------------------------------------------------------------------------------------------


def outcome(votes, samples=(), is_right=None):
    return Outcome(None, is_right, True, votes, samples)


def test_when_a_vote_is_split():
    """No answer has more than half: a tie of two, a plurality of three; not two of three, and not without votes."""
    assert outcome({1.0: {"a": 1, "b": 1}}).is_split
    assert outcome({0.0: {"a": 1}, 1.0: {"a": 1, "b": 1, "c": 1}}).is_split
    assert not outcome({0.0: {"a": 1}, 1.0: {"a": 1, "b": 1}}).is_split
    assert not outcome({1.0: {}}).is_split


def test_a_question_of_two_runs_is_one_only_in_the_same_words(tmp_path):
    """One id and one text: side by side. The same id with another text is another question, under a key of its own."""
    texts = {"first": ["A?", "B?"], "second": ["A?", "C?"]}
    for name, (a, b) in texts.items():
        items = [Item("1", a, "4"), Item("2", b, "4")]
        samples = {item.id: [written(0, 1.0, 0, "t", "4")] for item in items}
        keep(tmp_path / name, items, samples, settings((1.0,), 1))
    entries = entries_of([tmp_path / "first", tmp_path / "second"])
    assert [(e.key, e.item.question, [o is not None for o in e.outcomes]) for e in entries] == [
        ("1", "A?", [True, True]),
        ("2", "B?", [True, False]),
        ("2 (2)", "C?", [False, True]),
    ]


def test_pairs_are_counted_where_both_runs_judged():
    """Both, first alone, second alone, neither; what one of them did not judge is left out."""
    marks = [(True, True), (True, False), (False, True), (False, True), (False, False), (None, True), (True, None)]
    entries = [
        Entry(str(n), Item(str(n), "?"), [outcome({}, (), a), outcome({}, (), b)]) for n, (a, b) in enumerate(marks)
    ]
    ((place, pair),) = pairs_of(entries, 2)
    assert (place, pair.questions, pair.both, pair.first_only, pair.second_only, pair.neither) == (1, 5, 1, 1, 2, 1)
    assert pair.low <= 0.2 <= pair.high


def test_votes_are_the_run_s_own(tmp_path):
    """Where the result holds votes, they hold: a sample that did not vote is not counted by its text."""
    samples = [written(0, 1.0, 0, "t", "4"), written(1, 1.0, 1, "t", "5")]
    run = keep(tmp_path / "run", [Item("q", "?", "4")], {"q": samples}, settings((1.0,), 2))
    path = run / "results.jsonl"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"votes": {"1": {"4": 1}}}) + "\n")
    assert outcomes_of(run)["q"].votes == {1.0: {"4": 1}}
    path.write_text(json.dumps({k: v for k, v in record.items() if k != "votes"}) + "\n")
    assert outcomes_of(run)["q"].votes == {1.0: {"4": 1, "5": 1}}
    path.write_text(json.dumps(record | {"votes": {"1": {"4": "many"}}}) + "\n")
    with pytest.raises(RunError, match="votes must be an object of whole numbers"):
        outcomes_of(run)


def test_a_sample_that_was_drawn_again_is_shown_whole(tmp_path):
    """Cancelled by a session that was stopped, written to its end by the next."""
    again = [written(0, 1.0, 0, "half", None, "cancelled"), written(0, 1.0, 0, "whole", "4")]
    run = keep(tmp_path / "run", [Item("q", "?", "4")], {"q": again}, settings((1.0,), 1))
    assert [s.text for s in outcomes_of(run)["q"].samples] == ["whole"]


def test_what_is_packed_comes_back(small_run, monkeypatch):
    """Every text once: as many in the page as there is room for, the rest in files of their size."""
    entries = entries_of([small_run])
    monkeypatch.setattr(explorer, "FILE_BYTES", 4000)
    for room in (10_000_000, 75_000, 0):
        shelf = shelf_of(entries, ["small"], room)
        index = json.loads(decompress(b64decode(shelf.index)))
        found = {}
        for place, file in enumerate(index["files"]):
            texts = (shelf.inside if file < 0 else shelf.beside[file])[place]
            found[place] = [s[7] for s in json.loads(decompress(b64decode(texts)))["runs"][0]]
        assert [found[n] for n in range(12)] == [[s.text for s in e.outcomes[0].samples] for e in entries]
        assert bool(shelf.beside) is (room < 10_000_000)
        assert bool(shelf.inside) is (room > 0)
        assert all(sum(map(len, texts.values())) < 8000 for texts in shelf.beside)


def test_an_earlier_report_s_files_go(tmp_path, small_run, monkeypatch):
    """Ours are taken away when they are no longer needed; a folder of somebody else's stays as it is."""
    target, folder = tmp_path / "r.html", tmp_path / "r-texts"
    monkeypatch.setattr("fastsample.evaluation.page.PAGE_BYTES", 0)
    assert run("report", small_run, "-o", target, "--rule", "majority").exit_code == 0
    assert (folder / "0.js").exists()
    monkeypatch.undo()
    assert run("report", small_run, "-o", target, "--rule", "majority").exit_code == 0
    assert not folder.exists()
    folder.mkdir()
    (folder / "thesis.tex").write_text("x")
    assert run("report", small_run, "-o", target, "--rule", "majority").exit_code == 0
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]


def test_what_would_steer_the_eye_is_shown_as_its_code():
    """Lines and tabs stay, and the rest is cut with its number."""
    assert readable("a\n\tb\x1b\u202e\ud800", 99) == "a\n\tb\\x1b\\u202e\\ud800"
    assert readable("x" * 12, 10) == "x" * 10 + " ... (2 more characters)"


def test_names_beside_a_plot_keep_their_distance_and_order():
    """Apart by the gap at least, each as near to its point as that lets it, and untouched where there is room."""
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    crowded = spread([0.1, 0.4, 0.41, 0.42, 0.9], 0.05)
    assert all(b - a >= 0.05 - 1e-9 for a, b in pairwise(crowded))
    high = spread([0.97, 0.98, 0.99], 0.05)
    assert high == pytest.approx([0.9, 0.95, 1.0])
    assert [letters(n) for n in (0, 25, 26)] == ["a", "z", "aa"]


def luminance(colour):
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_can_be_told_apart(theme):
    """WCAG: text on every ground 4.5 to 1, lines of a plot and bars on the page 3 to 1, in light and in dark."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    style = (Path(explorer.__file__).parent / "page.css").read_text()
    colours = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", style, re.S)[theme]))
    for text in ("ink", "muted", "accent", "right", "wrong", "split", "cut"):
        for ground in ("paper", "card", "soft"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for mark in ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "rest"):
        assert contrast(colours[mark], colours["paper"]) >= 3, mark


def test_the_head_says_what_was_asked_of_what_with_what_result(small_run, tmp_path):
    """One line, from the run's own figures, and in a terminal the same figures."""
    page = tmp_path / "r.html"
    assert run("report", small_run, "-o", page, "--rule", "majority").exit_code == 0
    live = report_of(small_run, ("majority",)).live
    expected = (
        f"12 questions to tiny/test-135M, 192 samples at temperatures 0, 0.4, 0.8, 1.2: {live['right']} right "
        f"by the rule majority ({100 * live['right'] / 12:.0f} %)."
    )
    text = page.read_text()
    assert expected in text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
