"""Run folders and question files that are valid JSON and wrong: a sentence with file and line, or passed by."""

from __future__ import annotations

import json
import shutil
import tracemalloc

import pytest
import typer
from typer.testing import CliRunner

from fastsample.cli.evaluate import evaluate
from fastsample.cli.report import report
from fastsample.evaluation.dataset import read_questions

app = typer.Typer()
for command in (evaluate, report):
    app.command()(command)
OPTIONS = ["--temperatures", "0.5,1", "--samples", "2", "--max-new-tokens", "4", "--extractor", r"regex:\d"]


def run(*args, **more):
    return CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False, **more)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    path = tmp_path_factory.mktemp("asked") / "q.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}?", "answer": "4", "id": f"q{n}"}) + "\n" for n in range(3)))
    return path


@pytest.fixture(scope="module")
def whole(tiny_folder, asked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = run("evaluate", asked, "-o", folder, "-m", tiny_folder, *OPTIONS)
    assert result.exit_code == 0, result.output
    return folder


def change(**fields):
    """Other values in the record of line 2; a field that is `...` is taken out."""

    def apply(lines):
        record = {k: v for k, v in (json.loads(lines[1]) | fields).items() if v is not ...}
        return [lines[0], json.dumps(record), *lines[2:]]

    return apply


def put(line):
    return lambda lines: [lines[0], line, *lines[2:]]


def config(**fields):
    def apply(lines):
        record = {k: v for k, v in (json.loads("\n".join(lines)) | fields).items() if v is not ...}
        return [json.dumps(record)]

    return apply


def text(content):
    return lambda lines: [content]


HUGE = "9" * 5000
BOTH, REPORT, RESUME = ("report", "resume"), ("report",), ("resume",)
SAMPLES, RESULTS, SESSIONS, CONFIG, QUESTIONS = (
    f"{name}.json{'' if name == 'config' else 'l'}"
    for name in ("samples", "results", "sessions", "config", "questions")
)
REFUSED = [
    (CONFIG, text("[]"), BOTH, "format 1"),
    (CONFIG, text("7"), BOTH, "format 1"),
    (CONFIG, text("[" * 100_000), BOTH, "nested too deeply"),
    (CONFIG, text('{"format": 1}'), BOTH, "the field 'rule' is missing"),
    (CONFIG, text('{"format": 1, "seed": ' + HUGE + "}"), BOTH, "more digits"),
    (CONFIG, config(temperatures="hot"), BOTH, "temperatures must be a list of numbers, got 'hot'"),
    (CONFIG, config(temperatures=[]), BOTH, "temperatures must name at least one"),
    (CONFIG, config(samples="2"), BOTH, "samples must be a whole number"),
    (CONFIG, config(samples=10**15), BOTH, "samples must be a whole number"),
    (CONFIG, config(slots=0), BOTH, "slots must be a whole number"),
    (CONFIG, config(slots=...), REPORT, "--slots"),
    (CONFIG, config(stop=7), BOTH, "stop must be a list of texts"),
    (CONFIG, config(rule="best"), REPORT, "no rule is called 'best'"),
    (CONFIG, config(rule=["x"]), BOTH, "rule must be text"),
    (SAMPLES, put("7"), BOTH, "line 2: a line must be an object, got 7"),
    (SAMPLES, put("[]"), BOTH, "line 2: a line must be an object, got a list"),
    (SAMPLES, put("{}"), BOTH, "line 2: the field 'question' is missing"),
    (SAMPLES, put("\x00" * 4096), BOTH, "line 2: not JSON"),
    (SAMPLES, change(number=...), BOTH, "line 2: the field 'number' is missing"),
    (SAMPLES, change(number="1"), BOTH, "line 2: number must be a whole number of at least 0, got '1'"),
    (SAMPLES, change(number=-1), BOTH, "line 2: number must be a whole number of at least 0, got -1"),
    (SAMPLES, change(number=99), BOTH, "line 2: number must be below 4"),
    (SAMPLES, change(temperature=0.25), BOTH, "of this run's plan has temperature"),
    (SAMPLES, change(temperature=float("nan")), BOTH, "line 2: not JSON: NaN"),
    (SAMPLES, change(tokens=True), BOTH, "line 2: tokens must be"),
    (SAMPLES, change(tokens=10**12), BOTH, "line 2: tokens must be"),
    (SAMPLES, change(finish="later"), BOTH, "line 2: finish must be one of eos"),
    (SAMPLES, change(text=None), BOTH, "line 2: text must be text, got None"),
    (SAMPLES, change(answer=4), BOTH, "line 2: answer must be text or null, got 4"),
    (SAMPLES, change(token_ids="abc"), BOTH, "line 2: token_ids must be"),
    (SAMPLES, change(certainties=[None]), BOTH, "line 2: certainties must be"),
    (SAMPLES, change(certainties={}), BOTH, "line 2: certainties must be"),
    (SAMPLES, change(entropy="low"), BOTH, "line 2: entropy must be"),
    (SAMPLES, change(mean_logprob=10**400), BOTH, "line 2: mean_logprob must be"),
    (SAMPLES, put('{"question": "q1", "number": ' + HUGE + "}"), BOTH, "line 2: a number has more digits"),
    (SAMPLES, put('{"question": "q1", "entropy": 1e999}'), BOTH, "line 2: "),
    (RESULTS, change(id=...), BOTH, "line 2: the field 'id' is missing"),
    (RESULTS, change(id=["q1"]), BOTH, "line 2: id must be text, got a list"),
    (RESULTS, change(tokens="9"), BOTH, "line 2: tokens must be a whole number of at least 0, got '9'"),
    (RESULTS, change(is_right="yes"), BOTH, "line 2: is_right must be true, false or null, got 'yes'"),
    (RESULTS, put("null"), BOTH, "line 2: a line must be an object"),
    (SESSIONS, text("{}"), REPORT, "line 1: the field 'seconds' is missing"),
    (SESSIONS, text('{"seconds": "1", "cpu_seconds": 1, "steps": 1}'), REPORT, "line 1: seconds must be"),
    (SESSIONS, text("nonsense"), REPORT, "line 1: not JSON"),
    (QUESTIONS, put("7"), REPORT, "line 2: a line must be an object"),
    (QUESTIONS, change(id="q0"), REPORT, "line 2: the id 'q0' has been used before"),
    (QUESTIONS, change(question=3), REPORT, "line 2: question must be text"),
    (QUESTIONS, None, REPORT, "questions.jsonl cannot be read"),
]
PASSED = [
    (CONFIG, config(note="mine"), REPORT),
    (SAMPLES, change(note={"by": "hand"}), BOTH),
    (SAMPLES, change(mean_logprob=-1e308, entropy=1e308), BOTH),
    (SAMPLES, change(question="nobody's"), BOTH),
    (SAMPLES, lambda lines: [*lines, lines[0], lines[1]], BOTH),
    (SAMPLES, lambda lines: [*lines, "", "   "], BOTH),
    (SAMPLES, lambda lines: [], BOTH),
    (SAMPLES, None, BOTH),
    (RESULTS, change(id="nobody's", note=1), BOTH),
    (RESULTS, lambda lines: [*lines, *lines], BOTH),
    (RESULTS, None, BOTH),
    (SESSIONS, None, BOTH),
]


def damaged(whole, folder, name, edit):
    shutil.copytree(whole, folder)
    path = folder / name
    if edit is None:
        path.unlink()
    else:
        path.write_text("".join(line + "\n" for line in edit(path.read_text().splitlines())))
    return folder


def ask(way, folder, asked, model):
    if way == "report":
        return run("report", folder)
    return run("evaluate", asked, "-o", folder, "-m", model, *OPTIONS, "--resume")


@pytest.mark.parametrize(("name", "edit", "ways", "part"), REFUSED, ids=range(len(REFUSED)))
def test_damage_is_told_in_one_sentence(whole, asked, tiny_folder, tmp_path, name, edit, ways, part):
    """Exit code 2, the file, its line, and what is wrong; nothing is written."""
    folder = damaged(whole, tmp_path / "run", name, edit)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for way in ways:
        result = ask(way, folder, asked, tiny_folder)
        assert result.exit_code == 2, (way, result.output)
        assert name.split(".")[0] in result.output
        assert part in result.output
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize(("name", "edit", "ways"), PASSED, ids=range(len(PASSED)))
def test_what_does_no_harm_is_passed_by(whole, asked, tiny_folder, tmp_path, name, edit, ways):
    """Fields and ids that nobody knows, lines twice, files that are gone: a report, and a run that is whole again."""
    for way in ways:
        folder = damaged(whole, tmp_path / way, name, edit)
        result = ask(way, folder, asked, tiny_folder)
        assert result.exit_code == 0, (way, result.output)
        if way == "resume":
            again = run("report", folder, "--json")
            page = json.loads(again.stdout.splitlines()[0])[0]
            assert (page["complete"], page["questions"], page["live"]["questions"]) == (3, 3, 3)


def test_what_is_no_file_is_told(whole, tmp_path):
    """A folder in the place of a file, and a run that may not be read."""
    for name in (CONFIG, SAMPLES, QUESTIONS):
        folder = damaged(whole, tmp_path / name, name, None)
        (folder / name).mkdir()
        result = run("report", folder)
        assert result.exit_code == 2, result.output
        assert name in result.output


def test_results_whose_samples_are_lost_are_answered_again(whole, asked, tiny_folder, tmp_path):
    """The run says so; afterwards it holds the samples of an uninterrupted one, and a third session is idle."""
    folder = damaged(whole, tmp_path / "run", SAMPLES, lambda lines: lines[:5])
    assert run("report", folder, "--json").stdout.count('"complete": 3') == 0
    result = ask("resume", folder, asked, tiny_folder)
    assert result.exit_code == 0
    assert "rest on samples that were lost" in result.output
    stored = [
        sorted((s["question"], s["number"], s["text"]) for s in map(json.loads, (f / SAMPLES).read_text().splitlines()))
        for f in (whole, folder)
    ]
    assert stored[0] == stored[1]
    page = json.loads(run("report", folder, "--json").stdout.splitlines()[0])[0]
    assert (page["complete"], page["live"]["questions"], page["live"]["samples"]) == (3, 3, 12)
    result = ask("resume", folder, asked, tiny_folder)
    assert "lost" not in result.output
    assert "3 of 3 questions answered" in result.output


GOOD = '{"question": "1?", "answer": "4"}'


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"question": "a \\ud800 b", "answer": "4"}', r"question holds half of a character (\ud800)"),
        ('{"question": "a", "answer": "\\udc01"}', "answer holds half of a character"),
        ('{"question": "a", "answer": "4", "id": "\\udfff"}', "id holds half of a character"),
        ('{"question": "a", "answer": ' + HUGE + "}", "more digits than can be read"),
        ('{"question": "a", "answer": "4", "note": ' + HUGE + "}", "more digits than can be read"),
        ('{"question": "a", "answer": NaN}', "NaN is no number of JSON"),
        ('{"question": "a", "answer": 1e999}', "finite"),
        ('{"question": "a\x00b", "answer": "4"}', "not JSON"),
        (b'{"question": "a \xff b", "answer": "4"}', "the line is not UTF-8 (byte 0xff)"),
        (b"\x00\x00\x00", "not JSON"),
        ('{"question": "a", "answer": "4", "id": "1"}', "the id '1' has been used before"),
        ('{"question": "a", "answer": "4", "id": "' + "x" * 1_000_000 + '", "question": 1}', "question must be text"),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("by_stdin", [False, True], ids=["file", "stdin"])
