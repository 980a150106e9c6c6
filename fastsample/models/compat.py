"""Everything that differs between the releases of transformers, found by looking at what is there.

No version number is compared anywhere, and no other file of the package knows one of transformers' argument names. What
differs between 5.0 and the newest release, and since when, is listed in docs/compatibility.md.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AttentionInterface, Cache, DynamicCache, cache_utils

# The argument that a cache is given by, and the field that it comes back in: `cache` from 5.24 on, before it
# `past_key_values`, and `cache_params` for recurrent models.
CACHE_NAMES = ("cache", "past_key_values", "cache_params")


class UnknownModelError(ValueError):
    """The model's class has an interface that this package does not know; the message says which part."""


# --- the forward pass ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signature:
    """By which names a model's forward pass is called.

    cache:           the argument and output field of the cache
    takes_positions: whether it can be told the positions of the tokens
    options:         further arguments: a dictionary comes back, and the last position's logits only where that can be
    """

    cache: str
    takes_positions: bool
    options: Mapping[str, Any]

    @classmethod
    def of(cls, model: Any) -> Signature:
        """Read from the signature of `model.forward`. raises: UnknownModelError where no cache can be given"""
        names = inspect.signature(model.forward).parameters
        cache = next((name for name in CACHE_NAMES if name in names), None)
        if cache is None:
            raise UnknownModelError(
                f"{type(model).__name__} takes its cache by a name that this package does not know "
                f"({', '.join(CACHE_NAMES)} are known)"
            )
        return cls(cache, "position_ids" in names, {"use_cache": True, **_options(names)})

    @property
    def is_recurrent(self) -> bool:
        """Whether the model's cache is not one of K/V, by its name; later releases have one name for all."""
        return self.cache == "cache_params"

    def call(
        self, model: Any, ids: Any, cache: Any, positions: Any = None, *, reads_all: bool = False
    ) -> tuple[Any, Any]:
        """(logits of the last position [B, V] or of all [B, n, V], the cache that came back); positions [B, n]."""
        more = {} if positions is None or not self.takes_positions else {"position_ids": positions}
        options = _of_all(self.options) if reads_all else self.options
        out = model(input_ids=ids, **{self.cache: cache}, **options, **more)
        return out.logits if reads_all else out.logits[:, -1], getattr(out, self.cache, None)


def last_logits(model: Any, ids: Any) -> Any:
    """[B, V]: the logits after the last token of ids [B, n], read as a whole and without a cache."""
    options = _options(inspect.signature(model.forward).parameters)
    return model(input_ids=ids, use_cache=False, **options).logits[:, -1]


def all_logits(model: Any, ids: Any) -> Any:
    """[B, n, V]: the logits after each token of ids [B, n], read as a whole and without a cache."""
    options = _of_all(_options(inspect.signature(model.forward).parameters))
    return model(input_ids=ids, use_cache=False, **options).logits


def _options(names: Mapping[str, Any]) -> dict[str, Any]:
    return {"return_dict": True} | ({"logits_to_keep": 1} if "logits_to_keep" in names else {})


def _of_all(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "logits_to_keep"}  # without it: all positions


# --- attention -------------------------------------------------------------------------------------------------------


def attention_of(config: Any) -> str | None:
    """The name of the attention implementation that a config has chosen."""
    return getattr(config, "_attn_implementation", None)


def drops_softcap(config: Any) -> bool:
    """Whether the config's attention implementation leaves out soft-capping, as sdpa does (Gemma 2's up to 5.20)."""
    attend = AttentionInterface().get(attention_of(config))
    return attend is not None and "softcap" not in inspect.signature(attend).parameters


def set_attention(config: Any, name: str | None) -> None:
    """Let a config, and those inside it, name another attention implementation.

    raises: UnknownModelError where the config does not keep it
    """
    if attention_of(config) == name:
        return
    config._attn_implementation = name
    if attention_of(config) != name:
        raise UnknownModelError(f"{type(config).__name__} does not take another attention implementation")


