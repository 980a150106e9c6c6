"""Listening: where, with which key, and until when."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from ..engines.base import Engine
from ..engines.openai.keys import OWN_KEY_VARIABLE, key_from_environment
from .asked import Limits

# Seconds that an idle connection is kept. Clients made of httpx, as the package openai is, keep theirs for 5, which is
# uvicorn's own limit too: where both end at once, a request meets a closed connection.
KEPT = 75
GRACE = 30  # seconds that open requests have once the server is told to end


def key_for(host: str) -> str | None:
    """The key that clients must send; raises ValueError where others can reach the host and there is none."""
    key = key_from_environment(OWN_KEY_VARIABLE)
    if key is None and not is_loopback(host):
        raise ValueError(
            f"{host} can be reached from other machines, so clients must send a key; set {OWN_KEY_VARIABLE} to one"
        )
    return key


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address_of(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises ValueError where it cannot."""
    if not 0 <= port < 1 << 16:
        raise ValueError(f"--port must be from 0 to 65535, got {port}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValueError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from None


def listen(
    engine: Engine,
    tokenizer: Any,
    at: socket.socket,
    *,
    name: str,
    key: str | None,
    most: int,
    max_samples: int,
    max_tokens: int,
    say: Callable[[str], None],
) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    import uvicorn

    from .app import LOOPBACK, Service

    host, port = at.getsockname()[:2]
    service = Service(
        engine,
        tokenizer,
        model=name,
        key=key,
        most=most,
        limits=Limits(samples=max_samples, max_tokens=max_tokens),
        hosts=LOOPBACK if is_loopback(host) and key is None else None,
    )
    config = uvicorn.Config(
        service.app, log_level="warning", timeout_graceful_shutdown=GRACE, timeout_keep_alive=KEPT, server_header=False
    )
    shown = f"[{host}]" if ":" in host else host
    say(f"{name} at http://{shown}:{port}/v1, a page that shows votes at http://{shown}:{port}/")
    uvicorn.Server(config).run(sockets=[at])
