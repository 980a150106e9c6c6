"""The report's page in headless Chromium, opened from a file: its own filters, links and points are used."""

from __future__ import annotations

import json
import re
from zlib import decompress

import pytest
from stored_run import keep, made_up, settings, written
from typer.testing import CliRunner

import fastsample.evaluation.explorer as explorer
from fastsample.cli import main
from fastsample.evaluation.dataset import Item

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=document.title='taken'>\x1b[2J\u202e&amp;"


def report(target, *runs, rules=("majority", "ahead:k=2")):
    arguments = [a for rule in rules for a in ("--rule", rule)]
    result = CliRunner().invoke(main, ["report", *map(str, runs), "-o", str(target), *arguments])
    assert result.exit_code == 0, result.output
    return target


@pytest.fixture
def opened(browser):
    """A function that opens a page file in a window; whatever the page asks of a network, or complains of, fails."""
    contexts, trouble = [], []

    def open_(path, width=1280, anchor="", **more):
        context = browser.new_context(viewport={"width": width, "height": 900}, **more)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or trouble.append(r.url))
        page.on("pageerror", lambda e: trouble.append(str(e)))
        page.on(
            "console", lambda m: m.type == "error" and "ERR_FILE_NOT_FOUND" not in m.text and trouble.append(m.text)
        )
        page.goto(f"{path.as_uri()}{anchor}")
        page.wait_for_function("document.querySelector('#count').textContent !== ''")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture(scope="module")
def small_page(small_run, tmp_path_factory):
    return report(tmp_path_factory.mktemp("page") / "small.html", small_run)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """One question of each kind: right, wrong, split, with a cut sample, without a key."""
    items = [
        Item("right", "Right?", "1"),
        Item("wrong", "Wrong?", "1"),
        Item("split", "Split?", "1"),
        Item("cut", "Cut?", "1"),
        Item("no key", "No key?", None),
    ]
    votes = {"right": "1 1 1 2", "wrong": "2 2 2 1", "split": "1 1 2 3", "cut": "1 1 1 -", "no key": "5 5 5 5"}
    samples = {
        name: [
            written(
                n,
                (0.5, 1.0)[n % 2],
                n // 2,
                f"text {name} {n}",
                None if a == "-" else a,
                "length" if a == "-" else "eos",
            )
            for n, a in enumerate(letters.split())
        ]
        for name, letters in votes.items()
    }
    return keep(tmp_path_factory.mktemp("run") / "labelled", items, samples, settings((0.5, 1.0), 2))


def keys(page):
    return page.eval_on_selector_all("#list .q", "nodes => nodes.map(n => n.dataset.key)")


def test_the_filters_filter(labelled, tmp_path, opened):
    """Right, wrong, split and cut, each clicked; and a search for an id, a question and an answer."""
    page = opened(report(tmp_path / "r.html", labelled))
    assert keys(page) == ["right", "wrong", "split", "cut", "no key"]
    for name, expected in (
        ("right", ["right", "split", "cut"]),
        ("wrong", ["wrong"]),
        ("split", ["split"]),
        ("cut", ["cut"]),
        ("all", ["right", "wrong", "split", "cut", "no key"]),
    ):
        page.click(f"button[data-filter={name}]")
        assert keys(page) == expected
        assert page.inner_text("#count") == f"{len(expected)} of 5 questions"
        assert page.inner_text(f"button[data-filter={name}]") == f"{name} {len(expected)}"
    for words, expected in (("no k", ["no key"]), ("SPLIT?", ["split"]), ("5", ["no key"]), ("nothing", [])):
        page.fill("input[type=search]", words)
        assert keys(page) == expected


