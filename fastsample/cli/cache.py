"""fastsample cache: the models that were unpacked from .gguf files, and how to be rid of them."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .terminal import console_for, json_line, refusals, refuse


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete them; a load unpacks its file again.")] = False,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Only those whose name begins so.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the models that were unpacked from .gguf files, with their size, or delete them.

    Exit code: 0, 1 where one is being unpacked and was left, 2 for a name that none begins with.
    """
    console = console_for(is_stdout_taken=as_json)
    with refusals():
        from ..models.gguf import cache_folder
        from ..models.unpacked import remove, unpacked_models

        place, found = cache_folder(), unpacked_models()
        chosen = [model for model in found if model.name.startswith(name or "")]
        if name is not None and not chosen:
            refuse(f"no unpacked model begins with {name!r}; there are {', '.join(m.name for m in found) or 'none'}")
        gone = [model for model in chosen if remove(model)] if clear else []
    if as_json:
        shown = [{"name": m.name, "bytes": m.size, "folder": str(m.folder), "removed": m in gone} for m in chosen]
        print(json_line({"folder": str(place), "models": shown}))
    else:
        for model in chosen:
            state = "" if not clear else "  removed" if model in gone else "  in use, left"
            line = f"{model.size / 1e6:9,.0f} MB  {model.name}{state}"
            console.print(line, markup=False, soft_wrap=True)
        total = sum(model.size for model in chosen) / 1e6
        console.print(f"{total:9,.0f} MB  in {place}", markup=False, soft_wrap=True)
    if clear and len(gone) < len(chosen):
        raise typer.Exit(1)
