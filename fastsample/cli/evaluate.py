"""fastsample evaluate: a set of questions, every sample kept, gone on with after any interruption."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .solve import MODEL, _numbers
from .terminal import INTERRUPTED, console_for, load_model, refusals, refuse

if TYPE_CHECKING:
    from rich.console import Console

    from ..consensus import Event
    from ..generation import Generator
    from ..inquiry import Question, Settings, Verify
    from ..runs import Item, Run

FAILED = 1


def evaluate(
    questions: Annotated[
        Path, typer.Argument(metavar="QUESTIONS.jsonl", help="Lines with question, answer, optional id; - reads stdin.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="The run's folder; made if it is not there.")],
    resume: bool = typer.Option(False, "--resume", help="Go on with the run in the folder."),
    model: str = typer.Option(None, "--model", "-m", metavar="MODEL", help=MODEL),
    temperatures: str = typer.Option("0,0.4,0.8,1.2", help="Temperatures with commas between them."),
    samples: int = typer.Option(13, help="Samples of each temperature; temperature 0 is drawn once, it has one text."),
    rule: str = typer.Option(
        "majority", help="When to stop; majority keeps the whole budget, so any rule can be replayed."
    ),
    extractor: str = typer.Option(
        "auto", help="auto, boxed, number, choice, last-line, math, regex:..., module:function."
    ),
    verify: str = typer.Option(
        None,
        help="Score every sample, the best decides a vote that did not stop early: mean-logprob, exact:KEY, math:KEY, "
        "python:TESTS.py or module:function.",
    ),
    top_p: float = typer.Option(1.0, help="Keep the smallest set of tokens with this probability; 1 keeps all."),
    top_k: int = typer.Option(0, help="Keep the k most likely tokens; 0 keeps all."),
    min_p: float = typer.Option(0.0, help="Drop tokens below this share of the likeliest one's probability."),
    max_new_tokens: int = typer.Option(256, help="A sample ends there if it does not end before."),
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends a sample; may be given again.")] = None,
    seed: int = typer.Option(0, help="The same seed gives the same samples."),
    system: str = typer.Option(None, help="A system prompt, for models that take one."),
    prompt_template: str = typer.Option(None, help="Text with {question} in it, put around the question."),
    step_by_step: bool = typer.Option(False, "--step-by-step", help="Ask for a chain of thought before the answer."),
    together: bool = typer.Option(False, "--together", help="Start a question's whole budget at once."),
    slots: int = typer.Option(64, help="The largest number of samples written at once."),
    prepack: bool = typer.Option(False, "--prepack", help="Faster on a CPU, the same bits in any batch; more memory."),
    dtype: str = typer.Option(None, help="float32, bfloat16 or float16. Left out: as the model is stored."),
    device: str = typer.Option("auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one."),
) -> None:
    """Answer every question of QUESTIONS.jsonl and keep all samples in RUN; fastsample report RUN compares the rules.

    Exit code: 0 all questions answered, 1 some lines or questions were bad (the rest is done) or the disk is full,
    2 bad usage, 130 interrupted; --resume goes on after any of them.
    """
    console = console_for(is_stdout_taken=True)
    with refusals():
        from ..answers import extractor_of
        from ..inquiry import Settings
        from ..prompts import STEP_BY_STEP
        from ..rules import name_of, rule_of
        from ..runs import check_run, open_run
        from ..verifiers import verifier_of

        items, complaints = _read(questions)
        settings = Settings(
            temperatures=_numbers(temperatures),
            samples=samples,
            rule=rule_of(rule),
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            max_new_tokens=max_new_tokens,
            seed=seed,
            stop=tuple(stop or ()),
            system=system,
            prompt_template=prompt_template,
            suffix=STEP_BY_STEP if step_by_step else None,
            together=together,
        )
        settings.plan()
        extractor_of(extractor)
        verifier = verifier_of(verify) if verify else None
        config = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
        config |= {
            "rule": name_of(settings.rule),
            "extractor": extractor,
            "verify": verify,
            "model": model,
            "dtype": dtype,
            "prepack": prepack,
            "slots": slots,
        }
        config |= {
            "questions": sha256("\0".join(f"{i.id}\n{i.question}\n{i.answer}" for i in items).encode()).hexdigest()
        }
    for complaint in complaints:
        console.print(f"{questions}: {complaint}", style="red", markup=False, soft_wrap=True)
    if not items:
        refuse(f'{questions} holds no question; its lines are like {{"question": "1 + 1?", "answer": "2"}}')
    try:
        with refusals():
            check_run(out, config, resume=resume)
            lm, tokenizer = load_model(model, dtype, device, console)
            from ..generation import Generator

            generator = Generator(lm, tokenizer, slots=slots, prepack=prepack)
            run = open_run(out, config, items, resume=resume)
        with run:
            failures = _answer_all(run, items, settings, extractor, verifier, generator, console)
    except OSError as error:
        console.print(
            f"cannot write to {out}: {error.strerror or error}; nothing written before is lost; make room and --resume",
            style="red",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        console.print(
            f"interrupted; run again with --resume to go on with {out}", style="yellow", markup=False, soft_wrap=True
        )
        raise typer.Exit(INTERRUPTED) from None
    if failures or complaints:
        raise typer.Exit(FAILED)


def _read(path: Path) -> tuple[list[Item], list[str]]:
    from ..runs import RunError, read_questions

    try:
        if str(path) == "-":
            return read_questions(sys.stdin)
        with open(path, encoding="utf-8", errors="replace") as file:
            return read_questions(file)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None


def _answer_all(
    run: Run,
    items: list[Item],
    settings: Settings,
    extractor: str,
    verify: Verify | None,
    generator: Generator,
    console: Console,
) -> int:
    """Answer what has no result yet; returns the number of questions that failed."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from ..answers import canonical
    from ..consensus import solve_many

    keys = {item.id: item.answer for item in items}
    failures = right = tokens = 0
    columns = [
        TextColumn("questions"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    ]
    with Progress(*columns, console=console, speed_estimate_period=600) as progress:
        task = progress.add_task("", total=len(items), completed=len(run.done))

        def keep(event: Event) -> None:
            if event.kind in ("finished", "cancelled") and event.sample is not None:
                run.add_sample(event.inquiry.question.id, event.sample)

        results = solve_many(
            generator.model,
            generator.tokenizer,
            _open_questions(run, items),
            settings=settings,
            extractor=extractor,
            verify=verify,
            on_event=keep,
            generator=generator,
        )
        answered = 0
        for result in results:
            if result.error is not None:
                failures += 1
                progress.console.print(f"{result.id}: {result.error}", style="red", markup=False, soft_wrap=True)
                progress.advance(task)
                continue
            key = keys[result.id]
            is_right = None if key is None else result.answer == canonical(key)
            run.add_result(result, key, is_right)
            answered += 1
            right += bool(is_right)
            tokens += result.tokens
            progress.update(task, advance=1, description=f"{right / answered:.0%} right, {tokens:,} tokens")
        run.flush()
        run.add_session(generator.steps, generator.prefill_tokens, tokens)
    console.print(
        f"{len(run.done)} of {len(items)} questions answered, {failures} failed; fastsample report {run.folder}",
        markup=False,
        soft_wrap=True,
    )
    return failures


def _open_questions(run: Run, items: list[Item]) -> Iterator[Question]:
    from ..inquiry import Question

    for item in items:
        if item.id not in run.done:
            yield Question(item.question, item.id, tuple(run.known.get(item.id, ())))
