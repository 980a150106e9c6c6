"""The run folder: question files with mistakes, configurations, torn lines and full disks."""

from __future__ import annotations

import errno
import json
import os
import sys
from contextlib import suppress
from dataclasses import replace

import pytest

from fastsample.evaluation.dataset import Item, RunError, read_questions
from fastsample.evaluation.evaluate import evaluate
from fastsample.evaluation.run_folder import open_run
from fastsample.evaluation.stored import read_config, read_results, read_samples
from fastsample.strategies.records import Written
from fastsample.token_stats import MeanStats

CONFIG = {"rule": "majority", "samples": 16, "temperatures": [1.0]}
RESULT = '{"id": "p", "tokens": 4, "counted": 2, "cancelled": 0, "is_right": true}'
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
    with pytest.raises(RunError, match=r"samples: 16 in the run, 5 now"):
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


def test_a_second_process_touches_nothing(tmp_path):
    """What looks torn may be a line that the first process is writing: the lock comes first."""
    pytest.importorskip("fcntl", reason="this system has no file locks of this kind")
    with open_run(tmp_path / "run", CONFIG, ITEMS) as run:
        run._files["samples.jsonl"]._file.write(b'{"question": "p", ')
        before = (tmp_path / "run" / "samples.jsonl").read_bytes()
        for resume in (True, False):
            with pytest.raises(RunError, match=r"another process|--resume"):
                open_run(tmp_path / "run", CONFIG, ITEMS, resume=resume)
        assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["samples.jsonl", "results.jsonl", "sessions.jsonl", "run.lock"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, name):
    """Its target would be cut. So would be a pipe's reader, for ever."""
    folder, target = tmp_path / "run", tmp_path / "precious.txt"
    open_run(folder, CONFIG, ITEMS).__exit__()
    target.write_text("no line break")
    (folder / name).unlink()
    (folder / name).symlink_to(target)
    with pytest.raises(RunError, match=rf"{name} must be a plain file, and is a link"):
        open_run(folder, CONFIG, ITEMS, resume=True)
    assert target.read_text() == "no line break"
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(RunError, match=rf"{name} must be a plain file, and is something else"):
        open_run(folder, CONFIG, ITEMS, resume=True)
    (folder / name).unlink()
    open_run(folder, CONFIG, ITEMS, resume=True).__exit__()


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("call", ["fsync", "replace", "rename"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_run_that_could_not_begin_can_be_begun(tmp_path, monkeypatch, is_there, call, error):
    """A full disk or a kill at any step of the beginning: the next one begins, and nothing is left beside."""
    folder = tmp_path / "run"
    if is_there:
        folder.mkdir()

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        if not (is_there and call == "rename"):
            with pytest.raises(type(error)):
                open_run(folder, CONFIG, ITEMS)
            assert not (folder / "config.json").exists()
    with open_run(folder, CONFIG, ITEMS) as run:
        run.add_sample("p", written(0))
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert len((folder / "questions.jsonl").read_text().splitlines()) == 2
    with open_run(folder, CONFIG, ITEMS, resume=True) as run:
        assert run.known == {"p": [written(0)]}


def test_what_was_left_is_told_from_what_is_somebody_s(tmp_path):
    """A folder with a question file of the user's, or with samples and no config.json, is not begun in."""
    (tmp_path / "questions.jsonl").write_text("mine")
    with pytest.raises(RunError, match="holds no run"):
        open_run(tmp_path, CONFIG, ITEMS)
    folder = tmp_path / "run"
    with open_run(folder, CONFIG, ITEMS) as run:
        run.add_sample("p", written(0))
    (folder / "config.json").unlink()
    with pytest.raises(RunError, match="holds no run"):
        open_run(folder, CONFIG, ITEMS, resume=True)
    assert len(list(read_samples(folder))) == 1


def test_of_two_that_begin_at_once_one_does(tmp_path, monkeypatch):
    """The other one appears between the look and the rename; its files stay as they are."""
    rename = os.rename

    def second(source, target):
        monkeypatch.setattr(os, "rename", rename)
        with open_run(tmp_path / "run", CONFIG, ITEMS) as run:
            run.add_sample("p", written(0))
        rename(source, target)

    monkeypatch.setattr(os, "rename", second)
    with pytest.raises(RunError, match="another process began"):
        open_run(tmp_path / "run", CONFIG, ITEMS)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert len(list(read_samples(tmp_path / "run"))) == 1


def test_one_that_begins_while_another_looks_is_seen(tmp_path, monkeypatch):
    """The folder and its config.json appear between the two looks of another process: it is a run, and held."""
    folder, lexists, begun = tmp_path / "run", os.path.lexists, []

    def meanwhile(path):
        if not begun:
            begun.append(None)
            begun[0] = open_run(folder, CONFIG, ITEMS)
        return lexists(path)

    monkeypatch.setattr(os.path, "lexists", meanwhile)
    with pytest.raises(RunError, match="another process"):
        open_run(folder, CONFIG, ITEMS, resume=True)
    begun[0].__exit__()
    open_run(folder, CONFIG, ITEMS, resume=True).__exit__()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_system_without_locks_says_so(tmp_path, monkeypatch, number):
    """A sentence instead of an error or of silence; the run is written all the same."""
    fcntl = pytest.importorskip("fcntl", reason="this system has no file locks of this kind")

    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    for resume in (False, True):
        with open_run(tmp_path / "run", CONFIG, ITEMS, resume=resume) as run:
            (note,) = run.notes
            assert "cannot be locked" in note
            assert "do not let two processes" in note
    monkeypatch.setitem(sys.modules, "fcntl", None)
    for folder in ("run", "new"):
        with open_run(tmp_path / folder, CONFIG, ITEMS, resume=True) as run:
            assert "no file locks" in run.notes[0]


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


def test_a_rename_that_fails_without_locks_is_told_as_it_is(tmp_path, monkeypatch):
    """Where nothing is locked the lock's file is closed before the rename; closing it twice would hide the error."""
    fcntl = pytest.importorskip("fcntl", reason="this system has no file locks of this kind")

    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fcntl, "flock", fail)
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        open_run(tmp_path / "run", CONFIG, ITEMS)
    assert list(tmp_path.iterdir()) == []
