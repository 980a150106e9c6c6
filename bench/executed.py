"""What the kernels execute that read and finish a row: warp instructions, barriers, bytes read, on the PTX emulator.

    python bench/executed.py             print the table
    python bench/executed.py --write     and store it in bench/executed.json and bench/executed.md
    python bench/executed.py --check     fail where a row takes 5 % more than stored, 2 barriers, a tenth of a sweep
    python bench/executed.py --only "top_p" --backend triton

Warp instructions / barriers / sweeps, counted in the compiled PTX of compute_90, for one row of 151,936 logits in
bfloat16: by nvcc for a block of 256 threads, and for each of eight that finish a row together (on average, and without
the barriers between them); by the Triton that is installed for a block of 128. Of SmolLM2, whose vocabulary has 49,152
tokens, it is 40 rows one by one, and the table has the 90th percentile of each count. A sweep is as many bytes as the
row has. Triton's kernel keeps its notes in global memory, so that the sectors of 32 bytes which it reads of them count
too. Lines that begin with *reading* are of the program before it, of all its blocks together. No time is measured, and
no GPU is needed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rows import flat, real, zipf

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from sampling.cases import run  # noqa: E402
from sampling.gpu import cuda_ptx, draws, ptx  # noqa: E402

STORED = ROOT / "bench/executed.json"
VOCAB = 151_936


def model_like() -> torch.Tensor:
    """[1, V] float32: noise, and 400 logits that stand out by six and more."""
    g = torch.Generator().manual_seed(0)
    x = 2.2 * torch.randn(1, VOCAB, generator=g)
    at = torch.randint(VOCAB, (1, 400), generator=g)
    return x.scatter_add_(1, at, 6 + torch.empty(1, 400).exponential_(1 / 3.0, generator=g))


@cache
def smollm2() -> torch.Tensor:
    """[40, 49152] float32: the embedded model's logits behind the words of a text."""
    return real(40, 49_152)


ROWS = {
    "model-like": model_like,
    "Zipf": lambda: zipf(1, VOCAB),
    "flat": lambda: flat(1, VOCAB),
    "SmolLM2": smollm2,
}
READING = "reading: "  # of the first program
SETTINGS = {
    f"{READING}no filter": ("model-like", dict(temperature=0.8)),
    f"{READING}top_k 50 + top_p 0.9": ("model-like", dict(temperature=0.8, top_k=50, top_p=0.9)),
    "no filter": ("model-like", dict(temperature=0.8)),
    "greedy": ("model-like", dict(temperature=0.0)),
    "top_k 50 + top_p 0.9": ("model-like", dict(temperature=0.8, top_k=50, top_p=0.9)),
    "top_k 20 + top_p 0.95, T 0.6": ("model-like", dict(temperature=0.6, top_k=20, top_p=0.95)),
    "top_p 0.9": ("model-like", dict(temperature=0.8, top_p=0.9)),
    "min_p 0.05": ("model-like", dict(temperature=1.0, min_p=0.05)),
    "SmolLM2, top_k 20 + top_p 0.95, T 0.6": ("SmolLM2", dict(temperature=0.6, top_k=20, top_p=0.95)),
    "SmolLM2, top_p 0.95, T 1.0": ("SmolLM2", dict(temperature=1.0, top_p=0.95)),
    "Zipf, top_k 50 + top_p 0.9": ("Zipf", dict(temperature=0.8, top_k=50, top_p=0.9)),
    "Zipf, top_p 0.95, T 1.0 (ties)": ("Zipf", dict(temperature=1.0, top_p=0.95)),
    "flat, top_p 0.9": ("flat", dict(temperature=0.8, top_p=0.9)),
    "flat, top_k 3000": ("flat", dict(temperature=0.8, top_k=3000)),
}


class Executed(NamedTuple):
    kernel: str  # CUDA, or Triton with its version
    row: str
    instructions: int  # of warps
    barriers: int
    sweeps: float


def installed_triton() -> str:
    import triton

    return f"Triton {triton.__version__}"


def executed(backend: str, name: str, team: int = 1) -> Executed:
    """The counts of a draw; of several rows, the 90th percentile of each count."""
    kind, filters = SETTINGS[name]
    rows, is_reading = ROWS[kind](), name.startswith(READING)
    each = [draw(backend, row[None].to(torch.bfloat16), draws.OFF | filters, team, is_reading) for row in rows]
    instructions, barriers, sweeps = np.quantile(each, 0.9, axis=0, method="higher").tolist()
    kernel = installed_triton() if backend == "triton" else f"CUDA, each of {team} blocks" if team > 1 else "CUDA"
    return Executed(kernel, name, int(instructions), int(barriers), round(sweeps, 2))


