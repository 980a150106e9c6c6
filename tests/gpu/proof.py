"""`make proof`: draws of both GPU backends' compiled PTX against the reference, on the emulator; none may differ.

    python tests/gpu/proof.py [--draws 20000] [--backend cuda|triton]

Every vector of the contract with all its draws, on each architecture; then hostile rows until the number is reached.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from sampling.cases import ROWS, vectors

from gpu import cuda_ptx, draws, ptx

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
VOCABS = (1, 255, 257, 1000, 4096, 4097, 20000)


def run(backend: str, arch: int, d: draws.Draws, seed: int) -> tuple[bool, list[str]]:
    """Whether anything differs, and the findings. Races are looked for in every eighth launch: that takes a while."""
    tokens, stats = draws.blank(d.case)
    races = seed % 8 == 0
    if backend == "cuda":
        name = "90a" if arch == 90 else str(arch)
        findings = cuda_ptx.sample(d.case, tokens, stats, name, seed % 5 + 1, seed % 3 + 1, races).findings
    else:
        findings, _ = ptx.sample(d.case, tokens, stats, arch, seed % 5 + 1, races)
        findings = [f for f in findings if not draws.is_explained(f)]
    return draws.differs(d, tokens, stats), findings


def prove(backend: str, wanted: int) -> int:
    """Returns how many launches differed or had a finding; prints as it goes."""
    started, compared, wrong = time.time(), 0, 0
    every = [draws.of_vector(v, 8) for v in vectors()]
    todo = [(arch, d) for arch in ptx.ARCHITECTURES for d in every]
    for seed in range(10**6):
        if seed < len(todo):
            arch, d = todo[seed]
        elif compared < wanted:
            arch = ptx.ARCHITECTURES[seed % 3]
            kind = ROWS[seed % len(ROWS)]
            dtype = torch.float32 if kind == "huge" else DTYPES[seed % 2 + (seed % 4 == 3)]
            d = draws.draws(kind, VOCABS[seed % len(VOCABS)], 24, seed, dtype)
        else:
            break
        differs, findings = run(backend, arch, d, seed)
        compared += d.case.rows
        wrong += differs or bool(findings)
        if differs or findings:
            print(f"{backend} sm_{arch} {d.name}: {'another token; ' * differs}{findings[:2]}")
        if seed % 200 == 0:
            print(f"{backend}: {compared} draws, {wrong} wrong, {time.time() - started:.0f} s", flush=True)
    print(f"{backend}: {compared} draws compared on sm_80, sm_90 and sm_120, {wrong} launches wrong")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--backend", choices=("cuda", "triton"), action="append")
    arguments = parser.parse_args()
    if not ptx.EMULATOR.exists():
        print(f"nothing was proved: {ptx.MISSING}", file=sys.stderr)
        return 1
    return sum(prove(b, arguments.draws) for b in arguments.backend or ("triton", "cuda")) > 0


if __name__ == "__main__":
    sys.exit(main())
