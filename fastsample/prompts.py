"""From a question to the token ids that the model reads, and the name of every sample's randomness."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

STEP_BY_STEP = "\n\nThink step by step, then give the final answer after 'Answer:'."


def prompt_of(
    tokenizer: Any,
    question: str,
    *,
    system: str | None = None,
    template: str | None = None,
    suffix: str | None = None,
    history: Sequence[Mapping[str, str]] = (),
) -> tuple[int, ...]:
    """Token ids of the prompt: template, then suffix, then the tokenizer's own chat template where it has one.

    template: text with `{question}` in it; None = the question alone. suffix: text behind it (`STEP_BY_STEP`)
    history:  earlier turns of the chat, {"role": "user" or "assistant", "content": text} each
    raises: ValueError for an empty question, a template without its place, a turn that is not one, or a system prompt
            or a history without a chat template
    """
    if not question.strip():
        raise ValueError("the question is empty")
    if template is not None and "{question}" not in template:
        raise ValueError(f"the prompt template must contain {{question}}, got {template!r}")
    # Not str.format: a question or a template may hold other braces, of LaTeX or code.
    text = (question if template is None else template.replace("{question}", question)) + (suffix or "")
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "system", "content": system}] if system else []
        messages += [_turn(turn) for turn in history]
        messages.append({"role": "user", "content": text})
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        return tuple(int(i) for i in ids)
    if system or history:
        what = "a system prompt" if system else "earlier turns"
        raise ValueError(f"this tokenizer has no chat template, so there is no place for {what}; leave it out")
    return tuple(tokenizer(text)["input_ids"])


def _turn(turn: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(turn, Mapping) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
        raise ValueError(f'a turn must be {{"role": "user" or "assistant", "content": text}}, got {turn!r}')
    return {"role": turn["role"], "content": turn["content"]}


def stream_of(prompt: Sequence[int], temperature: float, k: int) -> int:
    """The random stream of sample k at this temperature: 63 bits, fixed by what is sampled and by nothing else."""
    body = struct.pack(f"<{len(prompt)}qdq", *prompt, temperature, k)
    return int.from_bytes(blake2b(body, digest_size=8).digest(), "little") >> 1


def plan_of(temperatures: Sequence[float], samples: int) -> list[tuple[float, int]]:
    """[(temperature, k)] by sample number: one of each temperature in turn; temperature 0 once, it has one text.

    samples: how many of each temperature above 0
    raises: ValueError for no temperature, a negative one, one twice, or samples < 1
    """
    if not temperatures:
        raise ValueError("temperatures must name at least one; (0, 0.4, 0.8, 1.2) is the default")
    for t in temperatures:
        if not 0 <= t < float("inf"):
            raise ValueError(f"a temperature must be a finite number of at least 0, got {t}")
    if len(set(temperatures)) < len(temperatures):
        raise ValueError(
            f"a temperature is named twice in {tuple(temperatures)}; raise `samples` to draw it more often"
        )
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}; it is the number of samples of each temperature")
    return [(float(t), k) for k in range(samples) for t in temperatures if t > 0 or k == 0]
