"""The command line. Importing it costs typer alone: torch and the models wait for a command that uses them."""

from __future__ import annotations

import sys

try:
    import typer
except ModuleNotFoundError as error:
    sys.exit(f"fastsample: the command line needs {error.name}, which is not installed; pip install {error.name}")

from ..version import __version__
from .allocate import allocate
from .cache import cache
from .efforts import efforts
from .evaluate import evaluate
from .head import head
from .info import info
from .labels import labels
from .merge import merge
from .plan import plan
from .questions import questions
from .report import report
from .serve import serve
from .solve import solve
from .tops import tops
from .ttt import ttt

main = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"fastsample {__version__}")
        raise typer.Exit


@main.callback()
def fastsample(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    """Many samples of one question, cheaply: one prefill for all temperatures, one batch, a vote with early exit."""


COMMANDS = (
    solve, questions, evaluate, merge, report, allocate, efforts, tops, labels, head, ttt, plan, serve, info, cache,
)  # fmt: skip

for command in COMMANDS:
    main.command()(command)
