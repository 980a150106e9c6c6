"""What a model and a request must be before anything is started; every refusal says rule, value and remedy."""

from __future__ import annotations

from typing import Any

import torch

from .contract import Case
from .request import Request

CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
NO_LIMIT = 2**31


def check_model(model: Any) -> None:
    """Raise ValueError for an encoder-decoder, a model without a language-model head or one that is spread out."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "forward"):
        raise TypeError(f"model must be a transformers causal language model, got {type(model).__name__}")
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"model must be decoder-only, got the encoder-decoder {type(model).__name__}; use its own generate"
        )
    if model.get_output_embeddings() is None:
        raise ValueError(
            f"model must have a language-model head, got {type(model).__name__}; load it with AutoModelForCausalLM"
        )
    devices = sorted({str(p.device) for p in model.parameters()})
    if len(devices) > 1 or devices == ["meta"]:
        raise ValueError(
            f"model must lie on one device, got {', '.join(devices)}; load it without device_map, then model.to(device)"
        )


def check_request(request: Request, context: int, tokenizer: Any) -> None:
    """Raise ValueError or TypeError for a request that cannot be served."""
    prompt = request.prompt
    if len(prompt) == 0:
        raise ValueError("prompt must have at least one token, got none; begin with the tokenizer's BOS")
    if len(prompt) >= context:
        raise ValueError(
            f"prompt must leave room in the model's context of {context} tokens, got {len(prompt)}; shorten it"
        )
    if request.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {request.max_new_tokens}")
    if not 0 <= request.min_new_tokens <= request.max_new_tokens:
        raise ValueError(
            f"min_new_tokens must be in [0, max_new_tokens = {request.max_new_tokens}], got {request.min_new_tokens}"
        )
    if isinstance(request.stop, str):
        raise TypeError(f"stop must be a tuple of strings, got the string {request.stop!r}; write ({request.stop!r},)")
    if "" in request.stop:
        raise ValueError("stop strings must not be empty, got ''; leave it out")
    if request.stop and tokenizer is None:
        raise ValueError(f"stop strings need the tokenizer, got {request.stop!r} without one; pass the tokenizer")
    row = torch.zeros(1, 2)
    Case.of(
        row,
        request.temperature,
        request.top_k,
        request.top_p,
        request.min_p,
        request.seed,
        [request.stream],
        0,
        None,
    )


def context_length(model: Any) -> int:
    """The number of tokens that the model's positions reach; 2**31 for a model without such a limit."""
    config = model.config.get_text_config(decoder=True)
    for name in CONTEXT_NAMES:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return NO_LIMIT


def eos_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """The token ids that end a text: the generation config's, else the config's, else the tokenizer's."""
    for owner in (getattr(model, "generation_config", None), model.config, tokenizer):
        eos = getattr(owner, "eos_token_id", None)
        if eos is not None:
            return frozenset([eos] if isinstance(eos, int) else eos)
    return frozenset()
