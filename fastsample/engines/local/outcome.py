"""What a step makes of a row: worked out aside, then written down.

Writing down sets every value to what it is to be, so that it can be done a second time where it was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...token_stats import NO_STATS, NO_TOPS, TokenStats, TopTokens
from ..base import Sample
from .batch import Drawn, Row
from .detokenizer import Detokenizer
from .legs import Delimiters


@dataclass(eq=False)
class Outcome:
    """What becomes of one row.

    count:  tokens that the sample had before; tokens, stats, tops: that come behind them
    piece:  of text, to be told; finish: None while the sample goes on
    ending: how the sample has ended, where one more step closes it; parked, state: what is kept of it
    """

    row: Row
    count: int
    tokens: list[int]
    stats: list[TokenStats]
    detokenizer: Detokenizer
    delimiters: Delimiters
    piece: str = ""
    finish: str | None = None
    error: str | None = None
    ended_by: int | None = None
    ending: str | None = None
    parked: Any = None
    state: Any = None
    tops: list[TopTokens] = field(default_factory=list)

    @property
    def sample(self) -> Sample:
        """The row's."""
        return self.row.sample

    @property
    def is_kept_as_it_is(self) -> bool:
        """Whether it is to be parked at once: a token ended it that is not part of what can be gone on from."""
        return self.row.sample.request.park and self.finish in ("eos", "until")

    def write(self) -> None:
        """Set the row and its sample to it; `finish` last, because whoever sees it finds the rest in place."""
        row, s = self.row, self.row.sample
        s.tokens[self.count :] = self.tokens
        s.stats[self.count :] = self.stats
        s.tops[self.count :] = self.tops
        row.detokenizer, row.delimiters, row.ending = self.detokenizer, self.delimiters, self.ending
        s.text, s.error, s.ended_by = self.detokenizer.text, self.error, self.ended_by
        s.parked, s.state = self.parked, self.state
        s.finish = self.finish


@dataclass(eq=False)
class Refused:
    """What becomes of a sample that waited, and cannot begin any more."""

    sample: Sample
    error: str
    finish: str = "failed"
    piece: str = ""

    def write(self) -> None:
        """Set the sample to it."""
        self.sample.error = self.error
        self.sample.finish = self.finish


def appended(row: Row) -> Outcome:
    """What stands in a new row's sample before anything is drawn: to be written first."""
    tokens = list(row.sample.request.append)
    detokenizer = row.detokenizer.copy()
    piece = detokenizer.advance(tokens, watch=False) if tokens else ""
    passed = row.delimiters.passing(detokenizer.decoded)
    tops = [NO_TOPS] * len(tokens) if row.sample.request.top_logprobs else []
    return Outcome(row, 0, tokens, [NO_STATS] * len(tokens), detokenizer, passed, piece, tops=tops)


def after_draw(row: Row, drawn: Drawn, piece: str = "") -> Outcome:
    """What becomes of a row once this was drawn for it; piece: of text that is still to be told."""
    s, request, tokens = row.sample, row.sample.request, row.sample.tokens
    detokenizer = row.detokenizer.copy()
    new = Outcome(row, len(tokens), [], [], detokenizer, row.delimiters, piece)
    if drawn.stats is None:
        new.finish, new.error = "failed", drawn.failure
        new.piece += detokenizer.finish(tokens)
        return new
    written = row.drawn + 1
    is_past_minimum = written >= request.min_new_tokens
    if is_past_minimum and drawn.token in request.until_ids:
        new.finish, new.ended_by = "until", drawn.token
        new.piece += detokenizer.finish(tokens)
        return new
    new.tokens, new.stats, new.tops = [drawn.token], [drawn.stats], [] if drawn.top is None else [drawn.top]
    if is_past_minimum and drawn.token in row.eos:
        new.finish = "eos"
        new.piece += detokenizer.finish(tokens)
        return new
    tokens = [*s.tokens, drawn.token]
    new.piece += detokenizer.advance(tokens, watch=is_past_minimum)
    text = detokenizer.decoded
    new.delimiters = new.delimiters.after(text) if is_past_minimum else new.delimiters.passing(text)
    if detokenizer.is_stopped:
        ending = "stop"
    elif new.delimiters.are_seen:
        ending = "until"
    elif written >= row.limit:
        ending = "length"
    else:
        return new
    new.piece += detokenizer.finish(tokens)
    is_closed_later = request.park or request.layer is not None
    new.finish, new.ending = (None, ending) if is_closed_later else (ending, None)
    return new


def closed(row: Row, parked: Any) -> Outcome:
    """The end of a row whose last token has been read too."""
    return Outcome(row, len(row.sample.tokens), [], [], row.detokenizer, row.delimiters, finish=row.ending,
                   parked=parked)  # fmt: skip


def gone(row: Row) -> Outcome:
    """The end of a row that is cancelled: what it has so far, to the last character."""
    detokenizer = row.detokenizer.copy()
    detokenizer.finish(row.sample.tokens)
    return Outcome(row, len(row.sample.tokens), [], [], detokenizer, row.delimiters, finish="cancelled")
