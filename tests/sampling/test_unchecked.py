"""Parameters that nothing has looked at, as a [B] tensor on a GPU: what a backend does below the public function."""

import math
import re
from pathlib import Path

import pytest
import torch

import fastsample
from fastsample.sampling.api import empty_stats
from fastsample.sampling.contract import STATUS
from fastsample.sampling.dispatch import load_backend

from .cases import OUT_OF_RANGE, unchecked

LOGITS = torch.randn(1, 600, generator=torch.Generator().manual_seed(1)) * 3


def test_a_row_out_of_range_is_invalid(backend):
    """Its token is -1, its status 4, and nothing of it is kept; the last allowed values are drawn as ever."""
    case, codes = unchecked(LOGITS)
    tokens, stats = torch.full((case.rows,), -2), empty_stats(case)
    assert load_backend(backend).sample(case, tokens, stats) == codes.count(4)
    assert stats.status.tolist() == codes
    assert [t == -1 for t in tokens.tolist()] == [code == 4 for code in codes]
    assert [k == 0 for k in stats.kept.tolist()] == [code == 4 for code in codes]
    assert stats.logprob.isnan().tolist() == [code == 4 for code in codes]
    expected = torch.full((case.rows,), -2)
    load_backend("reference").sample(case, expected, None)
    assert tokens.tolist() == expected.tolist()
    assert STATUS[4] == "has a parameter out of range"


def test_its_logits_are_named_first(backend):
    """A NaN, +inf or no finite logit is what is said of a row that also has a parameter out of range."""
    x = torch.zeros(3, 300)
    x[0, 7], x[1, 299], x[2] = math.nan, math.inf, -math.inf
    case, _ = unchecked(x)
    case = case._replace(indices=torch.arange(case.rows) % 3)
    tokens, stats = torch.full((case.rows,), -2), empty_stats(case)
    load_backend(backend).sample(case, tokens, stats)
    assert set(tokens.tolist()) == {-1}
    assert stats.status.tolist() == [1 + b % 3 for b in range(case.rows)]


def test_its_distribution_is_nan(backend):
    """As that of every invalid row."""
    case, codes = unchecked(LOGITS)
    p = torch.zeros(case.rows, LOGITS.shape[1])
    assert load_backend(backend).distribution(case, p) == codes.count(4)
    assert p.isnan().any(1).tolist() == [code == 4 for code in codes]


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_the_public_function_raises(backend, name):
    """On a CPU it looks first, and names the row."""
    for value in OUT_OF_RANGE[name]:
        good = {"temperature": 1.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0}[name]
        parameter = {name: torch.tensor([good, value])}
        with pytest.raises(ValueError, match=f"{name} must be .* at row 1"):
            fastsample.sample(LOGITS.expand(2, -1), **parameter, backend=backend)


def test_the_page_names_every_status():
    """docs/the_draw.md has a line for each code."""
    page = (Path(__file__).parents[2] / "docs/the_draw.md").read_text()
    assert [int(n) for n in re.findall(r"^\| (\d) \| \S", page, re.MULTILINE)] == list(range(len(STATUS)))
