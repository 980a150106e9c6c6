"""fastsample questions: question sets from reasoning-gym, as JSONL for fastsample evaluate."""

from __future__ import annotations

import json
from itertools import count
from typing import Annotated, Any

import typer

from .terminal import json_line, refuse


def questions(
    name: str = typer.Argument(None, metavar="[DATASET]", help="A reasoning-gym data set; left out: list them."),
    n: int = typer.Option(100, "-n", "--number", help="How many questions, all different."),
    seed: int = typer.Option(0, help="The same seed gives the same questions."),
    option: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the data set, such as max_digits=1; repeatable.")
    ] = None,
    puzzles: Annotated[
        bool, typer.Option("--puzzles", help="As puzzles for fastsample ttt: of arc_1d, which tells all its pairs.")
    ] = False,
) -> None:
    """Write N different questions of a reasoning-gym data set to standard output, one JSON object a line.

    Exit code: 0, or 2 for a name or a setting that reasoning-gym does not have, or fewer different questions than N.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ModuleNotFoundError:
        refuse("the package reasoning-gym is not installed; pip install reasoning-gym")
    if name is None:
        print("\n".join(sorted(DATASETS)))
        return
    if name not in DATASETS:
        refuse(f"reasoning-gym has no data set {name!r}; `fastsample questions` lists them")
    if n < 1:
        refuse(f"-n must be at least 1, got {n}")
    settings = dict(_setting(text) for text in option or ())
    seen: set[str] = set()
    try:
        dataset = reasoning_gym.create_dataset(name, seed=seed, size=50 * n + 1000, **settings)
        for place in count():
            if place >= len(dataset):
                refuse(f"{name} gave only {len(seen)} different questions in {place:,} draws; ask for fewer")
            entry = dataset[place]
            text = entry["question"]
            if text in seen:
                continue
            seen.add(text)
            own = f"{name}-{seed}-{place}"
            if puzzles:
                print(json_line(_puzzle(own, entry["metadata"])))
            else:
                print(json_line({"id": own, "question": text, "answer": str(entry["answer"])}))
            if len(seen) == n:
                return
    except (TypeError, AssertionError, ValueError) as error:
        refuse(f"{name} does not take these settings: {error or type(error).__name__}")


def _puzzle(own: str, metadata: dict[str, Any]) -> dict[str, object]:
    """A puzzle of one line a grid, as reasoning-gym's arc_1d has them."""
    if not {"train_examples", "test_example"} <= set(metadata):
        refuse("--puzzles needs a data set that tells all its pairs, such as arc_1d; ARC's own files need no command")
    train, test = (
        [{name: [pair[name]] for name in ("input", "output")} for pair in pairs]
        for pairs in (metadata["train_examples"], [metadata["test_example"]])
    )
    return {"id": own, "train": train, "test": test}


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        refuse(f"--set takes name=value, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
