"""Random schedules of an engine with faults thrown in, each sample held against itself alone.

A schedule is one engine over one tiny model by one runner, with four to nine requests of up to three prompts: submitted
in parts, cancelled at random, refused where they are bad, and stepped to the end. Into some steps a fault is thrown: an
error, a lack of memory or a Ctrl-C, at any of torch's operators, before or behind a call of the runner. A sample that
ends must hold the tokens that the whole text, read again for every token, gives; a beginning of them, if it was
cancelled or its own logits processor was struck.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from plain import Letters, write
from tiny import VOCAB, tiny
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from fastsample.engines.base import Request, Sample
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.graphed import GraphedRunner
from fastsample.engines.local.runners import SharedPrefixRunner
from fastsample.engines.local.selection import LADDER, has_been_told, objection

WHAT = "schedules of submit, cancel, bad requests, failing passes, no memory and Ctrl-C, every runner, 12 architectures"
COUNTED = "schedules"
ARCHITECTURES = (
    *("llama", "mistral", "qwen2", "qwen3_moe", "gemma2", "gpt2", "phi3", "gpt_oss"),
    *("bloom", "mamba", "deepseek_v3", "xglm"),
)
PROMPTS = [tuple(3 + (11 * i + 7 * k) % (VOCAB - 3) for i in range(n)) for k, n in enumerate((3, 9, 17))]
FAULTS = (RuntimeError("thrown"), MemoryError("thrown"), torch.OutOfMemoryError("thrown"), KeyboardInterrupt("thrown"))
# Calls of the runner, and whether the fault comes behind them.
PLACES = tuple((verb, behind) for verb in ("prefill", "add", "step", "keep") for behind in (False, True))
BAD = ({"prompt": ()}, {"prompt": (VOCAB,)}, {"temperature": -1.0}, {"top_p": 0.0}, {"max_new_tokens": 0})


class Model:
    """A tiny model, the runners that serve it, and requests with the tokens that each has alone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.model = tiny(name)
        has_been_told(self.model)
        self.alone: dict[int, list[int]] = {}

    @cached_property
    def runners(self) -> list[Any]:
        """Those that give what the model gives; the last one always does."""
        served = [kind for kind in LADDER if kind is LADDER[-1] or objection(self.model, kind) is None]
        return [*served, GraphedRunner] if SharedPrefixRunner in served else served

    def request(self, number: int) -> Request:
        """Number 0 to 35."""
        choose = random.Random(number)
        most = choose.randint(2, 12)
        return Request(
            choose.choice(PROMPTS),
            temperature=choose.choice((0.0, 0.7, 1.3)),
            top_k=choose.choice((0, 0, 30)),
            top_p=choose.choice((1.0, 0.9)),
            min_p=choose.choice((0.0, 0.02)),
            seed=11,
            stream=number,
            eos=(2,),
            max_new_tokens=most,
            min_new_tokens=choose.choice((0, 0, most // 2)),
            logits_processor=LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)]) if number % 7 == 6 else None,
            key=number,
        )

    def tokens(self, number: int) -> list[int]:
        """What a request has alone, computed once."""
        if number not in self.alone:
            self.alone[number] = write(self.model, self.request(number))
        return self.alone[number]


def name_of(kind: Any) -> str:
    """Of a runner, as it is counted."""
    return "the step of a graph" if kind is GraphedRunner else str(kind.name)


class Thrown(TorchDispatchMode):
    """Raises a fault at one operator of torch; never, where there are fewer."""

    def __init__(self, fault: BaseException, at: int) -> None:
        super().__init__()
        self.fault, self.left = fault, at

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.left -= 1
        if self.left == 0:
            raise self.fault
        return function(*arguments, **(keywords or {}))


def thrown_in(engine: LocalEngine, choose: random.Random) -> bool:
    """One step with a fault in it; returns whether it was reached."""
    fault = choose.choice(FAULTS)
    verb, is_behind = choose.choice(PLACES)
    whole = getattr(engine.runner, verb)

    def before(*_: Any) -> Any:
        raise fault

    def behind(*arguments: Any) -> Any:
        whole(*arguments)
        raise fault

    try:
        if choose.random() < 0.6:
            with Thrown(fault, choose.randint(1, 400)):
                engine.step()
        else:
            setattr(engine.runner, verb, behind if is_behind else before)
            engine.step()
    except (RuntimeError, MemoryError, KeyboardInterrupt) as error:
        if error is not fault and not (isinstance(error, MemoryError) and error.__cause__ is fault):
            raise
        return True
    finally:
        vars(engine.runner).pop(verb, None)
    return False


