"""Which runner can serve a model: the layer types are asked, then the runner is tried against the model itself.

The ladder: a shared prefix; one prefill and a copied cache; the whole text read again. A runner is taken only if a few
tokens of ragged rows over two prompts come out as they do when the model reads each full sequence alone. Whoever is
served below the first rung is told so, once.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ... import fallback
from ...models import compat
from ...models.attention import SharingError
from ...models.config import vocabulary
from ...models.twin import Twin
from ...torch_ops import onednn
from .graphed import GraphedRunner
from .runners import ExpandedCacheRunner, RecomputeRunner, Runner, SharedPrefixRunner

LADDER = (SharedPrefixRunner, ExpandedCacheRunner, RecomputeRunner)
# The largest difference that passes, as a share of the range of the logits: attention that misses the prefix is off by
# more than a tenth, rounding by 1e-6.
TOLERANCE = 1e-3
# In bfloat16 and float16 single logits are off by as much through rounding alone, so that the root mean square counts,
# as a share of that of the logits. In bfloat16: SmolLM2-135M 0.1, forty tiny architectures 0.01 (one whose experts flip
# 0.2); all of them with the tail alone 0.7 to 2.
LOW_PRECISION = 0.4

_objections: weakref.WeakKeyDictionary[Any, dict[type, str | None]] = weakref.WeakKeyDictionary()
_told: weakref.WeakSet[Any] = weakref.WeakSet()


@dataclass(frozen=True)
class Service:
    """How a model is served.

    name:   of the runner: shared-prefix, expanded-cache or recompute
    reason: None for the best; else one sentence: which runner, why no better one, what it costs
    """

    name: str
    reason: str | None
    kind: type


def service_for(model: Any) -> Service:
    """How this model will be served; nothing is generated but a few trial tokens, and the answer is kept per model."""
    refused = []
    for kind in LADDER:
        why = None if kind is RecomputeRunner else objection(model, kind)
        if why is None:
            break
        refused.append(why)
    if not refused:
        return Service(kind.name, None, kind)
    name = type(model).__name__
    return Service(kind.name, f"{name} is served by {kind.name}: {kind.cost}; the reason: {'; '.join(refused)}", kind)


def runner_for(model: Any, *, prepack: bool = False) -> Runner:
    """The first runner of the ladder without an objection; prepack as in `torch_ops.onednn`.

    warns: fallback.FallbackWarning, once for a model, where it is not the first
    """
    service = service_for(model)
    if service.reason is not None and model not in _told:
        has_been_told(model)
        fallback.warn(service.reason)
    is_graphed = service.kind is SharedPrefixRunner and model.device.type == "cuda"
    runner: Runner = (GraphedRunner if is_graphed else service.kind)(model, prepack=prepack)
    return runner


def has_been_told(model: Any) -> None:
    """Somebody has told the user by other words than a warning how this model is served: no warning will follow."""
    _told.add(model)


def why_not(model: Any) -> str | None:
    """Why this model cannot share a prefix, in one sentence; None if it can. The answer is kept per model."""
    return objection(model, SharedPrefixRunner)


def objection(model: Any, kind: type) -> str | None:
    """Why a runner cannot serve the model, or None. The first call takes a few forward passes over a few tokens."""
    known = _objections.setdefault(model, {})
    if kind not in known:
        known[kind] = (unshareable(model) if kind is SharedPrefixRunner else None) or _disagreement(model, kind)
    return known[kind]


def unshareable(model: Any) -> str | None:
    """What can be seen, without running the model, that keeps it from sharing a prefix; None where nothing can.

    The model may lie on the meta device.
    """
    name = type(model).__name__
    try:
        compat.Signature.of(model)
    except compat.UnknownModelError as error:
        return str(error)
    if "chunked_attention" in compat.attention_kinds(model.config.get_text_config(decoder=True)):
        return f"{name} attends in chunks, and a chunk's border may lie inside the prefix"
    try:
        layers = compat.plain_cache(model).layers
    except Exception as error:  # of transformers, about a config that it cannot make a cache for
        return f"transformers has no plain cache for {name}: {_first_line(error)}"
    odd = sorted({type(layer).__name__ for layer in layers if not compat.is_plain_attention(layer)})
    if odd:
        return f"{name} keeps {', '.join(odd)}, and only full and sliding attention can share a prefix"
    return None


@torch.inference_mode()
def _disagreement(model: Any, kind: Any) -> str | None:
    """Two rows of one prompt, and two steps later one row of another: every logit against the full sequences."""
    vocab = vocabulary(model)
    prompts = [[(7 * i + 3) % vocab for i in range(9)], [(5 * i + 11) % vocab for i in range(6)]]
    rows = [[*prompts[0], 4 % vocab], [*prompts[0], 9 % vocab], [*prompts[1], 8 % vocab]]
    name, runner = type(model).__name__, None
    try:
        runner = kind(model)
        prefixes = [runner.prefill(p, 4, None) for p in prompts]
        got = [prefixes[0].logits[0], prefixes[1].logits[0]]
        texts = [tuple(p) for p in prompts]
        runner.add(prefixes[0], 2)
        for step in range(4):
            if step == 2:
                runner.add(prefixes[1], 1)
            alive = rows[: 2 if step < 2 else 3]
            logits = runner.step(torch.tensor([row[-1] for row in alive]))
            got += list(logits)
            texts += [tuple(row) for row in alive]
            for row in alive:
                row.append((3 * row[-1] + step) % vocab)
        alone = Twin(model, is_fast=False).model  # in eval mode, whatever mode the model is in
        want = [_whole(alone, text) for text in texts]
    except torch.cuda.OutOfMemoryError:
        raise
    except (SharingError, compat.UnknownModelError) as error:
        return str(error)
    except Exception as error:
        if kind is SharedPrefixRunner and (runner is None or runner.cache is None or not runner.cache.has_been_asked):
            return f"{name} does not go through transformers' attention interface ({_first_line(error)})"
        return f"{name} failed under {kind.name}: {_first_line(error)}"
    a, b = torch.stack(got).float(), torch.stack(want).float()
    if want[0].dtype in (torch.float32, torch.float64) and not _is_rounded(b):
        off, size, allowed = (a - b).abs().max(), b.max() - b.min(), TOLERANCE
    else:
        spread = b - b.mean(1, keepdim=True)
        off, size, allowed = (a - b).square().mean().sqrt(), spread.square().mean().sqrt(), LOW_PRECISION
    if off <= allowed * size:  # written so that NaN fails, and so that logits that are all equal may be so
        return None
    return f"{name} comes out different under {kind.name}: by {float(off / size):.1g} of the size of its logits"


def _is_rounded(logits: torch.Tensor) -> bool:
    """Whether float32 logits were computed in fewer bits: mixed precision hands them out as float32 in the end."""
    return any(torch.equal(logits, logits.to(dtype).float()) for dtype in (torch.bfloat16, torch.float16))


def _whole(model: Any, text: Sequence[int]) -> torch.Tensor:
    ids = torch.tensor([list(text)], device=model.get_input_embeddings().weight.device)
    return compat.last_logits(model, ids)[0]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def warn_of_rounding(model: Any) -> None:
    """Tell where packed weights do not keep their promise, that a text is the same in any batch."""
    if onednn.why_not(model) is None and not onednn.rounds_alike(model.dtype):
        fallback.warn(
            "prepack promises the same bits in any batch, and this torch rounds a row differently in small ones: "
            "a text may differ between batches where two tokens are nearly tied; torch 2.13 does not"
        )
