"""Runs as tables: a row a sample and a row a question, for pandas, or as Parquet files that every tool reads."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..answers.equivalence import canonical
from .explorer import Outcome, entries_of

if TYPE_CHECKING:
    import pandas

# Column -> its type: "text", "whole", "number" or "truth"; each may be missing.
SAMPLES = {
    "run": "text", "question": "text", "number": "whole", "temperature": "number", "k": "whole", "stream": "whole",
    "text": "text", "answer": "text", "right_answer": "text", "is_right": "truth", "tokens": "whole", "finish": "text",
    "mean_logprob": "number", "mean_raw_logprob": "number", "entropy": "number", "self_certainty": "number",
    "score": "number",
}  # fmt: skip
QUESTIONS = {
    "run": "text", "question": "text", "text": "text", "answer": "text", "right_answer": "text", "is_right": "truth",
    "is_split": "truth", "samples": "whole", "cut": "whole", "tokens": "whole",
}  # fmt: skip
Folder = str | PathLike[str]


class Frames(NamedTuple):
    """samples: a row a sample; questions: a row a question of a run. Their columns are `SAMPLES` and `QUESTIONS`."""

    samples: pandas.DataFrame
    questions: pandas.DataFrame


def rows_of(folders: Sequence[Folder]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(a dictionary a sample, a dictionary a question) of these runs.

    `question` is the question's id, and `is_right` of a sample whether its answer is the right one: None where that is
    not known. A question's answer and `is_right` are the run's own.

    raises: RunError for a folder without a run, or with files that were edited or damaged
    """
    paths = [Path(folder) for folder in folders]
    samples: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    for entry in entries_of(paths):
        right = None if entry.item.answer is None else canonical(entry.item.answer)
        for path, outcome in zip(paths, entry.outcomes):
            if outcome is None:
                continue
            named = {"run": _text(str(path)), "question": _text(entry.item.id)}
            samples += [named | sample for sample in _samples(outcome, right)]
            about = {
                "text": _text(entry.item.question),
                "answer": _text(outcome.answer),
                "right_answer": _text(right),
                "is_right": outcome.is_right,
                "is_split": outcome.is_split,
                "samples": len(outcome.samples),
                "cut": outcome.cut,
                "tokens": sum(s.tokens for s in outcome.samples),
            }
            questions.append(named | about)
    return samples, questions


def _samples(outcome: Outcome, right: str | None) -> list[dict[str, Any]]:
    return [
        {
            "number": s.number,
            "temperature": s.temperature,
            "k": s.k,
            "stream": s.stream,
            "text": _text(s.text),
            "answer": _text(s.answer),
            "right_answer": _text(right),
            "is_right": None if right is None or not s.is_finished else s.answer == right,
            "tokens": s.tokens,
            "finish": s.finish,
            "mean_logprob": s.means.logprob,
            "mean_raw_logprob": s.means.raw_logprob,
            "entropy": s.means.entropy,
            "self_certainty": s.means.self_certainty,
            "score": s.score,
        }
        for s in outcome.samples
    ]


def _text(text: str | None) -> str | None:
    """Half of a character, which UTF-8 has not, is written as its code."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def to_pandas(*folders: Folder) -> Frames:
    """The samples and the questions of one or more runs as two tables of pandas.

    folders: what `evaluate` made
    raises:  RunError as `rows_of`; ModuleNotFoundError, with a sentence, where pandas is not installed
    """
    try:
        import pandas
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "to_pandas needs pandas, which is not installed; pip install 'fastsample[report]'", name="pandas"
        ) from None
    types = {"text": "string", "whole": "Int64", "number": "Float64", "truth": "boolean"}
    frames = [
        pandas.DataFrame(rows, columns=list(columns)).astype({name: types[kind] for name, kind in columns.items()})
        for rows, columns in zip(rows_of(folders), (SAMPLES, QUESTIONS))
    ]
    return Frames(*frames)


def write_parquet(folders: Sequence[Folder], target: Folder) -> tuple[Path, Path]:
    """Write samples.parquet and questions.parquet of these runs into the folder `target`; returns their paths.

    raises: RunError as `rows_of`; OSError for what cannot be written; ModuleNotFoundError, with a sentence, where
            pyarrow is not installed
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Parquet needs pyarrow, which is not installed; pip install 'fastsample[report]'", name="pyarrow"
        ) from None
    types = {"text": pyarrow.string(), "whole": pyarrow.int64(), "number": pyarrow.float64(), "truth": pyarrow.bool_()}
    both = rows_of(folders)
    place = Path(target)
    place.mkdir(parents=True, exist_ok=True)
    paths = place / "samples.parquet", place / "questions.parquet"
    for path, rows, columns in zip(paths, both, (SAMPLES, QUESTIONS)):
        schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)
    return paths