class Schedule:
    """One engine and what was asked of it."""

    def __init__(self, model: Model, choose: random.Random) -> None:
        self.model, self.choose = model, choose
        self.kind = choose.choice(model.runners)
        self.slots = choose.choice((1, 2, 3, 5, 64))
        self.counts: Counter[str] = Counter(schedules=1)
        self.samples: list[Sample] = []
        self.told: list[Sample] = []
        self.engine = self.made()

    def made(self) -> LocalEngine:
        block = self.choose.choice((2, 5, 512))
        return LocalEngine(self.model.model, Letters(), slots=self.slots, prefill_block=block,
                           runner=self.kind(self.model.model))  # fmt: skip

    def run(self) -> Counter[str]:
        choose = self.choose
        to_come = [self.model.request(n) for n in choose.sample(range(36), choose.randint(4, 9))]
        faults = choose.choice((0, 1, 1, 2, 3))
        while to_come or not self.engine.is_idle:
            if to_come and choose.random() < 0.5:
                self.samples += self.engine.submit([to_come.pop() for _ in range(choose.randint(1, len(to_come)))])
            if choose.random() < 0.1:
                self.refuse()
            if choose.random() < 0.12 and not self.engine.is_idle:
                self.engine.cancel([choose.choice([*self.engine.running, *self.engine.waiting])])
            if faults and choose.random() < 0.3:
                faults -= 1
                self.fail()
            else:
                self.told += self.engine.step()
        self.check()
        return self.counts

    def refuse(self) -> None:
        """A bad request among good ones: nothing is queued."""
        waiting = len(self.engine.waiting)
        try:
            self.engine.submit([self.model.request(0), replace(self.model.request(1), **self.choose.choice(BAD))])
        except ValueError:
            assert len(self.engine.waiting) == waiting
            self.counts["requests refused"] += 1
        else:
            raise AssertionError("a bad request was taken")

    def fail(self) -> None:
        """A fault, and a step without one: it goes on as if nothing had been, or the engine says that it cannot."""
        self.counts["faults thrown"] += thrown_in(self.engine, self.choose)
        try:
            self.told += self.engine.step()
        except RuntimeError as error:
            if "make a new engine" not in str(error):
                raise
            self.counts["engines that refused to go on"] += 1
            left = [s for s in self.samples if s.finish is None]
            self.samples = [s for s in self.samples if s.finish is not None]
            self.engine = self.made()
            self.samples += self.engine.submit([s.request for s in left])

    def check(self) -> None:
        """Every sample ended once, with its own tokens."""
        for s in self.samples:
            want = self.model.tokens(s.request.key)
            self.counts["samples"] += 1
            self.counts["tokens"] += len(s.tokens)
            where = f"{self.model.name}, {self.kind.name}, request {s.request.key}, {s.finish}"
            if s.finish == "failed":  # the fault struck inside its own logits processor
                assert "a logits processor failed" in s.error, f"{where}: {s.error}"
                assert "thrown" in s.error, f"{where}: {s.error}"
                self.counts["samples that failed alone, with their reason"] += 1
            if s.finish in ("cancelled", "failed"):
                assert s.tokens == want[: len(s.tokens)], where
            else:
                assert (s.tokens, s.error) == (want, None), f"{where}: {s.tokens} and not {want}; {s.error}"
                assert s.finish == ("eos" if want[-1] == 2 else "length"), where
                assert s.text == Letters().decode(want[:-1] if want[-1] == 2 else want), where
            assert len(s.stats) == len(s.tokens), where
        ids = [id(s) for s in self.told]
        assert len(set(ids)) == len(ids), "a sample was told of twice"


def prepare(place: Path) -> list[Model]:
    """The models, on one thread."""
    torch.set_num_threads(1)
    return [Model(name) for name in ARCHITECTURES]


def turn(models: list[Model], choose: random.Random) -> Counter[str]:
    """One schedule."""
    model = choose.choice(models)
    schedule = Schedule(model, choose)
    counts = schedule.run()
    return counts + Counter({f"schedules by {name_of(schedule.kind)}": 1})
