"""Every page for readers: its python runs, its commands parse, and what it names exists."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

import bigram
import pytest
import torch
import typer
from hostile import Hostile
from test_house import FLOORS

from fastsample.strategies.self_consistency import SelfConsistency

ROOT = Path(__file__).parent.parent
PAGES = {str(path.relative_to(ROOT)): path for path in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]}
EVERY = pytest.mark.parametrize("page", PAGES)
BAD_USAGE = typer.BadParameter.__base__  # typer brings its own click, or takes the installed one
MADE = {"build", "dist"}  # by a command, and then what is named in it may not be there yet
TOP = tuple(
    f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in MADE
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blocks(text, *languages):
    """The code blocks of these languages."""
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, re.M | re.S)


def without_blocks(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def spans(text):
    """What stands between backquotes in the running text."""
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def commands(text):
    """Lines of the bash blocks, comments cut off, and spans of the running text that begin with a program's name."""
    lines = "\n".join(blocks(text, "bash", "sh", "console")).replace("\\\n", " ").splitlines()
    programs = ("fastsample ", "make ", "python ")
    return [line.removeprefix("$ ") for line in lines if line] + [s for s in spans(text) if s.startswith(programs)]


def slugs(text):
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", without_blocks(text), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.fixture
def seven(monkeypatch):
    """models.load gives a tiny model that answers 4 with probability 0.7 and 5 with 0.3, whatever is asked."""
    import fastsample

    tokenizer = bigram.bigram_tokenizer()
    lm = bigram.bigram_model(tokenizer, context=4096)  # prompts of strategies are long, and a token is a letter
    monkeypatch.setattr(fastsample.models, "load", lambda *_, **__: (lm, tokenizer), raising=False)
    return lm, tokenizer


@EVERY
def test_python_blocks_run_in_order(page, seven):
    """Pasted one after the other into one session, over a tiny model; the server that a page names is a made-up one."""
    session = {"__name__": "__main__"}
    with Hostile() as server:
        text = PAGES[page].read_text().replace("http://127.0.0.1:8000", server.url)
        for number, block in enumerate(blocks(text, "python"), 1):
            exec(compile(block, f"{page}, python block {number}", "exec"), session)


def parse(line):
    """Raise for a `fastsample` line whose command or options there are not."""
    from typer.main import get_command

    from fastsample.cli import main

    words = shlex.split(re.split(r" [>|] ", line)[0], comments=True)[1:]
    group = get_command(main)
    with contextlib.suppress(typer.Exit), group.make_context("fastsample", words[:1]) as context:  # --help exits
        name, command, _ = group.resolve_command(context, words)
        command.make_context(name, words[1:], parent=context)


@EVERY
def test_commands_are_understood(page):
    """`fastsample` lines parse, `make` knows the target and the variables, scripts are there."""
    makefile = (ROOT / "Makefile").read_text()
    for line in commands(PAGES[page].read_text()):
        words = shlex.split(line, comments=True)
        if words[0] == "fastsample":
            parse(line)
        elif words[0] == "make":
            for word in words[1:]:
                name, is_variable, _ = word.partition("=")
                known = rf"^{name} \?=" if is_variable else rf"^{name}:.*## "
                assert re.search(known, makefile, re.M), line
        elif words[0].endswith("python") and words[1] != "-m":
            assert (ROOT / words[1]).is_file(), line


def test_a_wrong_command_would_be_seen():
    """The twin: an option and a command that there are not."""
    for line in ("fastsample solve x --verify", "fastsample ask"):
        with pytest.raises(BAD_USAGE):
            parse(line)
    found = commands("`fastsample info` and `a / b`\n```bash\nmake demo  # x\n```")
    assert found == ["make demo  # x", "fastsample info"]


