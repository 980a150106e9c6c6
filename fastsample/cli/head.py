"""fastsample head: a scorer of legs, learnt from labels in minutes on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .terminal import console_for, json_line, load_model, refusals, refuse


def head(
    labels: Annotated[list[Path], typer.Argument(metavar="LABELS.jsonl ...", help="Files of fastsample labels.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="HEAD.safetensors", help="Where the head goes.")],
    layers: Annotated[
        str,
        typer.Option("--layers", help="Decoder layers to try, such as 10,20,30; left out: two thirds of the depth."),
    ] = "",
    test: Annotated[
        Path | None, typer.Option("--test", metavar="LABELS.jsonl", help="Judge the head by these labels too.")
    ] = None,
    model: options.ModelName = None,
    dtype: options.Dtype = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Learn from labels to tell by the model's own hidden state at the end of a leg how likely the text ends right.

    Prints the area under the curve (AUC) on questions that were left out, with its 95 % interval: 0.5 is a coin.
    Use it: fastsample solve QUESTION --strategy beam --scorer head:HEAD.safetensors, with the same model.

    Exit code: 0, or 2 for what cannot be read, learnt from or written.
    """
    console = console_for(is_stdout_taken=as_json)
    with refusals():
        from ..training.labels import read_labels

        files = [read_labels(path) for path in labels]
        held = [] if test is None else read_labels(test)[0]
        asked = _numbers(layers)
        lm, _ = load_model(model, dtype, device, console)
        from ..training import heads
        from ..training.separation import area_by_question

        labelled = [one for found, _ in files for one in found]
        if doubles := {one.question for one in held} & {one.question for one in labelled}:
            refuse(f"--test must hold other questions, and {len(doubles)} of them were learnt from; leave them out")
        with console.status("reading the texts") as status:

            def say(n: int) -> None:
                status.update(f"reading the texts: {n:,} of {len(labelled):,}")

            legs = heads.legs_of(lm, labelled, asked or [heads.usual_layer(lm)], say)
            status.update("fitting")
            fitted = heads.fit(legs, lm, about={"labels": [about for _, about in files]})
            found = fitted.head
            try:
                heads.save(found, out)
            except OSError as error:
                refuse(f"{out} cannot be written: {error.strerror}; name another place with --out")
            tested = None
            if held:
                status.update("reading the test's texts")
                others = heads.legs_of(lm, held, [found.layer])
                tested = area_by_question(heads.scores_of(found, others), others.labels.tolist(), others.questions)
    if as_json:
        print(
            json_line({"head": str(out), **found.about, "test_auc": tested and [tested.value, tested.low, tested.high]})
        )
        return
    for layer, value in fitted.by_layer.items() if len(fitted.by_layer) > 1 else ():
        console.print(f"  layer {layer}: {value:.3f}", markup=False)
    about = found.about
    console.print(
        f"AUC {fitted.held_out} on questions left out, of {about['legs']:,} legs of {about['questions']:,} questions; "
        f"their mean log-probability has {fitted.logprob}",
        markup=False,
        soft_wrap=True,
    )
    if tested is not None:
        console.print(f"AUC {tested} on {test}", markup=False, soft_wrap=True)
    if fitted.held_out.low <= 0.5:
        console.print("no better than a coin as far as these labels tell; more questions may help", style="yellow")
    console.print(f"layer {found.layer} of {about['model']}: --scorer head:{out}", markup=False, soft_wrap=True)


def _numbers(layers: str) -> list[int]:
    try:
        return [int(part) for part in layers.split(",")] if layers else []
    except ValueError:
        raise ValueError(f"layers must be whole numbers with commas between them, got {layers!r}; 10,20,30") from None
