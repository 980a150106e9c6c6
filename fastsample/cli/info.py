"""fastsample info: what this installation is, why a backend cannot run here, and how a model is served."""

from __future__ import annotations

import json
from typing import Any

import typer

from . import options
from .terminal import console_for, load_model, refusals


def info(
    model: options.ModelName = None,
    dtype: options.Dtype = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Versions, what was not tested, instruction set, and every backend with the reason why it cannot run here.

    With --model also how that model is served: by which engine, and if not by the fastest, why and what it costs.
    """
    import fastsample

    record: dict[str, Any] = fastsample.info()
    if model is not None:
        with refusals():
            from ..models import loops  # not above: what can run here is told without transformers too

            record["model"] = _service(model, dtype, device)
            record["untested"] += loops.unknown_internals()
    if as_json:
        typer.echo(json.dumps(record))
        return
    width = max(len(name) for name in record) + 2
    for name, value in record.items():
        label = name.replace("_", " ").ljust(width)
        if isinstance(value, list):
            value = dict.fromkeys(value, "") or "nothing"
        if not isinstance(value, dict):
            typer.echo(f"{label}{'none' if value is None else value}")
            continue
        inner = max(map(len, value), default=0) + 2
        absent = "ready" if name == "backends" else "the fastest" if name == "model" else "not installed"
        for i, (key, what) in enumerate(value.items()):
            line = f"{label if i == 0 else ' ' * width}{key.ljust(inner)}{absent if what is None else what}"
            typer.echo(line.rstrip())


def _service(name: str, dtype: str | None, device: str) -> dict[str, Any]:
    from ..engines.local.selection import service_for

    model, _ = load_model(name, dtype, device, console_for(is_stdout_taken=True))
    service = service_for(model)
    return {"name": model.name_or_path, "engine": service.name, "engine_reason": service.reason}
