"""Files and arguments of strangers: question files, run folders, .gguf headers, command lines, texts, chat templates.

Each is taken in a process of its own with a limit of time and memory: it must end in a result or in a sentence of ours,
never in another error, a hang or a control character on the terminal. What it was made of follows from the seed.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import bigram
import torch
from typer.main import get_command
from typer.testing import CliRunner

from attack.turns import MissingError
from fastsample import models
from fastsample.answers.equivalence import canonical
from fastsample.answers.extractors import extractor_of
from fastsample.cli import main
from fastsample.evaluation.dataset import read_questions
from fastsample.strategies.prompts import prompt_of

WHAT = "question files, run folders, .gguf headers, arguments, model output and chat templates of an enemy"
COUNTED = "inputs"
SECONDS, BYTES = 20, 8 << 30
ENDS = (0, 1, 2)  # of a command
OPTIONS = ["--temperatures", "0.5,1", "--samples", "2", "--max-new-tokens", "4", "--extractor", r"regex:\d"]
HOSTILE = (
    *("<script>alert(1)</script>", "</style><img src=x onerror=alert(1)>", "\x1b]52;c;AAAA\x07", "\x1b[2J", "\x9b31m"),
    *(
        "\u202e",
        "\u2066",
        "\x00",
        "\ud800",
        "\ufeff",
        "\u2028",
        "\r",
        "\x85",
        "{{7*7}}",
        "${x}",
        "%s%n",
        "../../x",
        "9" * 5000,
    ),
    *(
        "-1",
        "1e999",
        "NaN",
        "[" * 50_000,
        "{" * 5_000,
        "\\boxed{" * 300,
        "a" * 100_000,
        "",
        " ",
        "null",
        "0x10",
        "½",
        "٣",
    ),
)
NUMBERS = (
    "0",
    "-1",
    "1",
    "nan",
    "inf",
    "1e400",
    "2147483648",
    "9223372036854775808",
    "0.5",
    "",
    "x",
    "1,2",
    "0,0",
    "1e-50",
)
TERMINAL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Files:
    """A tiny model as a folder and a file, three questions, and a run of them."""

    def __init__(self, place: Path) -> None:
        torch.set_num_threads(1)
        self.place, self.number = place, 0
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        self.folder = bigram.save_folder(place / "model")
        self.gguf = bigram.save_gguf(place / "model.gguf").read_bytes()
        self.tokenizer = bigram.bigram_tokenizer()
        self.commands = get_command(main).commands
        self.questions = place / "q.jsonl"
        lines = [json.dumps({"question": f"{n}?", "answer": "4", "id": f"q{n}"}) for n in range(3)]
        self.questions.write_text("\n".join(lines) + "\n")
        code, said = self.run("evaluate", self.questions, "-o", place / "run", "-m", self.folder, *OPTIONS)
        assert code == 0, said

    def run(self, *arguments: object) -> tuple[int, str]:
        """A command's exit code and what it said."""
        result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
        return result.exit_code, result.output

    def new(self) -> Path:
        """A path of this turn's own."""
        self.number += 1
        return self.place / f"new{self.number}"


