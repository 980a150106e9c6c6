"""What is told of a question while it is answered, for whoever shows or keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..voting.ballots import Verdict
from .path import Path
from .records import Result, Written

if TYPE_CHECKING:
    from .base import Strategy


@dataclass(frozen=True)
class Event:
    """What just happened. `kind` says which of the fields are set:

    "question" a question was taken in   "start" sample `number` was queued     "token" `piece` of its text came
    "prompt" `read` tokens of the question's prompt have been read, some more to follow or all
    "finished" `sample` ended            "votes" the rule was asked: `verdict`  "cancelled" `sample` left the batch
    "verdict" the question's `result`; `strategy` gives votes and live samples at any time

    Of a text that is grown leg by leg (`strategies.base.Grow`):
    "leg" `paths` were written   "scored" `paths` got their scores   "dropped" `paths` are not continued: `reason`
    """

    kind: str
    strategy: Strategy
    number: int = -1
    piece: str = ""
    read: int = 0
    sample: Written | None = None
    verdict: Verdict | None = None
    result: Result | None = None
    paths: tuple[Path, ...] = ()
    reason: str = ""


OnEvent = Callable[[Event], None]