def test_a_question_opens_to_its_votes_and_texts(labelled, tmp_path, opened):
    """Votes by temperature as they were counted, every sample's text, and the samples of one temperature."""
    page = opened(report(tmp_path / "r.html", labelled))
    page.click(".q[data-key=split] > summary")
    page.wait_for_selector(".q[data-key=split] .samples")
    rows = page.eval_on_selector_all(
        ".q[data-key=split] .inside table tr", "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
    )
    assert rows == [
        ["T", "1 ✓", "2", "3", "samples"],
        ["0.5", "1", "1", "·", "2"],
        ["1", "1", "·", "1", "2"],
        ["all", "2", "1", "1", "4"],
    ]
    texts = ".q[data-key=split] .samples pre"
    assert page.eval_on_selector_all(texts, "n => n.map(x => x.textContent)") == [f"text split {n}" for n in range(4)]
    assert not page.is_visible(texts)
    page.click(".q[data-key=split] .inside button")
    assert page.is_visible(texts)
    page.select_option(".q[data-key=split] .inside select", label="T 1 (2)")
    assert page.eval_on_selector_all(texts, "n => n.map(x => x.textContent)") == ["text split 1", "text split 3"]


def test_a_link_points_at_one_question(labelled, tmp_path, opened):
    """Opened with the page, from another place on the page, and past a filter; a wrong one says so."""
    path = report(tmp_path / "r.html", labelled)
    page = opened(path, anchor="#q=no%20key")
    page.wait_for_selector(".q[data-key='no key'] .samples")
    assert page.eval_on_selector_all(".q[open]", "nodes => nodes.length") == 1
    link = page.get_attribute(".q[data-key='no key'] .inside a", "href")
    assert link == "#q=no%20key"
    page.click("button[data-filter=wrong]")
    page.evaluate("location.hash = '#q=right'")
    page.wait_for_selector(".q[data-key=right] .samples")
    page.evaluate("location.hash = '#q=nobody'")
    page.wait_for_function("document.querySelector('#count').textContent === 'no question is called nobody'")


def test_two_runs_stand_side_by_side(labelled, tmp_path, opened):
    """Where they differ, in one list; the filters look at the run that is chosen."""
    items = [
        Item("right", "Right?", "1"),
        Item("wrong", "Wrong?", "1"),
        Item("new", "New?", "1"),
        Item("cut", "Other words?", "1"),
    ]
    samples = {item.id: [written(n, 1.0, n, "other text", "1") for n in range(2)] for item in items}
    other = keep(tmp_path / "other", items, samples, settings((1.0,), 2))
    page = opened(report(tmp_path / "r.html", labelled, other))
    assert keys(page) == ["right", "wrong", "split", "cut", "no key", "new", "cut (2)"]
    assert (
        "On the 2 questions that both judged, other is right on 2 and labelled on 1: +50.0 points"
        in page.inner_text("main")
    )
    page.click("button[data-filter=differs]")
    assert keys(page) == ["wrong"]
    page.click(".q[data-key=wrong] > summary")
    page.wait_for_selector(".q[data-key=wrong] .samples")
    boxes = page.eval_on_selector_all(".columns > section", "n => n.map(x => x.getBoundingClientRect().top)")
    assert len(boxes) == 2
    assert boxes[0] == boxes[1]
    page.click("button[data-filter=right]")
    assert keys(page) == ["right", "split", "cut"]
    page.select_option("#filters select", label="in other")
    assert keys(page) == ["right", "wrong", "new", "cut (2)"]


def test_hostile_texts_are_shown_and_do_nothing(tmp_path, opened):
    """Markup in an id, a question, an answer and a text is what one reads, and nothing else."""
    items = [Item(HOSTILE, f"Q {HOSTILE}", "1")]
    samples = {
        HOSTILE: [written(0, 1.0, 0, f"T {HOSTILE}", f"A {HOSTILE[:60]}"), written(1, 1.0, 1, "x\udc80" * 30_000, "1")]
    }
    run = keep(tmp_path / "run<img src=x>", items, samples, settings((1.0,), 2))
    page = opened(report(tmp_path / "r'\"<b>.html", run))
    title = page.title()
    page.click(".q > summary")
    page.wait_for_selector(".samples")
    page.click(".q .inside button")
    text = page.inner_text(".samples pre >> nth=0")
    assert text == "T " + HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert "40,000 more characters" in page.inner_text(".samples pre >> nth=1")
    assert page.title() == title
    assert page.eval_on_selector_all("main img, main script, main b[onclick]", "n => n.length") == 0


