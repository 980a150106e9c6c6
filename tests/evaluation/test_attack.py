"""A standing attack on run folders: kills at random moments, two processes at once, writes that fail at random bytes.

Every attack runs in a process of its own (this file, as a script) that makes the tiny model once and forks, so that a
killed session costs milliseconds; the seed of a failure is in its message. FASTSAMPLE_SEED attacks with another one.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("FASTSAMPLE_SEED", "11"))
KILLS, PAIRS, FAILURES, BEGINNINGS = 40, 30, 40, 60
DONE, REFUSED, UNWRITTEN = 0, 3, 7


class Attack:
    """A model, its questions and an uninterrupted run of them."""

    def __init__(self, place: Path, seed: int) -> None:
        import bigram
        import torch

        from fastsample.evaluation.dataset import Item
        from fastsample.strategies.question import Settings

        torch.set_num_threads(1)
        a, b = bigram.ASSISTANT, bigram.END
        tails = {a: {"4": 0.6, "5": 0.4}, "4": {"a": 1.0}, "5": {"a": 1.0}, "a": {"a": 0.95, b: 0.05}, "\\": {"4": 1.0}}
        self.tokenizer = bigram.bigram_tokenizer()
        self.model = bigram.bigram_model(self.tokenizer, tails)
        self.items = [Item(f"q{n}", f"{n}?", "4") for n in range(3)]
        self.settings = Settings((0.0, 0.7, 1.0), 4, max_new_tokens=24)
        self.place = place
        self.random = random.Random(seed)
        start = time.monotonic()
        self.session(place / "whole")
        self.seconds = time.monotonic() - start
        self.whole = stored(place / "whole")
        assert len(self.whole) == 3 * 9

    def session(self, folder: Path, on_open=None) -> None:
        from fastsample.evaluation.evaluate import evaluate

        evaluate(
            self.model, self.tokenizer, self.items, folder, settings=self.settings, extractor=r"regex:\d", slots=4,
            resume=True, named={"model": "tiny"}, on_open=on_open or (lambda run: None),
        )  # fmt: skip

    def opened(self, folder: Path):
        from fastsample.evaluation.evaluate import configuration
        from fastsample.evaluation.run_folder import open_run

        named = {"model": "tiny"}
        config = configuration(self.items, self.settings, r"regex:\d", None, slots=4, prepack=False, named=named)
        return open_run(folder, config, self.items, resume=True)

    def forked(self, work) -> int:
        """The process that does it; its exit code says how it ended."""
        child = os.fork()
        if child:
            return child
        from fastsample.evaluation.dataset import RunError

        try:
            work()
        except RunError as error:
            os._exit(REFUSED if "another process" in str(error) else show(error))
        except OSError as error:
            os._exit(UNWRITTEN if error.errno in (errno.EFBIG, errno.ENOSPC) else show(error))
        except BaseException as error:
            os._exit(show(error))
        os._exit(DONE)

    def ended(self, child: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def check(self, folder: Path) -> None:
        """Every sample once, each what the uninterrupted run says, and a result for each question."""
        lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
        assert all(line.endswith(b"\n") for line in lines)
        assert len(lines) == len(self.whole), f"{len(lines)} lines for {len(self.whole)} samples"
        assert stored(folder) == self.whole
        results = [json.loads(line)["id"] for line in (folder / "results.jsonl").read_text().splitlines()]
        assert sorted(results) == [item.id for item in self.items]

    def kills(self) -> dict[str, int]:
        """Sessions killed at random moments, some of them while they begin, until KILLS of them died."""
        killed = runs = sessions = 0
        while killed < KILLS:
            folder = self.place / f"killed{runs}"
            runs += 1
            code = None
            while code != DONE:
                sessions += 1
                child = self.forked(lambda: self.session(folder))  # noqa: B023
                if killed < KILLS:
                    time.sleep(self.random.uniform(0, 0.02 if self.random.random() < 0.3 else 0.4 * self.seconds))
                    os.kill(child, signal.SIGKILL)
                code = self.ended(child)
                assert code in (DONE, -signal.SIGKILL), code
                killed += code != DONE
            self.check(folder)
        return {"killed": killed, "sessions": sessions, "runs": runs}

    def beginnings(self) -> dict[str, int]:
        """Killed within the milliseconds in which a folder is begun, new or there and empty: it can always be begun."""
        unbegun = 0
        for turn in range(BEGINNINGS):
            folder = self.place / f"begun{turn}"
            if turn % 2:
                folder.mkdir()
            child = self.forked(lambda: self.session(folder, on_open=lambda run: time.sleep(9)))  # noqa: B023
            time.sleep(self.random.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            assert self.ended(child) == -signal.SIGKILL
            unbegun += not (folder / "config.json").exists()
            if turn % 10 < 2:
                assert self.ended(self.forked(lambda: self.session(folder))) == DONE  # noqa: B023
                self.check(folder)
            else:
                with self.opened(folder):
                    pass
        return {"begun and killed": BEGINNINGS, "without a run then": unbegun}

    def pairs(self) -> dict[str, int]:
        """Two that begin or go on at the same moment: one works, the other is refused or finds the work done."""
        refused = 0
        for turn in range(PAIRS):
            folder = self.place / f"pair{turn}"
            if turn % 3 == 1:
                folder.mkdir()
            if turn % 3 == 2:
                child = self.forked(lambda: self.session(folder))  # noqa: B023
                time.sleep(self.random.uniform(0, 0.8 * self.seconds))
                os.kill(child, signal.SIGKILL)
                self.ended(child)
            at = time.monotonic() + 0.02

            def meet(folder=folder, at=at):
                time.sleep(max(0.0, at - time.monotonic()))
                self.session(folder)

            codes = [self.ended(child) for child in [self.forked(meet), self.forked(meet)]]
            assert DONE in codes, codes
            assert set(codes) <= {DONE, REFUSED}, codes
            refused += REFUSED in codes
            self.check(folder)
        return {"pairs": PAIRS, "refused": refused}

    def failures(self) -> dict[str, int]:
        """Disks that are full after a random number of bytes, for good or for a moment: the run stops, whole."""
        stopped = runs = 0
        while stopped < FAILURES:
            folder = self.place / f"full{runs}"
            runs += 1
            code = None
            while code != DONE:
                room = self.random.randrange(5_000)
                work = self.limited if self.random.random() < 0.5 else self.momentary
                code = self.ended(self.forked(lambda: work(folder, room)))  # noqa: B023
                assert code in (DONE, UNWRITTEN), code
                stopped += code == UNWRITTEN
                for name in ("samples.jsonl", "results.jsonl"):
                    if (folder / name).exists():
                        assert (folder / name).read_bytes()[-1:] in (b"", b"\n")
            self.check(folder)
        return {"stopped": stopped, "runs": runs}

    def limited(self, folder: Path, room: int) -> None:
        import resource

        held = (folder / "samples.jsonl").stat().st_size if folder.exists() else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (held + room, resource.RLIM_INFINITY))
        self.session(folder)

    def momentary(self, folder: Path, room: int) -> None:
        def fill(run):
            journal = run._files["samples.jsonl"]
            journal._file = Full(journal._file, room)

        self.session(folder, on_open=fill)


class Full:
    """A file on a disk with so much room; after one failed write there is room again."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, line: bytes) -> int:
        if self.room <= 0:
            self.room = 1 << 40
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(line[: self.room])
        self.room -= taken
        return taken

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def show(error: BaseException) -> int:
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 1


def stored(folder: Path) -> dict[tuple[str, int], tuple]:
    with open(folder / "samples.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return {(s["question"], s["number"]): (s["text"], s["finish"], tuple(s["token_ids"])) for s in records}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_nothing_is_lost_or_done_twice(tmp_path):
    """Whatever happens to a session, the next ones bring the run to where an uninterrupted one ends."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])}
    command = [sys.executable, __file__, str(tmp_path), str(SEED)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"seed {SEED}: {done.stderr[-3000:]}"
    print(done.stdout)


if __name__ == "__main__":
    attack = Attack(Path(sys.argv[1]), int(sys.argv[2]))
    for name in sys.argv[3:] or ("kills", "beginnings", "pairs", "failures"):
        start = time.monotonic()
        print(json.dumps({"attack": name} | getattr(attack, name)() | {"seconds": round(time.monotonic() - start, 1)}))
