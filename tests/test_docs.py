"""Every page for readers: its python runs, its commands parse, and what it names exists."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shlex
from pathlib import Path

import bigram
import pytest
import torch
import typer
from hostile import Hostile
from test_house import FLOORS

from fastsample.strategies.registry import METHODS
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


def test_the_figures_over_vllm():
    """Those of docs/engines.md that have a line in bench/vllm.json: by the clock, by the processor, by the server."""
    page = PAGES["docs/engines.md"].read_text()
    half, large, votes = map(json.loads, (ROOT / "bench/vllm.json").read_text().splitlines())
    for name, row in half["rows"].items():
        assert f"{row['tokens_per_second']:.0f} ({row['tokens_per_processor_second']:.0f})" in page, name
    names = ("vLLM, its own", "vLLM, our draw", "our engine")
    theirs, ours, own = (large["rows"][name]["tokens_per_processor_second"] for name in names)
    times, theirs, ours, own = ours / theirs, *(f"{value:.0f}" for value in (theirs, ours, own))
    told = (
        f"it is {ours} tokens for a second of processor with our draw, {theirs} without ({times:.1f} times), and {own}"
    )
    assert told in " ".join(page.split())
    full, early = votes["rows"]
    for row in (full, early):
        assert f"| {row['rule']} | {row['written']:,} |" in page
        assert f"| {row['counted']:,} | {sum(row['right'])} " in page
    assert f"| {early['written'] / full['written']:.0%} |".replace("%", " %") in page
    assert f"wrote {early['written'] - early['received']} tokens that were no longer wanted" in page


def test_the_figures_over_servers():
    """Those of docs/engines.md that have a line in bench/servers.json: the cost here, and llama.cpp's tokens."""
    page = PAGES["docs/engines.md"].read_text()
    cost, votes, soak = map(json.loads, (ROOT / "bench/servers.json").read_text().splitlines())
    assert f"at {cost['tokens_per_second']:,} tokens a second" in page
    for part in cost["parts"].values():
        assert f"| {100 * part['of_a_core']:.1f} % | {part['us_per_token']:.0f} |" in page
    full, early = votes["rows"]
    share = f"{early['received'] / full['received']:.0%}".replace("%", " %")
    for row, of in ((full, "100 %"), (early, share)):
        told = f"| {row['rule']} | {row['received']:,} | {of} | {row['counted']:,} | {sum(row['right'])} "
        assert told in page
    sizes = soak["megabytes"]
    assert f"after each minute {min(sizes):.0f} to {max(sizes):.0f} MB, {sizes[-1]:.0f} at the end" in page
    assert f"{soak['told']['hung up']:,} hung up" in page


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


def test_the_table_of_search_is_what_was_stored():
    """Each line of docs/search.md, from bench/search.json; and every strategy has its row and its example."""
    page = PAGES["docs/search.md"].read_text()
    stored = json.loads((ROOT / "bench/search.json").read_text())
    cells = {}
    for row in stored["rows"]:
        kind = re.sub(r"n=\d+", "n=", row["strategy"])
        cells.setdefault(kind, {}).setdefault(row["world"], []).append(f"{100 * row['right']:.0f}")
    for worlds in cells.values():
        assert f"| {' | '.join(' / '.join(shares) for shares in worlds.values())} |" in page
    assert len(cells) == 5
    for name in METHODS:
        assert f"| `{name}` |" in page
        assert re.search(rf'ask\("{name}[:"]', page), name


