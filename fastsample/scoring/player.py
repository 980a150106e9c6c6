"""The answer's side: runs the code that a model wrote, then does what the tests ask of the names it defined.

Everything here may be read and changed by that code. Nothing that is said from here is a verdict.
"""

from __future__ import annotations

import io
import operator
import os
import sys
import types
from collections.abc import Callable
from socket import socket
from typing import Any

from . import jail, wire

OUTPUT = 100_000  # characters of what a call printed that are told
SAME = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift"),
    *("eq", "lt", "le", "gt", "ge", "neg", "pos", "abs", "invert"),
)
CONTENTS: tuple[Callable[[Any], Any], ...] = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)

OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in SAME},
    "call": lambda f, *a, **k: f(*a, **k),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "isinstance": isinstance,
    **{f.__name__: f for f in (len, bool, str, repr, iter, next)},
}


def main() -> None:
    """The process: limits, walls where they are asked for, the code, and then the tests' wishes until they end."""
    folder, number, parent, seconds, megabytes, is_jailed = sys.argv[1:]
    code = sys.stdin.buffer.read().decode("utf-8", "replace")
    line = socket(fileno=int(number))
    sys.path.pop()  # where this package is
    sys.argv[:] = ["answer.py"]
    os.environ.clear()  # Python itself has set LC_CTYPE
    jail.end_with_parent(int(parent))
    try:
        if is_jailed == "True":
            jail.enter(folder, line.fileno())
    except OSError as error:
        print(error.strerror, file=sys.stderr, flush=True)
        os._exit(1)
    jail.limit(float(seconds), int(megabytes), jail.PROCESSES if is_jailed == "True" else None)
    os.chdir("/tmp" if is_jailed == "True" else folder)
    Player(line, code).play()


class Player:
    """The code's names, and the objects of it that the tests hold."""

    def __init__(self, line: socket, code: str) -> None:
        self.line = line
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.code = code
        self.module = types.ModuleType("answer")

    def play(self) -> None:
        """Say that all is ready, run the code when told to, then answer."""
        wire.write(self.line, "ready")
        sys.modules["answer"] = self.module
        while True:
            wish = wire.read(self.line)
            self.printed = io.BytesIO()
            sys.stdout = io.TextIOWrapper(self.printed, "utf-8", "replace", write_through=True)
            try:
                reply = self.reply(*wish)
            except BaseException as error:
                reply = ["raise", self.encode(type(error)), [self.encode(a) for a in error.args]]
            output = self.printed.getvalue()[:OUTPUT].decode("utf-8", "replace")
            wire.write(self.line, [output, *reply])

    def reply(self, name: str, arguments: list[Any], named: dict[str, Any]) -> list[Any]:
        """["value", it] or, from a call without a value, ["value", None, the arguments as they are now]."""
        if name == "load":
            exec(compile(self.code, "answer.py", "exec", dont_inherit=True), self.module.__dict__)
            return ["value", None]
        if name == "names":
            names = vars(self.module).items()
            found = [[n, v] for n, v in names if not n.startswith("__") and not isinstance(v, types.ModuleType)]
            return ["value", self.encode(found)]
        if name == "name":
            return ["value", self.encode(getattr(self.module, arguments[0]))]
        given = [self.decode(a) for a in arguments]
        if name == "content":
            return self.content(given[0])
        try:
            value = OPERATIONS[name](*given, **{key: self.decode(v) for key, v in named.items()})
        except StopIteration:
            if name == "next":
                return ["stop"]
            raise
        changed = [[self.encode(a) for a in given]] if value is None else []
        return ["value", self.encode(value), *changed]

    def content(self, thing: Any) -> list[Any]:
        """The plain value inside an object of a class that a plain one is the base of: (1, 2) of a named tuple."""
        for kind in CONTENTS:
            if isinstance(thing, kind):  # type: ignore[arg-type]
                return ["value", self.encode(kind(thing))]
        return ["value", self.encode(thing)]

    def encode(self, value: Any) -> Any:
        """See `wire.encode`."""
        return wire.encode(value, self.number)

    def decode(self, found: Any) -> Any:
        """See `wire.decode`."""
        return wire.decode(found, lambda kind, n: self.objects[n] if kind == "object" else Callback(self, n))

    def number(self, thing: Any) -> Any:
        """The number by which the tests know an object; the same one for the same object."""
        if isinstance(thing, Callback):
            return ["function", thing.number]
        if id(thing) not in self.numbers:
            self.numbers[id(thing)] = len(self.objects)
            self.objects.append(thing)
        return ["object", self.numbers[id(thing)]]


class Callback:
    """A function of the tests', in the answer's hands."""

    def __init__(self, player: Player, number: int) -> None:
        self.player = player
        self.number = number

    def __call__(self, *arguments: Any) -> Any:
        """Ask the tests."""
        wire.write(self.player.line, ["", "ask", self.number, [self.player.encode(a) for a in arguments]])
        kind, found, text = wire.read(self.player.line)
        value = self.player.decode(found)
        if kind == "raise":
            raise value(text)
        return value
