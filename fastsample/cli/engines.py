"""What writes the samples, as a command line names it: a model in this process, servers, or vLLM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from .terminal import load_model, load_quietly

if TYPE_CHECKING:
    from rich.console import Console

    from ..solving.ray_pool import RayPool

ENGINES = ("local", "openai", "vllm")


@dataclass(frozen=True)
class Chosen:
    """The engine options of a command.

    name: one of ENGINES; servers: their URLs; has_logprobs: ask servers or vLLM for them; ray: the address of a cluster
    vllm: options of its engine, NAME=VALUE
    """

    name: str
    servers: tuple[str, ...]
    has_logprobs: bool
    model: str | None
    dtype: str | None
    device: str
    slots: int
    prepack: bool
    ray: str | None = None
    actors: int = 2
    tokenizer: str | None = None
    vllm: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether a model is loaded here."""
        return self.name == "local"

    @property
    def is_here(self) -> bool:
        """Whether samples are written on this machine, and torch is needed."""
        return self.name != "openai"


@dataclass(frozen=True)
class Opened:
    """model, tokenizer, engine: as `solve_many` takes them; pool: in their place; machine: what `--json` says of it"""

    model: Any
    tokenizer: Any
    engine: Any
    machine: dict[str, Any]
    pool: RayPool | None = None


def chosen(
    name: str | None,
    servers: Sequence[str] | None,
    logprobs: bool,
    model: str | None,
    dtype: str | None,
    device: str,
    slots: int,
    prepack: bool,
    ray: str | None = None,
    actors: int = 2,
    *,
    tokenizer: str | None = None,
    vllm: Sequence[str] | None = None,
) -> Chosen:
    """The options, looked at; raises ValueError for what does not go together."""
    urls = tuple(servers or ())
    name = name or ("openai" if urls else "local")
    if name not in ENGINES:
        raise ValueError(f"engine must be {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, got {name!r}")
    if name == "openai" and not urls:
        raise ValueError("--engine openai needs a server; name it with --base-url http://HOST:PORT, once or many times")
    if name != "openai" and urls:
        raise ValueError(f"--engine {name} asks no server; leave --base-url out, or choose --engine openai")
    if name == "local" and logprobs:
        raise ValueError("--logprobs is asked of servers, an engine in this process tells them anyway; leave it out")
    if name == "openai" and (dtype or prepack):
        raise ValueError("--dtype and --prepack are about a model in this process, and servers write; leave them out")
    if name != "local" and ray is not None:
        raise ValueError(f"--ray spreads models of ours, and --engine {name} has others write; leave one of them out")
    if name != "openai" and tokenizer is not None:
        raise ValueError("--tokenizer makes the prompts for servers, a model here has its own; leave it out")
    if name == "vllm" and (prepack or device != "auto"):
        raise ValueError("--prepack and --device are about a model of ours; vLLM takes the device it was built for")
    if name != "vllm" and vllm:
        raise ValueError(f"--vllm sets an option of vLLM's, and the engine is {name}; choose --engine vllm")
    return Chosen(name, urls, logprobs, model, dtype, device, slots, prepack, ray, actors, tokenizer, tuple(vllm or ()))


@contextmanager
def opened(c: Chosen, console: Console) -> Iterator[Opened]:
    """Load the model, or greet the servers and look whether they stop when they are told to."""
    if c.ray is not None:
        from ..solving.ray_pool import RayPool

        load = partial(load_quietly, c.model, c.dtype, c.device)
        gpus = 1 if c.device.startswith("cuda") else 0
        with console.status("starting the actors"):
            pool = RayPool(load, address=c.ray, actors=c.actors, slots=c.slots, prepack=c.prepack, gpus=gpus)
        with pool:
            yield Opened(None, None, None, {"model": pool.traits.model, "dtype": None, "device": None}, pool)
        return
    if c.is_local:
        lm, tokenizer = load_model(c.model, c.dtype, c.device, console)
        machine = {
            "model": lm.name_or_path,
            "dtype": str(lm.dtype).removeprefix("torch."),
            "device": str(lm.device),
        }
        yield Opened(lm, tokenizer, None, machine)
        return
    if c.name == "vllm":
        with _vllm(c, console) as by:
            yield by
        return
    from ..engines.openai.engine import ServerEngine
    from ..engines.openai.servers import Server

    tokenizer = None
    if c.tokenizer is not None:
        from ..models.loading import load_tokenizer

        with console.status("loading the tokenizer"):
            tokenizer = load_tokenizer(c.tokenizer)
    with console.status("asking the servers what they are"):
        servers = [Server(url, c.model, slots=c.slots) for url in c.servers]
        engine = ServerEngine(servers, tokenizer, slots=c.slots, top_logprobs=20 if c.has_logprobs else 0)
    with engine:
        with console.status("asking the servers whether they stop when they are told to"):
            sentence = engine.watch()
        if sentence is not None:
            console.print(sentence, style="yellow", markup=False, soft_wrap=True)
        machine = {"model": engine.traits.model, "dtype": None, "device": None}
        yield Opened(None, engine.tokenizer, engine, machine)


@contextmanager
def _vllm(c: Chosen, console: Console) -> Iterator[Opened]:
    """vLLM in this program; what it says of itself goes where no result is written, warnings alone."""
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from ..engines.vllm.loading import load

    options = dict(_option(text) for text in c.vllm)
    with console.status("starting vLLM, which takes a minute or two"):
        engine = load(c.model, dtype=c.dtype, slots=c.slots, logprobs=c.has_logprobs, options=options)
    with engine:
        if engine.traits.reason is not None:
            console.print(engine.traits.reason, style="yellow", markup=False, soft_wrap=True)
        machine = {"model": engine.traits.model, "dtype": engine.dtype, "device": engine.device}
        yield Opened(None, engine.tokenizer, engine, machine)


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE; the value is read as JSON where it is JSON, else as it stands."""
    name, is_given, value = text.partition("=")
    if not is_given or not name:
        raise ValueError(f"--vllm must be NAME=VALUE, such as enforce_eager=true, got {text!r}")
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), value
