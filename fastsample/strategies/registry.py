"""Every method by name, and the short form in which a command line or a run folder writes one.

vote    best:n=16    beam:n=16,m=4,aggregate=min    force:wait=Hmm
"""

from __future__ import annotations

import inspect

from ..scoring.base import Scorer
from ..voting import short_form
from .allocated import Auto
from .base import MakeStrategy, Method
from .beam_search import DVTS, Beam
from .best_of_n import Best, WeightedVote
from .budget_forcing import Efforts, Force
from .collective import CoMCTS
from .graph_of_thoughts import AGoT
from .omega import Omega
from .particles import Particles
from .refinement import Refine
from .retrieval import Retrieve
from .rollouts import Rollouts
from .schedule import Schedule
from .scrutiny import Scrutinize
from .tree_search import MCTS

VOTE = "vote"
METHODS: dict[str, type] = {
    "best": Best,
    "weighted": WeightedVote,
    "beam": Beam,
    "dvts": DVTS,
    "particles": Particles,
    "mcts": MCTS,
    "force": Force,
    "efforts": Efforts,
    "refine": Refine,
    "scrutinize": Scrutinize,
    "comcts": CoMCTS,
    "retrieve": Retrieve,
    "agot": AGoT,
    "rollouts": Rollouts,
    "omega": Omega,
    "schedule": Schedule,
    "auto": Auto,
}


def method_of(given: str | Method | MakeStrategy) -> Method | None:
    """The method that `given` names, or is; None for "vote" and for what makes a `Strategy` by itself.

    raises: ValueError with the names, fields or bounds that would have been right
    """
    if isinstance(given, str):
        return None if given.strip() == VOTE else _named(given)
    call = given if inspect.isfunction(given) else getattr(given, "__call__", None)  # noqa: B004
    is_method = not inspect.isclass(given) and inspect.isgeneratorfunction(inspect.unwrap(call) if call else None)
    return given if is_method else None  # type: ignore[return-value]


def check_fit(method: Method, scorer: Scorer | None) -> None:
    """Raise ValueError where a method of ours cannot work with this scorer, or without one."""
    check = getattr(method, "check", None)
    if check is not None:
        check(scorer)
    if isinstance(method, Auto):
        for text in method.plan(scorer).strategies:
            check_fit(_named(text), scorer)


def _named(text: str) -> Method:
    name, kind, rest = short_form.named(METHODS, "strategy", text, before=VOTE)
    parts = filter(None, _parts(rest))
    return short_form.made(name, kind, parts, words="text", text_of=_unescaped, value_of=_escaped)  # type: ignore[no-any-return]


_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", ",": ","}


def _parts(text: str) -> list[str]:
    r"""Split at commas; \, is one that belongs to a value."""
    parts, start, at = [], 0, 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == ",":
            parts.append(text[start:at])
            start = at + 1
        at += 1
    return [*parts, text[start:]]


def _unescaped(text: str) -> str:
    r"""\n, \t, \, and \\ stand for themselves."""
    pieces, at = [], 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] in _ESCAPES:
            pieces.append(_ESCAPES[text[at + 1]])
            at += 2
        else:
            pieces.append(text[at])
            at += 1
    return "".join(pieces)


def strategy_name(method: Method | MakeStrategy | str) -> str:
    """The short form; `method_of(strategy_name(m)) == m` for a method of ours. What is at its default is left out."""
    if isinstance(method, str):
        named = method_of(method)
        return VOTE if named is None else strategy_name(named)
    if type(method) not in METHODS.values():
        return str(getattr(method, "__name__", type(method).__name__))
    return short_form.written(METHODS, method, _escaped)


def _escaped(value: object) -> str:
    text = str(value)
    if isinstance(value, str):
        for letter, sign in (("\\", "\\"), (",", ","), ("n", "\n"), ("t", "\t")):
            text = text.replace(sign, "\\" + letter)
    return text
