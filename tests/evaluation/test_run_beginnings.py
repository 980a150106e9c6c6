"""Who may begin a run's folder, or go on with it: one process, and only in what is a run."""

from __future__ import annotations

import errno
import os
import sys

import pytest
from two_questions import CONFIG, ITEMS, written

from fastsample.evaluation.dataset import RunError
from fastsample.evaluation.run_folder import open_run
from fastsample.evaluation.stored import read_config, read_samples


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
