"""fastsample plan: the memory that a run would take, before anything is loaded."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from . import options
from .terminal import console_for, refusals

if TYPE_CHECKING:
    from rich.table import Table

    from ..engines.local.memory import MemoryPlan

UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def plan(
    prompt_tokens: int = typer.Option(512, help="Tokens of the prompt."),
    samples: int = typer.Option(64, help="Samples written at once."),
    max_new_tokens: int = typer.Option(256, help="Tokens of the longest sample."),
    parked: int = typer.Option(0, help="Paths kept beside the batch, each with a leg of --max-new-tokens."),
    model: options.ModelName = None,
    dtype: options.Dtype = None,
    device: options.Device = "auto",
    prepack: options.Prepack = False,
    memory: str = typer.Option(None, metavar="SIZE", help="Instead of what is free now: 80GB, 500MB, ..."),
    as_json: options.AsJson = False,
) -> None:
    """The bytes of weights, prompt, samples and logits, shared and repeated, and how many samples fit.

    Shared: the prompt is stored once and every sample has its own tail. Repeated: every sample holds the prompt too.
    Free memory is that of the device; the JSON object is in bytes.
    """
    console = console_for(is_stdout_taken=as_json)
    with refusals(), console.status("reading the model's configuration"):
        budget = None if memory is None else _bytes(memory)
        import torch

        from ..engines.local.memory import available_bytes, memory_plan
        from ..engines.local.selection import unshareable
        from ..models.loading import skeleton
        from ..torch_ops.onednn import packed_bytes

        bones = skeleton(model, dtype=dtype, progress=lambda line: console.print(line, markup=False, soft_wrap=True))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if budget is None:
            try:
                budget = available_bytes(device)
            except (RuntimeError, AssertionError) as error:  # torch's ways to say that there is no such device
                raise ValueError(f"device must be one that torch can use, got {device!r}; or name --memory") from error
        parameters = list(bones.parameters())
        reason = unshareable(bones)
        found = memory_plan(
            bones.config,
            prompt_tokens=prompt_tokens,
            samples=samples,
            max_new_tokens=max_new_tokens,
            weights=sum(p.numel() * p.element_size() for p in parameters),
            bytes_per_number=parameters[0].element_size(),
            packed=packed_bytes(bones, device) if prepack else 0,
            parked=parked,
            budget=budget,
        )
    name = {"model": bones.name_or_path, "dtype": str(parameters[0].dtype).removeprefix("torch.")}
    if reason is not None:
        reason = f"this model cannot share a prefix, so that the column repeated is the one that counts: {reason}"
        console.print(reason, style="yellow", markup=False, soft_wrap=True)
    if as_json:
        totals = {"shared_total": found.shared_total, "repeated_total": found.repeated_total}
        served = {"engine": "shared-prefix" if reason is None else "expanded-cache", "engine_reason": reason}
        print(json.dumps(name | served | asdict(found) | totals), flush=True)
        return
    console.print(
        f"{name['model']}, {name['dtype']}: {samples:,} samples of up to {max_new_tokens:,} tokens "
        f"over a prompt of {prompt_tokens:,}\n",
        markup=False,
        soft_wrap=True,
    )
    console.print(_table(found, f"that fit in {memory}" if memory else f"that fit in what is free on {device}"))


def _table(found: MemoryPlan, where: str) -> Table:
    from rich.table import Table

    from ..engines.local.memory import megabytes

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("shared", justify="right", style="bold")
    table.add_column("repeated", justify="right")
    size = megabytes
    table.add_row("weights", size(found.weights), size(found.weights))
    if found.packed:
        table.add_row("weights, packed", size(found.packed), "")
    table.add_row("prompt, stored once", size(found.prefix), "")
    table.add_row("samples", size(found.tails), "")
    table.add_row("samples, prompt included", "", size(found.repeated))
    if found.parked:
        table.add_row("parked paths", size(found.parked), "")
    table.add_row("logits", size(found.logits), size(found.logits))
    table.add_row("total", size(found.shared_total), size(found.repeated_total))
    if found.budget is not None:
        table.add_row()
        table.add_row(f"samples {where}", f"{found.fits_shared:,}", f"{found.fits_repeated:,}")
    return table


def _bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", text, re.IGNORECASE)
    if match is None:
        raise ValueError(f"memory must be a size such as 80GB or 500MB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2].lower()])
