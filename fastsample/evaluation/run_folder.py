"""A run's folder: what was asked, with which settings, every sample as it finishes, and every question's result.

    config.json      the settings; a run is only ever gone on with under the same ones
    questions.jsonl  question, answer, id
    samples.jsonl    one line a sample, written before the result it belongs to
    paths.jsonl      of a strategy that grows texts leg by leg, in the place of samples: one line a leg
    results.jsonl    one line a question, once its vote is over; where an id has several, the last one holds
    sessions.jsonl   what the run has cost: time, steps and tokens since the line before, or since the run was opened
    run.lock         empty; whoever writes holds a lock on it, and looks and mends only under the lock

A new folder is made aside, whole and forced to the disk, and then renamed; in one that is there and empty, config.json
comes last. So a folder without config.json holds nothing yet, and one process of two begins the run.

Lines are appended and forced to the disk in batches, samples before results. A line that a killed process left
incomplete is cut off when the run goes on: nothing is lost but what was being written, and nothing is done twice.

A machine that lost its power may have kept a result and lost samples that it rests on. A run that goes on says so and
answers such a question again, from the samples that are left and the missing ones drawn anew; they say the same as
before, so that nothing is lost and a report has the whole budget again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from secrets import token_hex
from time import monotonic, process_time
from typing import Any

from ..strategies.path import Path as GrownPath
from ..strategies.records import Result, Written
from .dataset import Item, RunError, shown
from .journal import Journal, Lock, sync_folder
from .stored import FORMAT, read_config, read_paths, read_results, read_samples, settings_of

FLUSH_LINES = 256
FLUSH_SECONDS = 2.0
COST_SECONDS = 10.0
COSTS = ("seconds", "cpu_seconds", "steps", "prefill_tokens", "tokens")
LOCK, PARTIAL, PATHS = "run.lock", "config.json.part", "paths.jsonl"
JOURNALS = ("samples.jsonl", "results.jsonl", "sessions.jsonl")


class WritingError(OSError):
    """A run's folder could not be written to: a full disk, a missing right. What was written before is there."""


@contextmanager
def writing() -> Iterator[None]:
    """Let an error of the system that is met inside be known as one of writing, and of nothing else."""
    try:
        yield
    except OSError as error:
        raise WritingError(*error.args) from error


