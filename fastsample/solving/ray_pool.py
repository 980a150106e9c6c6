"""Many machines by Ray: an engine on each actor, every question whole on one of them, and the caller alone keeps.

Nothing crosses machines but questions and results. A question's early exit and its shared prompt stay on its actor. An
actor that dies is started again by Ray, and its questions are asked again: seed and stream name every sample, so that
they say the same, and what was lost is time. Tested with ray 2.60.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..engines.base import Traits
from ..strategies.events import Event
from ..strategies.question import Question
from ..strategies.records import Result, Written
from .solve import solve_many

Load = Callable[[], tuple[Any, Any]]
STARTS = 100  # of an actor, anew: one that dies more often is not killed by chance
HERE = "local"
TRIES = 3  # to start a cluster here
STORE = 1 << 28  # bytes of shared memory: what crosses is questions and results


@dataclass
class Answered:
    """One question, answered somewhere. samples: those that were written for it now, in the order of their ends"""

    result: Result
    samples: list[Written]


class RayPool:
    """Actors with an engine each. A context manager: leaving it ends them.

    load:    () -> (model, tokenizer), called on each actor; it must find the model there
    address: of the cluster, as `ray.init` takes it ("auto", "ray://HOST:10001"); "local" starts one here
    actors:  how many; cpus, gpus: what each of them takes of its machine
    slots, prepack: of each engine
    traits, steps, prefill_tokens: as of an engine; the last two count what came back

    raises: ModuleNotFoundError where Ray is not installed; ValueError for a cluster that cannot be reached or an actor
            that cannot load the model
    """

    def __init__(
        self,
        load: Load,
        *,
        address: str = HERE,
        actors: int = 2,
        slots: int = 64,
        prepack: bool = False,
        cpus: float = 1,
        gpus: float = 0,
    ) -> None:
        if actors < 1:
            raise ValueError(f"actors must be at least 1, got {actors}; it is the number of engines")
        self._ray = ray = _ray()
        self._is_ours = not ray.is_initialized()
        _look(address)
        here: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE} if address == HERE else {}
        if here:
            here["num_cpus"] = max(1, round(actors * cpus))
        for left in range(TRIES if here else 1)[::-1]:
            try:
                ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR", **here)
                break
            except Exception as error:  # a busy machine starts nothing within Ray's half a minute; that is a bare one
                ray.shutdown()
                if not left:
                    sentence = f"no Ray cluster at {address!r}: {_first_line(error)}; {HERE} starts one here"
                    raise ValueError(sentence) from None
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": STARTS, "max_task_retries": -1}
        kind = ray.remote(**options)(Actor)
        self.slots, self.actors = slots, [kind.remote(load, slots, prepack) for _ in range(actors)]
        self.steps = self.prefill_tokens = 0
        try:
            self.traits: Traits = ray.get(self.actors[0].traits.remote())
        except ray.exceptions.RayError as error:
            self.close()
            raise ValueError(f"an actor cannot begin: {_last_line(error)}") from None

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors, and the cluster where it was started here."""
        for actor in self.actors:
            self._ray.kill(actor)
        self.actors = []
        if self._is_ours:
            self._ray.shutdown()

    def solve(self, questions: Iterable[Question], **settings: Any) -> Iterator[Answered]:
        """Answer the questions, out of order; each is one actor's alone.

        settings: those of `solve_many`; what is no plain value must be known on the actors' machines
        raises: what `solve_many` raises; RuntimeError where actors keep dying
        """
        ray, left = self._ray, iter(questions)
        plan = len(settings["settings"].plan()) if settings.get("settings") is not None else 1
        size = max(1, -(-self.slots // max(1, plan)))  # so many questions fill an engine's rows
        asked: dict[Any, Any] = {}

        def give(actor: Any) -> None:
            mine = list(islice(left, size))
            if mine:
                asked[actor.answer.remote(mine, settings)] = actor

        for actor in self.actors * 2:  # a second call waits at each, so that none stands still
            give(actor)
        try:
            while asked:
                (ended,), _ = ray.wait(list(asked))
                actor = asked.pop(ended)
                try:
                    answered, steps, read = ray.get(ended)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except ray.exceptions.RayError as error:
                    raise RuntimeError(f"an actor died {STARTS} times: {_last_line(error)}") from None
                self.steps, self.prefill_tokens = self.steps + steps, self.prefill_tokens + read
                give(actor)
                yield from answered
        finally:
            for reference in asked:
                ray.cancel(reference)


class Actor:
    """What runs on another machine: a model, an engine, and nothing that lasts."""

    def __init__(self, load: Load, slots: int, prepack: bool) -> None:
        from ..engines.local.engine import LocalEngine

        self.model, self.tokenizer = load()
        self.engine = LocalEngine(self.model, self.tokenizer, slots=slots, prepack=prepack)

    def traits(self) -> Traits:
        """Of its engine."""
        return self.engine.traits

    def answer(self, questions: list[Question], settings: dict[str, Any]) -> tuple[list[Answered], int, int]:
        """(the questions answered, forward passes, prompt tokens that were read)"""
        self.engine.cancel([*self.engine.running, *self.engine.waiting])  # of a call that was given up
        steps, read = self.engine.steps, self.engine.prefill_tokens
        samples: dict[str, list[Written]] = {question.id: [] for question in questions}

        def keep(event: Event) -> None:
            if event.kind in ("finished", "cancelled") and event.sample is not None:
                samples[event.strategy.question.id].append(event.sample)

        results = solve_many(self.model, self.tokenizer, questions, engine=self.engine, on_event=keep, **settings)
        answered = [Answered(result, samples[result.id]) for result in results]
        return answered, self.engine.steps - steps, self.engine.prefill_tokens - read


def _look(address: str) -> None:
    """Raise ValueError where nobody listens at HOST:PORT: Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        try:
            with socket.create_connection((host, int(port)), timeout=10):
                return
        except (OSError, ValueError) as error:
            raise ValueError(f"no Ray cluster at {address!r}: {_first_line(error)}; {HERE} starts one here") from None


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ModuleNotFoundError(
            f'a pool of many machines needs ray ({error}); pip install "fastsample[ray]"'
        ) from None
    return ray


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
