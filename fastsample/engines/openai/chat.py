"""A chat as numbers, for servers that put their own template around it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PROBLEM = "this engine sends chats, so a prompt must be made by its own tokenizer; pass tokenizer=engine.tokenizer"


class ChatTokenizer:
    """Stands in for a tokenizer: the "token ids" of a prompt are the bytes of its messages, written as JSON.

    So whoever builds a prompt with a tokenizer builds one for a server that takes messages, too. `messages_of` reads
    them back. What a server's own tokenizer makes of them, it alone knows.
    """

    chat_template = "the server's own"

    def apply_chat_template(self, messages: Iterable[Mapping[str, str]], **_: Any) -> str:
        """The messages as JSON."""
        return json.dumps([dict(m) for m in messages], ensure_ascii=False)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """{"input_ids": the bytes of the text}."""
        return {"input_ids": list(text.encode("utf-8", "replace"))}


def messages_of(prompt: Sequence[int]) -> list[dict[str, str]]:
    """The messages of a prompt of `ChatTokenizer`; raises ValueError for one that was made by another tokenizer."""
    try:
        messages = json.loads(bytes(prompt))
    except (ValueError, TypeError):  # no bytes, no UTF-8, no JSON
        raise ValueError(PROBLEM) from None
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise ValueError(PROBLEM)
    return messages