@dataclass
class Run:
    """An open run folder; a context manager that forces everything to the disk when it is left.

    done:  ids with a result; known: samples of questions without one
    notes: what whoever goes on with the run should know, a sentence each
    """

    folder: Path
    config: dict[str, Any]
    done: set[str] = field(default_factory=set)
    known: dict[str, list[Written]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _files: dict[str, Journal] = field(default_factory=dict)
    _close: Callable[[], None] = lambda: None
    _pending: int = 0
    _since: float = field(default_factory=monotonic)
    _opened: float = field(default_factory=monotonic)
    _cpu: float = field(default_factory=process_time)
    _costs: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COSTS, 0))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        # A full disk has been told of by the write that hit it; closing must not tell of it again.
        try:
            self.flush()
        except OSError:
            if kind is None:
                raise
        finally:
            self._close()

    def add_sample(self, question: str, sample: Written) -> None:
        """Keep a sample that ended, of the question with this id."""
        record = sample.to_json(full=True)
        if not all(map(isfinite, record["certainties"])):  # JSON has no NaN; without them, no rule can watch this one
            record["certainties"] = []
        self._append("samples.jsonl", {"question": question} | record)

    def add_paths(self, question: str, paths: Iterable[GrownPath]) -> None:
        """Keep the tree of the question with this id; its result follows."""
        for path in paths:
            self._append(PATHS, {"question": question} | path.to_json())

    def add_result(self, result: Result, key: str | None, is_right: bool | None) -> None:
        """Keep a question's result, its right answer and whether the two agree; its samples are in already."""
        self._append("results.jsonl", result.to_json(samples=False) | {"key": key, "is_right": is_right})
        self.done.add(result.id)
        self.known.pop(result.id, None)

    def add_costs(self, steps: int, prefill_tokens: int, tokens: int, *, is_last: bool = False) -> None:
        """Keep what the run has cost since it was opened; a line holds what came since the line before.

        Written every COST_SECONDS and at the end: a process that is killed loses the last seconds alone, and the
        lines of all starts add up.
        """
        if not is_last and monotonic() - self._opened - self._costs["seconds"] < COST_SECONDS:
            return
        now = {
            "seconds": round(monotonic() - self._opened, 3),
            "cpu_seconds": round(process_time() - self._cpu, 3),
            "steps": steps,
            "prefill_tokens": prefill_tokens,
            "tokens": tokens,
        }
        self._append("sessions.jsonl", {name: round(now[name] - self._costs[name], 3) for name in now})
        self._costs = now

    def add_record(self, name: str, record: dict[str, Any]) -> None:
        """Keep a line of another run's file of this name as it is."""
        self._append(name, record)

    def flush(self) -> None:
        """Force all lines to the disk, samples first."""
        with writing():
            for file in self._files.values():
                file.sync()
        self._pending, self._since = 0, monotonic()

    def _append(self, name: str, record: dict[str, Any]) -> None:
        with writing():
            self._files[name].append(_line(record))
        self._pending += 1
        if self._pending >= FLUSH_LINES or monotonic() - self._since > FLUSH_SECONDS:
            self.flush()


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def check_run(folder: Path, config: dict[str, Any], *, resume: bool = False) -> None:
    """Refuse what `open_run` would refuse, and write nothing: for a look before a model is loaded.

    raises: RunError for a folder that holds something else, another configuration (with the differences), or a run
            that `resume` was not asked for
    """
    begun = (folder / "config.json").exists
    if not begun():
        if not os.path.lexists(folder) or _is_unbegun(folder):
            return
        if not begun():  # not by another process meanwhile either: config.json comes last, and stays
            raise RunError(f"{folder} is not empty and holds no run; choose another folder")
    stored, asked = read_config(folder), _plain(config)
    names = (stored.keys() | asked.keys()) - {"engine_reason"}
    # Not known before a model is loaded, nor by older runs.
    names -= {"engine", "engine_model", "draws", "certainty"} - (stored.keys() & asked.keys())
    differences = [
        f"  {name}: {shown(stored.get(name))} in the run, {shown(asked.get(name))} now"
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


def check_place(folder: Path) -> None:
    """Raise OSError where a run could not be written to `folder`, and leave nothing there: before a model is loaded."""
    place = folder if folder.exists() else next(parent for parent in folder.absolute().parents if parent.exists())
    with tempfile.TemporaryFile(dir=place):
        pass


def _is_unbegun(folder: Path) -> bool:
    """Whether a folder without config.json is empty, or holds what a process left that was killed while it began."""
    if not folder.is_dir():
        return False
    found = {entry.name: entry for entry in os.scandir(folder)}
    if not found:
        return True
    if not found.keys() & {LOCK, PARTIAL} or found.keys() - {LOCK, PARTIAL, PATHS, "questions.jsonl", *JOURNALS}:
        return False
    return all(
        entry.is_file(follow_symlinks=False) and not (name in (PATHS, *JOURNALS) and entry.stat().st_size)
        for name, entry in found.items()
    )


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(config | {"format": FORMAT})))


def open_run(folder: Path, config: dict[str, Any], items: list[Item], *, resume: bool = False) -> Run:
    """Begin a run in `folder`, or go on with the one in it.

    config: plain JSON values; must equal the stored ones to go on
    raises: RunError as `check_run`, for a folder that another process writes to and for files that were edited or
            damaged; OSError where it cannot be written
    """
    check_run(folder, config, resume=resume)
    config = _plain(config)
    with ExitStack() as open_files:
        if os.path.lexists(folder):
            lock = Lock(folder / LOCK)
            open_files.callback(lock.release)
            check_run(folder, config, resume=resume)  # another process may have begun it, or gone on with it, meanwhile
            if not (folder / "config.json").exists():
                _write_new(folder, config, items)
        else:
            lock = _begin_aside(folder, config, items)
            open_files.callback(lock.release)
        run = Run(folder, config, notes=[lock.why_not] if lock.why_not else [])
        for name in _journals(config):
            run._files[name] = Journal(folder / name)
            open_files.callback(run._files[name].close)
            run._files[name].repair()
        _read(run, items)
        run._close = open_files.pop_all().close
    return run


