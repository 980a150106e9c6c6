import pytest
import torch

from .cases import backends, select


@pytest.fixture(params=backends())
def backend(request):
    """Every backend in turn, each instruction set of the CPU's by itself; the best one again afterwards."""
    yield select(request.param)
    for name in reversed(backends()[1:]):
        select(name)


@pytest.fixture
def threads():
    """A function that sets the number of threads; the old one comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
