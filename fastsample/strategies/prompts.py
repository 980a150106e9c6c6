"""From a question to the token ids that the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .question import Question, Settings
from .time_limit import in_time

TEMPLATE_SECONDS = 10.0  # a template is a program of whoever made the model, and may loop for ever
STEP_BY_STEP = "\n\nThink step by step, then give the final answer after 'Answer:'."


def prompt_for(tokenizer: Any, question: Question, settings: Settings) -> tuple[int, ...]:
    """Token ids of a question's prompt under a run's settings; its own `prompt` where it brings one."""
    if question.prompt is not None:
        return question.prompt
    return prompt_of(
        tokenizer,
        question.text,
        system=settings.system,
        template=settings.prompt_template,
        suffix=settings.suffix,
        history=question.history,
    )


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
    raises: ValueError for an empty question, a template without its place, a turn that is not one, a system prompt or a
            history without a chat template, or a chat template that takes longer than TEMPLATE_SECONDS
    """
    if not callable(tokenizer):
        raise TypeError(
            f"tokenizer must be the model's own, got {type(tokenizer).__name__}; models.load returns both, and a "
            "Question with a prompt of token ids needs none"
        )
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
        text = in_time(
            lambda: tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False),
            TEMPLATE_SECONDS,
            "the tokenizer's chat template",
        )
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])  # the template has written them
    if system or history:
        what = "a system prompt" if system else "earlier turns"
        raise ValueError(f"this tokenizer has no chat template, so there is no place for {what}; leave it out")
    return tuple(tokenizer(text)["input_ids"])


def filled(template: str, **words: str) -> str:
    """The template with each {name} replaced; the words may hold braces of their own."""
    first, *rest = template.split("{")
    parts = [part.partition("}") for part in rest]
    return first + "".join(words[name] + after for name, _, after in parts)


def _turn(turn: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(turn, Mapping) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
        raise ValueError(f'a turn must be {{"role": "user" or "assistant", "content": text}}, got {turn!r}')
    return {"role": turn["role"], "content": turn["content"]}
