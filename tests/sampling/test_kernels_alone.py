"""The compiled kernel below every check: whatever its parameters, it ends, and its token is -1 or of the row."""

import json
import subprocess
import sys

import pytest

from .cases import backends

CALLS = """
import itertools, json, math, random, sys
import torch
from fastsample.sampling.backends import _cpu
from fastsample.sampling.backends.arguments import NAMES, arguments, edit_arguments
from fastsample.sampling.contract import Case
from fastsample.sampling.edits import EditColumns

_cpu.use_instruction_set(sys.argv[1])
random.seed(1)
INF, NAN, TINY = math.inf, math.nan, 2.0**-149
VALUES = dict(
    temperature=(1.0, NAN, -1.0, INF, -INF, TINY, -TINY, -0.0, 1e38),
    top_k=(0, 3, 400, -1, -(2**31), 2**31 - 1),
    top_p=(1.0, 0.9, 0.0, -0.0, -1.0, NAN, INF, -INF, TINY, -TINY, 2.0, -1e38),
    min_p=(0.0, 0.1, NAN, -1.0, -INF, 2.0, INF, TINY),
)
g = torch.Generator().manual_seed(1)
ZEROS = torch.zeros(3, dtype=torch.int64)
ROWS = (
    torch.zeros(1, 1),
    torch.randn(1, 1000, generator=g),
    torch.zeros(1, 9000),
    torch.randn(1, 9000, generator=g) * 1e38,
    torch.where(torch.rand(1, 5000, generator=g) < 0.9, -INF, torch.randn(1, 5000, generator=g)),
    torch.tensor([[-0.0, 0.0, 3e38, -3e38, -INF]]).repeat(1, 300),
)
wrong = []


def column(dtype, n):
    return torch.full((n + 16,), 77, dtype=dtype)  # room on both sides, to see a step beyond


def call(x, flat, threads, rows=3, edits=()):
    tokens = column(torch.int64, rows)
    stats = [column(dtype, rows) for dtype in (torch.float32,) * 4 + (torch.int64, torch.int32)]
    of = lambda t: t.data_ptr() + 8 * t.element_size()
    _cpu.sample(flat, of(tokens), tuple(map(of, stats)), threads, edits)
    drawn = tokens[8 : 8 + rows].tolist()
    _cpu.sample(flat, of(tokens), (0,) * 6, threads, edits)
    for t in (tokens, *stats):
        assert (t[:8] == 77).all() and (t[8 + rows :] == 77).all()
    assert tokens[8 : 8 + rows].tolist() == drawn
    p = torch.full((rows + 2, x.shape[1]), 77.0)
    _cpu.distribution(flat, p[1:].data_ptr(), threads, edits)
    assert (p[0] == 77).all() and (p[-1] == 77).all() and not (p[1:-1] == 77).any()
    return drawn, stats[5][8 : 8 + rows].tolist()


def flat_of(x, changes):
    case = Case.of(x, 1.0, 0, 1.0, 0.0, 7, None, 0, ZEROS)
    return list(arguments(case._replace(**changes)))


SETS = [{n: random.choice(VALUES[n]) for n in VALUES} for _ in range(100)]  # and every value with one filter beside it
for name, beside in itertools.product(VALUES, ({}, dict(top_k=3), dict(top_k=400), dict(top_p=0.9), dict(min_p=0.1))):
    SETS += [{n: values[0] for n, values in VALUES.items()} | beside | {name: value} for value in VALUES[name]]
for x in ROWS:
    for parameters in SETS:
        for dtype in (torch.float32, torch.bfloat16):
            y = x.to(dtype)
            drawn, status = call(y, tuple(flat_of(y, parameters)), 1)
            if not all(0 <= t < y.shape[1] and s == 0 or t == -1 and s > 0 for t, s in zip(drawn, status)):
                wrong.append((tuple(y.shape), str(parameters), drawn, status))

for x in ROWS:  # edits that no check has seen: tokens outside of the row, twice, penalties that are none
    for trial in range(60):
        y = x.to((torch.float32, torch.bfloat16)[trial % 2])
        ids = torch.randint(y.shape[1] + 2, (3, 9), dtype=torch.int32, generator=g) - 1
        ids[:, ::4] = torch.tensor([-(2**31), 2**31 - 1, y.shape[1]], dtype=torch.int32)
        odd = lambda n: torch.tensor(random.choices((1.0, 0.0, -1.0, 2.0, NAN, INF, -INF, TINY, 1e38), k=n))
        counts = torch.tensor(random.choices((0, 1, -1, 5, 2**31 - 1, -(2**31)), k=27), dtype=torch.int32)
        edits = EditColumns(ids, counts.view(3, 9), odd(27).view(3, 9), odd(3), odd(3), odd(3))
        words = torch.randint(-(2**31), 2**31, (3, -(-y.shape[1] // 32)), generator=g).to(torch.int32)
        flags = random.choice((None, words, words * 0, words * 0 - 1))
        case = Case.of(y, 1.0, 0, 0.9, 0.0, 7, None, 0, ZEROS)._replace(edits=edits, allowed=flags)
        drawn, status = call(y, arguments(case), 1 + trial % 3, edits=edit_arguments(case))
        if not all(0 <= t < y.shape[1] and s == 0 or t == -1 and s > 0 for t, s in zip(drawn, status)):
            wrong.append((tuple(y.shape), "edits", drawn, status))

x = torch.randn(3, 40_000, generator=g)
outside = 0
for bad in ([-1, 3, 0], [2**62, -(2**63), 2**63 - 1], [0, 1, 2]):
    indices = torch.tensor(bad)
    for threads in (1, 8):
        drawn, status = call(x, tuple(flat_of(x, dict(indices=indices))), threads)
        outside += sum(t == -1 and s == 3 for t, s in zip(drawn, status))
        wrong += [(bad, drawn) for i, t in zip(bad, drawn) if (t == -1) != (not 0 <= i < 3) or t >= 40_000]
flat = flat_of(x, {})
flat[-1] = 0  # no indices, and more rows than there are
flat[NAMES.index("rows")] = 5
drawn, status = call(x, tuple(flat), 1, rows=5)
wrong += [("rows", drawn)] if drawn[3:] != [-1, -1] or min(drawn[:3]) < 0 else []
print(json.dumps(dict(wrong=wrong[:5], count=len(wrong), outside=outside)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name.removeprefix("cpu:") for name in backends()[1:]])
def test_no_parameter_leads_out_of_the_row(name):
    """275 sets of parameters, 60 of edits, most of them nonsense, and indices to nowhere; with a deadline."""
    done = subprocess.run([sys.executable, "-c", CALLS, name], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found == dict(wrong=[], count=0, outside=10)
