"""Runs as tables of pandas and as Parquet."""

from __future__ import annotations

import builtins

import pytest
from stored_run import keep, settings, written
from typer.testing import CliRunner

from fastsample.cli import main
from fastsample.evaluation.dataset import Item, RunError
from fastsample.evaluation.tables import QUESTIONS, SAMPLES, rows_of, to_pandas, write_parquet


@pytest.fixture
def run(tmp_path):
    """A question with a key and one without; a cut sample, and one that holds half a character."""
    samples = {
        "a": [written(0, 0.5, 0, "four", "4"), written(1, 0.5, 1, "\ud800", None, "length", tokens=9)],
        "b": [written(0, 0.5, 0, "five", "5"), written(1, 0.5, 1, "six", "6")],
    }
    items = [Item("a", "2 + 2?", "4.0"), Item("b", "?", None)]
    return keep(tmp_path / "run", items, samples, settings((0.5,), 2))


def test_a_row_a_sample_and_a_row_a_question(run):
    """Every column, the right answer in the form in which answers are compared."""
    samples, questions = rows_of([run])
    assert all(list(row) == list(SAMPLES) for row in samples)
    assert all(list(row) == list(QUESTIONS) for row in questions)
    assert [(s["question"], s["number"], s["answer"], s["is_right"], s["text"]) for s in samples] == [
        ("a", 0, "4", True, "four"), ("a", 1, None, False, "\\ud800"), ("b", 0, "5", None, "five"),
        ("b", 1, "6", None, "six"),
    ]  # fmt: skip
    assert [(q["question"], q["cut"], q["is_split"], q["tokens"]) for q in questions] == [
        ("a", 1, False, 10), ("b", 0, True, 2)
    ]  # fmt: skip


def test_to_pandas(run):
    """Types that know what is missing; two runs under each other."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    samples, questions = to_pandas(run, run)
    assert len(samples) == 8
    assert samples["run"].nunique() == 1
    assert samples.dtypes["is_right"] == "boolean"
    assert samples["is_right"].isna().sum() == 4
    assert pandas.isna(questions["right_answer"].iloc[-1])
    assert samples.groupby("question")["tokens"].mean()["a"] == 5


def test_parquet_holds_the_same(run, tmp_path):
    """Written by the command, read by pyarrow."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    target = tmp_path / "deep" / "tables"
    said = CliRunner().invoke(main, ["report", str(run), "--parquet", str(target), "--rule", "majority"])
    assert said.exit_code == 0, said.output
    samples, questions = rows_of([run])
    assert parquet.read_table(target / "samples.parquet").to_pylist() == samples
    assert parquet.read_table(target / "questions.parquet").to_pylist() == questions


@pytest.mark.parametrize(
    ("package", "call"), [("pandas", to_pandas), ("pyarrow", lambda run: write_parquet([run], run))]
)
def test_what_is_missing_is_named(package, call, run, monkeypatch):
    """In a sentence, with the remedy."""
    real = builtins.__import__

    def without(name, *arguments):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(name=name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {package}, which is not installed; pip install"):
        call(run)


def test_a_folder_without_a_run_is_refused(tmp_path):
    """As everywhere."""
    with pytest.raises(RunError, match="holds no run"):
        rows_of([tmp_path])
