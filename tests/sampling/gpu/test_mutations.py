"""The proof of the proof: faults planted in the CUDA source, each of which the emulator or a token must show."""

import shutil

import numpy as np
import pytest
import torch

from fastsample.sampling import reference
from fastsample.sampling.contract import CHUNK
from fastsample.sampling.reference import MASK32
from sampling.cases import vectors

from . import cuda_ptx, draws, ptx

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ptx.EMULATOR.exists(), reason=ptx.MISSING),
    pytest.mark.skipif(shutil.which("nvcc") is None, reason=cuda_ptx.NO_NVCC),
]

# name: (file, what stands there, what is planted)
FAULTS = {
    # What a block does together
    "no barrier before the sum is read": (
        "block.cuh",
        "if (lane_of() == 0) partial[warp_of()] = v;\n  sync_block();",
        "if (lane_of() == 0) partial[warp_of()] = v;",
    ),
    "no barrier after the sum was read": ("block.cuh", "sync_block();  // the last call's sum may still be read", ""),
    "a scan without its own warp": ("block.cuh", "return {before + through - v, total};", "return {before, total};"),
    "a NaN is dropped": ("block.cuh", "max.NaN.f32", "max.f32"),
    # The read
    "a tail that is read as if it were whole": (
        "statistics.cuh",
        "(j + 1) * kChunk > row.vocab",
        "j * kChunk > row.vocab",
    ),
    "a logit of a row at an odd address is read twice": ("statistics.cuh", "e < skipped ? e", "e <= skipped ? e"),
    "a float32 sum": ("logits.cuh", "uint64_t sum = 0;", "float sum = 0;"),
    "four weights in 32 bits": ("logits.cuh", "kFit = 3", "kFit = 4"),
    "a weight that is not clamped": (
        "statistics.cuh",
        "fminf(fmaxf(times(d, scale), 0.0f), 1.0f)",
        "fmaxf(times(d, scale), 0.0f)",
    ),
    "a hot row loses bits of its factor": ("kernel.cuh", "row.factor >= kLeastFactor", "row.factor > 0"),
    "lanes that part at the last chunk": ("statistics.cuh", "j - group % (32 / kLanes) <", "j <"),
    "a chunk is passed over at a turn": ("statistics.cuh", "j += step", "j += step + 1"),
    "the last chunk is forgotten": ("kernel.cuh", "(call.vocab + kChunk - 1) / kChunk", "call.vocab / kChunk"),
    "no sums of a row without a filter": ("kernel.cuh", "(top_p < 1 || !(min_p > 0))", "top_p < 1"),
    # Arithmetic and order
    "an fma that rounds twice": (
        "../contract.h",
        "return __fmaf_rn(a, b, c)",
        "return __fadd_rn(__fmul_rn(a, b), c)",
    ),
    "another magic number": (
        "../contract.h",
        "const float magic = 0x1.8p23f + Shift",
        "const float magic = 0x1.8p22f + Shift",
    ),
    "the last of the ties is lost": ("logits.cuh", "i <= last", "i < last"),
    "-0 below +0": ("logits.cuh", "x == 0 ? 0.0f : x", "x"),
    "a tail that is read again as if it were whole": (
        "logits.cuh",
        "(j + 1) * kChunk <= row.vocab",
        "j * kChunk <= row.vocab",
    ),
    # The draw
    "the wrong chunk is drawn": ("kernel.cuh", "before <= in_row && in_row < before + m)", "in_row < before + m)"),
    "the first unit of a token is lost": (
        "kernel.cuh",
        "before <= at && at < before + w[e]",
        "before < at && at < before + w[e]",
    ),
    "the stream is ignored": ("kernel.cuh", "call.stream ? call.stream[b] : b", "b"),
    # Candidates
    "no barrier between weights and sums": (
        "candidates.cuh",
        "row_.tops[index / kChunk], row_.factor));\n    }\n    sync_block();",
        "row_.tops[index / kChunk], row_.factor));\n    }",
    ),
    "a candidate adds nothing": (
        "candidates.cuh",
        "mass(static_cast<double>(before + desk_.weight[c]), scale)",
        "mass(static_cast<double>(before), scale)",
    ),
    "candidates beyond the desk": ("candidates.cuh", "if (base + total > kCapacity) return region;", ""),
    "the target is passed by": ("candidates.cuh", "goal <= before + me.adds", "goal < before + me.adds"),
    "one token more than top_k": ("candidates.cuh", "rank + 1 == goal", "rank == goal"),
    "what was put aside does not count": ("candidates.cuh", "*mass_above += above_high;", ""),
    "min_p is exclusive": (
        "shortlist.cuh",
        "row_.factor) < threshold) continue",
        "row_.factor) <= threshold) continue",
    ),
    "no barrier behind the gather": (
        "shortlist.cuh",
        "sync_block();\n    return desk_.n <= kCapacity;",
        "return desk_.n <= kCapacity;",
    ),
    # Rows of any kind
    "candidates that are still read": ("sweep.cuh", "team_.sync();  // the desk may still be read", ""),
    "what was found is not there yet": (
        "sweep.cuh",
        "team_.sync();\n    if (is_first) n_above_ = 0;",
        "if (is_first) n_above_ = 0;",
    ),
    "min_p is exclusive in a flat row": ("cut.cuh", "row_.factor) >= threshold", "row_.factor) > threshold"),
    "a lane's sum loses bits": ("sweep.cuh", "sum & 0xffffffu", "sum & 0xfffffu"),
    "counts among the weights": ("sweep.cuh", "kInside = 48", "kInside = 36"),
    "chunks that were not reached keep their sums": (
        "sweep.cuh",
        "row_.sums[j] = IsFirst ? 0 : row_.sums[j] & kWeights; }",
        "}",
    ),
    "a second sweep weighs again what the first had": (
        "sweep.cuh",
        "if (x[e] > high && (IsFirst || x[e] <= seen)) above",
        "if (x[e] > high) above",
    ),
    "a second sweep forgets what the first had": ("sweep.cuh", "IsFirst ? 0 : row_.sums[j] & kWeights;\n", "0;\n"),
    "more is listed than there is room for": ("sweep.cuh", "if (n < kListed) desk_", "desk_"),
    "more candidates are taken than there is room for": ("sweep.cuh", "if (n < kCapacity) desk_", "desk_"),
    "what lies above the listed is lost": ("sweep.cuh", "add(j, light_weight(x, row_.tops[j], row_.factor));", ""),
    "what lies above the listed does not count": ("sweep.cuh", "        ++n_above;\n", ""),
    "only the first of the ties is kept": ("cut.cuh", ".before == taken - 1", ".before == 0"),
    "one tie too many": ("cut.cuh", "added(at, of_it, i) >= measure.goal", "added(at, of_it, i) > measure.goal"),
    "ties of an earlier chunk are not kept": ("cut.cuh", "j < at ? ties_of(packed)", "j < at ? 0"),
    "the cut's own chunk keeps what it had": ("cut.cuh", "if (key >= found.key) sweep_", "if (false) sweep_"),
    "a candidate of another chunk comes before": (
        "candidates.cuh",
        "index_of(other) / kChunk == j)",
        "index_of(other) / kChunk >= 0)",
    ),
    # A team of blocks
    "a block that does not wait for the others": (
        "team.cuh",
        "barrier.cluster.arrive.release.aligned;\\n\\tbarrier.cluster.wait.acquire.aligned;",
        "bar.sync 0;",
    ),
    "a block reads what another is to read": ("sweep.cuh", "* team.size + team.rank;", "* team.size;"),
    "chunks between two blocks": ("sweep.cuh", "first * team.size < row.chunks", "first * 2 * team.size < row.chunks"),
    "the others' bins do not count": ("bins.cuh", "n < team.size; ++n", "n < 1; ++n"),
    "the others' tokens above do not count": (
        "sweep.cuh",
        "n_above_ += *team_.of(&desk_.n_above, n);",
        "if (!n) n_above_ += desk_.n_above;",
    ),
    "the others' candidates are not there": ("cut.cuh", "if (team_.size == 1) return;", "return;"),
    "candidates that are read while they are weighed": (
        "cut.cuh",
        "      at += count;\n    }\n    team_.sync();",
        "      at += count;\n    }\n    sync_block();",
    ),
    "every block adds what is kept": ("cut.cuh", "team_.leads() && c < n", "c < n"),
    "every block keeps the ties": ("cut.cuh", "team_.leads() && j < first + n", "j < first + n"),
    "every block writes its token": ("kernel.cuh", "thread_of() == 0 && team.leads()", "thread_of() == 0"),
    "sums that another block still reads": (
        "cut.cuh",
        "kept_ = found.rank + 1;\n    team_.sync();",
        "kept_ = found.rank + 1;\n    sync_block();",
    ),
}


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


