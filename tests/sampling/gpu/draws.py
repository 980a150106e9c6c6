"""What the proofs compare: hashed parameters over hostile rows, with the tokens that the reference draws from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from fastsample.sampling.api import empty_stats
from fastsample.sampling.contract import Case, Stats
from sampling.cases import ROWS, row, run
from sampling.edit_cases import mask_of, packed, random_edits
from sampling.test_equality import PARAMETERS

OFF = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)  # no filter


class Draws(NamedTuple):
    """Some draws from one row; every parameter is a [B] tensor, so that all share one compiled kernel."""

    name: str
    case: Case
    tokens: list[int]  # of the reference
    kept: list[int]


def draws(kind: str, vocab: int, rows: int, seed: int, dtype: torch.dtype = torch.float32) -> Draws:
    """`rows` draws with one set of filters from a row of the named kind."""
    rng = np.random.default_rng([seed, vocab, sum(map(ord, kind))])
    x = row(kind, vocab, rng)[None].to(dtype)
    parameters = {name: rng.choice(values).item() for name, values in PARAMETERS.items()}
    randomness = dict(
        seed=torch.from_numpy(rng.integers(-(2**63), 2**63 - 1, rows)),
        stream=torch.from_numpy(rng.integers(-(2**63), 2**63 - 1, rows)),
        position=torch.arange(rows),
        indices=torch.zeros(rows, dtype=torch.int64),
    )
    # The CPU backend stands for the reference, to which its own tests hold it, where that would take long.
    tokens, stats = run("reference" if rows < 4 else "cpu", x, **parameters, **randomness)
    return Draws(
        f"{kind} {vocab} {parameters}", case_of(x, parameters, randomness), tokens.tolist(), stats.kept.tolist()
    )


def case_of(x: torch.Tensor, parameters: dict, randomness: dict) -> Case:
    rows = len(randomness["seed"])
    types = dict(temperature=torch.float32, top_k=torch.int32, top_p=torch.float32, min_p=torch.float32)
    columns = [torch.full((rows,), parameters[n], dtype=t) for n, t in types.items()]
    return Case.of(x, *columns, *(randomness[n] for n in ("seed", "stream", "position", "indices")))


def of_vector(v, count: int) -> Draws:
    """The first draws of one of the contract's vectors."""
    n = min(count, len(v.seeds))
    randomness = {name: torch.tensor(getattr(v, name + "s")[:n]) for name in ("seed", "stream", "position")}
    case = case_of(v.logits, v.parameters, randomness | {"indices": torch.zeros(n, dtype=torch.int64)})
    return Draws(f"{v.name} {v.parameters}", case, v.tokens[:n], [v.kept] * n)


def hostile(vocabs: tuple[int, ...], rows: int, seed: int = 0, dtypes=(torch.float32,)) -> list[Draws]:
    return [
        draws(kind, vocab, rows, seed + i, dtypes[i % len(dtypes)] if kind != "huge" else torch.float32)
        for i, (kind, vocab) in enumerate((k, v) for k in ROWS for v in vocabs)
    ]


def displaced(d: Draws, n: int) -> Draws:
    """The same of rows that start n logits behind where memory begins: not at 16 bytes, as a rule."""
    x = d.case.logits
    logits = torch.cat((torch.full((len(x), n), float("nan"), dtype=x.dtype), x), 1)[:, n:]
    return d._replace(name=f"{d.name}, from {n}", case=d.case._replace(logits=logits))


def blank(case: Case) -> tuple[torch.Tensor, Stats]:
    return torch.full((case.rows,), -2, dtype=torch.int64), empty_stats(case)


def differs(d: Draws, tokens: torch.Tensor, stats: Stats | None) -> bool:
    kept = d.kept if stats is None else stats.kept.tolist()
    wanted = [k if k >= 0 else found for k, found in zip(d.kept, kept)]  # -1: the vectors do not say
    return tokens.tolist() != d.tokens or kept != wanted


def edited_cases(dtype: torch.dtype, indices=(2, 0, 1, 0)) -> Iterator[Case]:
    """Cases with edits, with a bitmask and with both, over several vocabularies; indices: of three rows, or None."""
    rng = np.random.default_rng(4)
    rows = 3 if indices is None else len(indices)
    for vocab in (1, 70, 2049, 5000):
        x = torch.stack([row(kind, vocab, rng) for kind in ("normal", "masked", "few values")]).to(dtype)
        edits = random_edits(vocab, rows, rng)
        allowed = packed([mask_of(kind, vocab, rng) for kind in ("all", "few", "most", "halves")[:rows]], vocab)
        for both in ((edits, None), (None, allowed), (edits, allowed)):
            yield Case.of(x, 0.8, 0, 0.9, 0.0, 7, None, 0, None if indices is None else torch.tensor(indices), *both)
