"""Code that a model wrote, run in a process of its own.

An empty environment, an empty temporary folder, no site packages of the user, a limit on processor time, memory, file
size and processes, and the end of its process group after some seconds. That stops accidents, not attackers: the code
can still read files and open sockets. Give code that may be hostile to a container instead.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile


def code_of(text: str) -> str:
    """The last ``` block of the text, or all of it where there is none."""
    blocks = re.findall(r"```[^\n`]*\n(.*?)(?:```|\Z)", text, re.DOTALL)
    return str(blocks[-1]) if blocks else text


def run_python(code: str, seconds: float, megabytes: int) -> bool:
    """Whether the code ran to its last line within the limits."""
    # A bare exit code would let `sys.exit(0)` in front of the tests pass them: the last line writes a word of its own.
    word = secrets.token_hex(16)
    code += f"\nimport sys as _s; _s.stdout.write({word!r}); _s.stdout.flush()\n"
    with tempfile.TemporaryDirectory(prefix="fastsample-") as folder, open(os.path.join(folder, "out"), "w+b") as out:
        source = os.path.join(folder, "answer.py")
        with open(source, "w", encoding="utf-8", errors="replace") as file:
            file.write(_LIMITS.format(seconds=int(seconds) + 1, size=megabytes << 20) + code)
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", source],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath},
            start_new_session=True,
        )
        try:
            code_of_exit = child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code_of_exit = -1
        finally:
            _end(child)
        out.seek(max(0, out.seek(0, os.SEEK_END) - len(word)))
        return code_of_exit == 0 and out.read() == word.encode()


# Limits that the system does not know are left out; the time limit above holds everywhere.
_LIMITS = """\
try:
    import resource as _r
    for _name, _value in (("CPU", {seconds}), ("AS", {size}), ("FSIZE", 1 << 20), ("NPROC", 64), ("CORE", 0)):
        try: _r.setrlimit(getattr(_r, "RLIMIT_" + _name), (_value, _value))
        except (ValueError, OSError, AttributeError): pass
except ImportError: pass
"""


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, 9)
    except (ProcessLookupError, PermissionError, AttributeError):
        child.kill()
    child.wait()
