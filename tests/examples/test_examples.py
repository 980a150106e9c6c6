"""Every file of examples/ runs: its functions over tiny models, and as a command over the embedded one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import bigram
import pytest
import torch
import vllm_real
from scripted import scripted
from tiny import tiny

import fastsample
from fastsample.engines.local.engine import LocalEngine

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
NEEDS = {"grpo": "trl", "json_vote": "xgrammar", "vllm_vote": "vllm"}


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lm():
    """A model that answers 4 or 5 after the mark of its turn, and then ends."""
    tokenizer = bigram.bigram_tokenizer()
    return bigram.bigram_model(tokenizer), tokenizer


def test_decode_loop(lm):
    """Each text is that of `fastsample.sample` over the whole text, row by row; rows leave where they end."""
    temperatures = [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    texts = example("decode_loop").write(*lm, bigram.ASSISTANT, temperatures)
    assert texts[0] == "4"
    assert set(texts) == {"4", "5"}


def test_self_consistency(lm):
    """The vote ends early and names its rule."""
    result = example("self_consistency").answer(*lm, "2 + 2?")
    assert result.answer == "4"
    assert len(result.samples) < result.planned
    assert result.tokens < result.budget_tokens


def test_rollouts(lm):
    """The log-probabilities of the draw are those of the model that is trained, before and after an update."""
    model, tokenizer = lm
    module = example("rollouts")
    module.PROMPTS, module.ANSWERS = [bigram.ASSISTANT] * 2, ["4", "5"]
    engine, optimizer = LocalEngine(model, tokenizer), torch.optim.SGD(model.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in model.parameters()]
    for seed in range(2):
        batch, reward, off = module.step(model, tokenizer, engine, optimizer, n=8, seed=seed)
        assert len(batch) == 16
        assert 0 < reward < 1
        assert off < 1e-3
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_grpo(lm):
    """One real step of TRL's trainer: the weights change, and some completions got their reward."""
    pytest.importorskip("trl", reason="TRL is not installed; `make engines` installs it and runs this")
    model, tokenizer = lm
    module = example("grpo")
    module.PROMPTS, module.ANSWERS = [bigram.ASSISTANT] * 2, ["4", "4"]
    before = [p.detach().clone() for p in model.parameters()]
    (line,) = module.train(model, tokenizer)
    assert 0 < line["reward"] < 1
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_json_vote():
    """Texts of a model that knows nothing are JSON of the schema all the same; without xgrammar, none is."""
    pytest.importorskip("xgrammar", reason="xgrammar is not installed; `make engines` installs it and runs this")
    tokenizer = bigram.bigram_tokenizer()
    model = tiny("llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    module = example("json_vote")
    found = module.vote(model, tokenizer, "2 + 2?", samples=8, temperature=1.5, max_new_tokens=80)
    ended = [json.loads(s.text, strict=False) for s in found.samples if s.finish == "eos"]
    assert len(ended) >= 4
    assert all(set(one) == {"unit", "answer"} and isinstance(one["answer"], int) for one in ended)
    assert found.answer in {str(one["answer"]) for one in ended}
    free = fastsample.solve(model, tokenizer, "2 + 2?", samples=8, max_new_tokens=80, extractor=module.answer_of)
    assert free.answer is None


def test_vllm_vote():
    """Its vote ends early over any engine; `make vllm` runs the file."""
    engine = scripted(lambda prompt, written, request: "" if written else "4")
    result = example("vllm_vote").vote(engine, "12 + 8?", samples=8, max_new_tokens=8, together=False)
    assert (result.answer, result.status) == ("4", "easy")
    assert 3 <= result.counted < result.planned


@pytest.mark.slow
@pytest.mark.model
def test_the_notebook(embedded):
    """Executed from its first cell to its last, in a process of its own; it shows rules and a table."""
    for package in ("nbclient", "ipykernel", "pandas"):
        pytest.importorskip(package, reason=f"{package} is not installed; `make engines` installs it and runs this")
    import nbclient
    import nbformat

    notebook = nbformat.read(EXAMPLES / "evaluation.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(EXAMPLES.parent)}}).execute()
    told = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.get("text", "") + str(output.get("data", {}).get("text/plain", "")) for output in told]
    assert any("majority" in text and "right" in text for text in texts)
    assert any("temperature" in text for text in texts)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("name", NAMES)
def test_as_a_command(name, embedded):
    """As its first lines say, with the embedded model."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed; `make engines` installs it")
    known = os.environ | (
        vllm_real.SMALL if name == "vllm_vote" else {}
    )  # else vLLM wants nearly all memory for itself
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLES.parent, env=known, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert len(done.stdout.splitlines()) >= 2
