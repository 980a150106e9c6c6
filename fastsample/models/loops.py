"""The loops of `generate`, seen from inside: which of them calls, and what it was given and does not hand on.

A loop tells the logits processors that it calls nothing of itself, and `generate` tells a `custom_generate` nothing of
a streamer: who must know has to look at the callers.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationMixin

LOOPS = {"sample": "_sample", "assisted": "_assisted_decoding", "beams": "_beam_search"}


def decoding_loop() -> tuple[str, Mapping[str, Any]] | None:
    """(a key of LOOPS, local variables) of the loop that calls this code; None where `generate` does not call it."""
    kinds = {name: kind for kind, name in LOOPS.items()}
    frame = _caller(lambda code: code.co_name in kinds)
    return None if frame is None else (kinds[frame.f_code.co_name], frame.f_locals)


def padding_in(names: Mapping[str, Any]) -> Any:
    """How many tokens a loop hides at the left of each row, by its variables: [B], 0 for none, None: not known."""
    given = names["model_kwargs"]
    mask = given.get("attention_mask")
    if mask is None:  # a mask that hides nothing is taken out, in later releases; others never made one for this model
        return 0 if "attention_mask" in given else None
    return (mask.cumsum(1) == 0).sum(1) if mask.dim() == 2 else None


def dropped_by_generate() -> tuple[Any, Any]:
    """(streamer, assistant model) that the `generate` which calls this code was given; it hands neither on."""
    code = inspect.unwrap(GenerationMixin.generate).__code__
    frame = _caller(lambda c: c is code)
    found = {} if frame is None else frame.f_locals
    return found.get("streamer"), found.get("assistant_model")


def _caller(is_it: Callable[[types.CodeType], bool]) -> types.FrameType | None:
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None and not is_it(frame.f_code):
        frame = frame.f_back
    return frame


def unknown_internals() -> list[str]:
    """What this release no longer has under the names that are used here, a sentence each; [] where all is there."""
    sentences = [
        f"transformers has no {name} any more, so a FastSampler does not see which loop calls it"
        for name in LOOPS.values()
        if not hasattr(GenerationMixin, name)
    ]
    given = inspect.signature(GenerationMixin.generate).parameters
    sentences += [
        f"transformers' generate has no {name} any more, so custom_generate does not see one"
        for name in ("streamer", "assistant_model")
        if name not in given
    ]
    return sentences
