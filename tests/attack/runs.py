"""Run folders: kills at random moments, power cuts, full disks, two processes at once, clocks that jump, damaged lines.

Whatever happens to a session, the next ones must bring the run to where an uninterrupted one ends: every sample once,
with the text that it has there, and a result for each question. One turn in eight has a real engine with a tiny model,
the others one that makes up its texts, so that most of a session is what is attacked. Each session is a fork, so that a
killed one costs milliseconds. The seed fixes what is done; when a kill strikes depends on the machine too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from attack.sessions import (
    DAMAGED,
    DONE,
    JOURNALS,
    REFUSED,
    UNWRITTEN,
    Runs,
    ended,
    forked,
    killed,
    local_engine,
    made_up_engine,
)  # fmt: skip
from attack.turns import MissingError
from fastsample.evaluation import run_folder
from fastsample.evaluation.dataset import RunError

WHAT = "sessions of a run killed, cut off from power, out of disk, begun twice, with jumping clocks and damaged lines"
COUNTED = "kills"
NEW_USER, NEW_MOUNTS, REMOUNT = 1 << 28, 1 << 17, 1 << 5


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
    """Five times two that begin or go on at the same moment."""
    return sum((pair(runs, choose) for _ in range(5)), Counter())


def pair(runs: Runs, choose: random.Random) -> Counter[str]:
    """One works, the other is refused or finds the work done."""
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


ATTACKS = {kills: 10, beginnings: 6, pairs: 6, power: 6, full: 2, small_disk: 1, clocks: 2, damage: 5}


def prepare(place: Path) -> tuple[Runs, Runs]:
    """An uninterrupted run of either engine."""
    if not hasattr(os, "fork"):
        raise MissingError("this system has no fork")
    return Runs(place / "local", local_engine), Runs(place / "made_up", made_up_engine)


def turn(both: tuple[Runs, Runs], choose: random.Random) -> Counter[str]:
    """One of the attacks on a folder of its own."""
    runs = both[choose.random() < 0.875]
    (one,) = choose.choices(list(ATTACKS), list(ATTACKS.values()))
    return one(runs, choose) + Counter({f"turns of {one.__name__}": 1})
