"""A model that has learnt a little more for a while: LoRA by `peft` (arXiv 2106.09685), and its weights back after it.

    with adapted(model, lessons) as losses:
        ...                                   # the model's own weights, with what was learnt added to them

What is learnt is added to the weights themselves, so that the model runs at its usual speed, by the engines of this
package too. Behind the `with` every parameter has the bytes that it had before: they are kept, not computed back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from ..voting.rule import at_least


@dataclass(frozen=True)
class Lesson:
    """ids: token ids of a text; learnt: which of them the model is to have written"""

    ids: tuple[int, ...]
    learnt: tuple[bool, ...]


@dataclass(frozen=True)
class Tuning:
    """How much is learnt.

    rank, alpha: of LoRA, on every linear layer but the last; rate: of AdamW, the first tenth of the steps rising
    steps:       0 leaves the model as it is; batch: lessons in each step
    """

    rank: int = 8
    alpha: int = 16
    rate: float = 3e-4
    steps: int = 20
    batch: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, rank=self.rank, alpha=self.alpha, batch=self.batch)
        at_least(0, steps=self.steps, seed=self.seed)
        if not 0 < self.rate < float("inf"):
            raise ValueError(f"rate must be a finite number above 0, got {self.rate}; use {Tuning.rate:g}")


@contextmanager
def adapted(model: Any, lessons: Sequence[Lesson], tuning: Tuning | None = None) -> Iterator[list[float]]:
    """The model with what the lessons teach, inside the `with`; yields the mean loss of each step, in nats a token.

    raises: ModuleNotFoundError without peft; ValueError for a model that has adapters already, or lessons that teach
            nothing. Whatever is raised, the weights are put back
    """
    tuning = tuning or Tuning()
    if not tuning.steps:
        yield []
        return
    lessons = [lesson for lesson in lessons if any(lesson.learnt[1:])]
    if not lessons:
        raise ValueError("there is no lesson that teaches a token; a puzzle needs two training pairs at least")
    check_peft()
    if hasattr(model, "peft_config"):
        raise ValueError("the model has adapters already; model.merge_and_unload() makes them a part of it")
    kept: list[tuple[nn.Parameter, Tensor]] = []
    try:
        with _layers_put_back(model):
            layers, losses = _learnt(model, lessons, tuning)
            with torch.no_grad():
                for layer in layers:
                    weight = layer.get_base_layer().weight
                    kept.append((weight, weight.detach().clone()))
                    weight.add_(layer.get_delta_weight("default").to(weight.dtype))  # counted, where `.data` is not
        yield losses
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)


def check_peft() -> None:
    """Raise ModuleNotFoundError, with the remedy, where peft is not installed."""
    if find_spec("peft") is None:
        raise ModuleNotFoundError(
            "a model learns by the package peft, which is not installed; pip install 'fastsample[ttt]'"
        )


@contextmanager
def _layers_put_back(model: nn.Module) -> Iterator[None]:
    """Whatever is done to them inside: the same layers, what needs gradients, and the model's own attributes."""
    layers = [(module, dict(module._modules)) for module in model.modules()]
    needs = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    own = set(vars(model))
    try:
        yield
    finally:
        for module, children in layers:
            module._modules.clear()
            module._modules.update(children)
        for parameter, is_needed in needs:
            parameter.requires_grad_(is_needed)
        for name in set(vars(model)) - own:
            delattr(model, name)


def _learnt(model: Any, lessons: Sequence[Lesson], tuning: Tuning) -> tuple[list[Any], list[float]]:
    """(LoRA's layers, inside the model, the mean loss of each step)."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(r=tuning.rank, lora_alpha=tuning.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # peft draws its first weights from torch's own generator
        torch.manual_seed(tuning.seed)
        get_peft_model(model, config)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=tuning.rate, weight_decay=0.0)
    rising = max(1, tuning.steps // 10)
    order = _order(len(lessons), tuning)
    losses = []
    for step in range(tuning.steps):
        for group in optimizer.param_groups:
            group["lr"] = tuning.rate * min(1.0, (step + 1) / rising)
        mine = [lessons[next(order)] for _ in range(min(tuning.batch, len(lessons)))]
        loss = loss_of(model, mine)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return layers, losses


def _order(count: int, tuning: Tuning) -> Iterator[int]:
    """Numbers of lessons: all of them in an order that is drawn by the seed, then all again in another one."""
    draw = Random(tuning.seed)
    while True:
        yield from draw.sample(range(count), count)


def loss_of(model: Any, lessons: Sequence[Lesson]) -> Tensor:
    """The mean over all tokens that are to be learnt of -log p, in nats; [] float32, with gradients."""
    device = next(model.parameters()).device
    length = max(len(lesson.ids) for lesson in lessons)
    ids = torch.zeros(len(lessons), length, dtype=torch.long)
    learnt = torch.zeros(len(lessons), length, dtype=torch.bool)
    there = torch.zeros(len(lessons), length, dtype=torch.long)
    for row, lesson in enumerate(lessons):  # padded on the right, where causal attention does not look
        ids[row, : len(lesson.ids)] = torch.tensor(lesson.ids)
        learnt[row, : len(lesson.ids)] = torch.tensor(lesson.learnt)
        there[row, : len(lesson.ids)] = 1
    learnt, ids = learnt.to(device), ids.to(device)
    logits = model(input_ids=ids, attention_mask=there.to(device)).logits
    wanted = learnt[:, 1:]
    return nn.functional.cross_entropy(logits[:, :-1][wanted].float(), ids[:, 1:][wanted])
