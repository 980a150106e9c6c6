"""The CUDA source as host C++ under sanitizers: several schedules, one to three blocks that read a row, one to four
that finish it."""

import shutil

import numpy as np
import pytest
import torch

from fastsample.sampling.contract import Case
from fastsample.sampling.dispatch import load_backend
from sampling.cases import row, unchecked, vectors
from sampling.edit_cases import mask_of, packed, random_edits

from . import draws, on_host

pytestmark = [
    pytest.mark.skipif(not on_host.HEADER.exists(), reason=on_host.MISSING),
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on the PATH"),
]


def check(program, todo):
    """Ask for all draws at once; tokens and kept counts must be those expected, and the sanitizers silent."""
    questions = []
    for i, d in enumerate(todo):
        columns = {
            n: getattr(d.case, n) for n in ("temperature", "top_k", "top_p", "min_p", "seed", "stream", "position")
        }
        columns["indices"] = d.case.indices
        how = dict(splits=1 + i % 3, schedule=i % 7, with_stats=True, team=(1, 2, 4)[i // 3 % 3])
        questions.append((on_host.question(d.case.logits, columns, **how), d.case.rows))
    answers, said = on_host.ask(program, questions)
    for d, a in zip(todo, answers):
        assert a.tokens == d.tokens, d.name
        assert all(k == e for k, e in zip(a.kept, d.kept) if e >= 0), d.name
    assert not said


def light_ties(vocab):
    """Ties whose masses are below the rounding that a search by mass must allow for."""
    x = torch.full((1, vocab), -20.6)
    x[0, vocab // 3] = 0
    filters = dict(temperature=1.0, top_k=0, top_p=1 - 2.0**-23, min_p=0.0)
    rows = torch.arange(4)
    randomness = dict(seed=rows, stream=rows, position=rows, indices=torch.zeros_like(rows))
    tokens, stats = draws.run("reference", x, **filters, **randomness)
    return draws.Draws(
        f"light ties {vocab}", draws.case_of(x, filters, randomness), tokens.tolist(), stats.kept.tolist()
    )


def test_under_ubsan():
    """Vectors, hostile rows in all dtypes, and a search that could go on for ever."""
    todo = [draws.of_vector(v, 8) for v in vectors() if v.logits.shape[1] <= 5000][::5]
    todo += draws.hostile((1, 257, 5000), 2, 3, (torch.float32, torch.bfloat16, torch.float16))
    todo += [light_ties(vocab) for vocab in (250, 1000, 9000)]
    check(on_host.build("-fsanitize=undefined"), todo)


def test_under_tsan():
    """Races between threads of a block, and between the blocks of a row."""
    todo = [draws.draws(kind, 1500, 2, seed) for seed in (1, 2) for kind in ("normal", "constant", "few values")]
    check(on_host.build("-fsanitize=thread", "-Wno-tsan"), todo)


@pytest.mark.parametrize("sanitizer", ["undefined", "address"])
def test_edits(sanitizer):
    """Penalties, biases and bitmasks, with indices that point nowhere: the tokens of the CPU's own edits."""
    rng = np.random.default_rng(4)
    questions, wanted = [], []
    for vocab in (1, 70, 2049, 5000):
        for i, dtype in enumerate((torch.float32, torch.bfloat16, torch.float16)):
            x = torch.stack([row(kind, vocab, rng) for kind in ("normal", "masked", "few values")]).to(dtype)
            indices = torch.tensor([2, 0, 1, 0, -1])
            edits = random_edits(vocab, 5, rng).columns
            edits.ids[0, :3] = torch.tensor([-(2**31), vocab, 2**31 - 1], dtype=torch.int32)
            allowed = packed([mask_of(kind, vocab, rng) for kind in ("all", "few", "most", "halves", "all")], vocab)
            for both in ((edits, None), (None, allowed), (edits, allowed)):
                case = Case.of(x, 0.8, 0, 0.9, 0.0, 7, None, 0, indices)._replace(edits=both[0], allowed=both[1])
                expected = torch.full((5,), -2)
                load_backend("cpu").sample(case, expected, None)
                names = ("temperature", "top_k", "top_p", "min_p", "seed", "stream", "position", "indices")
                columns = {name: case.column(name) for name in names}
                questions.append((on_host.question(x, columns, 1 + i, i, True, *both), 5))
                wanted.append(expected.tolist())
    answers, said = on_host.ask(on_host.build(f"-fsanitize={sanitizer}"), questions)
    assert [a.tokens for a in answers] == wanted
    assert not said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "constant", "masked", "huge"])
def test_no_parameter_leads_out_of_the_row(kind):
    """Below every check: the kernel ends, reads and writes what is its own, and draws what the CPU's kernel draws."""
    case, codes = unchecked(row(kind, 3000, np.random.default_rng(1))[None])
    names = ("temperature", "top_k", "top_p", "min_p", "seed", "stream", "position", "indices")
    columns = {name: case.column(name) for name in names}
    columns["indices"][::13] = torch.tensor([-1, 1, 2**62, -(2**63)]).repeat(case.rows)[: len(codes[::13])]
    case = case._replace(indices=columns["indices"])
    expected = torch.empty(case.rows, dtype=torch.int64)
    load_backend("cpu").sample(case, expected, None)
    assert [t == -1 for t in expected.tolist()] == [c > 0 or i % 13 == 0 for i, c in enumerate(codes)]
    program = on_host.build("-fsanitize=address,undefined")
    for splits, team in ((1, 1), (3, 2)):
        question = on_host.question(case.logits, columns, splits, 1, True, team=team)
        (answer,), said = on_host.ask(program, [(question, case.rows)])
        assert answer.tokens == expected.tolist()
        assert not said


@pytest.mark.slow
def test_under_asan():
    """Reads and writes out of bounds: every buffer has its exact size."""
    todo = draws.hostile((1, 255, 256, 257, 3000), 2, 9, (torch.float32, torch.bfloat16, torch.float16))
    check(on_host.build("-fsanitize=address"), todo)