def missing(page, text):
    """Links and paths that lead nowhere: links are relative to the page, paths in backquotes to the checkout."""
    lost = []
    for target in re.findall(r"\]\(([^)]+)\)", without_blocks(text)):
        place, _, anchor = target.partition("#")
        path = (page.parent / place).resolve() if place else page
        is_there = "://" in target or (path.exists() and path.is_relative_to(ROOT))
        if not is_there or (anchor and anchor not in slugs(path.read_text())):
            lost.append(target)
    for span in spans(text):
        path, _, function = span.partition("::")
        if re.fullmatch(r"[\w./-]+", path) and path.startswith(TOP):
            is_there = (ROOT / path).exists()
            if not is_there or (function and f"def {function}(" not in (ROOT / path).read_text()):
                lost.append(span)
    return lost


@EVERY
def test_what_is_named_exists(page):
    """Links, headings, files, folders, and tests by name."""
    assert missing(PAGES[page], PAGES[page].read_text()) == []


def test_what_does_not_exist_would_be_seen():
    """The twin: a page, a heading, a file, a test; and what is no path is left alone."""
    text = "[a](docs/no.md) [b](README.md#no) `tests/no.py` `tests/test_docs.py::test_no` `a/b` [c](README.md#install)"
    assert missing(PAGES["README.md"], text) == [
        "docs/no.md", "README.md#no", "tests/no.py", "tests/test_docs.py::test_no"
    ]  # fmt: skip


@EVERY
def test_pages_name_no_place_of_one_machine(page):
    """No path of the machine that a page was written on."""
    assert not re.search(r"(?<![\w.])/(?:work|home|root|tmp|Users)/", PAGES[page].read_text())


def test_the_order_of_the_folders_is_that_of_the_code():
    """CONTRIBUTING.md lists the floors of test_house.py."""
    (order,) = blocks(PAGES["CONTRIBUTING.md"].read_text(), "text")
    assert [line.split() for line in order.splitlines()] == [floor.split() for floor in FLOORS]


def test_no_environment_variable_is_read():
    """What is chosen, is chosen by an argument; an API key, which chooses nothing, is read in one place."""
    read = re.compile(r"\benviron(?:b|\.get|\[|$)|\bgetenv\b")
    assert read.search("os.environ['X']")
    assert [path.name for path in ROOT.glob("fastsample/**/*.py") if read.search(path.read_text())] == ["keys.py"]
    assert [path.name for path in ROOT.glob("csrc/**/*.*") if re.search(r"\bgetenv\b", path.read_text())] == []


# --- docs/adding_a_strategy.md ----------------------------------------------------------------------------------------


@pytest.fixture
def first_readable(seven):
    """The page's strategy, and a function that asks with it."""
    import fastsample

    session = {}
    exec(blocks(PAGES["docs/adding_a_strategy.md"].read_text(), "python")[0], session)

    def ask(questions=("2 + 2?",), extractor=only_five, strategy=session["first_readable"], **settings):
        settings = fastsample.Settings((1.0,), 20, max_new_tokens=8, **settings)
        return list(fastsample.solve_many(*seven, questions, settings=settings, extractor=extractor, strategy=strategy))

    return ask


def only_five(text):
    return text if text == "5" else None


def test_the_strategy_stops_at_the_first_sample_that_can_be_read(first_readable):
    """It writes the samples of the full vote up to there, and no further one."""
    for seed in range(3):
        (result,), (full,) = first_readable(seed=seed), first_readable(seed=seed, strategy=SelfConsistency)
        texts = [sample.text for sample in full.samples]
        assert [sample.text for sample in result.samples] == texts[: texts.index("5") + 1]
        assert (result.answer, result.status, result.engine) == ("5", "found", "shared-prefix")


def test_the_strategy_ends_where_nothing_can_be_read(first_readable):
    """The whole budget is spent, and there is no answer."""
    (result,) = first_readable(extractor=lambda _: None)
    assert (result.answer, result.status, len(result.samples)) == (None, "none", 20)


def test_the_strategy_serves_many_questions_at_once(first_readable):
    """In one batch each comes to what it comes to alone, also while free places are lent at the end."""
    questions = [f"{n}?" for n in range(6)]
    together = first_readable(questions)
    alone = [first_readable([question])[0] for question in questions]
    assert {r.question: len(r.samples) for r in together} == {r.question: len(r.samples) for r in alone}
    assert len({len(r.samples) for r in together}) > 1


# --- docs/search.md ---------------------------------------------------------------------------------------------------
