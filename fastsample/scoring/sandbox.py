"""Code that a model wrote, tested from outside: it runs in one process behind walls, the caller's tests in another.

The tests call its functions over a socket and compare what comes back in their own process, so that nothing the code
does to its own process changes a verdict. docs/security.md says what it can still do.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from socket import socketpair
from typing import IO

START_SECONDS = 30.0  # for two interpreters on a busy machine; the code's own time starts after it
_ROOT = str(Path(__file__).resolve().parents[2])


def code_of(text: str) -> str:
    """The last ``` block of the text, or all of it where there is none."""
    blocks = re.findall(r"```[^\n`]*\n(.*?)(?:```|\Z)", text, re.DOTALL)
    return str(blocks[-1]) if blocks else text


@lru_cache(maxsize=1)
def why_not() -> str | None:
    """Why code cannot be walled in here, in a sentence; None where it can."""
    if sys.platform != "linux":
        return f"walls around a process need Linux, this is {sys.platform}"
    try:
        return None if run_python("ok = 1", "assert ok == 1", 10.0, 512) else "a trial run behind the walls failed"
    except OSError as error:
        return f"this system allows no walls around a process ({error.strerror or error})"


def run_python(code: str, tests: str, seconds: float, megabytes: int, *, is_jailed: bool = True) -> bool:
    """Whether the tests ran to their end on the code, within the limits.

    is_jailed: False leaves the walls away; limits and the separate process of the tests stay
    raises: OSError where the walls cannot be built; ValueError on Windows
    """
    if os.name != "posix":
        raise ValueError("code of a model is tested over a socket that two processes inherit, which Windows cannot do")
    ours, theirs = socketpair()
    with (
        tempfile.TemporaryDirectory(prefix="fastsample-") as folder,
        tempfile.TemporaryFile() as refusal,
        ours,
        theirs,
    ):
        limits = [str(os.getpid()), str(seconds), str(megabytes)]
        player = judge = None
        try:
            line = theirs.fileno()
            player = _start(
                "player", code, line, refusal if is_jailed else None, [folder, str(line), *limits, str(is_jailed)]
            )
            theirs.close()
            line = ours.fileno()
            judge = _start("judge", tests, line, None, [str(line), *limits])
            ours.close()
            try:
                is_passed = judge.wait(timeout=seconds + START_SECONDS) == 0
            except subprocess.TimeoutExpired:
                is_passed = False
        finally:
            if judge is not None:
                _end(judge, False)
            if player is not None:
                _end(player, is_jailed)
        refusal.seek(0)
        if sentence := refusal.read(500):  # written before the walls stood; behind them there is no way to it
            raise OSError(None, sentence.decode("utf-8", "replace").strip())
        return is_passed


def _start(
    side: str, source: str, line: int, errors: IO[bytes] | None, arguments: list[str]
) -> subprocess.Popen[bytes]:
    """One of the two processes; its source is on its standard input, from a file without a name."""
    boot = f"import sys; sys.path.append({_ROOT!r}); from fastsample.scoring.{side} import main; main()"
    with tempfile.TemporaryFile() as file:
        file.write(source.encode("utf-8", "replace"))
        file.seek(0)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", boot, *arguments],
            stdin=file,
            stdout=subprocess.DEVNULL,
            stderr=errors or subprocess.DEVNULL,
            cwd="/",
            env={},
            pass_fds=[line],
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes], is_warden: bool) -> None:
    """Returns when the process, and for a warden all inside its walls, have ended."""
    if is_warden:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=START_SECONDS)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
