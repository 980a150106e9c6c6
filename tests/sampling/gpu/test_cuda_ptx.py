"""What only the CUDA kernel's compiled code has: maxima of two packed logits, tails read logit by logit."""

import re
import shutil

import pytest
import torch

from fastsample.sampling.contract import row_status
from fastsample.sampling.edits import edited
from sampling.cases import run

from . import cuda_ptx, draws, ptx

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ptx.EMULATOR.exists(), reason=ptx.MISSING),
    pytest.mark.skipif(shutil.which("nvcc") is None, reason=cuda_ptx.NO_NVCC),
]
SPECIAL = (float("nan"), -float("nan"), float("inf"), -float("inf"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arch", ["80", "90", "120"])
def test_invalid_rows(arch, dtype):
    """A NaN or an infinity is seen in whichever lane, word or chunk it lies, and -inf alone is not a row."""
    places = [0, 1, 6, 7, 8, 15, 130, 255, 256, 258, 700, 1023, 1024, 4095, 4096, 8200]  # one and two turns of a block
    x = torch.randn(4 * len(places), 8201, generator=torch.Generator().manual_seed(0)).to(dtype)
    for number, x_row in enumerate(x):
        place, value = places[number // 4], SPECIAL[number % 4]
        if number // 4 % 2:  # nothing else in it
            x_row.fill_(-float("inf"))
        x_row[place] = value
    rows = torch.arange(len(x))
    case = draws.case_of(x, draws.OFF, dict(seed=rows, stream=rows, position=rows, indices=rows))
    expected = [row_status(x_row) for x_row in x]
    assert set(expected) == {0, 1, 2, 3}
    for splits in (1, 3):
        tokens, stats = draws.blank(case)
        found = cuda_ptx.sample(case, tokens, stats, arch, splits=splits, races=False).findings
        assert not found
        assert stats.status.tolist() == expected
        assert [t == -1 for t in tokens.tolist()] == [e > 0 for e in expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_row_is_read_once(dtype):
    """The first kernel asks for exactly the row's sectors, and beside them for its parameters, once a warp."""
    x = torch.zeros(1, 32768, dtype=dtype)
    x[0, 5] = float("inf")
    case = draws.case_of(x, draws.OFF, dict(seed=torch.ones(1).long(), stream=None, position=0, indices=None))
    tokens, _ = draws.blank(case)
    found = cuda_ptx.sample(case, tokens, None, splits=3, races=False)
    assert tokens.tolist() == [-1]
    parameters = 5 * 3 * 256 // 32  # the four of the filters, and the temperature again for its factor; of three blocks
    assert 0 < found.read.stat["ld_sectors"] - x.nbytes // 32 <= parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_at_an_odd_address_is_read_by_vectors_too(dtype):
    """Every byte is asked for once, and one vector of a chunk logit by logit."""
    x = torch.zeros(1, 32768, dtype=dtype)
    x[0, 5] = float("inf")
    case = draws.case_of(x, draws.OFF, dict(seed=torch.ones(1).long(), stream=None, position=0, indices=None))
    even = draws.Draws("invalid", case, [-1], [0])
    stats = []
    for d in (even, draws.displaced(even, 1)):
        tokens, _ = draws.blank(d.case)
        found = cuda_ptx.sample(d.case, tokens, None, splits=3, races=False)
        assert tokens.tolist() == d.tokens
        assert not found.findings
        stats.append(found.read.stat)
    assert stats[0]["ld_bytes"] == stats[1]["ld_bytes"]
    chunks_of_a_warp = 32768 // 256 // 4
    more = chunks_of_a_warp * 16 // x.element_size()
    assert stats[0]["ld_requests"] < stats[1]["ld_requests"] <= stats[0]["ld_requests"] + more


@pytest.mark.parametrize("filters", [dict(top_p=0.9), dict(top_k=3000, top_p=0.7), dict(min_p=0.01)])
@pytest.mark.parametrize("values", [torch.nn.Identity(), torch.round], ids=["flat", "ties"])
def test_a_team_of_blocks_shares_the_slow_path(values, filters):
    """Every size draws the same, without a race; the more blocks there are, the less each of them executes."""
    x = values(torch.randn(1, 40_000, generator=torch.Generator().manual_seed(0))).to(torch.bfloat16)
    draw = {name: torch.arange(2) for name in ("seed", "stream", "position")} | {"indices": torch.zeros(2).long()}
    expected, kept = run("cpu", x, **draws.OFF | filters, **draw)
    case, each = draws.case_of(x, draws.OFF | filters, draw), {}
    for team in (1, 2, 4, 8):
        tokens, stats = draws.blank(case)
        found = cuda_ptx.sample(case, tokens, stats, team=team)
        assert not found.findings
        assert tokens.tolist() == expected.tolist()
        assert stats.kept.tolist() == kept.kept.tolist()
        each[team] = found.finish.stat["warp_instructions"] / team
    assert each[8] < each[4] < each[2] < each[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_statistics_do_not_depend_on_where_a_row_lies(dtype):
    """Their bits: float sums keep their order at odd addresses too."""
    d = draws.draws("normal", 5000, 4, 3, dtype)
    found = []
    for n in (0, 1, 4):
        tokens, stats = draws.blank(d.case)
        assert not cuda_ptx.sample(draws.displaced(d, n).case, tokens, stats, races=False).findings
        assert not draws.differs(d, tokens, stats)
        found.append([one.tolist() for one in stats])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arch", ["80", "90", "120"])
def test_edited_rows(arch, dtype):
    """Penalties, biases and bitmasks in the compiled code: every value as defined, no race, no foreign memory."""
    for case in draws.edited_cases(dtype):
        vocab = case.logits.shape[1]
        rows = torch.zeros(4, -(-vocab // 8) * 8, dtype=dtype)[:, :vocab]
        assert not cuda_ptx.edit(case, rows, arch)
        assert torch.equal(rows, edited(case.logits[case.indices], case.edits, case.allowed)), (vocab, dtype)


MEMORY = r"\b(ld|st|atom|red)(\.volatile|\.relaxed|\.acquire)?(\.global|\.[usbf]\d|\.v\d)"


def too_early(code: str, arch: str) -> list[str]:
    """What a kernel does wrong in a chain of dependent launches.

    The emulator runs one launch at a time and cannot show it, so the code itself is read: from sm_90 on the wait for
    the launch before comes first, on every path; and no load is of the kind that takes memory for read-only.
    """
    found = ["a read-only load"] if "ld.global.nc" in code else []
    for name, body in re.findall(r"\.entry (\w+)\(.*?\)(.*?)\n}", code, re.DOTALL):
        before, wait, after = body.partition("griddepcontrol.wait;")
        if int(arch) < 90:
            found += [f"{name}: waits, and no launch says so"] if wait else []
        elif not wait:
            found.append(f"{name}: does not wait")
        elif re.search(MEMORY, before) or re.search(r"\bbra\b|^\$", before, re.MULTILINE):
            found.append(f"{name}: memory or a branch before the wait")
        elif "griddepcontrol.launch_dependents;" not in after:
            found.append(f"{name}: the next launch may not begin before this one ends")
    return found


@pytest.mark.parametrize("arch", ["80", "90", "120"])
def test_dependent_launches(arch):
    """Each of the twelve kernels waits before it touches memory; an image of sm_80 has nothing to wait with."""
    code = cuda_ptx.compiled(arch)
    assert len(re.findall(r"\.entry ", code)) == 12
    assert too_early(code, arch) == []


def test_a_kernel_that_does_not_wait_is_seen():
    """The check on code in which it must fail."""
    code = cuda_ptx.compiled("90")
    wait, load = "griddepcontrol.wait;", "ld.global.u32 %r1, [%rd1];\n"
    assert "does not wait" in too_early(code.replace(wait, "", 1), "90")[0]
    assert "before the wait" in too_early(code.replace(wait, load + wait, 1), "90")[0]
    assert "may not begin" in too_early(code.replace("griddepcontrol.launch_dependents;", "", 1), "90")[0]
    assert too_early(code.replace("ld.global.L1::no_allocate", "ld.global.nc", 1), "90") == ["a read-only load"]
    assert "no launch says so" in too_early(code, "80")[0]
