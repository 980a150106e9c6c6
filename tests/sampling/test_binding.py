"""The tuple that a backend hands to its extension is the one that csrc/bind.h reads."""

import importlib
import subprocess
import sys

import pytest
import torch

import fastsample
from fastsample.sampling.backends.arguments import EDIT_NAMES, NAMES, addresses, arguments, edit_arguments
from fastsample.sampling.contract import Case, Stats


@pytest.fixture(params=["_cpu", "_cuda"])
def extension(request):
    try:
        return importlib.import_module(f"fastsample.sampling.backends.{request.param}")
    except ImportError as error:
        pytest.skip(f"{request.param} was not built: {error}")


def case_of(logits, **parameters):
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0, "position": 0} | parameters
    return Case.of(logits, *(values.get(name) for name in Case._fields[2:]))


def rest_of(extension):
    """The arguments behind the statistics: threads and edits, or a workspace and a stream."""
    return (1, ()) if extension.__name__.endswith("_cpu") else ((), 0)


def test_the_order_is_that_of_the_extension(extension):
    """Field by field; the extension names them with the function that reads them."""
    assert extension.argument_names == NAMES
    assert extension.stats_names == Stats._fields
    assert extension.edit_names == EDIT_NAMES


def test_a_tuple_of_another_length_is_refused(extension):
    """One value more or less is a field that one side does not know."""
    good = arguments(case_of(torch.zeros(1, 4)))
    for bad in (good[:-1], (*good, 0), ()):
        with pytest.raises(ValueError, match="the tuple of arguments is too"):
            extension.sample(bad, 0, addresses(None), *rest_of(extension))


def test_edits_are_read_in_their_order():
    """Nine numbers with edits, none without; one more or less, or fewer than no entries, is refused."""
    from fastsample.sampling.backends import _cpu

    plain, edits = case_of(torch.zeros(1, 40)), fastsample.Edits(prompts=[[1, 2]])
    case = case_of(torch.zeros(1, 40), edits=edits, allowed=torch.ones(1, 2, dtype=torch.int32))
    assert edit_arguments(plain) == ()
    flat = edit_arguments(case)
    assert len(flat) == len(EDIT_NAMES)
    assert (flat[0], flat[-1]) == (2, 2)
    for bad, message in ((flat[:-1], "too short"), ((*flat, 0), "too long"), ((-1, *flat[1:]), "size")):
        with pytest.raises(ValueError, match=message):
            _cpu.sample(arguments(case), 0, addresses(None), 1, bad)


def test_sizes_are_looked_at(extension):
    """A dtype that does not exist, no vocabulary, a vocabulary beyond 32 bits, fewer than no rows."""
    good = arguments(case_of(torch.zeros(1, 4)))
    for name, value in (("dtype", 3), ("dtype", -1), ("vocab", 0), ("vocab", 2**31), ("rows", -1), ("count", -1)):
        bad = list(good)
        bad[NAMES.index(name)] = value
        with pytest.raises(ValueError, match=r"dtype|size"):
            extension.sample(tuple(bad), 0, addresses(None), *rest_of(extension))


ENDING = """
import threading, time, torch
from fastsample.sampling.backends import _cpu
from fastsample.sampling.backends.arguments import addresses, arguments
from fastsample.sampling.contract import Case
logits = torch.randn(8, 50_000)
case = arguments(Case.of(logits, 1.0, 0, 0.9, 0.0, 3, None, 0, None))

def draw(logits, tokens):  # which live as long as the thread's frame does: for ever
    while True:
        _cpu.sample(case, tokens.data_ptr(), addresses(None), 2, ())

for _ in range(3):
    threading.Thread(target=draw, args=(logits, torch.zeros(8, dtype=torch.int64)), daemon=True).start()
del logits
time.sleep(0.1)
"""


def test_the_interpreter_ends_while_threads_draw():
    """A daemon thread inside the extension is ended with the interpreter, and not the process with a signal."""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
