"""fastsample efforts: every question at several levels of effort, and what each level comes to."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .evaluate import evaluate
from .terminal import BAD_USAGE, console_for, json_line, refusals

if TYPE_CHECKING:
    from rich.console import Console

    from ..evaluation.efforts import Level


def efforts(
    questions: Annotated[
        Path, typer.Argument(metavar="QUESTIONS.jsonl", help="Lines with question, answer, optional id; - reads stdin.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="The run's folder; made if it is not there.")],
    n: Annotated[int, typer.Option("-n", "--number", help="Samples of each question at each level.")] = 4,
    levels: Annotated[str, typer.Option(help="Some of low/medium/high, with / between them.")] = "low/medium/high",
    temperature: Annotated[float, typer.Option(help="Of all samples.")] = 1.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    model: options.ModelName = None,
    dtype: options.Dtype = None,
    device: options.Device = "auto",
    engine: options.EngineName = None,
    server: options.Servers = None,
    tokenizer: options.TokenizerName = None,
    slots: options.Slots = 64,
    prepack: options.Prepack = False,
    prompt_template: options.PromptTemplate = None,
    stop: options.Stop = None,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    min_p: options.MinP = 0.0,
    max_new_tokens: options.MaxNewTokens = 256,
    seed: options.Seed = 0,
    extractor: options.ExtractorName = "auto",
    budget: options.BudgetTokens = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask every question at several efforts, keep all samples in RUN, and show right answers and tokens by level.

    A level is a system prompt: think briefly, step by step, or for long. fastsample tops RUN makes training files of
    the shortest right texts. The same as fastsample evaluate --strategy efforts, with the table.

    Exit code: as fastsample evaluate.
    """
    console = console_for(is_stdout_taken=True)
    with refusals():
        from ..strategies.budget_forcing import Efforts
        from ..strategies.registry import strategy_name

        strategy = strategy_name(Efforts(n=n, levels=levels, temperature=temperature))
    failed = None
    try:
        evaluate(
            questions, out, resume=resume, model=model, dtype=dtype, device=device, engine=engine, server=server,
            tokenizer=tokenizer, slots=slots, prepack=prepack, prompt_template=prompt_template, stop=stop, top_p=top_p,
            top_k=top_k, min_p=min_p, max_new_tokens=max_new_tokens, seed=seed, extractor=extractor, strategy=strategy,
            budget=budget,
        )  # fmt: skip
    except typer.Exit as ended:
        if ended.exit_code == BAD_USAGE:
            raise
        failed = ended  # some questions, or the disk: what there is, is shown
    _show(out, console, as_json=as_json)
    if failed is not None:
        raise failed


def _show(folder: Path, console: Console, *, as_json: bool) -> None:
    with refusals():
        from ..evaluation.efforts import levels_of

        levels = levels_of(folder)
    if as_json:
        print(json_line([asdict(level) for level in levels]))
    elif levels:
        console.print(table_of(levels))
        console.print(
            f"fastsample tops {folder} writes the shortest right texts as lessons", markup=False, soft_wrap=True
        )
    else:
        console.print("no question has a key, so nothing is known to be right", style="yellow")


def table_of(levels: list[Level]) -> object:
    """The levels for a terminal."""
    from rich.table import Table

    from ..evaluation.efforts import HEADS, cells

    table = Table(box=None, header_style="bold")
    for place, head in enumerate(HEADS):
        table.add_column(head, justify="right" if place else "left")
    for level in levels:
        table.add_row(*cells(level))
    return table
