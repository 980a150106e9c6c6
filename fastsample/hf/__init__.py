"""At home in Hugging Face's `generate`: logits processors that draw or filter, and a `custom_generate`."""

from .generate import generate
from .processors import FastSampler, PerRowWarper

__all__ = ["FastSampler", "PerRowWarper", "generate"]
