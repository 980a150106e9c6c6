"""fastsample's own server on a free port, in a thread, over a tiny model or any other engine."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import bigram


class Served:
    """url, service, engine"""


@contextmanager
def serving(engine, tokenizer, **settings):
    import uvicorn

    from fastsample.serving.app import Service
    from fastsample.serving.run import KEPT, address_of

    served = Served()
    socket = address_of("127.0.0.1", 0)
    served.engine, served.url = engine, f"http://127.0.0.1:{socket.getsockname()[1]}"
    served.port = socket.getsockname()[1]
    served.service = Service(engine, tokenizer, **({"model": "tiny"} | settings))
    config = uvicorn.Config(
        served.service.app, log_level="warning", timeout_graceful_shutdown=2, timeout_keep_alive=KEPT
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield served
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def local(transitions=bigram.SEVEN_TO_THREE, slots=16, context=512):
    from fastsample.engines.local.engine import LocalEngine

    tokenizer = bigram.bigram_tokenizer()
    return LocalEngine(bigram.bigram_model(tokenizer, transitions, context), tokenizer, slots=slots), tokenizer
