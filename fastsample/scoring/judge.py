"""The tests' side: runs the caller's tests, with the answer's names standing for things of another process.

No line of the answer runs here. What its functions return arrives as plain values, compared here; an object of a class
of its own is a `Remote`, which is never asked whether it equals a value of the tests': it would learn the right answer,
and could say yes.
"""

from __future__ import annotations

import builtins
import operator
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from socket import socket
from typing import Any

from . import jail, wire

FAILED = 1


def main() -> None:
    """The process: limits, the tests, and exit code 0 where they ran to their end."""
    number, parent, seconds, megabytes = sys.argv[1:]
    tests = sys.stdin.buffer.read().decode("utf-8", "replace")
    line = socket(fileno=int(number))
    sys.path.pop()  # where this package is
    sys.argv[:] = ["tests.py"]
    jail.end_with_parent(int(parent))
    jail.limit(float(seconds), int(megabytes))
    try:
        is_passed = run(tests, Other(line), float(seconds))
    except BaseException:
        is_passed = False
    os._exit(0 if is_passed else FAILED)  # nothing that a test left behind changes it now


def run(tests: str, other: Other, seconds: float) -> bool:
    """Whether the tests ran to their end, or left with exit code 0 as `unittest.main` does."""
    if wire.read(other.line) != "ready":
        return False
    signal.setitimer(signal.ITIMER_REAL, seconds)  # its signal ends this process, whatever it is doing
    other.ask("load")
    answer = types.ModuleType("answer")
    answer.__getattr__ = other.name  # type: ignore[method-assign]
    main_module = types.ModuleType("__main__")
    # Names that the tests would find without the answer are theirs: it may not bring an abs() or a len() of its own.
    found = {name: value for name, value in other.ask("names") if not hasattr(builtins, name)}
    vars(main_module).update({n: v for n, v in found.items() if not n.startswith("__")})
    sys.modules |= {"answer": answer, "__main__": main_module}
    try:
        exec(compile(tests, "tests.py", "exec", dont_inherit=True), vars(main_module))
    except SystemExit as end:
        return not end.code
    return True


class Other:
    """The process of the answer, as the tests reach it."""

    def __init__(self, line: socket) -> None:
        self.line = line
        self.functions: list[Callable[..., Any]] = []

    def ask(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Have the other side do something, serving what it asks of the tests' functions meanwhile."""
        sent = [self.encode(a) for a in arguments] if name != "name" else list(arguments)
        wire.write(self.line, [name, sent, {key: self.encode(v) for key, v in named.items()}])
        while True:
            printed, kind, *rest = wire.read(self.line)
            if printed:
                print(printed, end="")
            if kind == "ask":
                wire.write(self.line, self.serve(*rest))
            elif kind == "stop" and name == "next":
                raise StopIteration
            elif kind == "value":
                if len(rest) > 1:
                    self.change(arguments, rest[1])
                return self.decode(rest[0])
            else:
                raise self.decode(rest[0])(*map(self.decode, rest[1]))

    def serve(self, number: int, arguments: list[Any]) -> list[Any]:
        """Call a function that the tests handed over."""
        try:
            return ["value", self.encode(self.functions[number](*(self.decode(a) for a in arguments))), ""]
        except Exception as error:
            kind = next(k for k in type(error).__mro__ if k is getattr(builtins, k.__name__, None))
            return ["raise", self.encode(kind), str(error)]

    def change(self, arguments: tuple[Any, ...], found: list[Any]) -> None:
        """What a call without a value did to the lists, dicts and sets it was given.

        Only without a value: `assert sort(x) == sorted(x)` would pass for a `sort` that empties x and returns [].
        """
        for argument, now in zip(arguments, found):
            if type(argument) in (list, dict, set):
                value = self.decode(now)
                if type(value) is type(argument) and value != argument:
                    argument.clear()
                    (argument.extend if isinstance(argument, list) else argument.update)(value)

    def name(self, name: str) -> Any:
        """`from answer import name`: any name, also one that Python has."""
        try:
            return self.ask("name", name)
        except AttributeError:
            raise AttributeError(f"the answer defines no {name}") from None

    def encode(self, value: Any) -> Any:
        """See `wire.encode`."""
        return wire.encode(value, self.number)

    def decode(self, found: Any) -> Any:
        """See `wire.decode`."""
        return wire.decode(found, lambda kind, n: Remote(self, n) if kind == "object" else self.functions[n])

    def number(self, thing: Any) -> Any:
        """What is not plain: an object of the answer's, or a function of the tests'."""
        if isinstance(thing, Remote):
            return ["object", thing._number]
        if callable(thing):
            self.functions.append(thing)
            return ["function", len(self.functions) - 1]
        raise TypeError(f"an answer takes plain values, functions and its own objects, got {type(thing).__name__}")


class Remote:
    """An object of the answer's own. Attributes, calls, items and iteration are its; comparing is not."""

    __slots__ = ("_number", "_other")

    def __init__(self, other: Other, number: int) -> None:
        object.__setattr__(self, "_other", other)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        return self._other.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._other.ask("setattr", self, name, value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Its own `__call__`; the first argument of the request is the object."""
        return self._other.ask("call", self, *arguments, **named)

    def __iter__(self) -> Iterator[Any]:
        return self._other.ask("iter", self)

    def __getitem__(self, key: Any) -> Any:
        return self._other.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._other.ask("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._other.ask("delitem", self, key)

    def __next__(self) -> Any:
        return self._other.ask("next", self)

    def __len__(self) -> int:
        return self._other.ask("len", self)

    def __bool__(self) -> bool:
        return self._other.ask("bool", self)

    def __str__(self) -> str:
        return self._other.ask("str", self)

    def __repr__(self) -> str:
        return self._other.ask("repr", self)

    def __instancecheck__(self, thing: Any) -> bool:
        return self._other.ask("isinstance", thing, self)

    def __hash__(self) -> int:
        return hash(self._number)

    def __float__(self) -> float:
        return float(_content(self))

    def __int__(self) -> int:
        return int(_content(self))

    def __contains__(self, thing: Any) -> bool:
        return any(thing == found for found in self)

    def __eq__(self, thing: object) -> bool:
        if isinstance(thing, Remote):
            return self._number == thing._number or self._other.ask("eq", self, thing) is True
        content = _content(self)
        return not isinstance(content, Remote) and bool(content == thing)


def _content(thing: Any) -> Any:
    """The plain value inside an object of the answer's, or the object."""
    return thing._other.ask("content", thing) if isinstance(thing, Remote) else thing


def _operator(name: str, is_swapped: bool = False) -> Callable[..., Any]:
    """Between two objects of the answer's, its own operator; with a value of the tests', that of the plain value."""
    own = getattr(operator, name)

    def operate(self: Remote, *others: Any) -> Any:
        things = (*others, self) if is_swapped else (self, *others)
        if all(isinstance(thing, Remote) for thing in things):
            return self._other.ask(name, *things)
        contents = [_content(thing) for thing in things]
        if any(isinstance(content, Remote) for content in contents):
            raise TypeError("an object of the answer's own class is not compared or combined with values of the tests'")
        return own(*contents)

    return operate


for _name in ("lt", "le", "gt", "ge", "neg", "pos", "abs", "invert"):
    setattr(Remote, f"__{_name}__", _operator(_name))
for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and_",
    "or_",
    "xor",
    "lshift",
    "rshift",
):
    setattr(Remote, f"__{_name.rstrip('_')}__", _operator(_name))
    setattr(Remote, f"__r{_name.rstrip('_')}__", _operator(_name, is_swapped=True))
