"""What torch calls a tensor, without plain memory: resolved, traced, or refused with a sentence; never read blindly."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import fastsample

G = torch.Generator().manual_seed(1)
LOGITS = torch.randn(4, 300, generator=G)
TEMPERATURE = torch.tensor([0.0, 0.5, 1.0, 1.5])
STREAM = torch.tensor([5, 6, 7, 8])


def plain(logits=LOGITS, **parameters):
    return fastsample.sample(logits, seed=3, top_p=0.9, stream=STREAM, **parameters).tolist()


class Named(torch.Tensor):
    """A subclass with memory of its own, like torch.nn.Parameter."""


class Wrapper(torch.Tensor):
    """A subclass whose memory is another tensor's; it hands every operator on."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), keywords=None):
        unwrapped = [a.inner if isinstance(a, Wrapper) else a for a in arguments]
        return function(*unwrapped, **(keywords or {}))


def test_negative_views(backend):
    """A conjugate's imaginary part notes its sign beside the memory: as logits, and as a parameter."""
    pair = torch.complex(torch.zeros(4, 300), -LOGITS).conj()
    logits = torch._neg_view(-LOGITS)
    assert logits.is_neg()
    assert pair.imag.is_neg()
    assert plain(logits, backend=backend) == plain()
    assert plain(temperature=torch._neg_view(-TEMPERATURE), backend=backend) == plain(temperature=TEMPERATURE)
    assert plain(indices=torch._neg_view(torch.tensor([0, -1, -2, -3])), backend=backend) == plain()
    assert plain(pair.imag, backend=backend) == plain()
    with pytest.raises(ValueError, match=r"out must be .*negated view"):
        fastsample.sample(LOGITS, out=torch._neg_view(torch.zeros(4, dtype=torch.int64)))


def test_zero_tensors(backend):
    """A tensor of zeros that has no memory is a tensor of zeros."""
    zeros = torch._efficientzerotensor(4, 300)
    assert zeros._is_zerotensor()
    assert plain(zeros, backend=backend) == plain(torch.zeros(4, 300))
    assert plain(temperature=torch._efficientzerotensor(4), backend=backend) == LOGITS.argmax(1).tolist()


def test_subclasses_with_memory(backend):
    """A Parameter, one that asks for gradients, and a subclass without a dispatch of its own."""
    for logits in (torch.nn.Parameter(LOGITS), LOGITS.clone().requires_grad_(), LOGITS.as_subclass(Named)):
        assert plain(logits, backend=backend) == plain()
        p = fastsample.distribution(logits, top_k=5, backend=backend)
        assert torch.equal(p, fastsample.distribution(LOGITS, top_k=5, backend=backend))
    assert plain(temperature=TEMPERATURE.as_subclass(Named), backend=backend) == plain(temperature=TEMPERATURE)


def test_subclasses_without_memory():
    """One that hands operators on is sampled through the operator; as a parameter it is refused."""
    assert plain(Wrapper(LOGITS)) == plain()
    with pytest.raises(TypeError, match="temperature must be a tensor with memory of its own, got Wrapper; unwrap it"):
        plain(temperature=Wrapper(TEMPERATURE))
    with pytest.raises(TypeError, match="logits must be a tensor with memory of its own, got Wrapper; unwrap it"):
        fastsample.distribution(Wrapper(LOGITS))


@pytest.mark.parametrize("parameters", [{}, dict(temperature=0.5, min_p=0.1), dict(return_stats=True)], ids=str)
def test_fake_tensors(parameters):
    """Shapes and types come out, inside of the mode and behind it, with a value a row and without."""
    with FakeTensorMode() as mode:
        logits, temperature = mode.from_tensor(LOGITS), mode.from_tensor(TEMPERATURE)
        found = [
            fastsample.sample(logits, **parameters),
            fastsample.sample(logits, **parameters | dict(temperature=temperature)),
        ]
    found.append(fastsample.sample(logits, **parameters))
    for result in found:
        columns = (result[0], *result[1]) if "return_stats" in parameters else (result,)
        assert all(c.shape == (4,) and type(c).__name__ == "FakeTensor" for c in columns)
        assert columns[0].dtype == torch.int64


def test_a_fake_beside_a_real_tensor_is_refused():
    """It has no address to read from."""
    with FakeTensorMode() as mode:
        logits, temperature = mode.from_tensor(LOGITS), mode.from_tensor(TEMPERATURE)
    with pytest.raises(TypeError, match="temperature must be a tensor with memory of its own, got FakeTensor"):
        fastsample.sample(LOGITS, temperature=temperature)
    with pytest.raises(TypeError, match="logits must be a tensor with memory of its own, got FakeTensor"):
        fastsample.distribution(logits)
    with pytest.raises(Exception, match="FakeTensor"), FakeTensorMode():
        fastsample.sample(LOGITS)


def test_the_meta_device():
    """As every operator of torch there: shapes, no values."""
    tokens, stats = fastsample.sample(torch.empty(3, 50, device="meta"), top_p=0.5, return_stats=True)
    assert tokens.shape == (3,)
    assert {t.device.type for t in (tokens, *stats)} == {"meta"}
    with pytest.raises(TypeError, match="logits must be a tensor with memory of its own, got one on meta"):
        fastsample.distribution(torch.empty(3, 50, device="meta"))


def test_make_fx():
    """The operator is what a trace holds; replayed, it draws what was drawn."""

    def step(x, temperature, stream):
        return fastsample.sample(x, temperature=temperature, seed=3, top_p=0.9, stream=stream) + 1

    inputs = (LOGITS, TEMPERATURE, STREAM)
    graph = make_fx(step, tracing_mode="fake")(*inputs)
    assert "fastsample.sample" in graph.code
    assert graph(*inputs).sub(1).tolist() == plain(temperature=TEMPERATURE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (torch.Tensor.to_sparse, r"logits must be dense, got layout torch.sparse_coo; call \.to_dense\(\) first"),
        (torch.Tensor.to_sparse_csr, "logits must be dense, got layout torch.sparse_csr"),
        (torch.Tensor.to_mkldnn, "logits must be dense, got layout torch._mkldnn"),
        (lambda x: torch.nested.nested_tensor([x[0], x[1, :9]]), "logits must be dense, got a nested tensor"),
    ],
    ids=["coo", "csr", "mkldnn", "nested"],
)
@pytest.mark.filterwarnings("ignore")  # torch's, of what is in beta
def test_other_layouts_are_refused(make, message):
    """Rows of another layout are not read as if they were dense; nor is a parameter."""
    with pytest.raises(TypeError, match=message):
        fastsample.sample(make(LOGITS))


def test_a_sparse_parameter_is_refused():
    """Its values are not side by side either."""
    with pytest.raises(TypeError, match=r"temperature must be dense, got layout torch.sparse_coo"):
        fastsample.sample(LOGITS, temperature=TEMPERATURE.to_sparse())


def test_vmap_is_refused():
    """A batched tensor has no address either; torch says so."""
    with pytest.raises(RuntimeError, match=r"data pointer|vmap|storage"):
        torch.vmap(lambda x: fastsample.sample(x[None]))(LOGITS)
