"""The proof of the proof for Triton: faults planted in a copy of the source, each of which the emulator must show."""

import importlib
import itertools

import pytest
import torch

from fastsample.sampling.reference import filtered
from sampling.cases import vectors

from . import draws, ptx

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ptx.EMULATOR.exists(), reason=ptx.MISSING)]

KERNELS = ptx.ROOT / "fastsample/sampling/backends/triton"
NAMES = itertools.count()

# name: (file, what stands there, what is planted). The first ones show in what the first kernel leaves.
FAULTS_OF_SUMS = {
    "a mask that is one token too wide": ("kernels", "mask=i < readable", "mask=i <= readable"),
    "forbidden instead of missing: 0": ("kernels", 'i < readable, other=float("-inf")', "i < readable, other=0.0"),
    "a tail that is read as a whole tile": ("kernels", "vectors // (TILE", "(vectors + CHUNK) // (TILE"),
    "the tail starts a chunk late": ("kernels", "done + turn", "done + 1 + turn"),
    "a logit of a row at an odd address is lost": (
        "kernels",
        "(part >= skipped), other=x",
        "(part > skipped), other=x",
    ),
    "a tail at an odd address that is read as if it were whole": (
        "kernels",
        "done = readable // CHUNK",
        "done = chunks",
    ),
    "tiles of another program": ("kernels", "whole, tl.num_programs(1))", "whole, tl.num_programs(1) + 1)"),
    "a float32 sum": ("kernels", "tl.sum(pairs, 0).to(tl.int64), 0), 1)", "tl.sum(pairs, 0).to(tl.float32), 0), 1)"),
    "four weights in 32 bits": ("kernels", "[2, x.shape[0] // 2, x", "[4, x.shape[0] // 4, x"),
    "a NaN is dropped": ("combine", "propagate_nan=tl.PropagateNan.ALL", "propagate_nan=tl.PropagateNan.NONE"),
    "a product and a sum for an fma": ("arithmetic", "tl.fma(p, f, A2)", "p * f + A2"),
    "a scale that is not normal": ("kernels", "2.0**-121", "2.0**-126"),
}
FAULTS_OF_TOKENS = {
    "the last of the ties is lost": ("arithmetic", "(i <= cut_i)", "(i < cut_i)"),
    "the stream is ignored": ("kernels", "(given & STREAM) > 0", "(given & STREAM) < 0"),
    "the target is reached too early": ("candidates", "(goal <= through)", "(goal <= 2 * through)"),
    "a candidate counts twice": ("candidates", "adds + TOKEN", "adds + 2 * TOKEN"),
    "what is no candidate comes first": ("candidates", 'tl.where(e < n, x, float("-inf"))', "x"),
    "the last of the ties comes first": ("candidates", "(x_other == x) & (o < e)", "(x_other == x) & (o > e)"),
    "no barrier before candidates are read": ("candidates", "is_one)\n    tl.debug_barrier()", "is_one)"),
    "no barrier before weights are read": (
        "candidates",
        "row.c), mask=e < n)\n    tl.debug_barrier()",
        "row.c), mask=e < n)",
    ),
    "slices that all begin at 0": ("rows", "of_lower * 0x01010100", "of_lower * 0"),
    "the fifth slice begins at 0": ("rows", "through_upper - upper + from_upper", "through_upper - upper"),
    "a tie too many": ("cut", "tl.sum(is_early.to(tl.int32)) + 1", "tl.sum(is_early.to(tl.int32)) + 2"),
    "what is kept is not added": ("cut", "w, mask=is_kept", "w * 0, mask=is_kept"),
}


def planted(fault, folder, monkeypatch):
    """The kernels of a copy of the source with the fault in it."""
    file, right, wrong = fault
    name = f"planted_{next(NAMES)}"
    package = folder / name
    package.mkdir()
    (package / "__init__.py").touch()
    for source in KERNELS.glob("[!_]*.py"):
        text = source.read_text().replace("from ...contract", "from fastsample.sampling.contract")
        if source.stem == file:
            assert text.count(right) == 1
            text = text.replace(right, wrong)
        (package / source.name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(f"{name}.kernels")


def sign_in_sums(source) -> str | None:
    """What shows first that the first kernel is wrong; None if nothing does."""
    g = torch.Generator().manual_seed(1)
    wide, nan = torch.randn(16_288, generator=g), torch.randn(4200, generator=g)
    nan[77], nan[4150] = float("nan"), float("nan")
    rows = [(wide, 1.0, 0), (wide * 8e37, 5e37, 0), (nan, 1.0, 0), (torch.zeros(4352), 1.0, 0), (wide[:300], 0.7, 0)]
    rows += [(wide[:5000], 0.8, 3), (nan, 1.0, 1), (wide[:300] * 8e37, 5e37, 2)]  # that start between two vectors
    for x, temperature, n in rows:
        one = dict(
            seed=torch.tensor([1]), stream=torch.tensor([1]), position=torch.tensor([0]), indices=torch.tensor([0])
        )
        case = draws.case_of(x[None].clone(), draws.OFF | dict(temperature=temperature), one)
        case = draws.displaced(draws.Draws("", case, [], []), n).case
        values = ptx.arguments_of(case, None, None)
        r = ptx.launch_first(case, None, values, 90, 1, True, 2, source)
        if unexplained := ptx.unexplained(r):
            return unexplained[0]
        tops = torch.stack([part.max() for part in x.split(256)])
        found, found_sums = ptx.left_by_first(case, values["memory"])
        if not torch.equal(found.isnan(), tops.isnan()):
            return "another NaN"
        if not tops.isnan().any():
            sums = filtered(x.numpy(), float(case.temperature), 0, 1.0, 0.0).weight.sum(1)
            if not torch.equal(found, tops) or found_sums.tolist() != sums.tolist():
                return f"another sum of {len(x)} tokens"
    return None


def sign_in_tokens(source) -> str | None:
    """The same of both kernels."""
    chosen = [v for v in vectors() if v.logits.shape[1] in (257, 1000, 4097)]
    probes = [v for v in chosen if v.parameters["top_p"] < 1 or v.parameters["top_k"]]
    for i, v in enumerate(probes[::4]):
        d = draws.of_vector(v, 3)
        tokens, stats = draws.blank(d.case)  # statistics tell how many tokens are kept
        if unexplained := ptx.sample(d.case, tokens, stats, seed=1 + i, source=source):
            return unexplained[0]
        if draws.differs(d, tokens, stats):
            return f"another token: {d.name}"
    return None


def test_the_source_is_right():
    """Without a fault there is no sign of one."""
    assert sign_in_sums(None) is None
    assert sign_in_tokens(None) is None


@pytest.mark.parametrize("fault", FAULTS_OF_SUMS)
def test_fault_of_the_first_kernel(fault, tmp_path, monkeypatch):
    """A planted fault shows as a finding or as another maximum or sum of a chunk."""
    assert sign_in_sums(planted(FAULTS_OF_SUMS[fault], tmp_path, monkeypatch)) is not None


@pytest.mark.parametrize("fault", FAULTS_OF_TOKENS)
def test_fault_of_the_second_kernel(fault, tmp_path, monkeypatch):
    """A planted fault shows as a finding or as another token."""
    assert sign_in_tokens(planted(FAULTS_OF_TOKENS[fault], tmp_path, monkeypatch)) is not None