def apart(work: Callable[[], str]) -> str:
    """What the work returns, done in a process that is ended after SECONDS; raises AssertionError for anything else."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
            sys.stdout = sys.stderr = io.StringIO()
            said = "ok " + work()
        except BaseException:
            said = "no " + traceback.format_exc()[-3000:]
        os.write(writer, said.encode(errors="backslashreplace")[:60_000])
        os._exit(0)
    os.close(writer)
    end = time.monotonic() + SECONDS
    while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < end:
        time.sleep(0.005)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as file:
        said = file.read().decode()
    assert ended, f"no end within {SECONDS} s"
    assert said.startswith("ok "), said or "the process died"
    return said[3:]


def mutated(content: bytes, choose: random.Random, pieces: tuple[bytes, ...] = ()) -> bytes:
    """Some bytes changed, cut, doubled or put in."""
    found = bytearray(content)
    for _ in range(choose.choice((1, 1, 2, 5))):
        at, length = choose.randint(0, len(found)), choose.choice((1, 2, 4, 8, 40, 400))
        kind = choose.randrange(5)
        if kind == 0:
            found[at : at + length] = choose.randbytes(length)
        elif kind == 1:
            del found[at : at + length]
        elif kind == 2:
            found[at:at] = found[at : at + length]
        elif kind == 3 and pieces:
            found[at : at + choose.choice((0, length))] = choose.choice(pieces)
        else:
            found[at : at + 1] = bytes([choose.randrange(256)])
    return bytes(found)


PIECES = (
    *(text.encode("utf-8", "surrogatepass") for text in HOSTILE),
    *(b'", "id": "q1", "x": "', b"\n", b"\r\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00" * 4096, b"}\n{", b"\\ud800"),
    *(b"NaN", b"1e999", b"[]", b"null", b"true", b'{"question": {}}', b"\\u0000", b"-0", b'"', b"\\"),
)


def questions(files: Files, choose: random.Random) -> None:
    """A question file: its good lines are read, its bad ones told by number."""
    content = mutated(files.questions.read_bytes(), choose, PIECES)

    def work() -> str:
        lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", errors="surrogateescape")
        items, complaints = read_questions(lines)
        assert len({item.id for item in items}) == len(items)
        for item in items:
            f"{item.id}{item.question}{item.answer}".encode()
        assert all(re.match(r"line \d+: ", c) and len(c) < 500 for c in complaints), complaints
        return ""

    apart(work)


def run_folder(files: Files, choose: random.Random) -> None:
    """A run folder, reported and gone on with: a sentence or a result, and a page without live markup."""
    folder = files.new()
    shutil.copytree(files.place / "run", folder)
    name = choose.choice(("samples.jsonl", "results.jsonl", "sessions.jsonl", "config.json", "questions.jsonl"))
    path = folder / name
    if choose.random() < 0.5:
        path.write_bytes(mutated(path.read_bytes(), choose, PIECES))
    else:
        path.write_text(hostile_values(path.read_text(), choose), encoding="utf-8")
    is_report = choose.random() < 0.7

    def work() -> str:
        if is_report:
            code, said = files.run("report", folder)
            page = (folder / "report.html").read_text() if code == 0 else ""
            assert "<script>alert" not in page
            assert "<img src=x" not in page
        else:
            asked = ["evaluate", files.questions, "-o", folder, "-m", files.folder, *OPTIONS, "--resume"]
            code, said = files.run(*asked)
        return check_said(code, said)

    apart(work)
    shutil.rmtree(folder)


def hostile_values(text: str, choose: random.Random) -> str:
    """JSON lines with some values replaced by hostile ones, still JSON."""
    lines = []
    for line in text.splitlines() if text.count("\n{") else [text]:
        record = json.loads(line)
        for field in list(record):
            if choose.random() < 0.2:
                odd = (choose.choice(HOSTILE), choose.choice((None, True, -1, 10**30, 1e308, [], {}, [[]], 0.5)))
                record[field] = choose.choice(odd)
        lines.append(json.dumps(record))
    return "\n".join(lines) + "\n"


def check_said(code: int, said: str) -> str:
    """A command's end is one of three, and nothing it says is obeyed by a terminal."""
    assert code in ENDS, code
    assert "Traceback" not in said
    assert (found := TERMINAL.search(said)) is None, f"{found[0]!r} in {said[-500:]!r}"
    return said


def gguf_file(files: Files, choose: random.Random) -> None:
    """A .gguf file whose header was changed: a sentence, or a model."""
    content = bytearray(files.gguf)
    header = content.index(b"token_embd")
    kind = choose.randrange(3)
    if kind == 0:  # a number behind a key of the header
        keys = list(re.finditer(rb"(?:llama|general|tokenizer)\.[a-z_.]+", bytes(content[:header])))
        at = choose.choice(keys).end() + choose.choice((0, 4, 4, 4, 8))
        value = choose.choice((0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, choose.randrange(2**32)))
        content[at : at + 4] = struct.pack("<I", value)
    elif kind == 1:  # the counts at the top
        at = choose.choice((0, 4, 8, 12, 16, 20))
        content[at : at + 4] = struct.pack("<I", choose.choice((0, 1, 7, 2**16, 2**31, 2**32 - 1)))
    else:
        content = bytearray(mutated(bytes(content[: header + 600]), choose)) + content[header + 600 :]
        if choose.random() < 0.3:
            content = content[: choose.randrange(len(content))]
    path = files.new().with_suffix(".gguf")
    path.write_bytes(content)

    def work() -> str:
        try:
            models.load(str(path), progress=lambda line: None)
        except models.ModelError as error:
            return str(error)
        return ""

    said = apart(work)
    assert len(said) < 2000
    assert not TERMINAL.search(said), repr(said)
    path.unlink()


