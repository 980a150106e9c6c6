"""Scores for answers: verify(question, answer, text) -> float, higher = better.

Given to `consensus.solve`, a verifier decides, best sample first, where the vote did not settle a question. It is
called once for each finished sample that has an answer.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable

from .answers import callable_of, canonical

Verify = Callable[[str, "str | None", str], float]


def mean_logprob(question: str, answer: str | None, text: str) -> float:
    """The model's own score: a text does not hold it, so `consensus` puts in the sample's mean log-probability."""
    raise ValueError("mean-logprob is known of samples only; give it to consensus.solve")


def exact_match(key: str) -> Verify:
    """1.0 where the answer equals `key` in canonical form (0.5 and 1/2 are equal), else 0.0."""
    right = canonical(key)

    def verify(question: str, answer: str | None, text: str) -> float:
        return float(answer is not None and right is not None and canonical(answer) == right)

    return verify


def math_verify(key: str, *, seconds: float = 5.0) -> Verify:
    """1.0 where Math-Verify finds the answer equal to `key`, in canonical form or as LaTeX, else 0.0.

    seconds: after so long the comparison is given up and the answer is wrong
    """
    from .latex import are_equal

    plain = exact_match(key)

    def verify(question: str, answer: str | None, text: str) -> float:
        return plain(question, answer, text) or float(answer is not None and are_equal(key, answer, seconds=seconds))

    return verify


def python_tests(tests: str, *, seconds: float = 5.0, megabytes: int = 512) -> Verify:
    """1.0 where the code in the text, followed by `tests`, runs to its end without an error, else 0.0.

    The code is that of the last ``` block, or the whole text. It runs in a Python process of its own: an empty
    environment, an empty temporary folder, no site packages of the user, a limit on processor time, memory, file size
    and processes, and the end of its process group after `seconds`. That stops accidents, not attackers: it can still
    read files and open sockets. Give code that may be hostile to a container instead.

    tests: Python source that raises where the code is wrong, such as "assert add(1, 2) == 3"
    """

    def verify(question: str, answer: str | None, text: str) -> float:
        return float(run_python(f"{code_of(text)}\n\n{tests}\n", seconds, megabytes))

    return verify


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


def verifier_of(name: str) -> Verify:
    """The verifier called `name`: "mean-logprob", "exact:KEY", "math:KEY", "python:TESTS.py" or "module:function".

    raises: ValueError with the forms there are
    """
    if name == "mean-logprob":
        return mean_logprob
    kind, colon, rest = name.partition(":")
    if not colon or not rest:
        raise ValueError(
            f"a verifier is mean-logprob, exact:KEY, math:KEY, python:TESTS.py or module:function, got {name!r}"
        )
    if kind == "exact":
        return exact_match(rest)
    if kind == "math":
        return math_verify(rest)
    if kind == "python":
        try:
            with open(rest, encoding="utf-8") as file:
                return python_tests(file.read())
        except OSError as error:
            raise ValueError(f"{rest} cannot be read: {error.strerror}") from None
    found = callable_of(name)

    def verify(question: str, answer: str | None, text: str) -> float:
        return float(found(question, answer, text))  # type: ignore[arg-type]

    return verify
