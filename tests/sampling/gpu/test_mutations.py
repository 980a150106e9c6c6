"""The proof of the proof: faults planted in the CUDA source, each of which the emulator or a token must show."""

import shutil

import pytest

from . import cuda_ptx, draws, ptx
from .probes import probes

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


@pytest.fixture(scope="module", name="probes")
def all_probes():
    return probes()


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
