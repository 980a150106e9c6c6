"""Draws from rows small enough to be quick, and odd enough that a fault of the CUDA kernels shows in one of them."""

from __future__ import annotations

import numpy as np
import torch

from fastsample.sampling import reference
from fastsample.sampling.contract import CHUNK
from fastsample.sampling.reference import MASK32
from sampling.cases import vectors

from . import draws


def unmixed(u1: int, u2: int) -> tuple[int, int]:
    """The (stream, position) of which Philox with seed 0 makes u1 and u2: its rounds backwards."""
    a, b, c, d = u1 & MASK32, u1 >> 32, u2 & MASK32, u2 >> 32
    for n in range(9, -1, -1):
        k0, k1 = n * 0x9E3779B9 & MASK32, n * 0xBB67AE85 & MASK32
        x, y = d * pow(0xD2511F53, -1, 2**32) & MASK32, b * pow(0xCD9E8D57, -1, 2**32) & MASK32  # a and c before
        a, b, c, d = x, a ^ (0xCD9E8D57 * y >> 32) ^ k0, y, c ^ (0xD2511F53 * x >> 32) ^ k1
    return c | d << 32, a | b << 32


def draws_with(x: torch.Tensor, numbers: list[tuple[int, int]], temperature: float, name: str) -> draws.Draws:
    """What the reference draws from the row x with these numbers of Philox."""
    stream, position = (torch.tensor(np.array(n, np.uint64).astype(np.int64)) for n in zip(*numbers))
    draw = dict(seed=torch.zeros_like(stream), stream=stream, position=position, indices=torch.zeros_like(stream))
    parameters = draws.OFF | dict(temperature=temperature)
    found, stats = draws.run("reference", x, **parameters, **draw)
    return draws.Draws(name, draws.case_of(x, parameters, draw), found.tolist(), stats.kept.tolist())


def last_and_first(ends: np.ndarray, total: int) -> list[int]:
    """Of each end of a share of `total`, the random numbers that fall on its last unit and on the first behind it."""
    return [-(-(int(at) << 64) // total) for end in ends for at in (end - 1, end)]


def at_the_edges_of_weights() -> draws.Draws:
    """Draws from one chunk at which one unit more or less of a weight is another token."""
    x = torch.randn(1, CHUNK, generator=torch.Generator().manual_seed(0))
    weight, tokens = reference.filtered(x[0].numpy(), 1.0, 0, 1.0, 0.0).weight[0], range(10, 250, 30)
    u2 = last_and_first(weight.cumsum()[list(tokens)], int(weight.sum()))
    found = draws_with(x, [unmixed(0, u) for u in u2], 1.0, "the edges of weights")
    assert found.tokens == [i for t in tokens for i in (t, t + 1)]
    return found


def at_the_edges_of_masses(temperature: float) -> draws.Draws:
    """Draws from several chunks at which one unit more or less of a chunk's mass is another token."""
    x = torch.randn(1, 8 * CHUNK, generator=torch.Generator().manual_seed(0)) * temperature
    mass = reference.filtered(x[0].numpy(), temperature, 0, 1.0, 0.0).mass
    u1 = last_and_first(mass.cumsum()[:-1], int(mass.sum()))
    found = draws_with(x, [unmixed(u, 0) for u in u1], temperature, f"the edges of masses at {temperature:g}")
    assert [t // CHUNK for t in found.tokens] == [j for chunk in range(7) for j in (chunk, chunk + 1)]
    return found


def probes() -> list[draws.Draws]:
    """Rows small enough to be quick, and odd enough to show every fault."""
    chosen = [v for v in vectors() if v.logits.shape[1] <= 4097]
    odd = [v for v in chosen if any(word in v.name for word in ("zero", "ties", "masked"))][::9]
    found = []
    draw = dict(
        seed=torch.arange(4), stream=torch.arange(4) + 7, position=torch.arange(4), indices=torch.zeros(4).long()
    )
    nan, many = torch.zeros(1, 40), torch.full((1, 256), -16.7)
    nan[0, 39], many[0, 0] = float("nan"), 0.0
    wide = torch.arange(9000.0)[None].remainder(97) * 0.1  # two turns of a block, or a part for each of two
    noise = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    special = (
        ("a row of several blocks", wide, {}),
        ("a NaN that is not a half-warp's first", nan, {}),
        ("signed zeros", torch.tensor([[0.0, -0.0] * 20]), dict(top_k=7)),
        ("exactly as near as min_p", torch.tensor([[0.0, -1.0] * 5]), dict(temperature=1.4426950408889634, min_p=0.5)),
        ("logits far below the maximum", wide * -40, {}),
        ("many small weights beside a large one", many, dict(top_p=0.999995)),
        ("more ties than candidates", torch.full((1, 3000), 2.0), dict(top_p=0.4)),
        ("ties under a few others", torch.arange(3000.0)[None].remainder(700).clamp(max=9) * -0.5, dict(top_p=0.97)),
        ("many as near as min_p", torch.tensor([[0.0, -1.0] * 700]), dict(temperature=1.4426950408889634, min_p=0.5)),
        ("many candidates", noise, dict(top_k=200, top_p=0.9)),
        ("a flat row", noise, dict(top_p=0.9)),
        ("a large top_k of a flat row", noise, dict(top_k=1500, top_p=0.5)),
    )
    for name, x, filters in special:
        tokens, stats = draws.run("reference", x, **draws.OFF | filters, **draw)
        found.append(
            draws.Draws(name, draws.case_of(x, draws.OFF | filters, draw), tokens.tolist(), stats.kept.tolist())
        )
    below = torch.cat([noise[:, :2000], noise[:, 2000:] * 0.1 - 6], 1)
    # Of 36 chunks five are sampled: they say nothing of the others.
    misled = torch.randn(36, 256, generator=torch.Generator().manual_seed(1))
    misled[[0, 7, 14, 21, 28]] -= 6
    for name, x, filters, n in (
        ("more chunks than lanes", wide, dict(top_k=35), 16),
        ("many of many ties", torch.full((1, 3000), 2.0), dict(top_p=0.4), 64),
        ("a target that is met exactly", torch.zeros(1, 8), dict(top_p=0.5), 4),
        ("top_k of many ties", torch.full((1, 3000), 2.0), dict(top_k=1500), 4),
        ("chunks below the cut", below, dict(top_k=1500), 4),
        ("a sample of nothing", misled.view(1, -1), dict(top_p=0.9), 4),
        ("a sample that counts nothing", misled.view(1, -1), dict(top_k=4000, top_p=0.9), 4),
    ):
        draw = {name: torch.arange(n) for name in ("seed", "stream", "position")} | {"indices": torch.zeros(n).long()}
        tokens, stats = draws.run("reference", x, **draws.OFF | filters, **draw)
        case = draws.case_of(x, draws.OFF | filters, draw)
        found.append(draws.Draws(name, case, tokens.tolist(), stats.kept.tolist()))
    found += [draws.of_vector(v, 4) for v in odd + chosen[5::48]]
    return [
        *found,
        at_the_edges_of_weights(),
        at_the_edges_of_masses(5e37),
        draws.displaced(at_the_edges_of_masses(1.0), 3),
    ]
