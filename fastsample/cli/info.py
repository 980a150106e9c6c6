"""fastsample info: what this installation is, and why a backend cannot run here."""

from __future__ import annotations

import json
from typing import Any

import typer


def info(
    as_json: bool = typer.Option(False, "--json", help="One JSON object and nothing else."),
) -> None:
    """Versions, threads, instruction set, and every backend with the reason why it cannot run here."""
    import fastsample

    record: dict[str, Any] = fastsample.info()
    if as_json:
        typer.echo(json.dumps(record))
        return
    width = max(len(name) for name in record) + 2
    for name, value in record.items():
        label = name.replace("_", " ").ljust(width)
        if not isinstance(value, dict):
            typer.echo(f"{label}{'none' if value is None else value}")
            continue
        inner = max(map(len, value), default=0) + 2
        for i, (key, what) in enumerate(value.items()):
            typer.echo(f"{(label if i == 0 else ' ' * width)}{key.ljust(inner)}{'ready' if what is None else what}")
