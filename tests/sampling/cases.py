"""The contract's vectors, and hostile rows by name: what every backend is fed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import fastsample
from fastsample.sampling.api import empty_stats
from fastsample.sampling.contract import Case, Stats
from fastsample.sampling.dispatch import load_backend
from fastsample.sampling.values import DTYPES

VECTORS = Path(__file__).parent.parent / "data" / "contract_vectors.npz"


class Vector(NamedTuple):
    """Several draws from one row, with the tokens that the contract demands (-1: an invalid row)."""

    name: str
    logits: torch.Tensor  # [1, V] float32
    parameters: dict[str, float]
    seeds: list[int]
    streams: list[int]
    positions: list[int]
    tokens: list[int]
    kept: int  # -1: greedy or invalid


def vectors() -> list[Vector]:
    stored = np.load(VECTORS)
    found = []
    for case in json.loads(stored["cases"].tobytes()):
        row = stored[case["logits"]] if case["logits"] else hashed_row(*case["hashed"])
        parameters = {name: case[name] for name in ("temperature", "top_k", "top_p", "min_p")}
        draws = (case[name] for name in ("seeds", "streams", "positions", "tokens"))
        found.append(Vector(case["name"], torch.from_numpy(row)[None], parameters, *draws, case["kept"]))
    return found


def hashed_row(vocab: int, k: int) -> np.ndarray:
    """A large row that is computed instead of stored."""
    i = np.arange(vocab, dtype=np.uint32)
    h = i * np.uint32(2654435761) + np.uint32(k * 40503)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(2246822519)
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(2**-20)


ROWS = (
    "normal",
    "flat",
    "peaked",
    "zipf",
    "constant",
    "few values",
    "masked",
    "offset",
    "huge",
    "one survivor",
    "signed zeros and subnormals",
    "ascending",
    "descending",
)


NAN, INF, TINY = float("nan"), float("inf"), 2.0**-149  # the smallest float32 above 0
# Values below every check, as a [B] tensor on a GPU may hold them: those out of range, and the last ones that are not.
OUT_OF_RANGE = dict(
    temperature=(NAN, -1.0, -INF, -TINY),
    top_k=(-1, -(2**31)),
    top_p=(0.0, -0.0, -1.0, -TINY, 1 + 2.0**-23, 2.0, NAN, INF, -INF),
    min_p=(NAN, -1.0, -TINY, 1 + 2.0**-23, 2.0, INF, -INF),
)
IN_RANGE = dict(
    temperature=(0.0, -0.0, TINY, 1.0, INF),
    top_k=(0, 1, 2**31 - 1),
    top_p=(TINY, 0.5, 1.0),
    min_p=(0.0, -0.0, TINY, 0.5, 1.0),
)


def unchecked(x: torch.Tensor) -> tuple[Case, list[int]]:
    """A case with every value of OUT_OF_RANGE and IN_RANGE, alone and beside others; each row's status code."""
    usual = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    besides = ({}, dict(top_k=3), dict(top_k=400), dict(top_p=0.9), dict(min_p=0.1), dict(temperature=0.0))
    sets, codes = [], []
    for table, code in ((OUT_OF_RANGE, 4), (IN_RANGE, 0)):
        for name, values in table.items():
            for value in values:
                sets += [usual | beside | {name: value} for beside in besides]
                codes += [code] * len(besides)
    rows = len(sets)
    case = Case.of(x, 1.0, 0, 1.0, 0.0, torch.arange(rows), torch.arange(rows), 0, torch.zeros(rows).long())
    columns = {name: torch.tensor([s[name] for s in sets], dtype=DTYPES[name]) for name in usual}
    return case._replace(**columns), codes


def row(kind: str, vocab: int, rng: np.random.Generator) -> torch.Tensor:
    """[V] float32 of the named kind."""
    x = rng.normal(size=vocab)
    if kind == "flat":
        x *= 0.01
    elif kind == "peaked":
        x = x * 2
        x[rng.integers(vocab)] = 12
    elif kind == "zipf":
        x = rng.permutation(-1.2 * np.log(np.arange(1, vocab + 1)))
    elif kind == "constant":
        x[:] = x[0]
    elif kind == "few values":
        x = rng.integers(-3, 3, size=vocab).astype(float)
    elif kind == "masked":
        x[rng.random(vocab) < 0.7] = -np.inf
        x[rng.integers(vocab)] = 0
    elif kind == "offset":
        x = x * 1e-3 + 1000
    elif kind == "huge":
        x *= 1e30
    elif kind == "one survivor":
        x[:] = -np.inf
        x[rng.integers(vocab)] = -3
    elif kind == "signed zeros and subnormals":
        x = np.where(rng.random(vocab) < 0.5, 0.0, -0.0)
        x[: vocab // 3] -= 1e-40 * rng.integers(0, 3, size=vocab // 3)
    elif kind in ("ascending", "descending"):
        x = np.sort(x * 2)[:: 1 if kind == "ascending" else -1]
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def run(backend: str, logits: torch.Tensor, **parameters) -> tuple[torch.Tensor, Stats]:
    """The backend itself, below the public function, which raises for invalid rows."""
    names = ("temperature", "top_k", "top_p", "min_p", "seed", "stream", "position", "indices")
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0, "position": 0} | parameters
    case = Case.of(logits, *(values.get(name) for name in names))
    case.check_values()
    tokens = torch.full((case.rows,), -2, dtype=torch.int64)
    stats = empty_stats(case)
    load_backend(backend).sample(case, tokens, stats)
    return tokens, stats


def assert_same(expected: tuple[torch.Tensor, Stats], found: tuple[torch.Tensor, Stats], where: object) -> None:
    """Tokens and kept counts to the bit; the other statistics within 1e-5, relative where they are above 1."""
    assert found[0].tolist() == expected[0].tolist(), where
    assert found[1].kept.tolist() == expected[1].kept.tolist(), where
    for name in ("logprob", "raw_logprob", "entropy", "self_certainty"):
        a, b = getattr(expected[1], name), getattr(found[1], name)
        off = torch.where(a == b, 0.0, (a - b).abs() / a.abs().clamp(min=1))
        assert off.max() <= 1e-5, (name, where)


def backends() -> list[str]:
    """Every backend that runs on CPU tensors here; the CPU's once for each instruction set of this processor."""
    sets = [] if fastsample.info()["instruction_set"] is None else _extension().instruction_sets()
    return ["reference", *(f"cpu:{name}" for name in sets)]


def select(name: str) -> str:
    """Switch to the instruction set of a name from `backends`; returns the name that `sample` takes."""
    backend, _, instruction_set = name.partition(":")
    if instruction_set:
        _extension().use_instruction_set(instruction_set)
    return backend


def _extension():
    from fastsample.sampling.backends import _cpu

    return _cpu
