"""fastsample questions: question sets from reasoning-gym, as JSONL for fastsample evaluate."""

from __future__ import annotations

import json
from itertools import count
from typing import Annotated

import typer

from .terminal import json_line, refuse


def questions(
    name: str = typer.Argument(None, metavar="[DATASET]", help="A reasoning-gym data set; left out: list them."),
    n: int = typer.Option(100, "-n", "--number", help="How many questions, all different."),
    seed: int = typer.Option(0, help="The same seed gives the same questions."),
    option: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the data set, such as max_digits=1; repeatable.")
    ] = None,
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
            record = {"id": f"{name}-{seed}-{place}", "question": text, "answer": str(entry["answer"])}
            print(json_line(record))
            if len(seen) == n:
                return
    except (TypeError, AssertionError, ValueError) as error:
        refuse(f"{name} does not take these settings: {error or type(error).__name__}")


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        refuse(f"--set takes name=value, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
