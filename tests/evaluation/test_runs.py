"""The run folder: question files with mistakes, configurations, torn lines and full disks."""

from __future__ import annotations

import errno
import json
from contextlib import suppress
from dataclasses import replace

import pytest
from two_questions import CONFIG, ITEMS, written

from fastsample.evaluation.dataset import Item, RunError, read_questions
from fastsample.evaluation.evaluate import evaluate
from fastsample.evaluation.run_folder import open_run
from fastsample.evaluation.stored import read_results, read_samples

RESULT = '{"id": "p", "tokens": 4, "counted": 2, "cancelled": 0, "is_right": true}'


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
    run._files["samples.jsonl"]._file = Full(run._files["samples.jsonl"]._file)
    with pytest.raises(OSError, match="No space"), run:
        _ = [run.add_sample("p", written(number)) for number in range(9)]
    whole = (tmp_path / "samples.jsonl").read_bytes().count(b"\n")
    assert 0 < whole < 9
    with open_run(tmp_path, CONFIG, ITEMS, resume=True) as again:
        assert [s.number for s in again.known["p"]] == list(range(whole))


def test_a_damaged_file_is_told_by_its_line(tmp_path):
    """A line in the middle that is no JSON was edited: it is not passed over in silence."""
    open_run(tmp_path, CONFIG, ITEMS).__exit__()
    (tmp_path / "results.jsonl").write_text(f"{RESULT}\nnonsense\n{RESULT}\n")
    with pytest.raises(RunError, match=r"results.jsonl, line 2: not JSON"):
        list(read_results(tmp_path))
    assert json.loads((tmp_path / "questions.jsonl").read_text().splitlines()[1]) == {
        "question": "2 + 2?", "answer": "4", "id": "q"
    }  # fmt: skip


def full_after(room, file):
    """A file on a disk that has room for so many more bytes, for a moment."""

    class Full:
        def __init__(self):
            self.room = room

        def write(self, line):
            if self.room <= 0:
                self.room = 1 << 40  # somebody made room
                raise OSError(errno.ENOSPC, "No space left on device")
            taken = file.write(line[: self.room])
            self.room -= taken
            return taken

        def __getattr__(self, name):
            return getattr(file, name)

    return Full()


@pytest.mark.parametrize("room", [0, 1, 100, 700, 701])
def test_a_line_behind_half_a_line_is_never_written(tmp_path, room):
    """A disk that is full for a moment: the half line is taken back, and later ones stand on their own."""
    with open_run(tmp_path, CONFIG, ITEMS) as run:
        journal = run._files["samples.jsonl"]
        journal._file = full_after(room, journal._file)
        for number in range(9):
            with suppress(OSError):
                run.add_sample("p", written(number))
    assert len(list(read_samples(tmp_path))) == 8
    assert (tmp_path / "samples.jsonl").read_bytes().count(b"\n") == 8


def test_what_cannot_be_taken_back_ends_the_file(tmp_path):
    """Where the file cannot be cut, or holds another's bytes, nothing more is appended; resuming mends it."""
    for broken in ("truncate", "other"):
        folder = tmp_path / broken
        run = open_run(folder, CONFIG, ITEMS)
        journal = run._files["samples.jsonl"]
        run.add_sample("p", written(0))
        journal._file = full_after(100, journal._file)
        if broken == "truncate":
            journal._file.truncate = lambda size: (_ for _ in ()).throw(OSError(errno.EIO, "broken"))
        else:
            with open(folder / "samples.jsonl", "ab") as other:
                other.write(b"another's")
        before = (folder / "samples.jsonl").read_bytes()
        with pytest.raises(OSError, match="No space"):
            run.add_sample("p", written(1))
        after = (folder / "samples.jsonl").read_bytes()
        assert after.startswith(before)
        with pytest.raises(OSError, match="nothing more is appended"):
            run.add_sample("p", written(2))
        assert (folder / "samples.jsonl").read_bytes() == after
        run.__exit__()
        with open_run(folder, CONFIG, ITEMS, resume=True) as again:
            assert again.known == {"p": [written(0)]}


def test_only_what_is_torn_is_cut(tmp_path):
    """A last line that is whole but for its line break, as some editors leave it, is kept."""
    with open_run(tmp_path, CONFIG, ITEMS) as run:
        _ = [run.add_sample("p", written(number)) for number in range(3)]
    path = tmp_path / "samples.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert len(list(read_samples(tmp_path))) == 3
    with open_run(tmp_path, CONFIG, ITEMS, resume=True) as run:
        assert len(run.known["p"]) == 3
    assert path.read_bytes() == whole


def test_two_items_of_one_id_are_refused(tmp_path):
    """From a caller's own list too: their samples could not be told apart."""
    with pytest.raises(RunError, match="'p' is used twice"):
        evaluate(None, None, [*ITEMS, ITEMS[0]], tmp_path / "run", named={})
    assert not (tmp_path / "run").exists()


def test_certainties_that_are_no_numbers_are_left_out(tmp_path):
    """JSON has no NaN, and a sample that could never be stored would stop the run for ever."""
    with open_run(tmp_path, CONFIG, ITEMS) as run:
        run.add_sample("p", replace(written(0), certainties=(1.0, float("nan"))))
    assert [s for _, s in read_samples(tmp_path)] == [replace(written(0), certainties=())]