def test_the_tables_of_heads_and_closed_forms_are_what_was_stored():
    """Each figure of docs/search.md, from bench/head.json and bench/search.json."""
    page = " ".join(PAGES["docs/search.md"].read_text().split())
    stored = json.loads((ROOT / "bench/head.json").read_text())

    def over(numbers):
        return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * x for x in numbers))

    lines = [(f"{100 * row['right']:.1f}", over(row["over_one"]), over(row["over_vote"]), f"{row['tokens']:.0f}")
             for row in stored["rows"]]  # fmt: skip
    one, any_right, vote, *others = lines
    assert f"| one text | {one[0]} | | {one[2]} | {one[3]} |" in page
    assert f"| vote of 16 | {vote[0]} | {vote[1]} | | {vote[3]} |" in page
    assert f"On {any_right[0]} % of the questions some text of sixteen is right" in page
    assert [line for line in others if " | ".join(line) not in page] == []
    for name, area in zip(("head", "log-probability"), stored["auc"].values()):
        assert "{} {:.3f} ({:.3f} to {:.3f})".format(name, *area) in page
    assert f"has {stored['within']:.3f}: next to nothing" in page
    assert f"judged by {stored['questions']} others" in page
    closed = json.loads((ROOT / "bench/search.json").read_text())
    for row in closed["closed"]:
        if "expected" in row:
            assert f"{row['right']:.3f}, {row['expected']:.3f}" in page
    assert f"The share of {closed['seeds']:,} seeds" in page


def test_what_is_said_of_learning_is_what_was_stored():
    """The figures of test-time training in docs/search.md, from bench/test_time.json."""
    page = " ".join(PAGES["docs/search.md"].read_text().split())
    stored = json.loads((ROOT / "bench/test_time.json").read_text())
    plain, taught = stored["rows"].values()
    assert (
        f"Without learning {plain['right']} of {plain['known']} are right, with 20 steps {taught['right']} of" in page
    )
    gap, low, high = (100 * x for x in stored["difference"])
    assert f"{gap:+.1f} points (95 % by puzzle: {low:+.1f} to {high:+.1f})" in page
    assert "falls from {:.2f} to {:.2f} nats".format(*taught["loss"]) in page
    assert "A puzzle takes {:.0f} s of one thread instead of {:.0f}".format(
        *(row["seconds"] / stored["puzzles"] for row in (taught, plain))
    ) in page  # fmt: skip


def test_what_is_said_of_a_beam_is_what_was_stored():
    """What a beam costs in docs/search.md, from bench/paths.json: two rounds beside a kept cache, and the books."""
    page = " ".join(PAGES["docs/search.md"].read_text().split())
    stored = json.loads((ROOT / "bench/paths.json").read_text())
    assert [row["round"] for row in stored["measured"]] == [2, 3]
    assert f"{stored['ratios']['kept']:.1f} times in rounds 2 and 3" in page
    assert f"keep the books) takes {stored['books']['share']:.1%} of the time".replace("%", " %") in page


def test_what_is_said_of_short_answers_is_what_was_stored():
    """Each figure of TOPS in docs/search.md, from bench/tops.json."""
    page = " ".join(PAGES["docs/search.md"].read_text().split())
    stored = json.loads((ROOT / "bench/tops.json").read_text())
    assert f"{stored['learn']} sums are asked at three efforts" in page
    assert f"{stored['lessons']} of them have a right text that was not cut" in page
    for name, label in (("right", "right texts, %"), ("tokens", "tokens of a text"), ("cut", "texts that were cut, %"),
                        ("of a right text", "tokens of a right text, 29 questions")):  # fmt: skip
        row, factor = stored["rows"][name], 100 if "%" in label else 1
        before, after = factor * row["before"], factor * row["after"]
        gap = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(factor * x for x in row["difference"]))
        assert f"| {label} | {before:.1f} | {after:.1f} | {gap} |" in page
    rights = "{:.1f}, {:.1f} and {:.1f} %".format(*(100 * level["right"] for level in stored["levels"]))
    lengths = "{:.0f}, {:.0f} and {:.0f} tokens".format(*(level["tokens"] for level in stored["levels"]))
    shortest = "{}, {} and {}".format(*(level["shortest"] for level in stored["levels"]))
    assert f"effort {rights} of the texts are right, with {lengths}, and {shortest}" in page
    assert stored["rows"]["of a right text"]["questions"] == 29


# --- docs/performance.md and docs/gpu.md ------------------------------------------------------------------------------

