"""Programs that attack the `python:` verifier: pieces of hostile code, several at a time, in any order.

Every program is wrong: whatever its pieces do to its own process, to the line to the tests, to files, processes and the
network, the verdict must be "wrong", in time, with nothing left behind and nobody touched.
"""
# ruff: noqa: E501

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from scoring.test_sandbox import ADD, DAEMON, FORGED, SAYS, processes_of

from attack.turns import MissingError
from fastsample.scoring.sandbox import START_SECONDS, run_python, why_not

WHAT = (
    "wrong programs that forge, kill, fork, read, write, connect and exhaust, behind the walls of the `python:` scorer"
)
COUNTED = "programs"
SECONDS = 1.0  # that a program has
PIECES = [
    *(code for code, _ in FORGED.values()),
    *(f"{code}\nf()" for code, _ in SAYS.values() if "def f()" in code and "{port}" not in code),
    DAEMON.replace("a + b", "a - b"),
    "import os\nfor n in ({victim}, {parent}):\n    for s in (9, 19):\n        try: os.kill(n, s)\n        except OSError: pass",
    "open({secret!r}, 'a').write('changed')",
    "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
    "import socket\nsocket.create_connection(('::1', {port}), 1)",
    "x = bytearray(1 << 40)",
    "x = [bytearray(1 << 26) for _ in range(100)]",
    "while True: open('/tmp/x', 'ab').write(b'x' * (1 << 20))",
    "import threading\nfor _ in range(1000): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()",
    "import os\nwhile True: os.fork()",
    "import sys\nsys.setrecursionlimit(10**9)\ndef r(): r()\nr()",
    "import ctypes\nctypes.string_at(0)",
    "import os\nos.closerange(0, 1024)",
    "import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\ntime.sleep(60)",
    "import os\nos.chmod('/', 0o777); os.symlink('/proc/1/root', '/tmp/r')",
    "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.mount(b'proc', b'/tmp', b'proc', 0, None); libc.chroot(b'/'); libc.setuid(0)",
    "while True: pass",
]  # fmt: skip


class Prepared(NamedTuple):
    """What nobody may touch: a file, a process, a port; and where temporary folders are made."""

    place: Path
    secret: Path
    victim: subprocess.Popen
    server: socket.socket


def prepare(place: Path) -> Prepared:
    """Raise MissingError where there are no walls."""
    reason = why_not()
    if reason is not None:
        raise MissingError(reason)
    temporary, secret = place / "temporary", place / "secret"
    temporary.mkdir()
    secret.write_text("mine")
    command = [sys.executable, "-c", "input()"]  # ends with the attack
    victim = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    return Prepared(temporary, secret, victim, server)


def turn(prepared: Prepared, choose: random.Random) -> Counter[str]:
    """One program of one to four pieces."""
    pieces = choose.sample(PIECES, choose.randint(1, 4))
    values = {"victim": prepared.victim.pid, "parent": os.getpid(), "port": prepared.server.getsockname()[1]}
    for name, value in values.items():
        pieces = [piece.replace(f"{{{name}}}", str(value)) for piece in pieces]
    pieces = [piece.replace("{secret!r}", repr(str(prepared.secret))) for piece in pieces]
    code = "\n".join(f"try: exec({piece!r}, globals())\nexcept BaseException: pass" for piece in pieces)
    code += choose.choice(("", "\ndef add(a, b): return 4", "\ndef add(a, b): raise SystemExit(0)"))
    before, tempfile.tempdir = tempfile.tempdir, str(prepared.place)
    start = time.monotonic()
    try:
        is_passed = run_python(code, ADD, SECONDS, 256)
    finally:
        tempfile.tempdir = before
    took = time.monotonic() - start
    assert not is_passed, f"a wrong program passed: {pieces}"
    assert took < SECONDS + 2 * START_SECONDS, f"{took:.0f} s: {pieces}"
    assert processes_of(prepared.place) == [], pieces
    assert list(prepared.place.iterdir()) == [], pieces
    assert prepared.secret.read_text() == "mine", pieces
    assert prepared.victim.poll() is None, pieces
    try:
        prepared.server.accept()
    except BlockingIOError:
        pass
    else:
        raise AssertionError(f"somebody called: {pieces}")
    return Counter(programs=1, pieces=len(pieces))
