"""inspect-ai, the real one, on ten local questions: samples and votes by our provider, found by its entry point."""

from __future__ import annotations

import asyncio
from importlib.metadata import entry_points

import bigram
import pytest

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed; `make engines` installs it and runs this")

from inspect_ai import Epochs, Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageTool, ChatMessageUser, GenerateConfig, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message
from inspect_ai.tool import ToolInfo

from fastsample.engines.local.engine import LocalEngine

VOTE = {"rule": "ahead:k=3", "temperatures": "1.0", "samples": 15}


@pytest.fixture
def words():
    tokenizer = bigram.bigram_tokenizer()
    return {"lm": bigram.bigram_model(tokenizer), "tokenizer": tokenizer}


def run(model, tmp_path, solver=None, epochs=1, **settings):
    """The log of an evaluation of ten questions; the right answer is 4, and to one of them 5."""
    data = MemoryDataset([Sample(f"{i} and what is 2 + 2?", target="5" if i == 3 else "4") for i in range(10)])
    task = Task(data, solver=solver or generate(), scorer=includes(), epochs=Epochs(epochs))
    (log,) = eval(task, model=model, display="none", log_dir=str(tmp_path), **settings)
    return log


def test_ten_questions_by_a_vote(words, tmp_path):
    """Nine of ten, fewer tokens than full votes by inspect's own count, and the votes in the log."""
    model = get_model("fastsample/tiny", memoize=False, **words, **VOTE)
    log = run(model, tmp_path, [system_message("Be brief."), generate()])
    assert log.status == "success"
    assert log.results.scores[0].metrics["accuracy"].value == pytest.approx(0.9)
    (usage,) = log.stats.model_usage.values()
    assert usage.output_tokens < 10 * 15 * 2
    for sample in log.samples:
        vote = sample.output.metadata["fastsample"]
        assert vote["answer"] == "4"
        assert vote["counted"] < 15


def test_a_name_is_found_by_the_entry_point(tiny_folder, tmp_path):
    """As `inspect eval --model fastsample/FOLDER` does: nothing was imported before, and the model is loaded."""
    assert [e.value for e in entry_points(group="inspect_ai") if e.name == "fastsample"] == ["fastsample.inspect_ai"]
    log = run(f"fastsample/{tiny_folder}", tmp_path, model_args=VOTE)
    assert log.status == "success"
    assert log.results.scores[0].metrics["accuracy"].value >= 0.8


def test_plain_samples_share_a_batch_and_epochs_differ(words, tmp_path, monkeypatch):
    """Without a vote's arguments: one sample each, several in a step, and other ones in other epochs."""
    rows = []
    step = LocalEngine.step

    def watched(self):
        ended = step(self)
        rows.append(len(self.running) + len(ended))
        return ended

    monkeypatch.setattr(LocalEngine, "step", watched)
    model = get_model("fastsample/tiny", memoize=False, **words)
    log = run(model, tmp_path, epochs=4, temperature=1.0)
    said = {sample.output.completion for sample in log.samples}
    assert len(log.samples) == 40
    assert said == {"4", "5"}
    assert max(rows) > 4
    again = run(get_model("fastsample/tiny", memoize=False, **words), tmp_path, epochs=4, temperature=1.0)
    count = [sum(s.output.completion == "4" for s in one.samples) for one in (log, again)]
    assert count[0] == count[1]


def test_several_choices_and_limits(words):
    """num_choices samples at once; max_tokens cuts, and says so."""
    model = get_model("fastsample/tiny", memoize=False, **words)
    config = GenerateConfig(num_choices=8, max_tokens=1, temperature=1.0)
    output = asyncio.run(model.generate("2 + 2?", config=config))
    assert {c.message.text for c in output.choices} == {"4", "5"}
    assert {c.stop_reason for c in output.choices} == {"max_tokens"}
    assert output.usage.output_tokens == 8


@pytest.mark.parametrize(
    ("more", "words_of_it"),
    [
        ({"tools": [ToolInfo(name="add", description="Adds.")]}, "serves no tools"),
        ({"config": GenerateConfig(logprobs=True)}, "does not serve logprobs"),
        ({"input": [ChatMessageUser(content="x"), ChatMessageTool(content="3")]}, "got one with a tool"),
    ],
)
def test_refusals(more, words_of_it, words):
    """One sentence each."""
    model = get_model("fastsample/tiny", memoize=False, **words)
    with pytest.raises(ValueError, match=words_of_it):
        asyncio.run(model.generate(**{"input": "2 + 2?", **more}))