def test_another_script_would_not_run(small_page, tmp_path, browser):
    """The page's policy: were a script smuggled in after all, the browser would refuse it, and say so."""
    path = tmp_path / "broken.html"
    path.write_text(small_page.read_text().replace("</main>", "<script>document.title='taken'</script></main>"))
    page = browser.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    assert page.title() == "small: fastsample report"
    assert any("Content Security Policy" in words for words in said)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 760, 420])
def test_nothing_leaves_the_page(small_page, opened, width, scheme):
    """No sideways scrolling, no table past the edge, at three widths; with a question and its samples open."""
    page = opened(small_page, width=width, color_scheme=scheme)
    page.click(".q > summary")
    page.wait_for_selector(".samples")
    page.click("details.more summary")
    wide = page.evaluate(
        """() => [...document.querySelectorAll('table, svg, figure, section, .q, .bar, pre')]
        .filter(n => !n.closest('.scroll'))
        .filter(n => n.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
        .map(n => n.className || n.tagName)"""
    )
    assert wide == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize(("width", "kind"), [(1280, "wide"), (420, "narrow")])
def test_a_rule_s_point_says_what_it_is(small_page, opened, width, kind):
    """Under the mouse and under the keyboard: its name and figures, and its row in the table is lit."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    page = opened(small_page, width=width)
    assert page.eval_on_selector_all(f".{kind} .point", "n => n.length") == 2
    page.hover(f".{kind} .point[data-rule='1']")
    assert page.inner_text("#tip").startswith("ahead:k=2: ")
    assert page.get_attribute("tr[data-rule='1']", "class") == "lit"
    page.mouse.move(0, 0)
    assert not page.is_visible("#tip")
    page.focus(f".{kind} .point[data-rule='0']")
    assert page.inner_text("#tip").startswith("majority: ")


@pytest.mark.slow
def test_a_large_run_is_small_and_what_has_no_room_is_loaded(tmp_path, opened, monkeypatch):
    """120 questions x 40 samples stay below 2 MB; with less room texts lie beside the page, and are told of if lost."""
    run = made_up(tmp_path / "large", samples=13)
    path = report(tmp_path / "r.html", run, rules=("majority",))
    assert path.stat().st_size < 2_000_000
    assert not (tmp_path / "r-texts").exists()
    monkeypatch.setattr(explorer, "FILE_BYTES", 100_000)
    monkeypatch.setattr("fastsample.evaluation.page.PAGE_BYTES", 300_000)
    path = report(tmp_path / "r.html", run, rules=("majority",))
    assert path.stat().st_size < 310_000
    assert len(list((tmp_path / "r-texts").glob("*.js"))) >= 3
    page = opened(path)
    assert len(keys(page)) == 100
    page.click("#list > p button")
    assert len(keys(page)) == 120
    for key in ("set-000", "set-119"):
        page.evaluate(f"location.hash = '#q={key}'")
        page.wait_for_selector(f".q[data-key={key}] .samples")
        assert page.eval_on_selector_all(f".q[data-key={key}] pre", "n => n.length") == 40
    (tmp_path / "r-texts" / "0.js").unlink()
    page.reload()
    page.wait_for_function("document.querySelector('#count').textContent !== ''")
    lost = next(
        k for k in (f"set-{n:03}" for n in range(120))
        if json.loads(decompress(_b64(index_of(path))))["files"][int(k[4:])] == 0
    )  # fmt: skip
    page.evaluate(f"location.hash = '#q={lost}'")
    page.wait_for_selector(f".q[data-key={lost}] .note")
    assert "r-texts/0.js, which is not beside this page" in page.inner_text(f".q[data-key={lost}] .note")


def index_of(path):
    return json.loads(re.search(r'id="index">(.*?)</script>', path.read_text())[1])


def _b64(text):
    from base64 import b64decode

    return b64decode(text)
