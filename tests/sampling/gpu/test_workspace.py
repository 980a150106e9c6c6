"""The Triton backend's scratch memory, on CPU tensors."""

import torch

from fastsample.sampling.backends.workspace import Workspaces

CPU = torch.device("cpu")


def test_calls_share_what_is_large_enough():
    """A smaller call takes the tensors that are there; a larger one gets new ones."""
    spaces = Workspaces((torch.float32, torch.int64))
    first = spaces.get(CPU, 0, (8, 8))
    assert spaces.get(CPU, 0, (8, 2)) is first
    second = spaces.get(CPU, 0, (8, 9))
    assert [t.numel() for t in second] == [8, 9]
    assert [t.dtype for t in second] == [torch.float32, torch.int64]
    assert spaces.get(CPU, 1, (8, 9)) is not second  # another stream's


def test_calls_of_different_needs_do_not_take_turns():
    """After one call needed more of one tensor and the next more of another, both are served for good."""
    spaces = Workspaces((torch.float32, torch.float32))
    spaces.get(CPU, 0, (4, 12))
    grown = spaces.get(CPU, 0, (8, 0))
    assert spaces.get(CPU, 0, (4, 12)) is grown
    assert spaces.get(CPU, 0, (8, 0)) is grown


def test_a_capture_keeps_its_memory_for_itself(monkeypatch):
    """What is made during a capture belongs to the graph, and calls outside keep theirs."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    made = []
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: made.append(size) or torch.zeros(size, dtype=dtype))
    spaces = Workspaces((torch.float32,))
    gpu = torch.device("cuda", 0)
    captured = spaces.get(gpu, 3, (5,))
    assert spaces.get(gpu, 3, (5,)) is not captured
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    outside = spaces.get(gpu, 3, (5,))
    assert spaces.get(gpu, 3, (5,)) is outside is not captured
    assert made == [5, 5, 5]
