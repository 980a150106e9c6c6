"""The run folder: question files with mistakes, configurations, torn lines and full disks."""

from __future__ import annotations

import errno
import json

import pytest

from fastsample.evaluation.dataset import Item, read_questions
from fastsample.evaluation.run_folder import RunError, open_run, read_config, read_results, read_samples
from fastsample.strategies.records import Written
from fastsample.token_stats import MeanStats

CONFIG = {"rule": "majority", "samples": 4, "temperatures": [0.0, 1.0]}
ITEMS = [Item("p", "1 + 1?", "2"), Item("q", "2 + 2?", "4")]


def written(number, text="4"):
    ended = {"certainties": (1.0, 2.0), "token_ids": (3, 4)}
    return Written(number, 1.0, number, 7, text, text, 2, "eos", MeanStats(-0.5), **ended)


def test_questions_are_read_and_mistakes_are_named_by_line():
    """Every kind of bad line is told with its number, and the good ones are kept."""
    lines = [
        '\ufeff{"question": "1?", "answer": 2}',
        '{"question": "2?", "answer": "x", "id": "two"}',
        "",
        '{"question": ',
        '["question"]',
        '{"question": "3?"}',
        '{"answer": "3"}',
        '{"question": "  ", "answer": "3"}',
        '{"question": "3?", "answer": [3]}',
        '{"question": "3?", "answer": "3", "id": "two"}',
        '{"question": "3?", "answer": "3", "id": {}}',
        '{"question": "9?", "answer": null, "id": 9}',
        "[" * 100_000,
    ]
    items, complaints = read_questions(lines)
    assert items == [Item("1", "1?", "2"), Item("two", "2?", "x"), Item("9", "9?", None)]
    parts = ["line 4: not JSON", "line 5: a line must be an object", "line 6: the field 'answer' is missing",
             "line 7: the field 'question' is missing", "line 8: question must be text", "line 9: answer must be",
             "line 10: the id 'two' has been used before", "line 11: id must be", "line 13: not JSON"]  # fmt: skip
    assert len(complaints) == len(parts)
    assert all(c.startswith(p) for c, p in zip(complaints, parts))


def test_samples_come_back_as_they_were(tmp_path):
    """Every field, lone surrogates and line breaks included."""
    samples = [written(0), written(1, "a\nb\u2028c"), written(2, "half \ud800 pair")]
    with open_run(tmp_path / "run", CONFIG, ITEMS) as run:
        for sample in samples:
            run.add_sample("p", sample)
    assert [s for _, s in read_samples(tmp_path / "run")] == samples


def test_a_run_is_gone_on_with(tmp_path):
    """Samples of questions without a result are known; a torn line is cut off and nothing before it."""
    folder = tmp_path / "run"
    with open_run(folder, CONFIG, ITEMS) as run:
        run.add_sample("p", written(0))
        run.add_sample("p", written(1))
    for torn in (b'{"question": "p", "numb', b"\xff\xfe", b"x" * 200_000):
        with open(folder / "samples.jsonl", "ab") as file:
            file.write(torn)
        assert len(list(read_samples(folder))) == 2
        with open_run(folder, CONFIG, ITEMS, resume=True) as run:
            assert run.known == {"p": [written(0), written(1)]}
            assert run.done == set()
    (folder / "samples.jsonl").write_bytes(b'{"torn')
    with open_run(folder, CONFIG, ITEMS, resume=True) as run:
        assert run.known == {}
    assert (folder / "samples.jsonl").read_bytes() == b""


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    """The stored value and the new one, side by side; and a run is never gone on with by accident."""
    open_run(tmp_path, CONFIG, ITEMS).__exit__()
    with pytest.raises(RunError, match=r"samples: 4 in the run, 5 now"):
        open_run(tmp_path, CONFIG | {"samples": 5}, ITEMS, resume=True)
    with pytest.raises(RunError, match="--resume"):
        open_run(tmp_path, CONFIG, ITEMS)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        read_config(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    """No file is written beside what is not ours."""
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="not empty and holds no run"):
        open_run(tmp_path, CONFIG, ITEMS)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_do_not_write_one_run(tmp_path):
    """The second one is refused while the first one holds the folder."""
    pytest.importorskip("fcntl", reason="this system has no file locks of this kind")
    with open_run(tmp_path / "run", CONFIG, ITEMS), pytest.raises(RunError, match="another process"):
        open_run(tmp_path / "run", CONFIG, ITEMS, resume=True)
    open_run(tmp_path / "run", CONFIG, ITEMS, resume=True).__exit__()


def test_a_full_disk_loses_nothing_that_was_written(tmp_path):
    """A write that takes half a line and then fails: the error comes out, and going on finds every whole line."""

    class Full:
        def __init__(self, file):
            self.file, self.room = file, 700

        def write(self, line):
            if self.room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken = self.file.write(line[: self.room])
            self.room -= taken
            return taken

        def __getattr__(self, name):
            return getattr(self.file, name)

    run = open_run(tmp_path, CONFIG, ITEMS)
    run._files["samples.jsonl"] = Full(run._files["samples.jsonl"])
    with pytest.raises(OSError, match="No space"), run:
        _ = [run.add_sample("p", written(number)) for number in range(9)]
    whole = (tmp_path / "samples.jsonl").read_bytes().count(b"\n")
    assert 0 < whole < 9
    with open_run(tmp_path, CONFIG, ITEMS, resume=True) as again:
        assert [s.number for s in again.known["p"]] == list(range(whole))


def test_a_damaged_file_is_told_by_its_line(tmp_path):
    """A line in the middle that is no JSON was edited: it is not passed over in silence."""
    open_run(tmp_path, CONFIG, ITEMS).__exit__()
    (tmp_path / "results.jsonl").write_text('{"id": "p"}\nnonsense\n{"id": "q"}\n')
    with pytest.raises(RunError, match=r"results.jsonl, line 2: not JSON"):
        list(read_results(tmp_path))
    assert json.loads((tmp_path / "questions.jsonl").read_text().splitlines()[1]) == {
        "question": "2 + 2?", "answer": "4", "id": "q"
    }  # fmt: skip
