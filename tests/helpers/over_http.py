"""What tests of samples over HTTP ask for, and the engine that asks."""

from __future__ import annotations

from contextlib import contextmanager

from fastsample.engines.base import Request
from fastsample.engines.openai.chat import ChatTokenizer
from fastsample.engines.openai.engine import ServerEngine
from fastsample.engines.openai.pool import Patience

QUICK = Patience(connect=2, idle=0.3, retries=20, again=(0.001, 0.01), rest=(0.02, 0.1))


def prompt_of(text="2 + 2?"):
    tokenizer = ChatTokenizer()
    return tuple(tokenizer(tokenizer.apply_chat_template([{"role": "user", "content": text}]))["input_ids"])


def request(**changes):
    return Request(changes.pop("prompt", prompt_of()), **({"max_new_tokens": 20} | changes))


@contextmanager
def over(*servers, **settings):
    with ServerEngine([s.url for s in servers], **({"patience": QUICK} | settings)) as engine:
        yield engine
