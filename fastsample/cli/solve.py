"""fastsample solve: one question, many samples at several temperatures, one answer by vote."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .terminal import INTERRUPTED, NO_ANSWER, console_for, json_line, load_model, refusals, refuse

if TYPE_CHECKING:
    from ..strategies.records import Result


def solve(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question; - reads it from standard input.")],
    model: options.ModelName = None,
    dtype: options.Dtype = None,
    device: options.Device = "auto",
    slots: options.Slots = 64,
    prepack: options.Prepack = False,
    system: options.System = None,
    history: Annotated[
        str | None,
        typer.Option(
            help='A chat before it: a JSON file, [{"role": "user", "content": "..."}, ...].',
            rich_help_panel="Question",
        ),
    ] = None,
    prompt_template: options.PromptTemplate = None,
    step_by_step: options.StepByStep = False,
    stop: options.Stop = None,
    temperatures: options.Temperatures = "0,0.4,0.8,1.2",
    samples: options.Samples = 5,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    min_p: options.MinP = 0.0,
    max_new_tokens: options.MaxNewTokens = 256,
    seed: options.Seed = 0,
    rule: options.RuleName = "majority",
    extractor: options.ExtractorName = "auto",
    scorer: options.ScorerName = None,
    together: options.Together = True,
    texts: Annotated[
        bool, typer.Option("--texts", help="Print every sample's text too.", rich_help_panel="Output")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Answer QUESTION by a vote over samples of several temperatures, written as one batch after one prefill.

    Exit code: 0 an answer was found, 1 no answer could be read, 2 bad usage, 130 interrupted.
    """
    from .live_view import Board, Palette
    from .result_view import show, show_texts

    console, palette = console_for(is_stdout_taken=as_json), Palette()
    board = Board(console, palette, has_bar=not as_json)
    try:
        with refusals(), console.status("loading torch"):
            settings = _checked(
                temperatures=options.numbers(temperatures),
                samples=samples,
                rule=rule,
                extractor=extractor,
                scorer=scorer,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                stop=tuple(stop or ()),
                max_new_tokens=max_new_tokens,
                seed=seed,
                slots=slots,
                prompt_template=prompt_template,
                question=_read_stdin() if question == "-" else question,
            )
            turns = _read_history(history) if history else []
            from ..solving.solve import solve as answer
            from ..strategies.prompts import STEP_BY_STEP
        with refusals():
            lm, tokenizer = load_model(model, dtype, device, console)
            with board:
                result = answer(
                    lm,
                    tokenizer,
                    **settings,
                    system=system,
                    history=turns,
                    suffix=STEP_BY_STEP if step_by_step else None,
                    together=together,
                    prepack=prepack,
                    on_event=board,
                )
    except KeyboardInterrupt:
        if board.strategy is None:
            console.print("interrupted before the first token", style="yellow")
            raise typer.Exit(INTERRUPTED) from None
        result = _so_far(board.strategy)
    if as_json:
        machine = {"model": lm.name_or_path, "dtype": str(lm.dtype).removeprefix("torch."), "device": str(lm.device)}
        print(json_line(machine | result.to_json()), flush=True)
    else:
        if texts:
            show_texts(result, console, palette)
        show(result, console, palette)
    if result.status == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if result.answer is None:
        raise typer.Exit(NO_ANSWER)


def _read_history(path: str) -> list[dict[str, str]]:
    try:
        turns = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON list of turns: {error}") from None
    if not isinstance(turns, list):
        raise ValueError(f"{path} must be a JSON list of turns, got {type(turns).__name__}")
    return turns


def _checked(**settings: Any) -> dict[str, Any]:
    """The settings of `solving.solve`, refused before a model is loaded for half a minute where they are wrong.

    raises: ValueError with rule, value and remedy
    """
    from ..answers.extractors import extractor_of
    from ..engines.base import Request
    from ..engines.checks import check_request
    from ..models.config import NO_LIMIT
    from ..scoring.verifiers import scorer_of
    from ..strategies.question import Settings

    if settings["slots"] < 1:
        raise ValueError(f"slots must be at least 1, got {settings['slots']}; 64 is the default")
    if not settings["question"].strip():
        raise ValueError("the question is empty; write it in quotation marks, or - to read it from standard input")
    template = settings["prompt_template"]
    if template is not None and "{question}" not in template:
        raise ValueError(f"the prompt template must contain {{question}}, got {template!r}")
    extractor_of(settings["extractor"])
    settings["scorer"] = settings["scorer"] and scorer_of(settings["scorer"])
    Settings(settings["temperatures"], settings["samples"], settings["rule"]).plan()
    names = ("top_k", "top_p", "min_p", "max_new_tokens", "seed")
    for temperature in settings["temperatures"]:
        request = Request((0,), temperature=temperature, **{name: settings[name] for name in names})
        check_request(request, NO_LIMIT, None)
    return settings


def _read_stdin() -> str:
    if sys.stdin.isatty():
        refuse("- reads the question from standard input, which is this terminal; pipe it in, or write it out")
    return sys.stdin.read().strip()


def _so_far(strategy: Any) -> Result:
    """The result of a question that was interrupted: the votes of the samples that had finished."""
    from ..voting.ballots import Verdict, leader

    finished = len(strategy.written)
    for sample in list(strategy.live.values()):
        strategy.drop(sample, "cancelled")
    answer, is_tie = leader(strategy.tally.counts())
    reason = f"interrupted after {finished} of {len(strategy.plan)} samples"
    strategy.verdict = Verdict(True, answer, False, len(strategy.plan), is_tie, reason)
    result: Result = strategy.result()
    return replace(result, status="interrupted")
