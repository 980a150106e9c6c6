"""fastsample report: every rule replayed on a run's stored samples; no model is needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .efforts import table_of
from .terminal import console_for, json_line, refusals, refuse

if TYPE_CHECKING:
    from rich.console import Console

    from ..evaluation.report import Report


NARROW = (0, 1, 2, 3, 5, 7, 9)  # the columns that fit a terminal; the page has all of them
NAME = 26  # characters of a rule's name on a line, on a terminal of 80 columns


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ...", help="Folders that fastsample evaluate made.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PAGE.html", help="Left out: report.html in the first run.")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", help="A rule to replay, such as ahead:k=5; repeatable; else a usual set."),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy", help="A strategy to replay on the stored texts, such as best:n=4,how=vote; repeatable."
        ),
    ] = None,
    slots: Annotated[
        int | None, typer.Option(help="Rows of the batch to replay with; left out: the run's own.")
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also write samples.parquet and questions.parquet there; needs pyarrow."),
    ] = None,
    as_json: bool = typer.Option(False, "--json", help="The tables as one JSON object on standard output."),
) -> None:
    """Compare rules and temperatures on the stored samples of one or more runs; writes one page that opens offline.

    Exit code: 0, or 2 for a folder without a run or a rule that does not exist.
    """
    console = console_for(is_stdout_taken=as_json)
    if slots is not None and slots < 1:
        refuse(f"slots must be at least 1, got {slots}")
    with refusals():
        from ..evaluation.explorer import entries_of
        from ..evaluation.page import plain, write_page
        from ..evaluation.plots import plots
        from ..evaluation.report import USUAL_RULES, report_of
        from ..strategies.registry import method_of
        from ..voting.registry import rule_of

        names = tuple(rule) if rule else USUAL_RULES
        for name in names:
            rule_of(name)
        for name in strategy or ():
            method_of(name)
        tokenizers = {folder: tokenizer_for(folder, strategy or (), console) for folder in runs}
        with console.status("replaying the rules"):
            pages = [
                report_of(folder, names, slots=slots, strategies=strategy, tokenizer=tokenizers[folder])
                for folder in runs
            ]
            entries = entries_of(runs)
        try:
            graphs = [plots(page) if page.rows else [] for page in pages]
        except ModuleNotFoundError as error:
            console.print(f"no plots: {error.name} is not installed; pip install matplotlib", style="yellow")
            graphs = [[] for _ in pages]
        target = out or runs[0] / "report.html"
        try:
            write_page(target, pages, graphs, entries)
            if parquet is not None:
                from ..evaluation.tables import write_parquet

                write_parquet(runs, parquet)
        except OSError as error:
            refuse(f"{error.filename or target} cannot be written: {error.strerror}")
    if as_json:
        print(json_line([_plain(page) for page in pages]))
    else:
        for page in pages:
            _show(page, console)
    console.print(
        f"with plots, and every question with its samples: {plain(target)}", style="dim", markup=False, soft_wrap=True
    )


def _show(page: Report, console: Console) -> None:
    from rich.table import Table

    from ..evaluation.page import HEADS, by_temperature, cells, incomplete, plain, settings_table

    *settings, (_, cost) = settings_table(page)
    console.print(f"\n{plain(page.folder)}: {cost}", style="bold", markup=False)
    console.print("  ".join(f"{name} {value}" for name, value in settings), style="dim", markup=False)
    if page.complete < page.questions:
        console.print(incomplete(page), style="yellow", markup=False)
    if page.levels:
        console.print(table_of(page.levels))
    _show_strategies(page, console)
    if not page.rows:
        return
    table = Table(box=None, header_style="bold")
    for place in NARROW:
        table.add_column(
            HEADS[place] if HEADS[place].endswith("%") else HEADS[place].replace(" ", "\n"),
            justify="right" if place else "left",
        )
    wide = max(NAME, console.width - 54)
    for row in page.rows:
        name, *values = (cells(row)[place] for place in NARROW)
        table.add_row(broken(name, wide), *values)
    console.print(table)
    table = Table(box=None, header_style="bold")
    for head in ("temperature", "Avg@N %", "own vote %", "solves %", "alone solves %"):
        table.add_column(head, justify="right", no_wrap=True)
    for line in by_temperature(page):
        table.add_row(*line)
    console.print(table)
    console.print(page.verdict, markup=False)


def _show_strategies(page: Report, console: Console) -> None:
    from rich.table import Table

    from ..evaluation.replayed import HEADS, cells

    played = [row for row in page.strategies if row.refusal is None]
    if played:
        table = Table(box=None, header_style="bold")
        for n, head in enumerate(HEADS):
            table.add_column(head, justify="right" if n else "left")
        for row in played:
            name, *values = cells(row)
            table.add_row(broken(name, NAME), *values)
        console.print(table)
    for row in page.strategies:
        if row.refusal is not None:
            console.print(f"{row.strategy}: {row.refusal}", style="yellow", markup=False, soft_wrap=True)


def tokenizer_for(folder: Path, strategies: Sequence[str], console: Console) -> Any:
    """The tokenizer of a run's model, for strategies that need more than texts; None where none does, or none is there.

    Without it, a strategy that has prompts of its own says that it needs one.
    """
    from ..evaluation.stored import read_config
    from ..models.loading import load_tokenizer
    from ..strategies.best_of_n import Best
    from ..strategies.registry import method_of

    if all(isinstance(method_of(name), Best) for name in strategies):
        return None
    with console.status("loading the tokenizer"), suppress(ValueError):
        return load_tokenizer(read_config(folder).get("model") or None, progress=lambda line: None)


def broken(name: str, width: int) -> str:
    """A rule's name on lines of at most so many characters, broken behind `:` and `,` alone."""
    lines = [""]
    for part in re.findall(r"[^:,]*[:,]?", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _plain(page: Report) -> dict[str, object]:
    record = asdict(page)
    record["folder"] = str(page.folder)
    if page.coverage is not None:
        sets = {" ".join(f"{t:g}" for t in s): share for s, share in page.coverage.by_set.items()}
        record["coverage"] = record["coverage"] | {"by_set": sets}
    # JSON has no NaN: a bin without right (or wrong) samples has no entropy.
    record["entropies"] = [{k: v if v == v else None for k, v in e.items()} for e in record["entropies"]]
    return record
