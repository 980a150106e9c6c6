"""One prompt's K/V, stored once, and a tail per sample."""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def plain_cache(model: Any) -> tuple[Any, bool]:
    """An empty cache of the model's own layer types, and whether a prompt can be fed to it in blocks.

    Recurrent states (Mamba, linear attention) are built for one prefill followed by single tokens.
    """
    config = model.config.get_text_config(decoder=True)
    cache = DynamicCache(config=config)
    return cache, bool(cache.layers) and all(isinstance(layer, DynamicLayer) for layer in cache.layers)
