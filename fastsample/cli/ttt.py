"""fastsample ttt: puzzles of the ARC kind, by a model that learns from each of them before it answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .terminal import INTERRUPTED, console_for, json_line, load_model, refusals, refuse

if TYPE_CHECKING:
    from ..training.test_time import Answer


def ttt(
    puzzles: Annotated[
        list[Path], typer.Argument(metavar="PUZZLES...", help="ARC's .json files, .jsonl files of puzzles, or folders.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="ANSWERS.jsonl", help="Where the answers go.")],
    steps: Annotated[int, typer.Option(help="Steps of learning for each puzzle; 0 answers without learning.")] = 20,
    rank: Annotated[int, typer.Option(help="Of what is learnt: LoRA's.")] = 8,
    rate: Annotated[float, typer.Option(help="Of learning.")] = 3e-4,
    batch: Annotated[int, typer.Option(help="Lessons in a step.")] = 2,
    lessons: Annotated[int, typer.Option(help="The most that are made of a puzzle.")] = 250,
    orders: Annotated[int, typer.Option(help="Views of each symmetry, in which a test is answered.")] = 2,
    samples: Annotated[int, typer.Option(help="Answers in each view.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of the answers; 0 takes the likeliest tokens.")] = 0.0,
    seed: options.Seed = 0,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="ANSWERS.jsonl", help="Other answers to the same puzzles, to compare with."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the file.")] = False,
    model: options.ModelName = None,
    dtype: options.Dtype = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Answer puzzles: learn from each one's own pairs, answer it in many views, vote, forget (test-time training).

    A puzzle shows a rule by pairs of grids, and asks for one more output. Needs the package peft.

    Exit code: 0, 1 where a puzzle could not be answered (the others are), 2 bad usage, 130 interrupted.
    """
    console = console_for(is_stdout_taken=as_json)
    failed = 0
    with refusals():
        from ..training.adapters import Tuning, check_peft
        from ..training.puzzle_run import answer_all, check_file, compared, read_answers, settings
        from ..training.puzzles import read_puzzles
        from ..training.test_time import Looks

        tuning = Tuning(rank=rank, rate=rate, steps=steps, batch=batch, seed=seed)
        looks = Looks(orders=orders, samples=samples, temperature=temperature, seed=seed)
        if lessons < 1:
            refuse(f"lessons must be at least 1, got {lessons}; --steps 0 learns nothing")
        if steps:
            check_peft()
        asked = read_puzzles(puzzles)
        named = {"model": model, "dtype": dtype}
        check_file(out, settings(asked, tuning, looks, lessons, named), resume=resume)
        if against is not None:
            read_answers(against)
        lm, tokenizer = load_model(model, dtype, device, console)

        def show(answer: Answer) -> None:
            learnt = f"loss {answer.losses[0]:.2f} to {answer.losses[-1]:.2f}; " if answer.losses else ""
            word = {True: "right", False: "wrong", None: "answered"}[answer.is_right]
            votes = "/".join(map(str, answer.votes)) or "no"
            console.print(
                f"{answer.puzzle}: {word} ({learnt}{votes} of {answer.texts} votes)", markup=False, soft_wrap=True
            )

        def tell(puzzle: str, sentence: str) -> None:
            nonlocal failed
            failed += 1
            console.print(f"{puzzle}: {sentence}", style="red", markup=False, soft_wrap=True)

        try:
            score = answer_all(
                lm, tokenizer, asked, out, tuning=tuning, looks=looks, most=lessons, resume=resume, named=named,
                on_answer=show, on_failure=tell,
            )  # fmt: skip
        except OSError as error:
            refuse(f"{out} cannot be written: {error.strerror}")
        except KeyboardInterrupt:
            console.print("interrupted; run again with --resume to go on", style="yellow")
            raise typer.Exit(INTERRUPTED) from None
        beside = None if against is None else compared(out, against)
    if as_json:
        told = {"answers": str(out), "tests": score.tests, "known": score.known, "right": score.right}
        print(json_line({**told, "first": score.first, "failed": failed, "difference": beside}))
    else:
        console.print(f"{score}" if score.known else f"{score.tests} answered; none has a known output")
        if beside is not None:
            tests, gap, low, high = beside
            console.print(
                f"{100 * gap:+.1f} points (95 % {100 * low:+.1f} to {100 * high:+.1f}, {tests} tests) against "
                f"{against}",
                markup=False,
                soft_wrap=True,
            )
    if failed:
        raise typer.Exit(1)
