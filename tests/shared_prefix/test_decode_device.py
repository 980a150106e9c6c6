"""On a GPU: the decode kernels against float64, and in a graph whose rows change. Run by `make gpu`."""

import pytest
import torch
from decoding import STEPS, Step

from fastsample.shared_prefix.decode import FixedPart
from fastsample.torch_ops import decode

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", STEPS)
def test_within_twice_the_naive_error(name, dtype):
    """Against float64, on the same inputs."""
    errors, naive = zip(*(Step(seed, dtype=dtype, device="cuda", **STEPS[name]).errors() for seed in range(4)))
    assert sum(errors) <= 2 * sum(naive), (errors, naive)


def test_a_row_is_the_same_in_any_batch():
    """To the bit: alone, and among others of the same and of another prefix."""
    step = Step(3, rows=9, groups=2, dtype=torch.bfloat16, device="cuda")
    together = step.by_kernels()
    for b in (0, 4, 7):
        alone = Step(3, rows=9, groups=2, dtype=torch.bfloat16, device="cuda")
        alone.query, alone.keys, alone.values = step.query[b : b + 1], step.keys[b : b + 1], step.values[b : b + 1]
        alone.lengths, alone.group = step.lengths[b : b + 1], step.group[b : b + 1]
        alone.stored = step.stored
        assert torch.equal(alone.by_kernels()[0], together[b])


def test_a_graph_stays_right_while_its_rows_change():
    """Lengths, prefixes and their addresses are read when the graph runs, not when it was made."""
    step, other = (Step(seed, rows=6, device="cuda") for seed in (1, 2))
    where = step.directory()
    table = where.table(step.stored).cuda()
    part = FixedPart(step.keys, step.values, step.lengths, where, table, 2, step.stored, None)
    part.attend(step.query, 0.2, None, None)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = part.attend(step.query, 0.2, None, None)
    graph.replay()
    assert torch.equal(found[:, 0], step.by_kernels())
    for name in ("query", "keys", "values", "lengths"):
        getattr(step, name).copy_(getattr(other, name))
    where.set(other.group)
    table.copy_(where.table(other.stored))
    graph.replay()
    assert torch.equal(found[:, 0], other.by_kernels())


def test_why_it_is_there():
    """Nothing is missing on a GPU with Triton."""
    assert decode.missing("cuda") is None