NAMES = {"zipf": "Zipf-like", "real": "SmolLM2's own", "flat": "flat noise"}


def rounded(x):
    """Two digits below ten, whole numbers above."""
    return f"{x:.1f}" if x < 10 else f"{x:,.0f}"


def test_the_table_of_sampling_is_what_was_stored():
    """Each line of docs/performance.md, from bench/sampling.json."""
    lines = []
    for cell in json.loads((ROOT / "bench/sampling.json").read_text())["results"]:
        if (cell["dtype"], cell["threads"]) == ("float32", 1):
            us = {name: middle for name, (_, middle, _) in cell["us_per_row"].items()}
            ours, one, both = us["fastsample"], us["one read (torch.amax)"], us["floor (max + sum of exp)"]
            peers = [us["llama.cpp"], us["transformers"]]
            where = f"{NAMES[cell['rows']]}, {cell['vocab']:,}, {cell['batch']}, {cell['setting']}"
            values = " | ".join(f"{x:,.0f}" for x in (one, both, *peers))
            lines.append(f"| {where} | **{ours:.0f}** | {values} | {', '.join(rounded(x / ours) for x in peers)} |")
    page = PAGES["docs/performance.md"].read_text()
    assert len(lines) == 7
    assert [line for line in lines if line not in page] == []


def test_what_was_stored_was_measured():
    """Every row of bench/sampling.json is of a program that the bench itself runs, none a figure from elsewhere."""
    script = (ROOT / "bench/sampling.py").read_text()
    cells = json.loads((ROOT / "bench/sampling.json").read_text())["results"]
    names = {name for cell in cells for name in cell["us_per_row"]}
    assert {"fastsample", "transformers", "llama.cpp"} <= names
    assert [name for name in names if f'"{name}"' not in script] == []


def test_what_the_gpu_page_counts():
    """Issue slots, spills and loads of bench/kernel_cost.md, and the faults that are planted."""
    page = " ".join(PAGES["docs/gpu.md"].read_text().split())
    table = [[cell.strip() for cell in line.strip("|").split("|")]
             for line in (ROOT / "bench/kernel_cost.md").read_text().splitlines() if line.startswith("| ")]  # fmt: skip
    head = next(line for line in table if line[0] == "kernel")
    kernels = [dict(zip(head, line)) for line in table if line[0].startswith(("cuda", "triton"))]
    assert {kernel["spills"] for kernel in kernels} == {"0"}
    assert {kernel["load_bytes"] for kernel in kernels} <= {"16", ""}
    slots = {(kernel["kernel"], kernel["arch"]): kernel["largest"] for kernel in kernels}
    kernels_of = {(kernel["kernel"], kernel["arch"]): kernel["instructions"] for kernel in kernels}
    cuda, triton = ([float(slots[f"{name} {dtype}", arch]) for dtype in ("float32", "bfloat16")]
                    for name, arch in (("cuda 1", "sm_90"), ("triton 1", "sm_90")))  # fmt: skip
    assert f"{cuda[0]:.1f} issue slots in float32 and {cuda[1]:.1f} in bfloat16 (CUDA)" in page
    assert f"{triton[0]:.1f} and {triton[1]:.1f} (Triton)" in page
    read = {what: kernels_of[f"cuda 1 bfloat16{what}", "sm_90"] for what in ("", ", maxima", " + statistics")}
    assert "{} instructions, or {} where".format(read[""], read[", maxima"]) in page
    assert f"{read[' + statistics']} with statistics" in page
    for line in (ROOT / "bench/executed.md").read_text().splitlines():
        if line.startswith("| "):
            assert line in PAGES["docs/gpu.md"].read_text()
    faults = 0
    for name in ("test_mutations.py", "test_triton_mutations.py"):
        for node in ast.parse((ROOT / "tests/sampling/gpu" / name).read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("FAULTS"):
                faults += len(node.value.keys)
    assert f"{faults} faults were put into the code" in page
