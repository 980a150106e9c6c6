"""fastsample evaluate: a set of questions, every sample kept, gone on with after any interruption."""

from __future__ import annotations

import errno
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .engines import chosen, opened
from .terminal import INTERRUPTED, console_for, refusals, refuse

if TYPE_CHECKING:
    from rich.console import Console

    from ..evaluation.dataset import Item
    from ..evaluation.evaluate import Evaluation
    from ..evaluation.run_folder import Run
    from ..strategies.records import Result

FAILED = 1
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def evaluate(
    questions: Annotated[
        Path, typer.Argument(metavar="QUESTIONS.jsonl", help="Lines with question, answer, optional id; - reads stdin.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="The run's folder; made if it is not there.")],
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Only a share of the questions, I from 0 to N - 1.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    model: options.ModelName = None,
    dtype: options.Dtype = None,
    device: options.Device = "auto",
    engine: options.EngineName = None,
    server: options.Servers = None,
    logprobs: options.Logprobs = False,
    tokenizer: options.TokenizerName = None,
    vllm: options.VllmOptions = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="ADDRESS", help="Spread the questions over a Ray cluster; local starts one here."
        ),
    ] = None,
    actors: Annotated[int, typer.Option(help="With --ray: how many models are loaded.")] = 2,
    slots: options.Slots = 64,
    prepack: options.Prepack = False,
    system: options.System = None,
    prompt_template: options.PromptTemplate = None,
    step_by_step: options.StepByStep = False,
    stop: options.Stop = None,
    temperatures: options.Temperatures = "0,0.4,0.8,1.2",
    samples: options.Samples = 13,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    presence_penalty: options.PresencePenalty = 0.0,
    max_new_tokens: options.MaxNewTokens = 256,
    seed: options.Seed = 0,
    rule: options.RuleName = "majority",
    extractor: options.ExtractorName = "auto",
    scorer: options.ScorerName = None,
    together: options.Together = False,
    strategy: options.StrategyName = "vote",
    budget: options.BudgetTokens = None,
    cut_votes: options.CutVotes = False,
) -> None:
    """Answer every question of QUESTIONS.jsonl and keep all samples in RUN; fastsample report RUN compares the rules.

    The rule majority keeps the whole budget, so that any rule can be replayed on the samples.

    Exit code: 0 all questions answered, 1 some lines or questions were bad (the rest is done), the disk is full
    or the engine failed,
    2 bad usage, 130 interrupted; --resume goes on after any of them.
    """
    console = console_for(is_stdout_taken=True)
    with refusals():
        from ..answers.extractors import extractor_of
        from ..evaluation.evaluate import configuration, growth_of
        from ..evaluation.run_folder import check_place, check_run
        from ..evaluation.shards import shard_of

        writer = chosen(
            engine, server, logprobs, model, dtype, device, slots, prepack, ray, actors, tokenizer=tokenizer, vllm=vllm
        )
        part = None if shard is None else shard_of(shard)
        items, complaints = _read(questions)
        settings = options.settings_of(
            temperatures=temperatures,
            samples=samples,
            rule=rule,
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
            is_local=writer.is_here,
            cut_votes=cut_votes,
        )
        extractor_of(extractor)
        tokens = options.check_strategy(strategy, scorer, budget)
        named = {"model": model, "dtype": dtype} | ({"vllm": sorted(writer.vllm)} if writer.vllm else {})
        config = configuration(
            items, settings, extractor, scorer, slots=slots, prepack=prepack, named=named, shard=part
        )
        config |= growth_of(strategy, tokens)
    for complaint in complaints:
        console.print(f"{questions}: {complaint}", style="red", markup=False, soft_wrap=True)
    if not items:
        refuse(f'{questions} holds no question; its lines are like {{"question": "1 + 1?", "answer": "2"}}')
    if resume and not os.path.lexists(out):
        refuse(f"--resume goes on with a run, and there is no {out}; leave it out to begin one")
    try:
        with refusals():
            check_run(out, config, resume=resume)
            check_place(out)
            with opened(writer, console) as by:
                found = _show(
                    console,
                    len(items if part is None else part.of_items(items)),
                    by.model,
                    by.tokenizer,
                    items,
                    out,
                    settings=settings,
                    extractor=extractor,
                    scorer=scorer,
                    slots=slots,
                    prepack=prepack,
                    resume=resume,
                    named=named,
                    engine=by.engine,
                    pool=by.pool,
                    strategy=strategy,
                    budget=tokens,
                    shard=part,
                )
    except OSError as error:
        from ..evaluation.run_folder import WritingError

        reason = error.strerror or error
        if not (out / "config.json").exists():
            refuse(f"{out} cannot be made: {reason}; name a place that can be written with --out")
        if isinstance(error, WritingError):
            remedy = "make room and --resume" if error.errno in NO_ROOM else "--resume once it can be written"
            sentence = f"cannot write to {out}: {reason}; nothing written before is lost; {remedy}"
        else:  # of an engine, a listener, a scorer: no disk is to blame
            sentence = f"stopped by {type(error).__name__}: {error}; nothing written before is lost; --resume goes on"
        console.print(sentence, style="red", markup=False, soft_wrap=True)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        console.print(
            f"interrupted; run again with --resume to go on with {out}", style="yellow", markup=False, soft_wrap=True
        )
        raise typer.Exit(INTERRUPTED) from None
    console.print(
        f"{found.done} of {found.questions} questions answered, {found.failed} failed; fastsample report {out}",
        markup=False,
        soft_wrap=True,
    )
    if found.failed or complaints:
        raise typer.Exit(FAILED)


def _show(console: Console, total: int, *arguments: Any, **settings: Any) -> Evaluation:
    """`evaluation.evaluate` with a bar (or a line every 30 s, without a terminal), and a line for each that fails."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from ..evaluation.evaluate import evaluate as run_all
    from .progress_lines import Lines

    columns = [
        TextColumn("questions"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    ]
    lines = Lines(console, total)
    bar = Progress(*columns, console=console, speed_estimate_period=600, disable=not console.is_terminal)
    with bar as progress, lines:
        task = progress.add_task("", total=total)
        answered = right = tokens = 0

        def opened(run: Run) -> None:
            progress.update(task, completed=len(run.done))
            lines.begin(len(run.done))
            for note in run.notes:
                progress.console.print(note, style="yellow", markup=False, soft_wrap=True)

        def answer(result: Result, is_right: bool | None) -> None:
            nonlocal answered, right, tokens
            progress.advance(task)
            lines.advance()
            if result.error is not None:
                progress.console.print(f"{result.id}: {result.error}", style="red", markup=False, soft_wrap=True)
                return
            answered, right, tokens = answered + 1, right + bool(is_right), tokens + result.tokens
            lines.words = f"{right / answered:.0%} right, {tokens:,} tokens"
            progress.update(task, description=lines.words)

        return run_all(*arguments, on_open=opened, on_result=answer, **settings)


def _read(path: Path) -> tuple[list[Item], list[str]]:
    from ..evaluation.dataset import RunError, read_questions

    # Surrogates stand for bytes that are no UTF-8: a complaint about their line, instead of another question's text.
    try:
        if str(path) == "-":
            return read_questions(TextIOWrapper(sys.stdin.buffer, "utf-8", "surrogateescape"))
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return read_questions(file)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
