"""A run's folder: what was asked, with which settings, every sample as it finishes, and every question's result.

    config.json      the settings; a run is only ever gone on with under the same ones
    questions.jsonl  question, answer, id
    samples.jsonl    one line a sample, written before the result it belongs to
    results.jsonl    one line a question, once its vote is over
    sessions.jsonl   one line for each time the run was gone on with to its end: time, steps, tokens

Lines are appended and forced to the disk in batches, samples before results. A line that a killed process left
incomplete is cut off when the run goes on: nothing is lost but what was being written, and nothing is done twice.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, process_time
from typing import IO, Any

from ..strategies.records import Result, Written
from .dataset import Item, RunError

FORMAT = 1
FLUSH_LINES = 256
FLUSH_SECONDS = 2.0


@dataclass
class Run:
    """An open run folder; a context manager that forces everything to the disk when it is left."""

    folder: Path
    config: dict[str, Any]
    done: set[str] = field(default_factory=set)  # ids with a result
    known: dict[str, list[Written]] = field(default_factory=dict)  # samples of questions without one
    _files: dict[str, IO[bytes]] = field(default_factory=dict)
    _pending: int = 0
    _since: float = field(default_factory=monotonic)
    _opened: float = field(default_factory=monotonic)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        # A full disk has been told of by the write that hit it; closing must not tell of it again.
        for file in self._files.values():
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())
            file.close()

    def add_sample(self, question: str, sample: Written) -> None:
        """Keep a sample that ended, of the question with this id."""
        self._append("samples.jsonl", {"question": question} | sample.to_json(full=True))

    def add_result(self, result: Result, key: str | None, is_right: bool | None) -> None:
        """Keep a question's result, its right answer and whether the two agree; its samples are in already."""
        self._append("results.jsonl", result.to_json(samples=False) | {"key": key, "is_right": is_right})
        self.done.add(result.id)
        self.known.pop(result.id, None)

    def add_session(self, steps: int, prefill_tokens: int, tokens: int) -> None:
        """Keep what this session cost; seconds are counted from the opening of the run, loading included."""
        record = {
            "seconds": round(monotonic() - self._opened, 3),
            "cpu_seconds": round(process_time(), 3),
            "steps": steps,
            "prefill_tokens": prefill_tokens,
            "tokens": tokens,
        }
        with open(self.folder / "sessions.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Force all lines to the disk, samples first."""
        for name in ("samples.jsonl", "results.jsonl"):
            os.fsync(self._files[name].fileno())
        self._pending, self._since = 0, monotonic()

    def _append(self, name: str, record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
        # Unbuffered: the line is the system's as soon as this returns, whatever becomes of the process.
        file = self._files[name]
        while line:
            line = line[file.write(line) or 0 :]
        self._pending += 1
        if self._pending >= FLUSH_LINES or monotonic() - self._since > FLUSH_SECONDS:
            self.flush()


def check_run(folder: Path, config: dict[str, Any], *, resume: bool = False) -> None:
    """Refuse what `open_run` would refuse, and write nothing: for a look before a model is loaded.

    raises: RunError for a folder that holds something else, another configuration (with the differences), or a run
            that `resume` was not asked for
    """
    if not (folder / "config.json").exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder} is not empty and holds no run; choose another folder")
        return
    stored, asked = read_config(folder), _plain(config)
    names = (stored.keys() | asked.keys()) - {"engine_reason"}
    if "engine" not in stored.keys() & asked.keys():  # not known before a model is loaded, nor by older runs
        names -= {"engine"}
    differences = [
        f"  {name}: {stored.get(name)!r} in the run, {asked.get(name)!r} now"
        for name in sorted(names)
        if stored.get(name) != asked.get(name)
    ]
    if differences:
        listed = "\n".join(differences)
        raise RunError(
            f"{folder} holds a run of another configuration; choose another folder, or its settings:\n{listed}"
        )
    if not resume:
        raise RunError(f"{folder} already holds this run; --resume goes on with it")


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(config | {"format": FORMAT})))


def open_run(folder: Path, config: dict[str, Any], items: list[Item], *, resume: bool = False) -> Run:
    """Begin a run in `folder`, or go on with the one in it.

    config: plain JSON values; must equal the stored ones to go on
    raises: RunError as `check_run` and for a folder that another process writes to; OSError where it cannot be written
    """
    check_run(folder, config, resume=resume)
    config = _plain(config)
    path = folder / "config.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        lines = [{"question": i.question, "answer": i.answer, "id": i.id} for i in items]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        partial = folder / "config.json.part"
        (folder / "questions.jsonl").write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    run = Run(folder, config)
    for name in ("samples.jsonl", "results.jsonl"):
        _cut_torn_line(folder / name)
        run._files[name] = open(folder / name, "ab", buffering=0)  # noqa: SIM115
    _lock(run._files["samples.jsonl"], folder)
    run.done = {record["id"] for record in _lines(folder / "results.jsonl")}
    for question, sample in read_samples(folder):
        if question not in run.done:
            run.known.setdefault(question, []).append(sample)
    return run


def _lock(file: IO[bytes], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(f"another process is writing to {folder}; wait for it, or choose another folder") from None


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            block = file.read(end - start)
            newline = block.rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of the run in `folder`; raises RunError where there is none."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{folder} holds no run (no config.json); fastsample evaluate makes one") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise RunError(f"{path} is not of format {FORMAT}; this version cannot read it")
    return config


def read_samples(folder: Path) -> Iterator[tuple[str, Written]]:
    """(question id, sample) of every complete line."""
    for record in _lines(folder / "samples.jsonl"):
        yield record["question"], Written.from_json(record)


def read_results(folder: Path) -> Iterator[dict[str, Any]]:
    """Every question's result, without its samples, with the `key` and `is_right`."""
    yield from _lines(folder / "results.jsonl")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:  # of JSON or of UTF-8
                raise RunError(f"{path}, line {number}: not JSON ({error}); the file was edited or damaged") from None
