"""Which engine can serve a model: the layer types are asked, then the engine is tried against the model itself.

The ladder: a shared prefix; one prefill and a copied cache; the whole text read again. An engine is taken only if a few
tokens of ragged rows over two prompts come out as they do when the model reads each full sequence alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch

from .engine import Engine, ExpandedEngine, RepeatedEngine, SharedEngine
from .prefix_cache import SHAREABLE, plain_cache

LADDER = (SharedEngine, ExpandedEngine, RepeatedEngine)
# The largest difference that passes, as a share of the range of the logits: attention that misses the prefix is off by
# more than a tenth, rounding by 1e-6.
TOLERANCE = 1e-3
# In bfloat16 and float16 single logits are off by as much through rounding alone, so that the root mean square counts,
# as a share of that of the logits. In bfloat16: SmolLM2-135M 0.1, forty tiny architectures 0.01 (one whose experts flip
# 0.2); all of them with the tail alone 0.7 to 2.
LOW_PRECISION = 0.4

_objections: weakref.WeakKeyDictionary[Any, dict[type, str | None]] = weakref.WeakKeyDictionary()


def engine_for(model: Any, *, prepack: bool = False) -> Engine:
    """The first engine of the ladder without an objection; prepack as in `fastsample.linear`."""
    for kind in LADDER[:-1]:
        if objection(model, kind) is None:
            return kind(model, prepack=prepack)
    return RepeatedEngine(model, prepack=prepack)


def why_not(model: Any) -> str | None:
    """Why this model cannot share a prefix, in one sentence; None if it can. The answer is kept per model."""
    return objection(model, SharedEngine)


def objection(model: Any, kind: type) -> str | None:
    """Why an engine cannot serve the model, or None. The first call takes a few forward passes over a few tokens."""
    known = _objections.setdefault(model, {})
    if kind not in known:
        known[kind] = (_unshareable(model) if kind is SharedEngine else None) or _disagreement(model, kind)
    return known[kind]


def _unshareable(model: Any) -> str | None:
    name = type(model).__name__
    config = model.config.get_text_config(decoder=True)
    types = set(getattr(config, "layer_types", None) or ())
    if "chunked_attention" in types or (not types and getattr(config, "attention_chunk_size", None)):
        return f"{name} attends in chunks, and a chunk's border may lie inside the prefix"
    odd = sorted({type(layer).__name__ for layer in plain_cache(model)[0].layers if type(layer) not in SHAREABLE})
    if odd:
        return f"{name} keeps {', '.join(odd)}, and only full and sliding attention can share a prefix"
    if not model._can_set_attn_implementation():
        return f"{name} does not go through transformers' attention interface"
    return None


@torch.inference_mode()
def _disagreement(model: Any, kind: Any) -> str | None:
    """Two rows of one prompt, and two steps later one row of another: every logit against the full sequences."""
    vocab = model.get_input_embeddings().weight.shape[0]
    prompts = [[(7 * i + 3) % vocab for i in range(9)], [(5 * i + 11) % vocab for i in range(6)]]
    rows = [[*prompts[0], 4 % vocab], [*prompts[0], 9 % vocab], [*prompts[1], 8 % vocab]]
    name = type(model).__name__
    was_training = model.training
    model.eval()
    try:
        engine = kind(model)
        prefixes = [engine.prefill(p, 4, None) for p in prompts]
        got = [prefixes[0].logits[0], prefixes[1].logits[0]]
        texts = [tuple(p) for p in prompts]
        engine.add(prefixes[0], 2)
        for step in range(4):
            if step == 2:
                engine.add(prefixes[1], 1)
            alive = rows[: 2 if step < 2 else 3]
            logits = engine.step(torch.tensor([row[-1] for row in alive], device=engine.device))
            got += list(logits)
            texts += [tuple(row) for row in alive]
            for row in alive:
                row.append((3 * row[-1] + step) % vocab)
        want = [_alone(model, text) for text in texts]
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        return f"{name} failed under {kind.__name__}: {_first_line(error)}"
    finally:
        model.train(was_training)
    a, b = torch.stack(got).float(), torch.stack(want).float()
    if want[0].dtype in (torch.float32, torch.float64):
        off, size, allowed = (a - b).abs().max(), b.max() - b.min(), TOLERANCE
    else:
        spread = b - b.mean(1, keepdim=True)
        off, size, allowed = (a - b).square().mean().sqrt(), spread.square().mean().sqrt(), LOW_PRECISION
    if off <= allowed * size:  # written so that NaN fails, and so that logits that are all equal may be so
        return None
    return f"{name} comes out different under {kind.__name__}: by {float(off / size):.1g} of the size of its logits"


def _alone(model: Any, text: Sequence[int]) -> torch.Tensor:
    ids = torch.tensor([list(text)], device=model.get_input_embeddings().weight.device)
    return model(input_ids=ids, use_cache=False, return_dict=True).logits[0, -1]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
