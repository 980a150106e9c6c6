"""One compiled Triton kernel for a type of logits, statistics or none, and a width: it takes up to half a minute.

Counted by the keys under which Triton keeps what it has compiled, for arguments as `launch` hands them over.
"""

import itertools

import pytest
import torch

from fastsample.sampling.api import empty_stats
from fastsample.sampling.backends.triton import launch as backend
from fastsample.sampling.backends.workspace import room_for_edited
from fastsample.sampling.contract import Case

from . import draws

triton = pytest.importorskip("triton", reason="triton is not installed")


class Recorder:
    """Stands for a kernel: keeps what it is launched with."""

    def __init__(self):
        self.launches = []

    def __getitem__(self, grid):
        return lambda *arguments, **constants: self.launches.append((arguments, constants))


def keys(fn, launches):
    """Under how many keys these launches of a kernel would be kept."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    bind = create_function_from_signature(fn.signature, fn.params, make_backend(GPUTarget("cuda", 90, 32)))
    return {str(bind(*arguments, **constants)[1:]) for arguments, constants in launches}


def recorded(monkeypatch, cases):
    """What both kernels are launched with; cases: (a Case, whether statistics are wanted)."""
    from fastsample.sampling.backends.triton import kernels as kernels

    first, second = Recorder(), Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "chunk_statistics", first)
        patch.setattr(kernels, "finish_rows", second)
        for case, with_stats in cases:
            tokens = torch.empty(case.rows, dtype=torch.int64)
            backend._launch(case, tokens, empty_stats(case) if with_stats else None)
    return (kernels.chunk_statistics, first.launches), (kernels.finish_rows, second.launches)


def odd(values):
    """The same values at an address that is no multiple of 16."""
    return torch.cat((values[:1], values))[1:]


def ways(vocab, dtype=torch.float32, rows=3):
    """Cases of one type and width that differ in everything else."""
    numbers = dict(temperature=(1.0, 0.5, 0.0), top_k=(0, 1, 16), top_p=(1.0, 0.9), min_p=(0.0, 0.1))
    numbers |= dict(seed=(0, 1, 16, 2**40, -3), position=(0, 1, 2**40))
    usual = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=5, stream=None, position=7, indices=None)
    wide = torch.zeros(rows, vocab + 16, dtype=dtype)
    x = wide[:, :vocab].contiguous()
    for name, values in numbers.items():
        column = torch.zeros(rows, dtype=backend.TYPES[name])
        for value in (*values, column, odd(column)):
            yield x, usual | {name: value}
    for name in ("stream", "indices"):
        column = torch.zeros(rows, dtype=torch.int64)
        for value in (column, odd(column)):
            yield x, usual | {name: value}
    columns = {name: torch.zeros(rows, dtype=dtype) for name, dtype in backend.TYPES.items()}
    yield x, columns
    for other in (wide[:, 1 : vocab + 1], wide[:, 3 : vocab + 3], wide[:1, :vocab].expand(rows, -1), x[:1], x[:, :-1]):
        yield other, usual
    yield x[1:], usual


def cases(*arguments, **more):
    order = ("temperature", "top_k", "top_p", "min_p", "seed", "stream", "position", "indices")
    return [Case.of(x, *(values[name] for name in order)) for x, values in ways(*arguments, **more)]


def test_forty_ways_to_call_are_one_kernel(monkeypatch):
    """Numbers and tensors, values that Triton likes to compile in, addresses, strides, seeds of 64 bits."""
    todo = [(case, False) for case in cases(1000)]
    assert len(todo) >= 40
    for fn, launches in recorded(monkeypatch, todo):
        assert len(launches) == len(todo)
        assert len(keys(fn, launches)) == 1, fn


def test_what_makes_another_kernel(monkeypatch):
    """Type, statistics, and in the second kernel the width: nothing else, and each of them."""
    types = (torch.float32, torch.bfloat16, torch.float16)
    kinds = list(itertools.product((1000, 70_000, 151_936), types, (False, True)))
    todo = [(case, stats) for vocab, dtype, stats in kinds for case in cases(vocab, dtype)[::9]]
    (first, of_first), (second, of_second) = recorded(monkeypatch, todo)
    assert len(keys(first, of_first)) == len(types) * 2
    assert len(keys(second, of_second)) == len(kinds)


def test_edits_are_two_kernels_for_a_type(monkeypatch):
    """Whether there are penalties, a bitmask, both, or an index of rows; at any address and of any width."""
    from fastsample.sampling.backends.triton import edits

    copies, entries = Recorder(), Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(edits, "copy_rows", copies)
        patch.setattr(edits, "edit_entries", entries)
        for case in (*draws.edited_cases(torch.float32), *draws.edited_cases(torch.float32, indices=None)):
            edits.edit(case, room_for_edited(case), 32)
    for fn, launches in ((edits.copy_rows, copies.launches), (edits.edit_entries, entries.launches)):
        assert len(launches) >= 16
        assert len(keys(fn, launches)) == 1, fn


def test_the_count_can_fail(monkeypatch):
    """The same source without what forbids it is compiled again and again."""
    (_, _), (second, launches) = recorded(monkeypatch, [(case, False) for case in cases(1000)])
    assert len(keys(triton.jit(second.fn), launches)) > 3