# --- caches ----------------------------------------------------------------------------------------------------------


class _EmptyLayer:
    """Stands in a cache for a layer without K/V of its own; later releases bring one, `DummyLayer`."""

    is_compileable = is_croppable = True
    is_sliding = supports_early_init = False
    is_initialized = True
    keys = values = None

    def get_seq_length(self, *_: Any) -> int:
        return 0

    def get_max_length(self, *_: Any) -> int:
        return -1

    get_max_cache_shape = get_max_length

    def _nothing(self, *_: Any, **__: Any) -> None:
        return None

    offload = prefetch = reset = crop = reorder_cache = batch_repeat_interleave = batch_select_indices = _nothing


EmptyLayer: Any = getattr(cache_utils, "DummyLayer", _EmptyLayer)


def plain_cache(model: Any) -> Any:
    """An empty cache of the model's own layer types."""
    config = model.config.get_text_config(decoder=True)
    cache = DynamicCache(config=config)
    kinds = getattr(config, "layer_types", None)
    if kinds and not cache.layers:  # a slice `kinds[:-n]`, in some releases, loses all where n, of shared layers, is 0
        config = copy.copy(config)
        config.num_kv_shared_layers = -len(kinds)
        cache = DynamicCache(config=config)
    return cache


def is_plain_attention(layer: Any) -> bool:
    """Whether a cache layer holds K/V of full or sliding attention and nothing else, or nothing at all.

    Recurrent states (Mamba, linear attention) are built for one prefill followed by single tokens.
    """
    if isinstance(layer, EmptyLayer):
        return True
    is_attention = hasattr(layer, "keys") and hasattr(layer, "get_mask_sizes")
    return is_attention and not any(
        hasattr(layer, name) for name in ("conv_states", "recurrent_states", "update_indexer", "_quantize")
    )


def copied_cache(cache: Any) -> Any:
    """A cache of its own over the same K/V: what is done to it leaves the other as it was.

    Layers of attention put new tensors into the place of old ones, so that theirs are shared; whatever else a cache
    holds is written to in place, and copied.
    """
    layers = getattr(cache, "layers", None)
    if not isinstance(layers, list) or not layers:
        return copy.deepcopy(cache)
    copied = copy.copy(cache)
    copied.layers = [copy.copy(x) if is_plain_attention(x) else copy.deepcopy(x) for x in layers]
    return copied


def cut_cache(cache: Any, length: int) -> Any:
    """A copy of a cache of one row with its first `length` tokens; None where it cannot be cut, as with a window."""
    copied = copied_cache(cache)
    for layer in copied.layers if isinstance(getattr(copied, "layers", None), list) else (None,):
        if layer is None or not is_plain_attention(layer) or window_of(layer) is not None:
            return None
        if not holds_nothing(layer):
            layer.keys, layer.values = (t[:, :, :length].clone() for t in (layer.keys, layer.values))
    return copied


def holds_nothing(layer: Any) -> bool:
    """Whether a layer of a prefilled cache has no K/V of its own."""
    return isinstance(layer, EmptyLayer) or getattr(layer, "keys", None) is None


def window_of(layer: Any) -> int | None:
    """A cache layer's sliding window in tokens; None where it keeps everything."""
    return getattr(layer, "sliding_window", None)


def number_of_queries(given: Any) -> int:
    """What `get_mask_sizes` is told: the number of new tokens, or (5.0 to 5.4) a tensor with their positions."""
    return given if isinstance(given, int) else int(given.shape[0])


def is_filled(cache: Any) -> bool:
    """Whether a cache that `generate` was given holds tokens already."""
    return any(
        getattr(layer, "is_initialized", False) for layer in getattr(cache, "layers", ()) if not holds_nothing(layer)
    )


# --- configs ---------------------------------------------------------------------------------------------------------


