"""Between the tests and the answer: plain values by copy, all else by number. JSON, so that reading it runs nothing.

What comes from the answer's side may be anything; `read` bounds its length and `decode` makes nothing of it but plain
values, numbers of objects, and exceptions without behaviour.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from socket import socket
from typing import Any

LONGEST = 16 << 20  # bytes of a message
PLAIN = (type(None), bool, int, float, str)
_CONTAINERS: dict[str, type[Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
# What ends a loop or a program from the outside: never what an answer may raise in the middle of the tests.
_UNHEARD = ("StopIteration", "StopAsyncIteration")


def write(line: socket, message: Any) -> None:
    """Send one message."""
    data = json.dumps(message).encode()
    if len(data) > LONGEST:
        raise ValueError(f"a message must have at most {LONGEST:,} bytes, got {len(data):,}")
    line.sendall(len(data).to_bytes(4, "big") + data)


def read(line: socket) -> Any:
    """Wait for one message; raises EOFError at the end, ValueError for what is no message."""
    length = int.from_bytes(_exactly(line, 4), "big")
    if length > LONGEST:
        raise ValueError(f"a message must have at most {LONGEST:,} bytes, got {length:,}")
    return json.loads(_exactly(line, length))


def _exactly(line: socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = line.recv(min(length - len(data), 1 << 20))
        if not piece:
            raise EOFError("the other side has ended")
        data += piece
    return bytes(data)


def encode(value: Any, other: Callable[[Any], Any]) -> Any:
    """A value for `write`; `other` is asked for what is not plain. Subclasses of plain types are not plain."""
    kind: type[Any] = type(value)
    if kind is int and value.bit_length() > 63:
        return ["int", hex(value)]
    if kind in PLAIN:
        return value
    if kind in (list, tuple, set, frozenset):
        return [kind.__name__, [encode(v, other) for v in value]]
    if kind is dict:
        return ["dict", [[encode(k, other), encode(v, other)] for k, v in value.items()]]
    if kind is bytes:
        return ["bytes", value.hex()]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if kind is range:
        return ["range", *(encode(n, other) for n in (value.start, value.stop, value.step))]
    if kind is Fraction:
        return ["fraction", encode(value.numerator, other), encode(value.denominator, other)]
    if kind is Decimal:
        return ["decimal", str(value)]
    if isinstance(value, type) and issubclass(value, BaseException):
        name = str(value.__name__)
        is_built_in = value is getattr(builtins, name, None)
        return ["error", name] if is_built_in else ["error", name, other(value), encode(value.__base__, other)]
    return other(value)


def decode(found: Any, other: Callable[[str, int], Any]) -> Any:
    """The value of a message; `other` is asked for what has a number. Raises ValueError, TypeError for nonsense."""
    if not isinstance(found, list):
        return found
    kind, *rest = found
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](decode(v, other) for v in rest[0])
    if kind == "dict":
        return {decode(k, other): decode(v, other) for k, v in rest[0]}
    if kind == "int":
        return int(rest[0], 16)
    if kind == "bytes":
        return bytes.fromhex(rest[0])
    if kind == "complex":
        return complex(*rest)
    if kind == "range":
        return range(*(int(decode(n, other)) for n in rest))
    if kind == "fraction":
        return Fraction(*(int(decode(n, other)) for n in rest))
    if kind == "decimal":
        return Decimal(rest[0])
    if kind == "error":
        return _error_class(rest, other)
    return other(str(kind), int(rest[0]))


_classes: dict[int, type[Exception]] = {}


def _error_class(found: list[Any], other: Callable[[str, int], Any]) -> type[Exception]:
    """A built-in exception, or a class of our own that stands for one of the other side's."""
    name, *rest = found
    if not rest:
        built_in = getattr(builtins, str(name), None)
        is_one = isinstance(built_in, type) and issubclass(built_in, Exception) and name not in _UNHEARD
        return built_in if is_one else RuntimeError  # type: ignore[return-value]
    number, base = int(rest[0][1]), _error_class(rest[1][1:], other)
    if number not in _classes:
        _classes[number] = type(str(name), (base,), {})
    return _classes[number]
