"""Segments behind a prefix: chains that are gathered and shortened, by numbers that a person can see through."""

from __future__ import annotations

import pytest
import torch

from fastsample.shared_prefix.prefix import PrefixLayer, SharedPrefix
from fastsample.shared_prefix.segments import Segment, SegmentLayer, gathered, root_of, shortened, tail_of
from fastsample.shared_prefix.tails import Tails, fills_holes

WINDOW = 4


def column(first, end):
    """K or V whose only number is the token's own place behind the root."""
    return torch.arange(first, end, dtype=torch.float32).view(1, 1, -1, 1)


def chain(*lengths):
    """Segments of these lengths; layer 0 sees everything, layer 1 has a window of 4, layer 2 keeps nothing."""
    full = PrefixLayer(column(-3, 0), column(-3, 0), None)
    root = SharedPrefix(3, (full, PrefixLayer(column(-3, 0), column(-3, 0), WINDOW), None))
    segment = None
    for n in lengths:
        start = 0 if segment is None else segment.end
        whole, seen = column(start, start + n), column(max(start, start + n - WINDOW), start + n)
        segment = Segment(root, segment, n, (SegmentLayer(whole, whole), SegmentLayer(seen, seen), None))
    return segment


def places(found):
    return found[0].flatten().tolist()


def test_a_chain_is_gathered_from_its_end():
    """Everything of a layer that sees everything; of a window what can be seen, over as many segments as that takes."""
    leaf = chain(5, 2, 1)
    assert (leaf.start, leaf.end, tail_of(leaf), root_of(leaf).length) == (7, 8, 8, 3)
    assert places(gathered(leaf, 0, 8)) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert places(gathered(leaf, 1, WINDOW - 1)) == [5, 6, 7]
    assert places(gathered(chain(9), 1, WINDOW - 1)) == [5, 6, 7, 8]
    assert places(gathered(chain(1, 1), 1, WINDOW - 1)) == [0, 1]


@pytest.mark.parametrize(
    ("lengths", "end", "want"),
    [((5, 2), 0, "root"), ((5, 2), 5, "parent"), ((5, 2), 7, "itself"), ((5, 2), 6, [5]), ((5, 3), 4, [1, 2, 3]),
     ((5, 3), 3, None), ((9, 2), 8, [5, 6, 7]), ((9, 2), 7, None)],
)  # fmt: skip
def test_shortened(lengths, end, want):
    """Where the end of a segment is met, nothing is copied; None where the window has lost what must be seen."""
    leaf = chain(*lengths)
    found = shortened(leaf, end, [None, WINDOW, None])
    if isinstance(want, str):
        assert found is {"root": leaf.root, "parent": leaf.parent, "itself": leaf}[want]
    elif want is None:
        assert found is None
    else:
        assert found.end == end
        assert places((found.layers[1].keys,)) == want
        assert found.layers[0].keys.shape[2] == found.length


@pytest.mark.parametrize("window", [None, 16, 20])
@pytest.mark.parametrize("end", [1, 15, 16, 40])
def test_a_tail_that_is_filled_is_taken_back(window, end):
    """Through a ring too, in two rows at once, beside a row that was there before."""
    tails = Tails(window)
    kept = end if window is None else min(end, window)
    k = column(end - kept, end)
    tails.fill(0, 1, 1, column(0, 1), column(0, 1), [])
    tails.fill(1, 2, end, k, k, [1])
    for row in (1, 2):
        keys, values = tails.taken(row, 0, end)
        assert keys.flatten().tolist() == values.flatten().tolist() == k.flatten().tolist()
    assert places(tails.taken(0, 0, 1)) == [0]
    assert places(tails.taken(1, max(0, end - 2), end)) == k.flatten().tolist()[-2:]


def test_holes_that_are_filled_from_the_end():
    """No row that stays is written to."""
    assert fills_holes([0, 3, 2])
    assert fills_holes([])
    assert not fills_holes([1, 0])
    assert not fills_holes([0, 2, 1])