@pytest.fixture(scope="module")
def probes():
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


def first_sign(probes, root) -> str | None:
    """What shows first that the source in `root` is wrong; None if nothing does."""
    for i, d in enumerate(probes):
        for seed, splits, team, with_stats in ((1, 1, 1, True), (2 + i, 2 + i % 2, 2, False)):
            tokens, stats = draws.blank(d.case)
            stats = stats if with_stats else None
            try:
                r = cuda_ptx.sample(d.case, tokens, stats, seed=seed, splits=splits, team=team, root=root)
            except (AssertionError, RuntimeError) as error:
                return str(error)
            if r.findings:
                return r.findings[0]
            if draws.differs(d, tokens, stats):
                return f"another token: {d.name}"
    return None


def test_the_source_is_right(probes):
    """Without a fault there is no sign of one."""
    assert first_sign(probes, ptx.ROOT) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught(fault, probes, tmp_path):
    """A planted fault shows as a finding or as another token."""
    file, right, wrong = FAULTS[fault]
    shutil.copytree(ptx.ROOT / "csrc", tmp_path / "csrc", ignore=shutil.ignore_patterns("cpu"))
    source = tmp_path / "csrc/cuda" / file
    text = source.read_text()
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong))
    assert first_sign(probes, tmp_path) is not None
