"""`make proof`: draws of both GPU backends' compiled PTX against the reference, on the emulator; none may differ.

    python tests/sampling/gpu/proof.py [--draws 20000] [--backend cuda|triton]

Every vector of the contract with all its draws, on each architecture; then hostile rows until the number is reached:
ties, flat rows, parameters out of range and rows at odd addresses among them.
Each backend has a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from sampling.cases import OUT_OF_RANGE, ROWS, vectors
from sampling.gpu import cuda_ptx, draws, ptx

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# One chunk, a tile and its tail, enough chunks to be flat, more than a block lists.
VOCABS = (1, 255, 257, 1000, 2049, 4097, 9000, 70_001)
ROWS_A_LAUNCH = 32


def run(backend: str, arch: int, d: draws.Draws, seed: int) -> tuple[bool, list[str]]:
    """Whether anything differs, and the findings.

    Kernels with and without statistics take turns, as do schedules, splits of a row and the number of blocks that
    finish it together; races are looked for in every eighth launch, which takes twice the time."""
    tokens, stats = draws.blank(d.case)
    how = dict(seed=seed % 5 + 1, splits=seed % 3 + 1, races=seed // 2 % 8 == 0)
    stats = stats if seed % 2 or d.case.logits.shape[1] > 65536 else None  # those sizes have kernels of their own
    if backend == "cuda":
        team = (1, 2, 8, 4)[seed // 3 % 4] if arch >= 90 else 1  # sm_80 has no clusters
        findings = cuda_ptx.sample(d.case, tokens, stats, str(arch), team=team, **how).findings
    else:
        findings = ptx.sample(d.case, tokens, stats, arch, **how)
    return draws.differs(d, tokens, stats), findings


def hostile(seed: int) -> tuple[int, draws.Draws]:
    """An architecture and draws from a row. Kind, vocabulary and type go through all their combinations."""
    kind, place = ROWS[seed % len(ROWS)], seed // len(ROWS)
    dtype = torch.float32 if kind == "huge" else DTYPES[place % 3]
    vocab = VOCABS[place % len(VOCABS)]
    d = draws.draws(kind, vocab, ROWS_A_LAUNCH if vocab < 10_000 else 4, seed, dtype)
    d = spoilt(d, seed) if seed % 4 == 0 else d
    return ptx.ARCHITECTURES[place // 3 % 3], draws.displaced(d, seed % 9) if seed % 5 < 2 else d


def spoilt(d: draws.Draws, seed: int) -> draws.Draws:
    """The same with a parameter out of range in every third row, whose token is -1 then."""
    tokens, kept, columns = list(d.tokens), list(d.kept), {name: getattr(d.case, name).clone() for name in OUT_OF_RANGE}
    for row in range(seed % 3, d.case.rows, 3):
        name = list(OUT_OF_RANGE)[(seed // 4 + row) % len(OUT_OF_RANGE)]
        columns[name][row] = OUT_OF_RANGE[name][row % len(OUT_OF_RANGE[name])]
        tokens[row], kept[row] = -1, 0
    return draws.Draws(f"{d.name}, spoilt", d.case._replace(**columns), tokens, kept)


def prove(backend: str, wanted: int) -> int:
    """Returns how many launches differed or had a finding; prints as it goes."""
    torch.set_num_threads(1)
    started = told = time.time()
    compared = launches = wrong = 0
    every = [draws.of_vector(v, 8) for v in vectors()]
    todo = [(arch, d) for arch in ptx.ARCHITECTURES for d in every]
    while launches < len(todo) or compared < wanted:
        arch, d = todo[launches] if launches < len(todo) else hostile(launches)
        differs, findings = run(backend, arch, d, launches)
        compared += d.case.rows
        launches += 1
        wrong += differs or bool(findings)
        if differs or findings:
            print(f"{backend} sm_{arch} {d.name}: {'another token; ' * differs}{findings[:2]}", flush=True)
        if time.time() - told > 30:
            told = time.time()
            print(f"{backend}: {compared} of {wanted} draws, {wrong} wrong, {told - started:.0f} s", flush=True)
    what = f"{compared} draws in {launches} launches compared on sm_80, sm_90 and sm_120"
    print(f"{backend}: {what}, {wrong} launches wrong, {time.time() - started:.0f} s", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--backend", choices=("cuda", "triton"), action="append")
    arguments = parser.parse_args()
    if not ptx.EMULATOR.exists():
        print(f"nothing was proved: {ptx.MISSING}", file=sys.stderr)
        return 1
    backends = arguments.backend or ["triton", "cuda"]
    with ProcessPoolExecutor(len(backends), multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(prove, backends, [arguments.draws] * len(backends))) > 0


if __name__ == "__main__":
    sys.exit(main())
