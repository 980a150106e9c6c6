"""What is told of a running vote, for whoever shows or keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..strategies.base import Strategy
from ..strategies.records import Result, Written
from ..voting.ballots import Verdict


@dataclass(frozen=True)
class Event:
    """What just happened, for whoever shows it. `kind` says which of the fields are set:

    "question" a question was taken in   "start" sample `number` was queued     "token" `piece` of its text came
    "prompt" `read` tokens of the question's prompt have been read, some more to follow or all
    "finished" `sample` ended            "votes" the rule was asked: `verdict`  "cancelled" `sample` left the batch
    "verdict" the question's `result`; `strategy` gives votes and live samples at any time
    """

    kind: str
    strategy: Strategy
    number: int = -1
    piece: str = ""
    read: int = 0
    sample: Written | None = None
    verdict: Verdict | None = None
    result: Result | None = None


OnEvent = Callable[[Event], None]
