"""fastsample tops: training files from the shortest right texts of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import console_for, refusals, refuse


def tops(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs of evaluate, best of --strategy efforts.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where sft.jsonl and dpo.jsonl go.")],
    how: Annotated[
        str, typer.Option(help="shortest right text, a random right one (the control), or seed.")
    ] = "shortest",
    holdout: Annotated[float, typer.Option(help="The share of questions that go to the _test files.")] = 0.0,
    gap: Annotated[int, typer.Option(help="Of seed: tokens between the texts of neighbouring efforts.")] = 300,
) -> None:
    """Write what a model can learn from its own answers: each question's shortest right text, and pairs.

    Exit code: 0, or 2 for runs that teach nothing or files that are there already.
    """
    console = console_for(is_stdout_taken=False)
    with refusals():
        from ..training.preferences import lessons_of, write

        found = lessons_of(runs, how=how, holdout=holdout, gap=gap)
    if not any(found.files.values()):
        refuse(f"none of {found.questions} questions has a text to learn from with --how {how}; draw more samples")
    try:
        written = write(found, out)
    except OSError as error:
        refuse(str(error) if isinstance(error, FileExistsError) else f"{out} cannot be written: {error.strerror}")
    for path in written:
        console.print(f"{path}: {len(found.files[path.stem]):,} lines", markup=False, soft_wrap=True)
    console.print(f"{found.right} of {found.questions} questions have a right text", soft_wrap=True)
