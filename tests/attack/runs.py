"""Run folders: kills at random moments, power cuts, full disks, two processes at once, clocks that jump, damaged lines.

Whatever happens to a session, the next ones must bring the run to where an uninterrupted one ends: every sample once,
with the text that it has there, and a result for each question. The tiny model is made once and each session is a fork,
so that a killed one costs milliseconds. The seed fixes what is done; when a kill strikes depends on the machine too.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bigram
import torch

from attack.turns import MissingError
from fastsample.evaluation import run_folder
from fastsample.evaluation.dataset import Item, RunError
from fastsample.evaluation.evaluate import configuration, evaluate
from fastsample.evaluation.run_folder import open_run
from fastsample.strategies.question import Settings

WHAT = "sessions of a run killed, cut off from power, out of disk, begun twice, with jumping clocks and damaged lines"
COUNTED = "kills"
DONE, REFUSED, DAMAGED, UNWRITTEN, FAULT = 0, 3, 4, 7, 1
JOURNALS = ("samples.jsonl", "results.jsonl", "sessions.jsonl")
NEW_USER, NEW_MOUNTS, REMOUNT = 1 << 28, 1 << 17, 1 << 5


class Runs:
    """A model, its questions and an uninterrupted run of them."""

    def __init__(self, place: Path) -> None:
        torch.set_num_threads(1)
        a, b = bigram.ASSISTANT, bigram.END
        tails = {a: {"4": 0.6, "5": 0.4}, "4": {"a": 1.0}, "5": {"a": 1.0}, "a": {"a": 0.95, b: 0.05}, "\\": {"4": 1.0}}
        self.tokenizer = bigram.bigram_tokenizer()
        self.model = bigram.bigram_model(self.tokenizer, tails)
        self.items = [Item(f"q{n}", f"{n}?", "4") for n in range(3)]
        self.settings = Settings((0.0, 0.7, 1.0), 4, max_new_tokens=24)
        self.place, self.number = place, 0
        start = time.monotonic()
        self.session(place / "whole")
        self.seconds = time.monotonic() - start
        self.whole = stored(place / "whole")
        assert len(self.whole) == 3 * 9

    def session(self, folder: Path, on_open: Callable[[Any], None] | None = None) -> None:
        """Begin the run, or go on with it to its end."""
        evaluate(
            self.model, self.tokenizer, self.items, folder, settings=self.settings, extractor=r"regex:\d", slots=4,
            resume=True, named={"model": "tiny"}, on_open=on_open or (lambda run: None),
        )  # fmt: skip

    def opened(self, folder: Path) -> Any:
        """The run, opened and nothing more."""
        named = {"model": "tiny"}
        config = configuration(self.items, self.settings, r"regex:\d", None, slots=4, prepack=False, named=named)
        return open_run(folder, config, self.items, resume=True)

    def folder(self) -> Path:
        """A new place for a run."""
        self.number += 1
        return self.place / f"run{self.number}"

    def finish(self, folder: Path) -> None:
        """One more session, and the run is whole."""
        assert ended(forked(lambda: self.session(folder))) == DONE
        self.check(folder)

    def check(self, folder: Path) -> None:
        """Every sample once, each what the uninterrupted run says, and a result for each question."""
        lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
        assert all(line.endswith(b"\n") for line in lines)
        assert len(lines) == len(self.whole), f"{len(lines)} lines for {len(self.whole)} samples"
        assert stored(folder) == self.whole
        results = {json.loads(line)["id"] for line in (folder / "results.jsonl").read_text().splitlines()}
        assert results == {item.id for item in self.items}


def stored(folder: Path) -> dict[tuple[str, int], tuple]:
    """The samples of a folder: question and number, and what was written."""
    with open(folder / "samples.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return {(s["question"], s["number"]): (s["text"], s["finish"], tuple(s["token_ids"])) for s in records}


def forked(work: Callable[[], None]) -> int:
    """The process that does it; its exit code says how it ended."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        work()
    except RunError as error:
        os._exit(REFUSED if "another process" in str(error) else DAMAGED)
    except OSError as error:
        os._exit(UNWRITTEN if error.errno in (errno.EFBIG, errno.ENOSPC) else shown(error))
    except BaseException as error:
        os._exit(shown(error))
    os._exit(DONE)


