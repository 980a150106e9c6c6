"""What a model is and how far it reaches, read from its config."""

from __future__ import annotations

from typing import Any

from ..torch_ops.writes import writes_of

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


def context_length(model: Any) -> int:
    """The number of tokens that the model's positions reach; NO_LIMIT for a model without such a limit."""
    config = model.config.get_text_config(decoder=True)
    for name in CONTEXT_NAMES:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return NO_LIMIT


def vocabulary(model: Any) -> int:
    """The number of token ids that the model can read."""
    return int(model.get_input_embeddings().weight.shape[0])


def weights_version(model: Any) -> tuple[tuple[int, tuple[int, int]], ...]:
    """Changes whenever a parameter was replaced or written to in place, as an optimizer does; `writes_of` says which
    writes nobody counts."""
    return tuple((id(p), writes_of(p)) for p in model.parameters())


def eos_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """The token ids that end a text: the generation config's, else the config's, else the tokenizer's."""
    for owner in (getattr(model, "generation_config", None), model.config, tokenizer):
        eos = getattr(owner, "eos_token_id", None)
        if eos is not None:
            return frozenset([eos] if isinstance(eos, int) else eos)
    return frozenset()