def arguments(files: Files, choose: random.Random) -> None:
    """A command line of odd values: an end with 0, 1 or 2."""
    name = choose.choice(("solve", "evaluate", "report", "plan", "info"))
    command = files.commands[name]
    words = [name]
    for parameter in choose.sample(command.params, min(len(command.params), choose.randint(0, 5))):
        odd = choose.choice((choose.choice(HOSTILE[:24]), choose.choice(NUMBERS), choose.choice(NUMBERS)))
        if parameter.param_type_name == "argument":
            words.append(odd)
        else:
            words += [parameter.opts[0]] + ([] if getattr(parameter, "is_flag", False) else [odd])
    if name in ("solve", "plan", "evaluate") and "--model" not in words:
        words += (
            ["--model", str(files.folder), "--max-new-tokens", "3"]
            if name != "plan"
            else ["--model", str(files.folder)]
        )
    where = files.new()

    def work() -> str:
        where.mkdir()
        os.chdir(where)
        return check_said(*files.run(*(word.replace("\x00", "\\0") for word in words)))

    try:
        apart(work)
    except AssertionError as error:
        raise AssertionError(f"{[word[:80] for word in words]}: {error}") from None
    shutil.rmtree(where, ignore_errors=True)


EXTRACTORS = ("auto", "last-number", "boxed", "hash", "choice", "json:answer", r"regex:(\d+)", r"regex:(a+)+b")


def texts(files: Files, choose: random.Random) -> None:
    """A model's text of up to 100 kB of trouble: an answer or none, soon."""
    part = choose.choice((*HOSTILE, "9**9**9", "(((((", "1/0", "\\frac{1}{", "1,", "0.", "A)", "answer: ", "\n", "}{"))
    text = (
        choose.choice(("", "The answer is ", "\\boxed{", "#### ")) + (part * (100_000 // max(1, len(part))))[:100_000]
    )
    text += choose.choice(("", "}", "b", "\n", "12"))
    names = [name for name in EXTRACTORS if not (name.startswith("regex:(a") and choose.random() < 0.9)]

    def work() -> str:
        for name in names:
            try:
                extract = extractor_of(name)
            except ValueError:
                continue
            start = time.monotonic()
            try:
                answer = extract(text)
            except TimeoutError:
                continue
            if answer is not None:
                canonical(answer)
            assert time.monotonic() - start < 8, name
        return ""

    apart(work)


def template(files: Files, choose: random.Random) -> None:
    """A chat template that reaches for Python or loops: a sentence or a prompt."""
    body = choose.choice(
        (
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "{{ self.__init__.__globals__ }}",
            "{{ cycler.__init__.__globals__.os.system('touch owned') }}",
            "{{ messages.append(1) }}",
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{% for a in range(10**12) %}x{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ raise_exception('no') }}",
            "{% include '/etc/passwd' %}",
            "{{ unknown.attribute }}",
            "{% if",
        )
    )

    def work() -> str:
        os.chdir(files.place)
        files.tokenizer.chat_template = bigram.TEMPLATE + body
        try:
            prompt = prompt_of(files.tokenizer, "2 + 2?")
        except Exception as error:  # of the template's author: it ends the question with its own words
            return type(error).__name__
        text = files.tokenizer.decode(prompt)
        assert "root:" not in text
        assert "<function" not in text
        assert "class 'os" not in text
        return text

    apart(work)
    assert not (files.place / "owned").exists()


KINDS = {questions: 40, run_folder: 8, gguf_file: 8, arguments: 8, texts: 4, template: 1}


def prepare(place: Path) -> Files:
    """The model, the questions and the run."""
    if not hasattr(os, "fork"):
        raise MissingError("this system has no fork")
    return Files(place)


def turn(files: Files, choose: random.Random) -> Counter[str]:
    """One hostile input."""
    (one,) = choose.choices(list(KINDS), list(KINDS.values()))
    one(files, choose)
    return Counter({"inputs": 1, one.__name__.replace("_", " "): 1})
