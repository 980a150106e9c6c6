"""fastsample allocate: which strategy for which questions, from runs of several strategies on the same ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .terminal import console_for, json_line, refusals, refuse


def allocate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs of evaluate on the same questions.")],
    budget: Annotated[
        float | None,
        typer.Option("--budget", help="Tokens a question, the first samples included; no limit if left out."),
    ] = None,
    difficulty: Annotated[
        str,
        typer.Option(
            help="agreement of the first samples, or predicted: their mean score (both need no key); or oracle: the "
            "share of right ones."
        ),
    ] = "agreement",
    k: Annotated[int, typer.Option("-k", help="How many first samples say how hard a question is.")] = 8,
    table: Annotated[
        Path | None,
        typer.Option("--table", metavar="FILE", help="Write the table there, for --strategy auto:table=FILE."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Choose a strategy for hard, medium and easy questions: fitted on one half, measured on the other, and back.

    Exit code: 0, or 2 for runs that cannot be compared.
    """
    from rich.table import Table as Grid

    console = console_for(is_stdout_taken=as_json)
    with refusals():
        from ..evaluation.allocation import allocate as fit
        from ..evaluation.allocation import to_json

        found = fit(runs, budget=budget, difficulty=difficulty, k=k)
    if table is not None:
        if difficulty == "oracle":
            refuse("a table is for agreement or predicted difficulty, which need no key; leave --difficulty out")
        try:
            table.write_text(json.dumps(found.table.to_json()) + "\n", encoding="utf-8")
        except OSError as error:
            refuse(f"{table} cannot be written: {error.strerror}")
    if as_json:
        print(json_line(to_json(found)))
        return
    grid = Grid("questions", "strategy", "right", "tokens", box=None, pad_edge=False)
    for cell in (cell for cell in found.cells if cell.is_chosen):
        grid.add_row(f"{cell.bin} ({cell.questions})", cell.strategy, f"{cell.accuracy:.0%}", f"{cell.tokens:,.0f}")
    console.print(grid)
    gap, low, high = (100 * x for x in found.difference)
    for name, fitted in (("a strategy for each", found.auto), ("one for all", found.single)):
        console.print(
            f"{name}: {fitted.accuracy:.1%} right on the half that it was not chosen on, {fitted.tokens:,.0f} tokens; "
            f"{fitted.in_sample:.1%} on the questions that it was chosen on",
            soft_wrap=True,
        )
    console.print(
        f"{gap:+.1f} points (95 % {low:+.1f} to {high:+.1f}, {found.questions} questions) against one for all, "
        f"{found.single_name}",
        soft_wrap=True,
        markup=False,
    )
