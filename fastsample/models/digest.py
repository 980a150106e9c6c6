"""A model told from another one by its weights."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import torch

from .states import layer_of, layers_of


@torch.inference_mode()
def digest_of(model: Any, layer: int | None = None) -> str:
    """Of the weights of the first decoder layer and of layer `layer`, None the last one, as hexadecimal digits.

    Weights are taken as bfloat16: the same model in float32, and in the bfloat16 that it is stored in, has one digest.
    raises: ValueError for a layer that the model does not have
    """
    last = layer_of(model, len(layers_of(model)) if layer is None else layer)
    found = sha256()
    for module in (layer_of(model, 1), last):
        for name, weight in module.named_parameters():
            found.update(f"{name} {list(weight.shape)}".encode())
            found.update(weight.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return found.hexdigest()