def _begin_aside(folder: Path, config: dict[str, Any], items: Iterable[Item]) -> Lock:
    """A new run folder under its name at once, with everything in it and the lock held."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.parent / f".fastsample-{token_hex(8)}.new"
    aside.mkdir()
    try:
        lock = Lock(aside / LOCK)
        try:
            _write_new(aside, config, items)
            if lock.why_not:  # it keeps nobody away, and Windows renames no folder with an open file
                lock.release()
            os.rename(aside, folder)
            if lock.why_not:
                lock = Lock(folder / LOCK)
        except BaseException:
            lock.release()
            raise
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError) and os.path.lexists(folder):
            raise RunError(
                f"another process began {folder} at the same moment; wait for it and --resume, or choose another folder"
            ) from None
        raise
    sync_folder(folder.parent)
    return lock


def _write_new(folder: Path, config: dict[str, Any], items: Iterable[Item]) -> None:
    with open(folder / "questions.jsonl", "wb") as file:
        for i in items:
            file.write(_line({"question": i.question, "answer": i.answer, "id": i.id}))
        file.flush()
        os.fsync(file.fileno())
    for name in _journals(config):
        open(folder / name, "ab").close()
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    with open(folder / PARTIAL, "wb") as file:
        file.write(text.encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())
    os.replace(folder / PARTIAL, folder / "config.json")
    sync_folder(folder)


def _journals(config: dict[str, Any]) -> tuple[str, ...]:
    """The files that lines are appended to; what a result rests on comes before the results."""
    return (PATHS, *JOURNALS) if "strategy" in config else JOURNALS


def _read_trees(run: Run, ids: set[str]) -> None:
    """`_read` of a run of trees: a question whose tree is not whole is answered again, all of it."""
    legs = {r["id"]: int(r.get("legs", 0)) for r in read_results(run.folder) if r["id"] in ids}
    kept: dict[str, int] = {}  # id -> a bit for each leg
    for path in read_paths(run.folder):
        if path["parent"] is not None:
            kept[path["question"]] = kept.get(path["question"], 0) | 1 << path["number"]
    lost = [q for q, n in legs.items() if kept.get(q, 0).bit_count() < n]
    run.done = legs.keys() - set(lost)
    if lost:
        run.notes.append(
            f"{len(lost)} of the results in {run.folder} rest on paths that were lost, that of {shown(lost[0])} among "
            "them; these questions are answered again"
        )


def _read(run: Run, items: Iterable[Item]) -> None:
    """What the run has: results, samples of questions without one, and sentences about what does not fit together."""
    ids = {item.id for item in items}
    if "strategy" in run.config:
        _read_trees(run, ids)
        return
    counted = {r["id"]: r["counted"] for r in read_results(run.folder) if r["id"] in ids}
    plan = settings_of(run.config).plan()
    votes: dict[str, int] = {}  # id -> a bit for each sample that has voted: small for 100,000 questions
    twice = strange = 0
    for question, sample in read_samples(run.folder, plan):
        if question not in ids:
            strange += 1
            continue
        if sample.finish != "cancelled":
            bit, before = 1 << sample.number, votes.get(question, 0)
            if before & bit:
                twice += 1
                continue
            votes[question] = before | bit
        if question not in counted:
            run.known.setdefault(question, []).append(sample)
    lost = [q for q, n in counted.items() if votes.get(q, 0).bit_count() < n]
    run.done = counted.keys() - set(lost)
    if lost:
        seen: set[tuple[str, int]] = set()
        wanted = set(lost)
        for question, sample in read_samples(run.folder, plan):
            name = (question, sample.number)
            if question in wanted and not (sample.finish != "cancelled" and name in seen):
                run.known.setdefault(question, []).append(sample)
                if sample.finish != "cancelled":
                    seen.add(name)
        run.notes.append(
            f"{len(lost)} of the results in {run.folder} rest on samples that were lost, that of {shown(lost[0])} "
            "among them; these questions are answered again"
        )
    if twice:
        run.notes.append(f"{twice} lines of samples.jsonl repeat a sample of the same number; the first one holds")
    if strange:
        run.notes.append(
            f"{strange} lines of samples.jsonl are of questions that are not asked here; they are passed by"
        )
