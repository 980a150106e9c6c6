"""Fits a `scoring.head.Head`: logistic regression on the hidden states at the ends of labelled legs.

Held-out figures are of whole questions: no leg of a question that is judged was in the fit, nor in the choice of a
layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import strftime
from typing import Any

import torch
from torch import Tensor

from ..models.digest import digest_of
from ..models.forward import Forward
from ..models.states import layers_of, states_behind
from ..scoring.head import Head
from ..version import __version__
from .labels import Labelled
from .separation import Area, area, area_by_question

FOLDS = 5
L2 = 0.02  # of the mean loss, on standardised states
TOKENS = 2048  # in one forward pass


@dataclass
class Legs:
    """All labelled legs, one after the other.

    states: by layer, [legs, width] float32; labels: [legs]; questions: the id of each
    logprobs: mean log-probability of each leg's tokens, in nats: what a head is to be better than
    """

    states: dict[int, Tensor]
    labels: Tensor
    questions: list[str]
    logprobs: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Fitted:
    """A head, and what it is worth. held_out: of questions that were left out; logprob: of the same legs' mean
    log-probability; by_layer: where several were tried, each one's area"""

    head: Head
    held_out: Area
    logprob: Area
    by_layer: dict[int, float]


def usual_layer(model: Any) -> int:
    """Two thirds of the depth: where a first look at SmolLM2 found most (docs/search.md has the sweep)."""
    return max(1, round(2 * len(layers_of(model)) / 3))


