"""Math-Verify behind a wall: LaTeX answers are parsed by a child process that is ended when it takes too long.

Math-Verify's own time limit is an alarm signal, which works in the main thread alone; and what a model writes can keep
a computer algebra system busy for ever (9**9**9**9). The child gets one JSON line a question, has a memory limit, and
is started again after it had to be ended. Needs the package math-verify.
"""

from __future__ import annotations

import atexit
import json
import queue
import subprocess
import sys
import threading
from typing import Any

SECONDS = 5.0
START_SECONDS = 60.0  # importing a computer algebra system
MAX_LATEX = 2_000

_lock = threading.Lock()
_child: _Child | None = None


def extract(text: str, *, seconds: float = SECONDS) -> str | None:
    """An extractor: what Math-Verify reads as the text's answer, written in one form; None where it reads nothing."""
    found = _ask({"do": "parse", "text": text[-MAX_LATEX:]}, seconds)
    return str(found) if found else None


def are_equal(key: str, answer: str, *, seconds: float = SECONDS) -> bool:
    """Whether the two are the same mathematical object; False where that took longer than `seconds`.

    Math-Verify's comparison is not symmetric: `key` is the right answer, `answer` what is to be judged.
    """
    if max(len(key), len(answer)) > MAX_LATEX:
        return False
    return bool(_ask({"do": "compare", "key": key, "answer": answer}, seconds))


class _Child:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SOURCE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self.replies: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            ready = self.replies.get(timeout=START_SECONDS)
        except queue.Empty:
            ready = ""
        if ready != "ready":
            self.end()
            raise ValueError("the extractor math needs Math-Verify, which cannot be imported; pip install math-verify")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.replies.put(line.strip())
        self.replies.put("")

    def ask(self, request: dict[str, Any], seconds: float) -> Any:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return json.loads(self.replies.get(timeout=seconds))
        except (OSError, queue.Empty, json.JSONDecodeError):
            self.end()
            return None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None


def _ask(request: dict[str, Any], seconds: float) -> Any:
    global _child
    with _lock:
        if _child is None or not _child.is_alive:
            _child = _Child()
            atexit.register(_child.end)
        return _child.ask(request, seconds)


_SOURCE = """
import json, logging, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
except (ImportError, ValueError, OSError):
    pass
logging.disable(logging.CRITICAL)
from math_verify import parse, verify

def read(answer):
    found = parse("$" + answer.replace("$", "") + "$", parsing_timeout=None)
    return found or parse(answer, parsing_timeout=None)

print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    reply = None
    try:
        if request["do"] == "parse":
            found = parse(request["text"], parsing_timeout=None)
            reply = str(found[0])[:2000] if found else None
        else:
            reply = bool(verify(read(request["key"]), read(request["answer"]), timeout_seconds=None))
    except (Exception, RecursionError, MemoryError):
        pass
    print(json.dumps(reply), flush=True)
"""
