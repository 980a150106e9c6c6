"""fastsample merge: the runs of all shards of a question set, as one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import console_for, refusals


def merge(
    out: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of the whole run; made if it is not there.")],
    runs: Annotated[list[Path], typer.Argument(metavar="SHARD ...", help="The folders of evaluate --shard I/N.")],
) -> None:
    """Put the runs of all shards together; the shards are left as they are, and what several of them hold is kept once.

    Exit code: 0, or 2 for runs that do not belong together.
    """
    console = console_for()
    with refusals():
        from ..evaluation.shards import merge as put_together

        found = put_together(out, runs)
    doubles = f", {found.doubles:,} lines twice and kept once" if found.doubles else ""
    console.print(
        f"{found.results:,} of {found.questions:,} questions answered, {found.samples:,} samples{doubles}; "
        f"fastsample report {out}",
        markup=False,
        soft_wrap=True,
    )
