"""What a caller may call a prompt, as token ids: a text, a chat, or the ids themselves; one of them or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

WHAT = "a text, a chat (a list of {'role': ..., 'content': ...}), token ids, or a list of these"


def prompts_of(tokenizer: Any, prompts: Any) -> list[tuple[int, ...]]:
    """Token ids of every prompt.

    prompts: a text, a chat, token ids (a list or a tensor [L]), a list of these, a tensor [P, L] without padding, or
             what a tokenizer returns: {"input_ids": [P, L], "attention_mask": [P, L]}
    A text is read as it stands; a chat is put into the tokenizer's template, with the place for an answer at its end.

    raises: ValueError or TypeError for what is none of them, with the number of the prompt
    """
    if isinstance(prompts, Mapping) and "input_ids" in prompts:
        return _encoded(prompts)
    if isinstance(prompts, torch.Tensor):
        prompts = prompts.tolist()
    if isinstance(prompts, str) or _is_chat(prompts) or _is_ids(prompts):
        prompts = [prompts]
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes):
        raise TypeError(f"prompts must be {WHAT}, got {type(prompts).__name__}")
    if not prompts:
        raise ValueError(f"prompts must be {WHAT}, got an empty one; name one prompt at least")
    return [_one(tokenizer, prompt, number) for number, prompt in enumerate(prompts)]


def _one(tokenizer: Any, prompt: Any, number: int) -> tuple[int, ...]:
    if isinstance(prompt, torch.Tensor):
        prompt = prompt.tolist()
    if _is_ids(prompt):
        return tuple(prompt)
    is_chat = _is_chat(prompt)
    if not is_chat and not isinstance(prompt, str):
        raise TypeError(f"prompt {number} must be a text, a chat or token ids, got {_shown(prompt)}")
    if tokenizer is None:
        raise ValueError(f"prompt {number} must be token ids where tokenizer is None, got {_shown(prompt)}; pass one")
    if not is_chat:
        ids = tokenizer(prompt)["input_ids"]
    elif not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"prompt {number} is a chat, and this tokenizer has no chat template; write it as a text")
    else:
        text = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has written them
    if not ids:
        raise ValueError(f"prompt {number} must have one token at least, got {_shown(prompt)}; begin with the BOS")
    return tuple(ids)


def _encoded(prompts: Mapping[str, Any]) -> list[tuple[int, ...]]:
    rows = torch.as_tensor(prompts["input_ids"])
    mask = torch.as_tensor(prompts.get("attention_mask", torch.ones_like(rows)))
    if rows.dim() != 2 or mask.shape != rows.shape:
        raise ValueError(
            f"input_ids and attention_mask must be [P, L], got {tuple(rows.shape)} and {tuple(mask.shape)}; "
            "call the tokenizer on a list, with return_tensors='pt' and padding=True"
        )
    return [tuple(row[keep].tolist()) for row, keep in zip(rows, mask.bool())]


def _is_ids(prompt: Any) -> bool:
    is_list = isinstance(prompt, Sequence) and not isinstance(prompt, str | bytes)
    return is_list and len(prompt) > 0 and all(isinstance(token, int) for token in prompt)


def _is_chat(prompt: Any) -> bool:
    is_list = isinstance(prompt, Sequence) and not isinstance(prompt, str | bytes)
    return is_list and len(prompt) > 0 and all(isinstance(turn, Mapping) and "role" in turn for turn in prompt)


def _shown(prompt: Any) -> str:
    text = repr(prompt)
    return text if len(text) <= 60 else text[:57] + "..."
