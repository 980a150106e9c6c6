"""What the commands share on a terminal: harmless text, refusals in one sentence, consoles, and numbers for people."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

NO_ANSWER, BAD_USAGE, INTERRUPTED = 1, 2, 130


# What a terminal obeys instead of showing: C0 but tab and line feed, DEL, C1, the marks that turn the direction of
# writing, Unicode's line separators; and surrogates, which cannot be written.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    """The text with what a terminal would obey shown by its picture (␛ for ESC) or by �; tabs and lines stay."""
    return _OBEYED.sub(_picture, text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "�"


def json_line(value: object) -> str:
    """One line of JSON; what a terminal would obey is escaped, so that it is read as it was and shown harmlessly."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _OBEYED.sub(lambda match: f"\\u{ord(match.group()):04x}", line)


def refuse(sentence: object) -> NoReturn:
    """Say what is wrong on standard error and leave with the code of bad usage."""
    print(f"fastsample: {harmless(str(sentence))}", file=sys.stderr)
    raise typer.Exit(BAD_USAGE)


@contextmanager
def refusals() -> Iterator[None]:
    """The caller's mistakes, which our modules raise as one sentence, shown as that sentence without a traceback."""
    try:
        yield
    except (ValueError, MemoryError) as error:
        refuse(error)
    except ModuleNotFoundError as error:
        if not str(error).startswith("No module named"):  # it is a sentence already, and names its own remedy
            refuse(error)
        refuse(f"this command needs {error.name}, which is not installed; pip install 'fastsample[demo]'")


def console_for(*, is_stdout_taken: bool = False) -> Console:
    """Where to write for people: standard error where standard output belongs to a program. It shows harmless text."""
    from rich.console import Console
    from rich.segment import Segment

    class HarmlessConsole(Console):
        def print(self, *objects: Any, **settings: Any) -> None:
            super().print(*(harmless(o) if isinstance(o, str) else o for o in objects), **settings)

        def render(self, *arguments: Any, **settings: Any) -> Iterator[Segment]:
            # Rich's own escapes are no text: colours are styles, the cursor is moved by segments of control.
            for text, style, control in super().render(*arguments, **settings):
                yield Segment(text if control else harmless(text), style, control)

    return HarmlessConsole(stderr=is_stdout_taken, highlight=False, soft_wrap=False)


def load_quietly(name: str | None, dtype: str | None, device: str) -> tuple[Any, Any]:
    """`load_model` on another machine, where nobody looks."""
    from rich.console import Console

    return load_model(name, dtype, device, Console(quiet=True))


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
    """Why a model is served slower than could be, in one sentence for the caller to print, or None."""
    from ..engines.local.selection import has_been_told, service_for

    has_been_told(model)
    return service_for(model).reason