def draw(
    backend: str, x: torch.Tensor, parameters: dict, team: int = 1, is_reading: bool = False
) -> tuple[float, float, float]:
    """Instructions, barriers and sweeps of one draw from x [1, V], whose token must be the reference's; of a team of
    blocks that of each, on average. They are those of finishing the row, or of reading it."""
    one = torch.zeros(1, dtype=torch.int64)
    randomness = dict(seed=one + 1, stream=one, position=one, indices=one)
    tokens, _ = run("cpu", x, **parameters, **randomness)
    case = draws.case_of(x, parameters, randomness)
    found, _ = draws.blank(case)
    if backend == "cuda":
        launched = cuda_ptx.sample(case, found, None, races=False, team=team)
        stat, findings = (launched.read if is_reading else launched.finish).stat, launched.findings
        read = stat["ld_bytes"]
    else:
        launches = ptx.launches(case, found, None, races=False)
        stat, findings = launches[not is_reading].stat, ptx.unexplained(*launches)
        read = 32 * stat["ld_sectors"]
    assert found.tolist() == tokens.tolist(), parameters
    assert not findings, (parameters, findings)
    return stat["warp_instructions"] / team, stat["barriers"] / team, read / x.nbytes / team


def table(lines: list[Executed]) -> str:
    """A column a kernel: warp instructions, barriers, sweeps of the row."""
    kernels = sorted({one.kernel for one in lines})
    by_place = {(one.row, one.kernel): one for one in lines}
    body = [["row and filter", *kernels], ["---"] * (1 + len(kernels))]
    for name in SETTINGS:
        each = [by_place.get((name, kernel)) for kernel in kernels]
        if any(each):
            cells = ["" if e is None else f"{e.instructions:,} / {e.barriers} / {e.sweeps:.2f}" for e in each]
            body.append([name, *cells])
    return "\n".join("| " + " | ".join(r) + " |" for r in body)


def complaints(lines: list[Executed], stored: list[Executed]) -> list[str]:
    """Rows that take more than what is stored, and rows that are not there."""
    before = {(one.kernel, one.row): one for one in stored}
    found = []
    for one in lines:
        name, old = f"{one.kernel}, {one.row}", before.get((one.kernel, one.row))
        if old is None:
            found.append(f"{name}: not in {STORED.name}; --write puts it there")
            continue
        if one.instructions > 1.05 * old.instructions:
            found.append(f"{name}: {one.instructions:,} warp instructions, {old.instructions:,} before")
        if one.barriers > old.barriers + 1:
            found.append(f"{name}: {one.barriers} barriers, {old.barriers} before")
        if one.sweeps > old.sweeps + 0.1:
            found.append(f"{name}: {one.sweeps} sweeps of the row, {old.sweeps} before")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--backend", choices=("cuda", "triton"), action="append")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    arguments = parser.parse_args()
    if not ptx.EMULATOR.exists():
        print(f"nothing was counted: {ptx.MISSING}", file=sys.stderr)
        return 0
    backends = arguments.backend or ["cuda", "triton"]
    if "cuda" in backends and not shutil.which("nvcc"):
        backends.remove("cuda")
        print(f"the CUDA kernel was not looked at: {cuda_ptx.NO_NVCC}", file=sys.stderr)
    kinds = [(backend, team) for backend in backends for team in ((1, 8) if backend == "cuda" else (1,))]
    lines = [
        executed(backend, name, team)
        for backend, team in kinds
        for name in SETTINGS
        if arguments.only in name and not (team > 1 and name.startswith(READING))
    ]
    print(table(lines))
    stored = [Executed(**one) for one in json.loads(STORED.read_text())]
    if arguments.write and not arguments.only:  # lines of other compilers stay as they are
        kept = [one for one in stored if one.kernel not in {line.kernel for line in lines}] + lines
        kept.sort(key=lambda one: one.kernel)
        STORED.write_text(json.dumps([one._asdict() for one in kept], indent=1) + "\n")
        text = f"# What reading and finishing a row executes\n\n{table(kept)}\n\n{__doc__.split(chr(10) * 2)[2]}"
        STORED.with_suffix(".md").write_text(text.rstrip() + "\n")
    found = complaints(lines, stored) if arguments.check else []
    print("\n".join(found), file=sys.stderr)
    return len(found) > 0


if __name__ == "__main__":
    sys.exit(main())
