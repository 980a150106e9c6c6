"""What only the CUDA kernel's compiled code has: maxima of two packed logits, tails read logit by logit."""

import shutil

import pytest
import torch

from fastsample.sampling.contract import row_status

from . import cuda_ptx, draws, ptx

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ptx.EMULATOR.exists(), reason=ptx.MISSING),
    pytest.mark.skipif(shutil.which("nvcc") is None, reason=cuda_ptx.NO_NVCC),
]
SPECIAL = (float("nan"), -float("nan"), float("inf"), -float("inf"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arch", ["80", "90a", "120"])
def test_invalid_rows(arch, dtype):
    """A NaN or an infinity is seen in whichever lane, word or chunk it lies, and -inf alone is not a row."""
    places = [0, 1, 6, 7, 8, 15, 130, 255, 256, 258, 700, 1023, 1024, 4095, 4096, 8200]  # one and two turns of a block
    x = torch.randn(4 * len(places), 8201, generator=torch.Generator().manual_seed(0)).to(dtype)
    for row, x_row in enumerate(x):
        place, value = places[row // 4], SPECIAL[row % 4]
        if row // 4 % 2:  # nothing else in it
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
    """An invalid row ends with its statistics: exactly its sectors, and beside them maxima and temperature."""
    x = torch.zeros(1, 32768, dtype=dtype)
    x[0, 5] = float("inf")
    case = draws.case_of(x, draws.OFF, dict(seed=torch.ones(1).long(), stream=None, position=0, indices=None))
    tokens, _ = draws.blank(case)
    found = cuda_ptx.sample(case, tokens, None, splits=3, races=False)
    assert tokens.tolist() == [-1]
    maxima, temperature = 128 * 4 // 32, 3 * 256 // 32  # a sector for each warp of three blocks
    assert 0 < found.stat["ld_sectors"] - x.nbytes // 32 <= maxima + temperature
