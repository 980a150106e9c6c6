"""vLLM without vLLM: its names, and an engine that keeps a batch as its two model runners do, over made-up logits.

What is true to the original is what our code meets: rows that are removed, filled again and moved into holes (V1),
slots that are used again while rows come in any order (V2), prompts that are read in two steps, requests that are
thrown out and begin again, news that comes for one that was aborted.
"""

from __future__ import annotations

import random
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum, auto
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

VERSION = "0.32.0"
DRAW = "fastsample.engines.vllm.draw"
VOCABULARY = 128


class Kind(Enum):
    CUMULATIVE = 0
    DELTA = 1


class VLLMError(Exception):
    """No ValueError."""


class VLLMClientError(VLLMError): ...


class Direction(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


class V1Processor(ABC):
    @abstractmethod
    def __init__(self, vllm_config, device, is_pin_memory): ...

    @abstractmethod
    def apply(self, logits): ...

    @abstractmethod
    def is_argmax_invariant(self): ...

    @abstractmethod
    def update_state(self, batch_update): ...


class V2Processor(ABC):
    @abstractmethod
    def apply(self, logits, ctx): ...


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 16
    min_tokens: int = 0
    logprobs: int | None = None
    detokenize: bool = True
    output_kind: Kind = Kind.CUMULATIVE
    ignore_eos: bool = False
    stop_token_ids: list[int] = field(default_factory=list)
    extra_args: dict[str, Any] | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    def __post_init__(self):
        if self.temperature > 2:
            raise VLLMClientError(f"temperature must be in [0, 2], got {self.temperature}.")


def modules():
    """The names of vLLM's that our code asks for."""
    tree = {
        "vllm": {"__version__": VERSION, "SamplingParams": SamplingParams, "EngineArgs": EngineArgs, "LLMEngine": None},
        "vllm.exceptions": {"VLLMError": VLLMError, "VLLMClientError": VLLMClientError},
        "vllm.sampling_params": {"RequestOutputKind": Kind},
        "vllm.v1.sample.logits_processor": {"LogitsProcessor": V1Processor},
        "vllm.v1.worker.gpu.sample.logits_processor": {"LogitsProcessor": V2Processor},
    }
    found = {}
    for name, values in tree.items():
        while name not in found:
            found[name] = ModuleType(name)
            vars(found[name]).update(values, __path__=[])
            name, _, _ = name.rpartition(".")
            values = {}
            if not name:
                break
    return found


def stand_in(monkeypatch, **without):
    """Put them where they are imported from, until the test ends; returns FastDraw, made over them.

    without: attributes of vllm that are to be others
    """
    for name in [n for n in sys.modules if n == "vllm" or n.startswith("vllm.")]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    vars(sys.modules["vllm"]).update(without)
    monkeypatch.setitem(sys.modules, DRAW, None)
    del sys.modules[DRAW]  # and monkeypatch puts back what was there
    return import_module(DRAW).FastDraw


@dataclass
class EngineArgs:
    model: str
    served_model_name: list[str] | None = None
    dtype: str = "auto"
    max_num_seqs: int = 256
    logits_processors: list[Any] | None = None
    disable_log_stats: bool = False
    enforce_eager: bool = False


def row_of(ids):
    """[VOCABULARY] logits that depend on all ids; the end of the text, id 0, is likelier the longer the text is."""
    generator = torch.Generator().manual_seed(hash(tuple(ids)) % 2**31)
    row = torch.randn(VOCABULARY, generator=generator)
    row[: ord(" ")] = -torch.inf
    row[0] = -6 + 0.3 * len(ids)
    return row


@dataclass(eq=False)
class _Request:
    name: str
    prompt: list[int]
    params: SamplingParams
    written: list[int] = field(default_factory=list)
    read: int = 0  # tokens of the prompt, in two steps


class LLMEngine:
    """See above. runner: 1 or 2; restless: throw requests out of the batch now and then, to begin again."""

    def __init__(
        self,
        draw,
        tokenizer,
        *,
        runner=1,
        slots=8,
        context=64,
        row_of=row_of,
        restless=0,
        processors=(f"{DRAW}:FastDraw",),
    ):
        self.tokenizer, self.runner, self.row_of = tokenizer, runner, row_of
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(
                max_model_len=context, served_model_name="made-up", dtype=torch.float32,
                logits_processors=list(processors), get_vocab_size=lambda: VOCABULARY,
            ),
            scheduler_config=SimpleNamespace(max_num_seqs=slots),
            device_config=SimpleNamespace(device_type="cpu"),
        )  # fmt: skip
        self.engine_core = SimpleNamespace(shutdown=lambda timeout=None: self.ends.append(timeout))
        place = torch.device("cpu")
        if runner == 2:
            place = SimpleNamespace(max_num_reqs=slots, device=torch.device("cpu"))
        self.draw = draw(None, place, *([False] if runner == 1 else [])) if processors else None
        self.size, self.random, self.restless = slots, random.Random(restless), restless
        self.rows: list[_Request | None] = []  # V1: by row; V2: by slot
        self.queue, self.removed, self.aborted, self.late, self.ends = [], [], [], [], []
        self.steps, self.refuses = 0, None

    def get_tokenizer(self):
        return self.tokenizer

    def add_request(self, name, prompt, params):
        if len(prompt["prompt_token_ids"]) == self.refuses:
            raise VLLMClientError("too long for me")
        if self.draw is not None:
            self.draw.validate_params(params)
        self.queue.append(_Request(name, prompt["prompt_token_ids"], params))

    def abort_request(self, names):
        self.aborted += names
        self.queue = [r for r in self.queue if r.name not in names]
        for place, request in enumerate(self.rows):
            if request is not None and request.name in names:
                self._leave(place)
        self.late += names  # as of an answer that was under way

    def _leave(self, place):
        self.rows[place] = None
        self.removed.append(place)

    def step(self):
        self.steps += 1
        if self.restless and self.steps % 5 == 0 and len(busy := [p for p, r in enumerate(self.rows) if r]) > 1:
            place = self.random.choice(busy)
            thrown = self.rows[place]
            thrown.read, thrown.written = 0, list(thrown.written)
            self._leave(place)
            self.queue.insert(0, thrown)
        added = self._admit()
        moved = self._condense() if self.runner == 1 else []
        batch = [place for place, r in enumerate(self.rows) if r is not None]
        if self.runner == 1:
            update = None
            if self.removed or added or moved:
                told = [(p, r.params, r.prompt, r.written) for p, r in added]
                update = SimpleNamespace(batch_size=len(batch), removed=self.removed, added=told, moved=moved)
            self.removed = []
            logits = torch.stack([self.row_of(self._ids(self.rows[p])) for p in batch])
            if self.draw is not None:
                self.draw.update_state(update)
                logits = self.draw.apply(logits)
        else:
            self.removed = []
            self.random.shuffle(batch)
            for slot, request in added:
                if self.draw is not None:
                    self.draw.add_request(slot, request.params)
            logits = torch.stack([self.row_of(self._ids(self.rows[p])) for p in batch])
            if self.draw is not None:
                self.draw.apply_staged_writes()
                pos = torch.tensor([len(self._ids(self.rows[p])) - 1 for p in batch])
                mapping = np.array(batch, dtype=np.int32)
                ctx = SimpleNamespace(expanded_idx_mapping=torch.from_numpy(mapping), idx_mapping_np=mapping, pos=pos)
                logits = self.draw.apply(logits, ctx)
        outputs = [self._output(name, [], None) for name in self.late]
        self.late = []
        for place, row in zip(batch, logits):
            request = self.rows[place]
            if request.read < len(request.prompt):  # what was drawn for half a prompt is dropped
                request.read = len(request.prompt)
                continue
            outputs.append(self._write(place, request, int(row.nan_to_num(9).argmax())))
        return outputs

    def _ids(self, request):
        return [*request.prompt[: request.read], *(request.written if request.read == len(request.prompt) else [])]

    def _admit(self):
        """Waiting requests into holes, the lowest first, and behind the last row."""
        added = []
        while self.queue and sum(r is not None for r in self.rows) < self.size:
            request = self.queue.pop(0)
            request.read = 1 + len(request.prompt) // 2
            place = next((p for p, r in enumerate(self.rows) if r is None), len(self.rows))
            if place == len(self.rows):
                self.rows.append(None)
            if place in self.removed:
                self.removed.remove(place)
            self.rows[place] = request
            added.append((place, request))
        return added

    def _condense(self):
        """The last rows into what holes are left; now and then two rows change places, as a backend may ask."""
        moved = []
        while None in self.rows:
            if self.rows[-1] is None:
                self.rows.pop()
                continue
            hole = self.rows.index(None)
            self.rows[hole], last = self.rows[-1], len(self.rows) - 1
            self.rows.pop()
            moved.append((last, hole, Direction.UNIDIRECTIONAL))
        if len(self.rows) > 2 and self.steps % 3 == 0:
            a, b = self.random.sample(range(len(self.rows)), 2)
            self.rows[a], self.rows[b] = self.rows[b], self.rows[a]
            moved.append((a, b, Direction.SWAP))
        return moved

    def _write(self, place, request, token):
        params = request.params
        request.written.append(token)
        reason = None
        if (token == 0 and not params.ignore_eos) or token in params.stop_token_ids:
            reason = "stop"
        elif len(request.written) >= params.max_tokens:
            reason = "length"
        if reason is not None:
            self._leave(place)
        return self._output(request.name, [token], reason, params.logprobs)

    def _output(self, name, tokens, reason, logprobs=None):
        told = None
        if logprobs is not None:
            told = [{t: SimpleNamespace(logprob=-0.25), 1: SimpleNamespace(logprob=-1.75)} for t in tokens]
        one = SimpleNamespace(token_ids=tokens, logprobs=told, finish_reason=reason)
        return SimpleNamespace(request_id=name, outputs=[one], finished=reason is not None, num_cached_tokens=1)
