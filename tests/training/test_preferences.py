"""Twelve samples written by hand, every branch; the files as TRL reads them."""

from __future__ import annotations

import json

import pytest
from stored_run import keep, settings, written
from typer.testing import CliRunner
from world import Tokens, world

from fastsample.cli import main as app
from fastsample.evaluation.dataset import Item
from fastsample.evaluation.evaluate import evaluate
from fastsample.strategies.question import Settings
from fastsample.training.preferences import hidden_tokens, lessons_of, write

# (text, answer, tokens, finish) of each question; the right answer is 1.
SAMPLES = {
    "short": [("right long", "1", 9, "eos"), ("right", "1", 4, "eos"), ("wrong", "2", 6, "eos")],
    "brief": [("right", "1", 5, "eos"), ("wrong brief", "2", 2, "eos"), ("wrong long", "3", 8, "eos")],
    "none": [("wrong", "2", 3, "eos"), ("wrong", None, 4, "eos"), ("wrong", "3", 5, "eos")],
    "cut": [("right cut", "1", 2, "length"), ("right", "1", 7, "eos"), ("right too", "1", 7, "eos")],
}


def run_of(folder):
    items = [Item(name, f"question {name}", "1") for name in SAMPLES]
    kept = {
        name: [
            written(n, 0.8, n, text, answer, finish, tokens) for n, (text, answer, tokens, finish) in enumerate(mine)
        ]
        for name, mine in SAMPLES.items()
    }
    for mine in kept.values():
        mine[:] = [type(s)(**{**s.__dict__, "token_ids": tuple(range(s.tokens))}) for s in mine]
    return keep(folder, items, kept, settings((0.8,), 3, system="Be brief.", suffix=" Go."))


def said(rows, key="messages"):
    return {row["question"]: row[key][-1]["content"] for row in rows}


def test_every_branch_by_hand(tmp_path):
    """None right; the wrong one shorter than the right one; equal lengths; a cut text is never right."""
    found = lessons_of([run_of(tmp_path / "run")])
    assert (found.questions, found.right) == (4, 3)
    assert said(found.files["sft"]) == {"short": "right", "brief": "right", "cut": "right"}
    assert found.files["sft"][0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "question short Go."},
        {"role": "assistant", "content": "right"},
    ]
    assert [(r["question"], r["rejected"][0]["content"], r["rejected_tokens"]) for r in found.files["dpo"]] == [
        ("short", "wrong", 6),
        ("brief", "wrong long", 8),
        ("brief", "wrong brief", 2),
    ]
    assert [r["tokens"] == len(r["ids"]) for r in found.files["sft"]] == [True] * 3
    assert {r["run"] for r in found.files["sft"]} == {"run"}


def test_no_question_is_in_two_splits(tmp_path):
    run_of(tmp_path / "run")
    sizes = []
    for holdout in (0.0, 0.2, 0.4, 0.6, 0.8, 0.999):
        files = lessons_of([tmp_path / "run"], holdout=holdout).files
        sides = {is_test: set() for is_test in (False, True)}
        for name, rows in files.items():
            sides[name.endswith("_test")] |= {row["question"] for row in rows}
        assert sides[False] | sides[True] == {"short", "brief", "cut"}
        assert not sides[False] & sides[True]
        sizes.append(len(sides[True]))
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (0, 3)


def test_efforts_of_a_tree(tmp_path):
    """A run of the strategy efforts: every text has its level, and a seed question has all three."""
    levels = {}

    class Words(Tokens):
        chat_template = "yes"

        def apply_chat_template(self, messages, **_):
            return (
                next((m["content"] for m in messages if m["role"] == "system"), "none") + "|" + messages[-1]["content"]
            )

        def __call__(self, text, add_special_tokens=True):
            system, bar, question = text.partition("|")
            mark = 4 * levels.setdefault(system, len(levels) + 1)
            return {"input_ids": [int(question) * 4 + 4, mark, 4] if bar else [4]}

    items = [Item(str(n), str(n), "right") for n in range(6)]
    evaluate(
        None, Words(), items, tmp_path / "run", settings=Settings(max_new_tokens=40), engine=world(0.9),
        extractor=lambda text: text.rpartition("answer: ")[2] if "answer: " in text else None,
        strategy="efforts:n=4", named={"model": "world", "dtype": None},
    )  # fmt: skip
    found = lessons_of([tmp_path / "run"])
    assert found.right >= 5
    assert {row["effort"] for row in found.files["sft"]} <= {"low", "medium", "high"}
    assert len(levels) == 4
    seed = lessons_of([tmp_path / "run"], how="seed", gap=0).files.get("sft", [])
    assert seed == []  # all texts are seven tokens: no effort is longer than another
    assert lessons_of([tmp_path / "run"], how="random").files["sft"]


def test_the_command_and_its_refusals(tmp_path):
    folder, out = run_of(tmp_path / "run"), tmp_path / "files"
    args = ["tops", str(folder), "--out", str(out)]
    assert CliRunner().invoke(app, args).exit_code == 0
    lines = [json.loads(line) for line in (out / "sft.jsonl").read_text().splitlines()]
    assert lines == lessons_of([folder]).files["sft"]
    for more, part in (
        ([], "is there already"),
        (["--how", "seed"], "a text to learn from"),
        (["--how", "best"], "how must be one of"),
        (["--holdout", "1"], "holdout must be in"),
    ):
        refused = CliRunner().invoke(app, [*args, *more])
        assert (refused.exit_code, part in " ".join(refused.output.split())) == (2, True), refused.output


def test_hidden_tokens():
    assert hidden_tokens(100, 1000, 800) == 400
    with pytest.raises(ValueError, match="longer than its reasoning"):
        hidden_tokens(1, 5, 5)


def test_trl_takes_a_step(tmp_path):
    """The files are loaded by `datasets`, and TRL's trainers take a step of SFT and of DPO on a tiny model."""
    pytest.importorskip("trl", reason="TRL is not installed; `make engines` installs it and runs this")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed; `make engines` installs it")
    import bigram
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    write(lessons_of([run_of(tmp_path / "run")]), tmp_path / "files")
    tokenizer = bigram.bigram_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
    common = {"max_steps": 1, "per_device_train_batch_size": 2, "report_to": [], "use_cpu": True, "save_strategy": "no"}
    bigram.bigram_model(tokenizer).save_pretrained(tmp_path / "model")  # DPO loads it twice, once to compare with
    for name, trainer, config in (("sft", SFTTrainer, SFTConfig), ("dpo", DPOTrainer, DPOConfig)):
        data = datasets.load_dataset("json", data_files=str(tmp_path / "files" / f"{name}.jsonl"), split="train")
        names = ["messages"] if name == "sft" else ["prompt", "chosen", "rejected"]
        settings_of = config(output_dir=str(tmp_path / name), **common)
        made = trainer(
            model=str(tmp_path / "model"), args=settings_of, train_dataset=data.select_columns(names),
            processing_class=tokenizer,
        )  # fmt: skip
        assert made.train().global_step == 1
