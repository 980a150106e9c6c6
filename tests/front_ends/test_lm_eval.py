"""lm-evaluation-harness, the real one, on ten local questions: answered by votes that end early."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import bigram
import pytest

from fastsample.engines.local.engine import LocalEngine

pytest.importorskip("lm_eval", reason="lm_eval is not installed; `make engines` installs it and runs this")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from fastsample.lm_eval import VotingLM

ROOT = Path(__file__).parents[2]
TASK = """
task: ten_questions
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false, max_gen_toks: 8}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def task(tmp_path):
    """A folder with a task of ten questions whose right answer is 4, and one of them 5."""
    lines = [{"question": f"{i} and what is 2 + 2?", "answer": "5" if i == 3 else "4"} for i in range(10)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "ten.yaml").write_text(TASK.format(data=tmp_path / "q.jsonl"))
    return tmp_path


@pytest.fixture
def lm():
    """A vote over a model that says 4 with probability 0.7, and 5 otherwise."""
    tokenizer = bigram.bigram_tokenizer()
    engine = LocalEngine(bigram.bigram_model(tokenizer), tokenizer)
    return VotingLM(engine=engine, tokenizer=tokenizer, temperatures="1.0", samples=15, rule="ahead:k=3")


def asked(*texts, **wanted):
    return [Instance("generate_until", {}, (text, wanted), i) for i, text in enumerate(texts)]


def test_ten_questions(lm, task):
    """Nine of ten by the harness's own metric, and early exit wrote fewer tokens than the full votes."""
    done = simple_evaluate(
        lm, tasks=["ten_questions"], task_manager=TaskManager(include_path=str(task)), apply_chat_template=True,
        bootstrap_iters=0,
    )  # fmt: skip
    assert done["results"]["ten_questions"]["exact_match,none"] == pytest.approx(0.9)
    assert len(done["samples"]["ten_questions"]) == 10
    assert 0 < lm.tokens < 0.8 * lm.budget_tokens


def test_as_a_command(task, tiny_folder, tmp_path):
    """The harness's own command line, with the name `fastsample`, arguments as text and a result file."""
    command = [
        sys.executable, "-m", "fastsample.lm_eval", "--model", "fastsample", "--tasks", "ten_questions",
        "--model_args", f"pretrained={tiny_folder},temperatures=0.5/1.0,samples=4,rule=ahead:k=3",
        "--include_path", str(task), "--apply_chat_template", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (stored,) = (tmp_path / "out").rglob("*.json")
    assert json.loads(stored.read_text())["results"]["ten_questions"]["exact_match,none"] >= 0.8


def test_it_is_registered():
    """Under its name, beside the harness's own models."""
    assert get_model("fastsample") is VotingLM
    assert get_model("dummy")


def test_what_a_task_asks_for(lm):
    """Its strings end a text, its limit cuts one; a repeated request is answered by other samples."""
    settings = lm.settings_for({"until": "a", "max_gen_toks": 3, "do_sample": False, "temperature": 0.0, "top_p": 0.5})
    assert (settings.stop, settings.max_new_tokens, settings.top_p) == (("a",), 3, 0.5)
    assert settings.temperatures == (1.0,)
    lm.settings = replace(lm.settings, samples=1)
    said = lm.generate_until(asked(*[bigram.ASSISTANT] * 40, until=[]), disable_tqdm=True)
    assert set(said) == {"4", "5"}
    assert said == lm.generate_until(asked(*[bigram.ASSISTANT] * 40, until=[]), disable_tqdm=True)


def test_refusals(lm):
    """One sentence for a task of probabilities, an unknown field, and temperatures that are none."""
    with pytest.raises(NotImplementedError, match="nothing in them to vote on"):
        lm.loglikelihood([])
    with pytest.raises(ValueError, match=r"may name until, .* got penalty_alpha"):
        lm.generate_until(asked("x", penalty_alpha=0.1))
    with pytest.raises(ValueError, match=r"numbers with / or commas between them, got '0.4,warm'"):
        VotingLM(engine=lm.engine, tokenizer=lm.tokenizer, temperatures="0.4,warm")
