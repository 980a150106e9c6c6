"""A question set cut into shards for many machines, and their runs put together again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .dataset import Item, RunError
from .run_folder import Run, check_run, open_run
from .stored import read_config, read_items, read_paths, read_results, read_samples, read_sessions

MOST = 1 << 20


@dataclass(frozen=True)
class Shard:
    """The questions whose id hashes to `index` of `of`; str() is index/of."""

    index: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.of <= MOST or not 0 <= self.index < self.of:
            raise RunError(f"a shard must be I/N with I from 0 to N - 1, such as 0/4, got {self}")

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def of_items(self, items: Iterable[Item]) -> list[Item]:
        """Its items, in their order."""
        return [item for item in items if self.has(item.id)]

    def has(self, name: str) -> bool:
        """Whether the question of this id is one of its."""
        digest = blake2b(name.encode("utf-8", "backslashreplace"), digest_size=8).digest()
        return int.from_bytes(digest, "little") % self.of == self.index


def shard_of(text: str) -> Shard:
    """ "3/16" as a `Shard`; raises RunError with the form that would have been right."""
    index, slash, of = text.partition("/")
    if not slash or not index.isdecimal() or not of.isdecimal() or len(text) > 20:
        raise RunError(f"a shard must be I/N with I from 0 to N - 1, such as 0/4, got {text!r}")
    return Shard(int(index), int(of))


@dataclass
class Merged:
    """What was put together. doubles: lines that several runs had, kept once; open: questions without a result"""

    questions: int
    samples: int = 0
    results: int = 0
    doubles: int = 0

    @property
    def open(self) -> int:
        """Questions without a result: --resume of the merged run, or of their shard, asks them."""
        return self.questions - self.results


def merge(out: str | Path, folders: Sequence[str | Path]) -> Merged:
    """Put the runs of all shards of a question set into one run folder; the runs are left as they are.

    Of a sample or a result that several runs have, the first one is kept.

    raises: RunError for a folder without a run, runs of other configurations, a shard that is missing, or an `out`
            that is not empty
    """
    out, paths = Path(out), [Path(folder) for folder in folders]
    configs = [read_config(path) for path in paths]
    config = _common(paths, configs)
    items = {item.id: item for path in paths for item in read_items(path)}
    check_run(out, config)
    found = Merged(len(items))
    seen: set[tuple[str, int]] = set()
    done: set[str] = set()
    with open_run(out, config, list(items.values())) as run:
        for path in paths:
            mine = set()  # a cancelled sample may be there several times in one run
            for question, sample in read_samples(path):
                name = (question, sample.number)
                if name in seen:
                    found.doubles += 1
                    continue
                mine.add(name)
                run.add_sample(question, sample)
                found.samples += 1
            seen |= mine
        if "strategy" in config:
            _add_trees(run, paths)
        for path in paths:
            last = {record["id"]: record for record in read_results(path)}
            for name, record in last.items():
                if name in done:
                    found.doubles += 1
                    continue
                done.add(name)
                run.add_record("results.jsonl", record)
                found.results += 1
            for record in read_sessions(path):
                run.add_record("sessions.jsonl", record)
    return found


def _add_trees(run: Run, paths: Sequence[Path]) -> None:
    """The legs of every tree; of a question that several runs have, those of the first."""
    seen: set[str] = set()
    for path in paths:
        mine = set()
        for record in read_paths(path):
            if record["question"] not in seen:
                mine.add(record["question"])
                run.add_record("paths.jsonl", record)
        seen |= mine


def _common(paths: Sequence[Path], configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The configuration of the whole; raises RunError where the runs do not make one."""
    first = {name: value for name, value in configs[0].items() if name not in ("shard", "engine_reason")}
    counts = set()
    there: set[int] = set()
    for path, config in zip(paths, configs):
        other = {name: value for name, value in config.items() if name not in ("shard", "engine_reason")}
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise RunError(f"runs that are merged must have one configuration; {name} of {path} is another one")
        if not isinstance(config.get("shard"), str):
            raise RunError(f"{path} is no run of a shard; fastsample evaluate --shard I/N makes one")
        shard = shard_of(config["shard"])
        counts.add(shard.of)
        there.add(shard.index)
    if len(counts) > 1:
        raise RunError(f"the runs are shards of {' and of '.join(map(str, sorted(counts)))}; merge those of one number")
    missing = sorted(set(range(counts.pop())) - there)
    if missing:
        raise RunError(f"shard {missing[0]} is missing ({len(missing)} of them); name the folders of all shards")
    return first | {"engine_reason": configs[0].get("engine_reason")}
