"""Hidden states behind chosen decoder layers, taken from forward passes that are made anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import compat


class Pass(NamedTuple):
    """What a forward pass gives for each row.

    logits: [B, V]; states: by layer, [B, hidden], of the watched layers; told: what was drawn in the pass, where it was
    """

    logits: Tensor
    states: Mapping[int, Tensor]
    told: Sequence[Any] | None = None

    def rows(self, order: Sequence[int]) -> Pass:
        """The same for some of the rows."""
        states = {layer: state[order] for layer, state in self.states.items()}
        return Pass(self.logits[order], states, None if self.told is None else [self.told[b] for b in order])

    def state(self, layer: int | None, row: int) -> Tensor | None:
        """A copy of a row's own state, [hidden]; None without a layer, or where it was not watched yet."""
        return None if layer is None or layer not in self.states else self.states[layer][row].clone()


class Watched:
    """Layers of a model that are watched. states: by layer, [B, n, hidden], what the last forward pass left."""

    def __init__(self) -> None:
        self.layers: set[int] = set()
        self.states: dict[int, Tensor] = {}

    def put_on(self, model: nn.Module) -> None:
        """Watch these layers of a model whose modules are ours to change (`twin`)."""
        for layer in self.layers:
            self._watch(model, layer)

    def add(self, model: nn.Module, layer: int) -> None:
        """Watch one more layer. raises: ValueError for one that the model does not have"""
        if layer not in self.layers:
            self._watch(model, layer)
            self.layers.add(layer)

    def last(self) -> dict[int, Tensor]:
        """By layer, [B, hidden]: at the last position."""
        return {layer: self.states[layer][:, -1] for layer in self.layers if layer in self.states}

    def _watch(self, model: nn.Module, layer: int) -> None:
        module: Any = layer_of(model, layer)
        module.forward = self._watching(layer, module.forward)

    def _watching(self, layer: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*args: Any, **kwargs: Any) -> Any:
            out = forward(*args, **kwargs)
            self.states[layer] = out if isinstance(out, Tensor) else out[0]
            return out

        return watching


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The decoder layers. raises: compat.UnknownModelError where they are not found"""
    config: Any = model.config
    count = config.get_text_config(decoder=True).num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise compat.UnknownModelError(f"{type(model).__name__} keeps its {count} decoder layers where nobody looks")


def layer_of(model: nn.Module, layer: int) -> nn.Module:
    """Decoder layer 1, 2, ... raises: ValueError for one that the model does not have"""
    layers = layers_of(model)
    if not 1 <= layer <= len(layers):
        raise ValueError(f"layer must be in [1, {len(layers)}], the decoder layers of the model, got {layer}")
    return layers[layer - 1]


@torch.inference_mode()
def states_behind(forward: Any, prompt: Any, texts: Sequence[Sequence[int]]) -> list[tuple[dict[int, Tensor], Tensor]]:
    """What a model has at every token of texts of one prompt: (by watched layer, [n, hidden]; log-probabilities [n]).

    forward: a `forward.Forward`; prompt: what its `prefill` gave, with a plain cache
    log-probabilities: of each token behind what is before it, in nats
    """
    longest = max(map(len, texts))
    rows = [[*text, *[0] * (longest - len(text))] for text in texts]  # what is right of a token does not reach it
    cache = compat.copied_cache(prompt.cache)
    cache.reorder_cache(torch.zeros(len(texts), dtype=torch.long, device=forward.device))
    ids = torch.tensor(rows, dtype=torch.long, device=forward.device)
    logits, _ = forward(ids, cache, reads_all=True)
    states = {layer: found.clone() for layer, found in forward.twin.watched.states.items()}
    before = torch.cat([prompt.logits.expand(len(texts), -1)[:, None], logits[:, :-1]], 1)
    logprobs = torch.stack([row.float().log_softmax(-1).gather(1, own[:, None])[:, 0] for row, own in zip(before, ids)])
    return [
        ({layer: found[row, : len(text)] for layer, found in states.items()}, logprobs[row, : len(text)])
        for row, text in enumerate(texts)
    ]
