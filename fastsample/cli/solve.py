"""fastsample solve: one question, many samples at several temperatures, one answer by vote."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .engines import chosen, opened
from .terminal import INTERRUPTED, NO_ANSWER, console_for, json_line, refusals, refuse


def solve(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question; - reads it from standard input.")],
    model: options.ModelName = None,
    dtype: options.Dtype = None,
    device: options.Device = "auto",
    engine: options.EngineName = None,
    server: options.Servers = None,
    logprobs: options.Logprobs = False,
    tokenizer: options.TokenizerName = None,
    vllm: options.VllmOptions = None,
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
    temperatures: options.Temperatures = "0,0.4,0.8",
    samples: options.Samples = 5,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    presence_penalty: options.PresencePenalty = 0.0,
    max_new_tokens: options.MaxNewTokens = 256,
    seed: options.Seed = 0,
    rule: options.RuleOrUsual = None,
    extractor: options.ExtractorName = "auto",
    scorer: options.ScorerName = None,
    together: options.Together = True,
    strategy: options.StrategyName = "vote",
    budget: options.BudgetTokens = None,
    cut_votes: options.CutVotes = False,
    texts: Annotated[
        bool, typer.Option("--texts", help="Print every sample's text too.", rich_help_panel="Output")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Answer QUESTION by a vote over samples of several temperatures, written as one batch after one prefill; or by
    another strategy: best-of-n, beam search, self-refinement, and more.

    Exit code: 0 an answer was found, 1 no answer could be read, 2 bad usage, 130 interrupted.
    """
    from .live_view import Board, Palette
    from .result_view import show, show_texts

    console, palette = console_for(is_stdout_taken=as_json), Palette()
    board = Board(console, palette, has_bar=not as_json)
    try:
        with refusals():
            writer = chosen(
                engine, server, logprobs, model, dtype, device, slots, prepack, tokenizer=tokenizer, vllm=vllm
            )
        with refusals(), console.status("loading torch" if writer.is_here else "reading the settings"):
            from ..answers.extractors import extractor_of
            from ..scoring.verifiers import scorer_of
            from ..solving.solve import solve_many
            from ..strategies.question import Question, usual_rule

            settings = options.settings_of(
                temperatures=temperatures,
                samples=samples,
                rule=rule or usual_rule(scorer),
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                frequency_penalty=frequency_penalty,
                presence_penalty=presence_penalty,
                max_new_tokens=max_new_tokens,
                seed=seed,
                stop=stop,
                system=system,
                prompt_template=prompt_template,
                step_by_step=step_by_step,
                together=together,
                cut_votes=cut_votes,
                is_local=writer.is_here,
            )
            if slots < 1:
                raise ValueError(f"slots must be at least 1, got {slots}; 64 is the default")
            text = _read_stdin() if question == "-" else question
            if not text.strip():
                refuse("the question is empty; write it in quotation marks, or - to read it from standard input")
            read, judge = extractor_of(extractor), None if scorer is None else scorer_of(scorer)
            tokens = options.check_strategy(strategy, scorer, budget)
            turns = _read_history(history) if history else []
        with refusals(), opened(writer, console) as by, board:
            machine = by.machine
            run = solve_many(
                by.model,
                by.tokenizer,
                [Question(text, history=tuple(turns))],
                settings=settings,
                extractor=read,
                slots=slots,
                prepack=prepack,
                on_event=board,
                scorer=judge,
                strategy=strategy,
                budget=tokens,
                is_strict=True,
                engine=by.engine,
            )
            result = next(iter(run))
    except KeyboardInterrupt:
        if board.strategy is None:
            console.print("interrupted before the first token", style="yellow")
            raise typer.Exit(INTERRUPTED) from None
        result = board.strategy.so_far()
    if as_json:
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


def _read_stdin() -> str:
    if sys.stdin.isatty():
        refuse("- reads the question from standard input, which is this terminal; pipe it in, or write it out")
    return sys.stdin.read().strip()
