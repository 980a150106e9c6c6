"""What writes the samples, as a command line names it: a model in this process, or servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .terminal import load_model

if TYPE_CHECKING:
    from rich.console import Console

ENGINES = ("local", "openai")


@dataclass(frozen=True)
class Chosen:
    """The engine options of a command. name: one of ENGINES; servers: their URLs; has_logprobs: ask servers for them"""

    name: str
    servers: tuple[str, ...]
    has_logprobs: bool
    model: str | None
    dtype: str | None
    device: str
    slots: int
    prepack: bool

    @property
    def is_local(self) -> bool:
        """Whether a model is loaded here."""
        return self.name == "local"


@dataclass(frozen=True)
class Opened:
    """model, tokenizer, engine: as `solve_many` takes them; machine: what `--json` says of them."""

    model: Any
    tokenizer: Any
    engine: Any
    machine: dict[str, Any]


def chosen(
    name: str | None,
    servers: Sequence[str] | None,
    logprobs: bool,
    model: str | None,
    dtype: str | None,
    device: str,
    slots: int,
    prepack: bool,
) -> Chosen:
    """The options, looked at; raises ValueError for what does not go together."""
    urls = tuple(servers or ())
    name = name or ("openai" if urls else "local")
    if name not in ENGINES:
        raise ValueError(f"engine must be {' or '.join(ENGINES)}, got {name!r}")
    if name == "openai" and not urls:
        raise ValueError("--engine openai needs a server; name it with --base-url http://HOST:PORT, once or many times")
    if name == "local" and urls:
        raise ValueError("--engine local writes in this process; leave --base-url out, or choose --engine openai")
    if name == "local" and logprobs:
        raise ValueError("--logprobs is asked of servers, an engine in this process tells them anyway; leave it out")
    if name == "openai" and (dtype or prepack):
        raise ValueError("--dtype and --prepack are about a model in this process, and servers write; leave them out")
    return Chosen(name, urls, logprobs, model, dtype, device, slots, prepack)


@contextmanager
def opened(c: Chosen, console: Console) -> Iterator[Opened]:
    """Load the model, or greet the servers and look whether they stop when they are told to."""
    if c.is_local:
        lm, tokenizer = load_model(c.model, c.dtype, c.device, console)
        machine = {
            "model": lm.name_or_path,
            "dtype": str(lm.dtype).removeprefix("torch."),
            "device": str(lm.device),
        }
        yield Opened(lm, tokenizer, None, machine)
        return
    from ..engines.openai.engine import ServerEngine
    from ..engines.openai.servers import Server

    with console.status("asking the servers what they are"):
        servers = [Server(url, c.model, slots=c.slots) for url in c.servers]
        engine = ServerEngine(servers, slots=c.slots, top_logprobs=20 if c.has_logprobs else 0)
    with engine:
        with console.status("asking the servers whether they stop when they are told to"):
            sentence = engine.watch()
        if sentence is not None:
            console.print(sentence, style="yellow", markup=False, soft_wrap=True)
        machine = {"model": engine.traits.model, "dtype": None, "device": None}
        yield Opened(None, engine.tokenizer, engine, machine)
