"""`auto` on real outputs of a small model, each labelled with its answer by reading: it seldom says a wrong one."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from fastsample.answers.extractors import auto, last_number

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("extractors_bench", ROOT / "bench" / "extractors.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
TEXTS = bench.rows()
ENDED = [row for row in TEXTS if row["finish"] != "length"]
HELD_OUT = [row for row in ENDED if row["held_out"]]


def test_the_set_is_what_the_page_says():
    """At least 300 texts, each labelled, of which some have no answer; those held out are of other questions."""
    assert len(TEXTS) >= 300
    assert len({row["id"] for row in TEXTS}) == len(TEXTS)
    assert 20 < sum(row["answer"] is None for row in ENDED) < len(ENDED) - 100
    assert {row["question"] for row in TEXTS if row["held_out"]}.isdisjoint(
        {row["question"] for row in TEXTS if not row["held_out"]}
    )


@pytest.mark.parametrize(("texts", "agree", "wrong"), [(ENDED, 158, 11), (HELD_OUT, 29, 8)], ids=["all", "held out"])
def test_auto_agrees_with_a_reader(texts, agree, wrong):
    """Not less often than measured, with no more wrong answers; the last number of a text does much worse."""
    found = bench.score(auto, texts)
    assert found[0] >= agree
    assert found[1] <= wrong
    number = bench.score(last_number, texts)
    assert number[0] < found[0]
    assert number[1] > found[1]


def test_the_page_s_table_is_the_bench_s():
    """The row of `auto` in docs/voting.md."""
    page = (ROOT / "docs" / "voting.md").read_text()
    (row,) = re.findall(r"^\| `auto` \|(.*)\|$", page, re.M)
    cells = [tuple(map(int, cell.split("/"))) for cell in row.split("|")]
    assert cells == [bench.score(auto, ENDED), bench.score(auto, HELD_OUT)]
