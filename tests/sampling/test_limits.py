"""A process at its limits: no memory for the scratch is a MemoryError, no thread to be had is a slower call."""

import subprocess
import sys

import pytest

resource = pytest.importorskip("resource", reason="limits are set by the module resource, which is of Unix")

LIMITED = """
import resource, sys
import torch
import fastsample
from fastsample.sampling.backends import _cpu
from fastsample.sampling.backends.arguments import addresses, arguments
from fastsample.sampling.contract import Case


def limit(more):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))


def call(x, threads):
    case = Case.of(x, 1.0, 0, 0.9, 0.0, 3, None, 0, None)
    _cpu.sample(arguments(case), tokens.data_ptr(), addresses(None), threads, ())
    return tokens.tolist()

"""
NO_THREADS = """
small, wide = torch.randn(8, 2000), torch.randn(1, 200_000)
tokens = torch.empty(8, dtype=torch.int64)
limit(2**20)  # a thread's stack needs more
found = call(small, 4), call(wide, 4)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
started = len(__import__("os").listdir("/proc/self/task"))
expected = call(small, 1), call(wide, 1)
assert found == expected
assert call(small, 4) == expected[0]  # and now there are threads
assert len(__import__("os").listdir("/proc/self/task")) == started + 3
"""
NO_MEMORY = """
x = torch.zeros(2, 2**26, dtype=torch.float16)
x[:, 7] = 30
tokens = torch.empty(2, dtype=torch.int64)
for threads in (1, 2, 4):  # a thread a row, and several a row
    limit(2**21)
    try:
        call(x, threads)
    except MemoryError as error:
        assert "there is no memory for the sampler's scratch" in str(error), error
    else:
        raise AssertionError("the limit was not one")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    assert [t % 2**26 for t in call(x, threads)] == [7, 7]
    x = x.repeat(1, 2)  # what was kept is not enough the next time
"""


@pytest.mark.parametrize("program", [NO_THREADS, NO_MEMORY], ids=["no threads", "no memory"])
def test_at_the_limit(program):
    """In a process of its own, whose address space is closed around it."""
    if sys.platform != "linux":
        pytest.skip("RLIMIT_AS and /proc are Linux's")
    done = subprocess.run([sys.executable, "-c", LIMITED + program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
