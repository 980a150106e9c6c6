"""What a model, a file or a question can write on a terminal: text, and nothing that the terminal obeys."""

from __future__ import annotations

import io
import json
import re
import sys
import unicodedata
from itertools import pairwise
from types import SimpleNamespace

import bigram
import pytest
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from fastsample.cli import main
from fastsample.cli.live_view import short
from fastsample.cli.terminal import console_for, harmless, json_line, refuse

CLIPBOARD, TITLE, CLEAR = "\x1b]52;c;ZXZpbA==\x07", "\x1b]0;mine\x07", "\x1b[2J\x1b[H"
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 😀 👩‍👩‍👧 שלום [b]", "plain ä 😀 👩‍👩‍👧 שלום [b]"),
        (CLIPBOARD, "␛]52;c;ZXZpbA==␇"),
        ("a\x9b2Jb", "a�2Jb"),
        ("right\rwrong\x08\x7f\0", "right␍wrong␈␡␀"),
        ("\u202eevil\u2066", "�evil�"),
        ("\ud800", "�"),
        ("a\tb\nc", "a\tb\nc"),
    ],
)
def test_text_is_made_harmless(text, shown):
    """Controls are shown by their pictures, what has none by a replacement; lines and tabs stay."""
    assert harmless(text) == shown


def test_no_character_is_forgotten():
    """All of Unicode: what is left of the controls is a tab and a line's end; nothing else is touched."""
    for code in range(0x110000):
        shown = harmless(chr(code))
        assert not OBEYED.search(shown)
        assert shown == chr(code) or OBEYED.match(chr(code))
        assert unicodedata.category(shown) not in ("Cc", "Cs") or shown in "\t\n"


def test_a_json_line_is_exact_and_harmless():
    """Read again it is what it was; printed it is text, in any encoding that prints text."""
    value = {"text": CLIPBOARD + "\x7f\x9b\u202e\u2028\ud800 ä 😀 \n\t", "n": [1, None]}
    line = json_line(value)
    assert json.loads(line) == value
    assert not OBEYED.search(line)
    assert "ä 😀" in line
    with pytest.raises(ValueError, match="JSON"):
        json_line(float("nan"))


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_console_lets_nothing_through(is_terminal, capsys, monkeypatch):
    """Strings, texts, cells, titles and live views, whoever printed them; colours of our own stay."""
    console = console_for()
    console.file = io.StringIO()
    console._force_terminal = is_terminal
    table = Table("h\x1b]0;x\x07", title=TITLE)
    table.add_row(CLEAR, Text(CLIPBOARD, "red"))
    console.print(TITLE, markup=False)
    console.print(Text(CLIPBOARD), table)
    console.print(f"q\x9b1: {CLEAR}", style="red", markup=False, soft_wrap=True)
    with Live(Text(TITLE), console=console, transient=True):
        pass
    written = console.file.getvalue()
    ours = re.sub(r"\x1b\[[\d;]*m|\x1b\[\?25[lh]|\x1b\[\d?[AK]|\r", "", written)
    assert not OBEYED.search(ours), ours
    assert "]52;c;ZXZpbA==" in ours


def test_a_twin_shows_that_the_test_can_fail():
    """A console of rich's alone lets them through."""
    console = Console(file=io.StringIO())
    console.print(Text(CLIPBOARD), TITLE)
    assert OBEYED.search(console.file.getvalue())


def test_a_refusal_is_harmless(capsys):
    """A file's name or a question's id may be in it."""
    with pytest.raises(typer.Exit):
        refuse(f"cannot read {TITLE}")
    assert capsys.readouterr().err == "fastsample: cannot read ␛]0;mine␇\n"


def test_short_is_harmless_and_counts_what_is_seen():
    """Cut after the controls have become visible."""
    assert short("\x1b[2J" + "x" * 20, 6) == "␛[2Jx…"


@pytest.fixture
def hostile_folder(tmp_path):
    """A model that answers with an escape sequence."""
    path = ["ě", "]", "0", ";", "4", "ć"]  # the tokens of bytes 27 and 7
    says = {bigram.ASSISTANT: {path[0]: 1.0}, path[-1]: {bigram.END: 1.0}}
    says |= {now: {then: 1.0} for now, then in pairwise(path)}
    return bigram.save_folder(tmp_path / "model", says)


@pytest.mark.parametrize("more", [(), ("--texts",), ("--json",)])
def test_solve_shows_a_hostile_answer_as_text(hostile_folder, more):
    """In every kind of output, into a pipe too; JSON holds the exact text."""
    done = CliRunner().invoke(
        main, ["solve", "2\x1b]?", "-m", str(hostile_folder), "--temperatures", "0", "--extractor", "last-line", *more]
    )
    assert done.exit_code == 0, done.output
    assert not OBEYED.search(done.stdout + done.stderr)
    if more == ("--json",):
        assert json.loads(done.stdout)["samples"][0]["text"] == "\x1b]0;4\x07"
    else:
        assert "␛]0;4␇" in done.stdout


def test_evaluate_shows_a_hostile_id_as_text(tiny_folder, tmp_path):
    """A question's id in an error's line, and a bad line of the file."""
    asked = tmp_path / "q.jsonl"
    asked.write_text(json.dumps({"question": "x" * 2000, "answer": "4", "id": TITLE}) + "\nno " + CLEAR + "\n")
    arguments = ["evaluate", asked, "-o", tmp_path / "run", "-m", tiny_folder, "--temperatures", "0"]
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 1, done.output
    assert "␛]0;mine␇: " in done.stderr
    assert not OBEYED.search(done.stdout + done.stderr)


def test_questions_are_printed_exactly_and_harmlessly(monkeypatch):
    """A data set's text may hold anything; the package that brings it is played here."""
    entry = {"question": CLEAR + "\x9b", "answer": TITLE}
    gym = SimpleNamespace(create_dataset=lambda *a, **k: [entry], __path__=[])
    monkeypatch.setitem(sys.modules, "reasoning_gym", gym)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", SimpleNamespace(DATASETS={"set": None}))
    done = CliRunner().invoke(main, ["questions", "set", "-n", "1"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["question"] == CLEAR + "\x9b"
    assert not OBEYED.search(done.stdout)