def shown(error: BaseException) -> int:
    """Print what must not be."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return FAULT


def ended(child: int) -> int:
    """How a process ended, waited for."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(runs: Runs, folder: Path, choose: random.Random, work: Callable[[], None] | None = None) -> bool:
    """A session, killed at a random moment if it has not ended by then."""
    child = forked(work or (lambda: runs.session(folder)))
    time.sleep(choose.uniform(0, 0.02 if choose.random() < 0.3 else 0.8 * runs.seconds))
    os.kill(child, signal.SIGKILL)
    code = ended(child)
    assert code in (DONE, -signal.SIGKILL), code
    return code != DONE


def kills(runs: Runs, choose: random.Random) -> Counter[str]:
    """Sessions of one run killed again and again, some of them while they begin."""
    folder = runs.folder()
    found = sum(killed(runs, folder, choose) for _ in range(choose.randint(2, 6)))
    runs.finish(folder)
    return Counter(kills=found)


def beginnings(runs: Runs, choose: random.Random) -> Counter[str]:
    """Killed within the milliseconds in which a folder is begun, new or there and empty: it can always be begun."""
    folder = runs.folder()
    if choose.random() < 0.5:
        folder.mkdir()
    child = forked(lambda: runs.session(folder, on_open=lambda run: time.sleep(9)))
    time.sleep(choose.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    with runs.opened(folder):
        pass
    return Counter(kills=1, beginnings=1)


def pairs(runs: Runs, choose: random.Random) -> Counter[str]:
    """Two that begin or go on at the same moment: one works, the other is refused or finds the work done."""
    folder = runs.folder()
    kind, found = choose.randrange(3), 0
    if kind == 1:
        folder.mkdir()
    if kind == 2:
        found = killed(runs, folder, choose)
    at = time.monotonic() + 0.02

    def meet() -> None:
        time.sleep(max(0.0, at - time.monotonic()))
        runs.session(folder)

    codes = [ended(child) for child in [forked(meet), forked(meet)]]
    assert DONE in codes, codes
    assert set(codes) <= {DONE, REFUSED}, codes
    runs.check(folder)
    return Counter(kills=found, pairs=1) + Counter({"pairs of which one was refused": int(REFUSED in codes)})


def power(runs: Runs, choose: random.Random) -> Counter[str]:
    """The machine stops: of each file what was forced to the disk is there, and any part of the rest, or zeros."""
    folder, journal = runs.folder(), runs.place / f"synced{runs.number}"

    def watched() -> None:
        fsync, log = os.fsync, os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def told(number: int) -> None:
            size = os.fstat(number).st_size  # what is written while it is forced may be lost
            fsync(number)
            os.write(log, f"{os.fstat(number).st_ino} {size}\n".encode())

        os.fsync = told
        run_folder.FLUSH_LINES = choose.choice((2, 5, 256))
        runs.session(folder)

    cut = killed(runs, folder, choose, watched)
    if not cut or not (folder / "config.json").exists():
        runs.finish(folder)
        return Counter(kills=int(cut))
    synced = dict(map(int, line.split()) for line in journal.read_text().splitlines()) if journal.exists() else {}
    lost = 0
    for name in JOURNALS:
        path = folder / name
        content = path.read_bytes()
        kept = choose.randint(min(synced.get(path.stat().st_ino, 0), len(content)), len(content))
        lost += len(content) - kept
        zeros = choose.randint(0, len(content) - kept) if choose.random() < 0.3 else 0
        path.write_bytes(content[:kept] + bytes(zeros))
    runs.finish(folder)
    return Counter({"kills": 1, "power cuts": 1, "bytes lost by power cuts": lost})


def full(runs: Runs, choose: random.Random) -> Counter[str]:
    """A disk that is full after a random number of bytes, for good or for a moment: the run stops, and stays whole."""
    folder, code, stopped = runs.folder(), None, 0
    while code != DONE:
        room, is_momentary = choose.randrange(5_000), choose.random() < 0.5
        code = ended(forked(lambda: (momentary if is_momentary else limited)(runs, folder, room)))  # noqa: B023
        assert code in (DONE, UNWRITTEN), code
        stopped += code == UNWRITTEN
        for name in JOURNALS[:2]:
            if (folder / name).exists():
                assert (folder / name).read_bytes()[-1:] in (b"", b"\n")
    runs.check(folder)
    return Counter({"full disks": stopped})


def limited(runs: Runs, folder: Path, room: int) -> None:
    """A session whose files may grow by so much."""
    import resource

    held = (folder / "samples.jsonl").stat().st_size if folder.exists() else 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (held + room, resource.RLIM_INFINITY))
    runs.session(folder)


