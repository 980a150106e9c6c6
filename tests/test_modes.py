"""The ways in which Python can be started: the same results, and no warning of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other packages warn of when they are imported
    import bigram, torch, transformers
import fastsample
from fastsample.strategies.question import Settings
from fastsample.solving.solve import solve_many
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tokenizer = bigram.bigram_tokenizer()
    model = bigram.bigram_model(tokenizer)
torch.set_num_threads(1)
x = torch.randn(4, 3000, generator=torch.Generator().manual_seed(1))
print(fastsample.sample(x, temperature=0.8, top_p=0.9, seed=7).tolist())
print(fastsample.sample(x, temperature=[0, 0.5, 1, 2], top_k=40, min_p=0.01, backend="reference").tolist())
for bad in (dict(top_p=2.0), dict(temperature=-1.0), dict(top_k=-1), dict(stream=3)):
    try:
        fastsample.sample(x, **bad)
    except (ValueError, TypeError) as error:
        print(error)
for result in solve_many(model, tokenizer, ["2 + 2?", " "], settings=Settings((0.0, 1.0), 3, max_new_tokens=8)):
    print(result.status, result.answer, result.votes, result.error)
"""


def said(*options, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | variables
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *options, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def usual():
    return said()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (["-O"], {}),
        ([], {"PYTHONDEVMODE": "1"}),
        (["-W", "error"], {}),
        ([], {"PYTHONHASHSEED": "12345", "PYTHONUTF8": "0", "LC_ALL": "C"}),
    ],
    ids=str,
)
def test_every_way_gives_the_same(usual, options, variables):
    """Without assertions, with every warning an error, in Python's development mode."""
    out, errors = said(*options, **variables)
    assert out == usual
    assert "fastsample" not in errors
    assert usual.count("must be") == 4
    assert "the question is empty" in usual


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
script = '''
try:
    import {name}
except ImportError as error:
    print(error, flush=True)
else:
    print("imported", flush=True)
'''
interpreters.run_string(interpreters.create(), script)
import fastsample
print(fastsample.__version__)
"""


@pytest.mark.parametrize("name", ["fastsample", "fastsample.sampling.api", "fastsample.voting.rule"])
def test_a_subinterpreter_gets_a_sentence(name):
    """PyTorch would wait for itself for ever there; the main interpreter beside it works."""
    program = SUBINTERPRETER.replace("{name}", name)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # the new interpreter does not know the current folder
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("fastsample must be imported in the main interpreter")
    assert second[0].isdigit()
