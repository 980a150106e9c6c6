"""fastsample serve: an OpenAI-compatible server over a model in this process, or over other servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .engines import chosen, opened
from .terminal import console_for, refusals

if TYPE_CHECKING:
    from ..engines.base import Engine


def serve(
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
    host: Annotated[
        str, typer.Option(help="Where to listen; any other than this machine asks for FASTSAMPLE_SERVE_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model. Left out: its own name.")] = None,
    most: Annotated[int, typer.Option("--most", help="Requests open at once; one more is answered with 429.")] = 256,
    max_samples: Annotated[int, typer.Option(help="Samples that one request may ask for.")] = 256,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a sample that one request may ask for.")] = 4096,
) -> None:
    """Serve /v1/chat/completions and /v1/completions; MODEL@RULE, or extra_body, asks for a vote with early exit.

    MODEL@strategy:beam:n=4 asks for another strategy.

    A page at / shows a vote as it comes. Ctrl-C ends it: what is open has half a minute to end.
    """
    console = console_for(is_stdout_taken=False)
    with refusals():
        from ..serving.run import address_of, key_for, listen

        key = key_for(host)
        for what, number in (("most", most), ("max-samples", max_samples), ("max-tokens", max_tokens)):
            if number < 1:
                raise ValueError(f"--{what} must be at least 1, got {number}")
        writer = chosen(engine, server, logprobs, model, dtype, device, slots, prepack, tokenizer=tokenizer, vllm=vllm)
        socket = address_of(host, port)
        with opened(writer, console) as by:
            listen(
                by.engine or _local(by.model, by.tokenizer, slots, prepack),
                by.tokenizer,
                socket,
                name=name or by.machine["model"],
                key=key,
                most=most,
                max_samples=max_samples,
                max_tokens=max_tokens,
                say=lambda line: console.print(line, markup=False, soft_wrap=True),
            )


def _local(model: object, tokenizer: object, slots: int, prepack: bool) -> Engine:
    from ..engines.local.engine import LocalEngine

    return LocalEngine(model, tokenizer, slots=slots, prepack=prepack)
