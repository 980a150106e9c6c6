"""The custom operator: torch.compile traces through it without a graph break."""

import pytest
import torch

import fastsample
from fastsample.sampling.compile import sample_op


def operands(rows=4, vocab=300):
    full = torch.full((rows,), 1.0)
    return (
        torch.randn(rows, vocab),
        full * 0.8,
        torch.full((rows,), 40, dtype=torch.int32),
        full * 0.9,
        full * 0.0,
        torch.zeros(rows, dtype=torch.int64),
        torch.arange(rows),
        torch.zeros(rows, dtype=torch.int64),
    )


@pytest.mark.parametrize("indices", [None, torch.tensor([0, 0, 3, 1])], ids=["rows", "indices"])
@pytest.mark.parametrize("with_stats", [False, True])
def test_opcheck(indices, with_stats):
    """Schema, fake tensors and autograd registration are what the operator says."""
    torch.library.opcheck(sample_op, (*operands(), indices, [], None, with_stats, None))
    edits = fastsample.Edits(prompts=[[1]] * 4, repetition_penalty=1.5).columns
    allowed = torch.full((4, 10), -1, dtype=torch.int32)
    torch.library.opcheck(sample_op, (*operands(), indices, [*edits], allowed, with_stats, None))


def test_traces_without_a_graph_break():
    """One graph, the eager result; new values of the parameters make no new graph."""
    compiled_graphs = 0

    def count(graph, inputs):
        nonlocal compiled_graphs
        compiled_graphs += 1
        return graph.forward

    def step(logits, position, temperature):
        tokens, stats = fastsample.sample(
            logits * 2, temperature=temperature, top_p=0.9, seed=3, position=position, return_stats=True
        )
        return tokens + 1, stats.logprob

    compiled = torch.compile(step, backend=count, fullgraph=True)
    logits = torch.randn(4, 300)
    for i in range(3):
        position, temperature = torch.tensor(i), torch.tensor([0.0, 0.5, 1.0, 1.0 + i])
        a, b = compiled(logits, position, temperature), step(logits, position, temperature)
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert compiled_graphs == 1


def test_compiled_code_checks_its_arguments():
    """A bad value in a tensor is found when the compiled function runs."""
    compiled = torch.compile(lambda x, t: fastsample.sample(x, temperature=t), backend="eager", fullgraph=True)
    with pytest.raises(ValueError, match="temperature must be >= 0, got -1 at row 1"):
        compiled(torch.zeros(2, 4), torch.tensor([1.0, -1.0]))


def test_compiled_distribution():
    """It traces through as one operator, gives the same probabilities, and new values are no new graph."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, t: fastsample.distribution(x, temperature=t, top_p=0.9) * 2, backend=count, fullgraph=True
    )
    logits = torch.randn(4, 300)
    for t in (torch.tensor([0.0, 0.5, 1.0, 2.0]), torch.tensor([1.0, 1.5, 0.1, 0.2])):
        want = fastsample.distribution(logits, temperature=t, top_p=0.9) * 2
        assert torch.equal(compiled(logits, t), want)
    assert len(graphs) == 1
    with pytest.raises(ValueError, match="temperature must be >= 0, got -1 at row 1"):
        compiled(logits, torch.tensor([1.0, -1.0, 1.0, 1.0]))
    assert compiled(logits[:0], torch.zeros(0)).shape == (0, 300)
