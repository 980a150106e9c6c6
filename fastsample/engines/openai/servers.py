"""A server as a user names it, and how it is spoken of without its key."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .keys import KEY_VARIABLE, key_from_environment

KINDS = ("auto", "vllm", "sglang", "llama.cpp", "openai")
MOST_WORDS = 300  # of a server's own words in a sentence of ours


class ServerError(ValueError):
    """A server cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server.

    url:   http://host:8000, with or without /v1 at its end
    model: the name that the server knows it by; None takes the only one that it serves
    key:   an API key; None takes the environment variable FASTSAMPLE_API_KEY. It is written nowhere
    slots: samples that are asked of it at once
    kind:  "vllm", "sglang", "llama.cpp", "openai" (any other); "auto" asks the server

    raises: ServerError for a URL, a number or a kind that there is not
    """

    url: str
    model: str | None = None
    key: str | None = field(default=None, repr=False)
    slots: int = 64
    kind: str = "auto"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise ServerError(f"a server's URL must hold no password; set {KEY_VARIABLE} to the key instead")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(f"a server must be a URL such as http://127.0.0.1:8000, got {self.url!r}")
        if parts.query or parts.fragment:
            raise ServerError(f"a server's URL must end with its path, got {self.url!r}; leave out what follows ? or #")
        if self.slots < 1:
            raise ServerError(f"a server's slots must be at least 1, got {self.slots}; 64 is the default")
        if self.kind not in KINDS:
            raise ServerError(f"a server's kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        object.__setattr__(self, "url", self.url.rstrip("/").removesuffix("/v1"))
        key = key_from_environment() if self.key is None else self.key
        if key is not None and (not key.isascii() or not key.isprintable() or " " in key):
            raise ServerError(f"an API key must be one word of ASCII; look at {KEY_VARIABLE}")
        object.__setattr__(self, "key", key or None)

    @property
    def headers(self) -> dict[str, str]:
        """What every request to it carries."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def words(self, text: str) -> str:
        """What a server said, on one short line and without the key."""
        line = " ".join(text.split())
        if self.key:
            line = line.replace(self.key, "***")
        return line if len(line) <= MOST_WORDS else line[: MOST_WORDS - 3] + "..."
