"""On a GPU: the same tokens as the CPU, under strides, captures, streams and many launches. Run by `make gpu`."""

import numpy as np
import pytest
import torch

import fastsample
from fastsample.sampling.contract import Case
from fastsample.sampling.dispatch import load_backend
from sampling.cases import unchecked, vectors
from sampling.edit_cases import mask_of, packed, random_edits
from sampling.test_equality import mixed_batch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")]


@pytest.fixture(params=["triton", "cuda"])
def backend(request):
    """Each GPU backend; a skip gives its own sentence."""
    case = Case.of(torch.zeros(1, 2, device="cuda"), 1.0, 0, 1.0, 0.0, 0, None, 0, None)
    objection = load_backend(request.param).why_not(case)
    if objection:
        pytest.skip(objection)
    return request.param


def on_gpu(parameters):
    return {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in parameters.items()}


def test_every_vector(backend):
    """Every draw of the contract's vectors."""
    wrong = []
    for v in vectors():
        draw = {n: torch.tensor(getattr(v, n + "s"), device="cuda") for n in ("seed", "stream", "position")}
        indices = torch.zeros(len(v.seeds), dtype=torch.int64, device="cuda")
        tokens, stats = fastsample.sample(
            v.logits.cuda(), **v.parameters, **draw, indices=indices, return_stats=True, backend=backend
        )
        if tokens.tolist() != v.tokens or (v.kept >= 0 and set(stats.kept.tolist()) != {v.kept}):
            wrong.append((v.name, v.parameters))
    assert not wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sanitized_mixed_batch(backend, dtype):
    """Greedy rows beside filtered ones, of every dtype, with statistics; small enough for compute-sanitizer."""
    x, parameters = mixed_batch(vocab=20_011, dtype=dtype)
    expected, stats = fastsample.sample(x, **parameters, return_stats=True)
    tokens, found = fastsample.sample(x.cuda(), **on_gpu(parameters), return_stats=True, backend=backend)
    assert torch.equal(tokens.cpu(), expected)
    assert torch.equal(found.kept.cpu(), stats.kept)
    for name in ("logprob", "raw_logprob", "entropy", "self_certainty"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(stats, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sanitized_edits(backend, dtype):
    """Penalties and biases that are counted on the device, and bitmasks: the tokens of the CPU's own edits."""
    x, parameters = mixed_batch(vocab=20_011, dtype=dtype)
    here, there = (random_edits(20_011, 24, np.random.default_rng(1), device) for device in ("cpu", "cuda"))
    allowed = packed([mask_of("most", 20_011, np.random.default_rng(2)) for _ in range(24)], 20_011)
    for _ in range(40):  # past the room that the lists begin with
        expected = fastsample.sample(x, **parameters, edits=here, allowed=allowed)
        tokens = fastsample.sample(x.cuda(), **on_gpu(parameters), edits=there, allowed=allowed.cuda(), backend=backend)
        assert torch.equal(tokens.cpu(), expected)
        parameters["position"] = parameters["position"] + 1
        here.append(expected)
        there.append(tokens)


@pytest.mark.parametrize("rows", [1, 5, 20, 60, 300])
def test_few_rows_and_many(backend, rows):
    """Rows whose cut is hard to find: on a GPU with clusters up to eight blocks finish one together."""
    x = torch.randn(rows, 151_936, generator=torch.Generator().manual_seed(rows)).to(torch.bfloat16)
    x[::3] = x[::3].round()  # ties
    for parameters in (dict(temperature=0.8, top_p=0.9), dict(top_k=3000, top_p=0.7), dict(min_p=0.01)):
        expected, stats = fastsample.sample(x, **parameters, seed=3, return_stats=True)
        tokens, found = fastsample.sample(x.cuda(), **parameters, seed=3, return_stats=True, backend=backend)
        assert torch.equal(tokens.cpu(), expected), parameters
        assert torch.equal(found.kept.cpu(), stats.kept), parameters


@pytest.mark.parametrize("elements", [2**31, 2**32])
def test_rows_far_apart(backend, elements):
    """Strides beyond 32 bits: a row that lies that many elements behind the first."""
    row = torch.randn(1, 4096, dtype=torch.bfloat16)
    rows = elements // 4096 + 2
    if torch.cuda.mem_get_info()[0] < rows * 4096 * 2 + 2**30:
        pytest.skip("the GPU has too little free memory")
    x = torch.empty(rows, 4096, dtype=torch.bfloat16, device="cuda")
    x[-1] = row[0].cuda()
    tokens = fastsample.sample(x, indices=torch.tensor([rows - 1], device="cuda"), top_p=0.9, seed=0, backend=backend)
    assert tokens.item() == fastsample.sample(row, top_p=0.9, seed=0).item()


def test_graph_replays(backend):
    """A captured call whose position is bumped on the device draws what eager calls draw."""
    x, parameters = mixed_batch(vocab=32_000)
    expected = [fastsample.sample(x, **{**parameters, "position": parameters["position"] + i}) for i in range(8)]
    x, parameters = x.cuda(), on_gpu(parameters)
    fastsample.sample(x, **parameters, backend=backend)  # compiled, and loaded, before the capture
    start = parameters["position"].clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = fastsample.sample(x, **parameters, backend=backend)
        parameters["position"] += 1
    parameters["position"].copy_(start)
    for i in range(8):
        graph.replay()
        assert torch.equal(tokens.cpu(), expected[i])


def test_compiled(backend):
    """torch.compile traces through, and draws the same."""
    x, parameters = mixed_batch(vocab=8192)
    expected = fastsample.sample(x, **parameters)
    compiled = torch.compile(lambda x: fastsample.sample(x, **on_gpu(parameters), backend=backend), fullgraph=True)
    assert torch.equal(compiled(x.cuda()).cpu(), expected)


def test_two_streams(backend):
    """Two streams at once do not share a workspace."""
    x, parameters = mixed_batch(vocab=50_000)
    expected = fastsample.sample(x, **parameters)
    x, parameters = x.cuda(), on_gpu(parameters)
    torch.cuda.synchronize()
    streams, found = [torch.cuda.Stream(), torch.cuda.Stream()], []
    for _ in range(50):
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(fastsample.sample(x, **parameters, backend=backend))
    torch.cuda.synchronize()
    assert all(torch.equal(f.cpu(), expected) for f in found)


@pytest.mark.slow
def test_hammer(backend):
    """100,000 launches, each compared on the device."""
    x, parameters = mixed_batch(vocab=4096)
    expected = fastsample.sample(x, **parameters).cuda()
    x, parameters = x.cuda(), on_gpu(parameters)
    wrong = torch.zeros((), dtype=torch.int64, device="cuda")
    for _ in range(100_000):
        wrong += (fastsample.sample(x, **parameters, backend=backend) != expected).sum()
    assert wrong.item() == 0


@pytest.mark.slow
def test_hammer_of_rows_that_were_just_written(backend):
    """Logits overwritten by the launch before, 100,000 times, eagerly and in a graph: never the old ones' tokens."""
    x, parameters = mixed_batch(vocab=4096)
    rows = [x.cuda(), x.flip(0).contiguous().cuda()]
    expected = [fastsample.sample(row.cpu(), **parameters).cuda() for row in rows]
    parameters, logits = on_gpu(parameters), rows[0].clone()
    wrong = torch.zeros((), dtype=torch.int64, device="cuda")

    def both():
        for row, tokens in zip(rows, expected):
            torch.mul(row, 1, out=logits)
            wrong.add_((fastsample.sample(logits, **parameters, backend=backend) != tokens).sum())

    for _ in range(25_000):
        both()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        both()
    for _ in range(25_000):
        graph.replay()
    assert wrong.item() == 0


def test_refusals(backend):
    """A CPU tensor, and a vocabulary over the limit: a sentence each."""
    with pytest.raises(ValueError, match=r"on (the CPU|cpu)"):
        fastsample.sample(torch.zeros(1, 8), backend=backend)
    with pytest.raises(ValueError, match="vocabulary must be at most"):
        fastsample.sample(torch.zeros(1, 2**20 + 1, device="cuda"), backend=backend)


def test_invalid_rows_do_not_synchronise(backend):
    """An invalid row is -1 with its status; no error is raised, since that would wait for the device."""
    x = torch.zeros(3, 300, device="cuda")
    x[0, 5], x[1, 6], x[2] = float("nan"), float("inf"), float("-inf")
    torch.cuda.set_sync_debug_mode("error")
    try:
        tokens, stats = fastsample.sample(x, return_stats=True, backend=backend)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert tokens.tolist() == [-1, -1, -1]
    assert stats.status.tolist() == [1, 2, 3]


def test_parameters_out_of_range(backend):
    """A [B] tensor is not looked at before the launch: such a row is -1 with a status of its own, the others draw."""
    case, codes = unchecked(torch.randn(1, 600, generator=torch.Generator().manual_seed(1)) * 3)
    expected = torch.empty(case.rows, dtype=torch.int64)
    load_backend("cpu").sample(case, expected, None)
    names = ("temperature", "top_k", "top_p", "min_p", "seed", "stream", "indices")
    columns = {name: getattr(case, name).cuda() for name in names}
    tokens, stats = fastsample.sample(case.logits.cuda(), **columns, return_stats=True, backend=backend)
    assert tokens.tolist() == expected.tolist()
    assert stats.status.tolist() == codes
