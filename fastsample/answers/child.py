"""A process for work on a model's text that may take for ever: a JSON line in, a JSON line out, and an end in time.

A time limit of Python's own is an alarm signal, which works in the main thread alone and not inside one long operation.
So the work is done by a child, which is killed when it takes too long and started again for the next question.

It does not outlive its parent: on Linux the kernel kills it then; elsewhere a timer of the kernel ends it at the latest
when the question it works on should have been answered.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
from typing import Any

START_SECONDS = 60.0  # importing a computer algebra system


class Child:
    """A process that answers questions, one at a time, from any thread.

    source: Python that defines `answer(question)`, both of JSON; what it raises is the answer None
    """

    def __init__(self, source: str) -> None:
        self._source = _SOURCE.replace("# SOURCE", source)
        self._begin()
        atexit.register(self.end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Without a process: also what a fork finds, whose parent keeps the old one and may be asking it."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.Queue[str] = queue.Queue()

    def ask(self, question: Any, seconds: float) -> Any:
        """The answer to a question.

        raises: TimeoutError after `seconds`; ChildProcessError where the process cannot start
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            process = self._process
            assert process is not None
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([question, seconds + 1]) + "\n")
                process.stdin.flush()
                reply = self._replies.get(timeout=seconds)
            except (OSError, queue.Empty):
                self.end()
                raise TimeoutError(f"no answer within {seconds:g} s") from None
            if not reply:  # it has ended by itself: out of memory, out of stack
                self.end()
                return None
            return json.loads(reply)

    def end(self) -> None:
        """Kill the process; the next question starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._replies = queue.Queue()
        threading.Thread(target=self._run, args=(self._replies,), daemon=True).start()
        try:
            ready = self._replies.get(timeout=START_SECONDS)
        except queue.Empty:
            ready = ""
        if ready != '"ready"':
            self.end()
            raise ChildProcessError("the process did not start")

    def _run(self, replies: queue.Queue[str]) -> None:
        # The kernel kills a child with the *thread* that started it: this one, which reads until the child has ended.
        try:
            process = self._process = subprocess.Popen(
                [sys.executable, "-c", self._source, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
            assert process.stdout is not None
            for line in process.stdout:
                replies.put(line.strip())
        finally:
            replies.put("")


_SOURCE = """
import json, os, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit()
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
except (ImportError, ValueError, OSError):
    pass
# SOURCE
print('"ready"', flush=True)
for line in sys.stdin:
    question, seconds = json.loads(line)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)  # no handler: its signal ends the process
    try:
        reply = answer(question)
    except (Exception, RecursionError, MemoryError):
        reply = None
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    print(json.dumps(reply), flush=True)
"""
