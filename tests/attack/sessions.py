"""Sessions of a run to be attacked, each in a process of its own, and what must be in the folder behind them."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import bigram
import torch
from scripted import EOS, ScriptedEngine, chance

from fastsample.engines.base import Engine
from fastsample.engines.local.engine import LocalEngine
from fastsample.evaluation.dataset import Item, RunError
from fastsample.evaluation.evaluate import configuration, evaluate
from fastsample.evaluation.run_folder import open_run
from fastsample.strategies.question import Settings

DONE, REFUSED, DAMAGED, UNWRITTEN, FAULT = 0, 3, 4, 7, 1
JOURNALS = ("samples.jsonl", "results.jsonl", "sessions.jsonl")


@cache
def tiny_model(tokenizer: Any) -> Any:
    """Answers 4 or 5, and goes on with a text of random length."""
    a, b = bigram.ASSISTANT, bigram.END
    tails = {a: {"4": 0.6, "5": 0.4}, "4": {"a": 1.0}, "5": {"a": 1.0}, "a": {"a": 0.95, b: 0.05}}
    return bigram.bigram_model(tokenizer, tails)


def local_engine(tokenizer: Any) -> Engine:
    """The engine that a user has, over the tiny model."""
    return LocalEngine(tiny_model(tokenizer), tokenizer, slots=4)


def made_up_engine(tokenizer: Any) -> Engine:
    """Texts of the same kind, from no model."""
    four, five, more = tokenizer.convert_tokens_to_ids(["4", "5", "a"])

    def next_token(request: Any, ids: tuple[int, ...]) -> int:
        drawn = chance(request.temperature and request.stream, ids)
        if len(ids) == len(request.prompt):
            return four if drawn < 0.6 else five
        return more if drawn < 0.95 else EOS

    return ScriptedEngine(next_token, tokenizer, slots=4)


class Runs:
    """Questions, an engine to answer them with, and an uninterrupted run."""

    def __init__(self, place: Path, make_engine: Callable[[Any], Engine]) -> None:
        torch.set_num_threads(1)
        place.mkdir()
        self.tokenizer = bigram.bigram_tokenizer()
        self.items = [Item(f"q{n}", f"{n}?", "4") for n in range(3)]
        self.settings = Settings((0.0, 0.7, 1.0), 4, max_new_tokens=24)
        self.place, self.number, self.make_engine = place, 0, make_engine
        start = time.monotonic()
        self.session(place / "whole")
        self.seconds = time.monotonic() - start
        self.whole = stored(place / "whole")
        assert len(self.whole) == 3 * 9

    def session(self, folder: Path, on_open: Callable[[Any], None] | None = None) -> None:
        """Begin the run, or go on with it to its end."""
        evaluate(
            None, self.tokenizer, self.items, folder, settings=self.settings, extractor=r"regex:\d", slots=4,
            resume=True, named={"model": "tiny"}, on_open=on_open or (lambda run: None),
            engine=self.make_engine(self.tokenizer),
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