def test_one_bad_line_does_not_refuse_a_question_file(tiny_folder, tmp_path, line, part, by_stdin):
    """Exit code 1, the line named in a short sentence, and the other two questions answered."""
    line = line if isinstance(line, bytes) else line.encode()
    content = b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n" + line + b"\r\n" + GOOD.encode() + b"\r\n"
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    source = {"input": content} if by_stdin else {}
    result = run("evaluate", "-" if by_stdin else path, "-o", tmp_path / "r", "-m", tiny_folder, *OPTIONS, **source)
    assert result.exit_code == 1, result.output
    assert f"line 2: {part}" in result.output or part in result.output.split("line 2: ")[1]
    assert len(result.output) < 5000
    assert "2 of 2 questions answered" in result.output
    assert run("report", tmp_path / "r").exit_code == 0


def test_large_questions_and_many(tmp_path):
    """One of 1 MB is read; 100,000 cost what they hold (17 MB) and no more than as much again."""
    items, complaints = read_questions(['{"question": "' + "x" * 1_000_000 + '", "answer": "\\u0000"}'])
    assert (len(items[0].question), items[0].answer, complaints) == (1_000_000, "\0", [])
    path = tmp_path / "q.jsonl"
    with open(path, "w") as file:
        for n in range(100_000):
            file.write(json.dumps({"question": f"{n}?".rjust(100, "x"), "answer": n}) + "\n")
    tracemalloc.start()
    try:
        with open(path) as file:
            items, complaints = read_questions(file)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(items), complaints) == (100_000, [])
    assert peak < 1.5 * held