def momentary(runs: Runs, folder: Path, room: int) -> None:
    """A session on a disk that is full once."""

    def fill(run: Any) -> None:
        journal = run._files["samples.jsonl"]
        journal._file = Full(journal._file, room)

    runs.session(folder, on_open=fill)


class Full:
    """A file on a disk with so much room; after one failed write there is room again."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, line: bytes) -> int:
        if self.room <= 0:
            self.room = 1 << 40
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(line[: self.room])
        self.room -= taken
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def small_disk(runs: Runs, choose: random.Random) -> Counter[str]:
    """A file system of 4 to 96 kB that fills up; the run goes on when it is larger."""
    mount, size = runs.place / f"disk{runs.number}", choose.randint(1, 24) * 4096
    mount.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)

    def mounted(flags: int, size: int) -> None:
        if libc.mount(b"tmpfs", os.fsencode(mount), b"tmpfs", flags, f"size={size}".encode()):
            raise RunError("no file system of one's own can be had")

    def work() -> None:
        user, group = os.getuid(), os.getgid()
        if libc.unshare(NEW_USER | NEW_MOUNTS):
            raise RunError("no file system of one's own can be had")
        for name, text in (("uid_map", f"0 {user} 1"), ("setgroups", "deny"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(text)
        mounted(0, size)
        while True:
            try:
                runs.session(mount / "run")
                break
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                mounted(REMOUNT, os.statvfs(mount).f_blocks * 4096 + choose.randint(1, 6) * 4096)
        runs.check(mount / "run")

    code = ended(forked(work))
    mount.rmdir()
    assert code in (DONE, DAMAGED), code
    return Counter({"small disks": int(code == DONE), "small disks that could not be had": int(code == DAMAGED)})


def clocks(runs: Runs, choose: random.Random) -> Counter[str]:
    """Both clocks jump, forwards and backwards, in the middle of a session that is then killed."""
    folder = runs.folder()

    def jumping() -> None:
        wall, steady = time.time, run_folder.monotonic
        time.time = lambda: wall() + choose.uniform(-1e9, 1e9)
        run_folder.monotonic = lambda: steady() + choose.uniform(-1e6, 1e6)
        runs.session(folder)

    found = killed(runs, folder, choose, jumping)
    assert ended(forked(jumping)) == DONE
    runs.check(folder)
    return Counter({"kills": int(found), "sessions with jumping clocks": 2})


def damage(runs: Runs, choose: random.Random) -> Counter[str]:
    """Bytes changed, cut out or put in anywhere: a sentence or a run, and never another error or a hang."""
    folder = runs.folder()
    found = killed(runs, folder, choose)
    if not (folder / "config.json").exists():
        runs.finish(folder)
        return Counter(kills=int(found))
    path = folder / choose.choice((*JOURNALS, "config.json", "questions.jsonl"))
    content = bytearray(path.read_bytes())
    at, length = choose.randint(0, len(content)), choose.choice((1, 1, 2, 20, 300))
    content[at : at + choose.choice((0, length))] = choose.choice((b"", choose.randbytes(length), bytes(length), b"\n"))
    path.write_bytes(content)
    code = ended(forked(lambda: runs.session(folder)))
    assert code in (DONE, DAMAGED), f"{code} after damage to {path.name} at {at}"
    return Counter({"kills": int(found), "damaged files": 1, "damaged files refused": int(code == DAMAGED)})


ATTACKS = {kills: 10, beginnings: 6, pairs: 4, power: 6, full: 2, small_disk: 1, clocks: 2, damage: 5}


def prepare(place: Path) -> Runs:
    """The model and the uninterrupted run."""
    if not hasattr(os, "fork"):
        raise MissingError("this system has no fork")
    return Runs(place)


def turn(runs: Runs, choose: random.Random) -> Counter[str]:
    """One of the attacks on a folder of its own."""
    (one,) = choose.choices(list(ATTACKS), list(ATTACKS.values()))
    return one(runs, choose) + Counter({f"turns of {one.__name__}": 1})
