"""What the commands share on a terminal: refusals in one sentence, consoles, and numbers for people."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

NO_ANSWER, BAD_USAGE, INTERRUPTED = 1, 2, 130


def refuse(sentence: object) -> NoReturn:
    """Say what is wrong on standard error and leave with the code of bad usage."""
    print(f"fastsample: {sentence}", file=sys.stderr)
    raise typer.Exit(BAD_USAGE)


@contextmanager
def refusals() -> Iterator[None]:
    """The caller's mistakes, which our modules raise as one sentence, shown as that sentence without a traceback."""
    try:
        yield
    except (ValueError, MemoryError) as error:
        refuse(error)
    except ModuleNotFoundError as error:
        refuse(f"this command needs {error.name}, which is not installed; pip install 'fastsample[demo]'")


def console_for(*, is_stdout_taken: bool = False) -> Console:
    """Where to write for people: standard error where standard output belongs to a program."""
    from rich.console import Console

    return Console(stderr=is_stdout_taken, highlight=False, soft_wrap=False)


def load_model(name: str | None, dtype: str | None, device: str, console: Console) -> tuple[Any, Any]:
    """The model on its device, and its tokenizer; with a spinner on a terminal and a line a step elsewhere.

    raises: ValueError for a model, dtype or device that cannot be had
    """
    with console.status("loading torch and transformers") as status:

        def say(line: str) -> None:
            if console.is_terminal:
                status.update(line)
            else:
                console.print(line, markup=False, soft_wrap=True)

        import torch

        from ..models.loading import load

        model, tokenizer = load(name, dtype=dtype, progress=say)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:  # torch's ways to say that there is no such device
            reason = str(error).splitlines()[0].rstrip(".")
            raise ValueError(f"device must be one that torch can use, got {device!r}: {reason}") from error
        status.update("asking how the model can be served")
        sentence = slower(model)
    if sentence is not None:
        console.print(sentence, style="yellow", markup=False, soft_wrap=True)
    return model, tokenizer


def slower(model: Any) -> str | None:
    """Why a model is served slower than could be, in one sentence, or None; the warning that says so is kept quiet."""
    from ..engines.local.selection import FallbackWarning, service_for

    warnings.simplefilter("ignore", FallbackWarning)  # said by a line of ours
    return service_for(model).reason