def legs_of(
    model: Any, labelled: Sequence[Labelled], layers: Sequence[int], on_text: Callable[[int], None] = lambda n: None
) -> Legs:
    """Read the texts once more, each prompt once, and keep the states at the ends of their legs.

    on_text: called with how many texts have been read
    raises:  ValueError for a layer that the model does not have, or a model whose states depend on more than attention
    """
    forward = Forward(model)
    if not forward.takes_plain_cache:
        raise ValueError(f"{type(model).__name__} keeps recurrent states, and heads are for models of attention alone")
    for layer in layers:
        forward.watch(layer)
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for n, one in enumerate(labelled):
        by_prompt.setdefault(one.prompt, []).append(n)
    read: dict[int, tuple[dict[int, Tensor], list[float]]] = {}
    for prompt, places in by_prompt.items():
        prefix = forward.prefill(prompt, TOKENS)
        places.sort(key=lambda n: len(labelled[n].tokens))
        while places:
            count = max(1, TOKENS // max(1, len(labelled[places[-1]].tokens)))
            batch, places = places[-count:], places[:-count]
            texts = [labelled[n].tokens for n in batch]
            for n, (states, logprobs) in zip(batch, states_behind(forward, prefix, texts)):
                ends = labelled[n].ends
                at_ends = {layer: states[layer][[end - 1 for end in ends]].float().cpu() for layer in layers}
                read[n] = at_ends, [float(logprobs[a:b].mean()) for a, b in zip([0, *ends], ends)]
            on_text(len(read))
    order = range(len(labelled))
    return Legs(
        {layer: torch.cat([read[n][0][layer] for n in order]) for layer in layers},
        torch.tensor([label for one in labelled for label in one.labels], dtype=torch.float64),
        [one.question for one in labelled for _ in one.ends],
        [number for n in order for number in read[n][1]],
    )


def fit(legs: Legs, model: Any, *, about: dict[str, Any] | None = None, folds: int = FOLDS) -> Fitted:
    """A head on all legs, of the layer that is best where the legs have states of several.

    about: what the head's file is to say besides
    raises: ValueError for labels that are all right or all wrong, or of fewer than two questions
    """
    questions = list(dict.fromkeys(legs.questions))
    if len(questions) < 2:
        raise ValueError(f"a head needs labels of two questions at least, got {len(questions)}; ask more")
    low, high = float(legs.labels.min()), float(legs.labels.max())
    if low == high:
        raise ValueError(f"a head needs right and wrong legs, and all {len(legs.labels)} are {low:g}; ask others")
    folds = min(folds, len(questions))
    held_out = _held_out(legs, folds)
    by_layer = {n: area(_out_of_fold(s, legs, folds), legs.labels.tolist()) for n, s in legs.states.items()}
    layer = max(by_layer, key=lambda n: by_layer[n])
    found = area_by_question(held_out, legs.labels.tolist(), legs.questions)
    plain = area_by_question(legs.logprobs, legs.labels.tolist(), legs.questions)
    made = {
        "layer": layer,
        "width": legs.states[layer].shape[1],
        "model": str(getattr(model, "name_or_path", "") or type(model).__name__),
        "digest": digest_of(model, layer),
        "questions": len(questions),
        "legs": len(legs.labels),
        "right": float(legs.labels.mean()),
        "l2": L2,
        "folds": folds,
        "held_out_auc": [found.value, found.low, found.high],
        "logprob_auc": [plain.value, plain.low, plain.high],
        "auc_by_layer": {str(n): value for n, value in by_layer.items()},
        "date": strftime("%Y-%m-%d"),
        "fastsample": __version__,
        **(about or {}),
    }
    return Fitted(Head(*_regression(legs.states[layer], legs.labels), made), found, plain, by_layer)


def scores_of(head: Head, legs: Legs) -> list[float]:
    """What a head says of each leg."""
    return [head.of(state) for state in legs.states[head.layer]]


def save(head: Head, path: str | Path) -> Head:
    """Write the file and read it again, as a search will. raises: OSError where it cannot be written"""
    head.save(path)
    return Head.load(path)


def _held_out(legs: Legs, folds: int) -> list[float]:
    """A number for each leg, of a head that was fitted on other questions, its layer chosen on those alone."""
    if len(legs.states) == 1:
        return _out_of_fold(next(iter(legs.states.values())), legs, folds)
    numbers = torch.empty(len(legs.labels), dtype=torch.float64)
    for out in _parts(legs.questions, folds):
        rest = ~out
        inner = Legs({n: s[rest] for n, s in legs.states.items()}, legs.labels[rest],
                     [q for q, is_in in zip(legs.questions, rest.tolist()) if is_in])  # fmt: skip
        areas = {n: area(_out_of_fold(s, inner, folds), inner.labels.tolist()) for n, s in inner.states.items()}
        best = max(areas, key=lambda n: areas[n])
        numbers[out] = _numbers(legs.states[best][out], _regression(inner.states[best], inner.labels))
    return numbers.tolist()  # type: ignore[no-any-return]


def _out_of_fold(states: Tensor, legs: Legs, folds: int) -> list[float]:
    numbers = torch.empty(len(legs.labels), dtype=torch.float64)
    for out in _parts(legs.questions, folds):
        numbers[out] = _numbers(states[out], _regression(states[~out], legs.labels[~out]))
    return numbers.tolist()  # type: ignore[no-any-return]


def _parts(questions: Sequence[str], folds: int) -> list[Tensor]:
    """For each fold, which legs are left out; a question's are never parted."""
    place = {name: n % folds for n, name in enumerate(dict.fromkeys(questions))}
    fold = torch.tensor([place[q] for q in questions])
    return [fold == n for n in range(folds) if bool((fold == n).any())]


def _numbers(states: Tensor, fitted: tuple[Tensor, ...]) -> Tensor:
    w, mean, std, b = fitted
    return (states.double() - mean) @ (w / std) + b


def _regression(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(w, mean, std, b) of the least logistic loss with L2 on w; soft labels are allowed."""
    x = states.double()
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 1e-12, std, torch.ones_like(std))  # a number that never changes says nothing
    z = (x - mean) / std
    w = torch.zeros(z.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([w, b], max_iter=100, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> Any:
        search.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(z @ w + b, labels) + L2 * w.dot(w)
        value.backward()
        return value

    search.step(loss)
    return w.detach(), mean, std, b.detach()