def attention_kinds(config: Any) -> set[str]:
    """The kinds of attention that a text config names, such as full_attention; chunks without a name included."""
    kinds = set(getattr(config, "layer_types", None) or ())
    return kinds or ({"chunked_attention"} if getattr(config, "attention_chunk_size", None) else set())


def kv_layers(config: Any) -> list[tuple[int, int | None]]:
    """(numbers of K and V a token, sliding window or None) of each layer that keeps K/V of its own."""
    count = config.num_hidden_layers
    each = getattr(config, "per_layer_config", None) or [config] * count  # heads and widths may differ by layer
    types = getattr(config, "layer_types", None)
    reuse = getattr(config, "kv_sharing_modes", None)
    if reuse is None:  # before it had a name of its own, the last layers shared
        shared = getattr(config, "num_kv_shared_layers", None) or 0
        reuse = [None] * (count - shared) + ["reuse"] * shared
    layers = []
    for i, layer in enumerate(each):
        window = getattr(layer, "sliding_window", None)
        kind = types[i] if types else ("sliding_attention" if window else "full_attention")
        if "attention" not in kind or kind == "linear_attention" or reuse[i] == "reuse":
            continue
        heads, width = _heads(layer, config, kind)
        layers.append((2 * heads * width, window if kind == "sliding_attention" else None))
    return layers


def _heads(layer: Any, config: Any, kind: str) -> tuple[int, int]:
    """Key heads and their width; before `per_layer_config` a config named those of full layers apart."""
    heads, width = getattr(layer, "num_key_value_heads", None), getattr(layer, "head_dim", None)
    if layer is config and kind == "full_attention":
        width = getattr(config, "global_head_dim", None) or width
        if getattr(config, "attention_k_eq_v", False):
            heads = getattr(config, "num_global_key_value_heads", None) or heads
    return heads or layer.num_attention_heads, width or layer.hidden_size // layer.num_attention_heads


# --- generate --------------------------------------------------------------------------------------------------------

# What `generate` hands to a `custom_generate` and what it prepares for its own loop; none of it changes a token.
PREPARED = ("use_cache", "logits_to_keep", "position_ids", "cache_position", "next_sequence_length")


def split_arguments(given: dict[str, Any]) -> tuple[Any, list[Any], dict[str, Any]]:
    """(attention mask or None, caches, what is left) of the arguments that a `custom_generate` was called with."""
    left = {k: v for k, v in given.items() if v is not None and k not in (*PREPARED, "attention_mask")}
    caches = {k: v for k, v in left.items() if k in CACHE_NAMES or isinstance(v, Cache)}
    return given.get("attention_mask"), list(caches.values()), {k: v for k, v in left.items() if k not in caches}


def padding_of(config: Any) -> int:
    """The token id that `generate` fills a row with behind its end; 0 where there is none."""
    pad = getattr(config, "_pad_token_tensor", None)
    pad = getattr(config, "pad_token_id", None) if pad is None else pad
    return 0 if pad is None else int(pad)


def asks_for_prompt_lookup(config: Any) -> bool:
    """Whether a generation config asks for assisted decoding by looking tokens up in the prompt."""
    return getattr(config, "prompt_lookup_num_tokens", None) is not None


# --- GGUF ------------------------------------------------------------------------------------------------------------


def unpack_options() -> dict[str, Any]:
    """Arguments that make `from_pretrained` unpack a .gguf file; later releases keep its blocks packed otherwise."""
    import transformers

    known: Any = getattr(transformers, "GgufConfig", None)
    return {} if known is None else {"quantization_config": known(dequantize=True)}


def forget_packing(model: Any) -> None:
    """Take off what a model read from a .gguf file still says of its packed blocks: it could not be saved with it."""
    if hasattr(model, "hf_quantizer"):
        model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


@contextlib.contextmanager
def without_unpacking_bar() -> Iterator[None]:
    """No progress bar while a .gguf file is unpacked: the one bar that none of transformers' switches reaches."""
    try:
        module: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
        bar = module.tqdm
    except (ImportError, AttributeError):
        yield
        return
    module.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar
