"""fastsample labels: which legs of stored texts led to right answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .terminal import console_for, refusals, refuse


def labels(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ...", help="Folders of fastsample evaluate.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="LABELS.jsonl", help="Where the labels go.")],
    until: Annotated[str, typer.Option("--until", help=r"What ends a leg; \n is a line break; empty: whole texts.")] = (
        r"\n\n"
    ),
    verifier: Annotated[
        str | None,
        typer.Option("--verifier", help="Judge texts by this scorer, not by the key: math:KEY, module:function, ..."),
    ] = None,
    model: options.ModelName = None,
) -> None:
    r"""Label each leg of the texts in RUN by how often what follows it is right: from 0 to 1.

    A text that was written at once gives its verdict to all its legs. Better labels come from a run that continued each
    leg many times: fastsample evaluate --strategy rollouts:n=8, or from one that looks for the first mistake of wrong
    texts: --strategy omega --scorer key. fastsample head learns from the labels.

    Exit code: 0, or 2 for what cannot be read or written.
    """
    console = console_for()
    with refusals():
        from ..evaluation.stored import read_config
        from ..models.loading import load_tokenizer
        from ..scoring.base import is_process
        from ..scoring.verifiers import scorer_of
        from ..training.labels import Counts, labels_of, write_labels

        judge = None if verifier is None else scorer_of(verifier)
        if judge is not None and is_process(judge):
            refuse(
                f"a verifier judges whole texts, and {judge.name} gives a number a leg; name exact:KEY, or leave it out"
            )
        delimiter = until.replace("\\n", "\n").replace("\\t", "\t")
        configs = [read_config(run) for run in runs]
        asked = model if model is not None else configs[0].get("model")
        counts = Counts()
        with console.status("loading the tokenizer"):
            tokenizer = load_tokenizer(asked or None, progress=lambda line: None)
        found = [
            one for run in runs for one in labels_of(run, tokenizer, until=delimiter, verifier=judge, counts=counts)
        ]
        if not found:
            refuse(f"{runs[0]} holds no text that came to its end and has a key to be judged by; nothing is written")
        names = {str(c.get("strategy")).partition(":")[0] for c in configs}
        kind = names.pop() if names in ({"rollouts"}, {"omega"}) else "outcome"
        about = {"kind": kind, "until": delimiter, "runs": [str(run) for run in runs], "verifier": verifier or "key"}
        try:
            write_labels(out, found, about)
        except OSError as error:
            refuse(f"{out} cannot be written: {error.strerror}; name another place with --out")
    passed = [f"{counts.unknown} questions without a key"] * bool(counts.unknown)
    passed += [f"{counts.open} texts without an end"] * bool(counts.open)
    console.print(
        f"{counts.legs:,} legs of {counts.texts:,} texts, {counts.right:,.0f} of the texts right"
        f"{'; passed by: ' + ', '.join(passed) if passed else ''}; fastsample head {out}",
        markup=False,
        soft_wrap=True,
    )
