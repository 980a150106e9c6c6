"""What is known of a drawn token besides its id: the one record that carries it from the sampler to the votes."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, isfinite, nan
from typing import NamedTuple


class TokenStats(NamedTuple):
    """All in nats.

    logprob:        log-probability of the token under the distribution that it was drawn from
    raw_logprob:    the same under the model's own row: temperature 1, nothing filtered
    entropy:        of the model's own row
    self_certainty: of the model's own row: logsumexp(x) - mean(x) - log V; +inf where a token is forbidden
    """

    logprob: float
    raw_logprob: float
    entropy: float
    self_certainty: float


TOP = 20  # log-probabilities that other engines give of a token: the k of DeepConf's certainty
NO_STATS = TokenStats(nan, nan, nan, nan)  # of a token that was not drawn


class TopTokens(NamedTuple):
    """The likeliest tokens of one place by the model's own row: temperature 1, nothing filtered; the likeliest first.

    ids: token ids; logprobs: of each, in nats
    """

    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()

    def first(self, count: int) -> TopTokens:
        """The first of them."""
        return TopTokens(self.ids[:count], self.logprobs[:count])


NO_TOPS = TopTokens()  # of a token that was not drawn, and of a prompt's first, which nothing stands before


class PromptStats(NamedTuple):
    """What the model says of a prompt's own tokens, each behind those before it: temperature 1, nothing filtered.

    logprobs: of each token, in nats; NaN for the first
    tops:     the likeliest tokens of each place, NO_TOPS for the first; most: how many were asked for
    """

    logprobs: tuple[float, ...]
    tops: tuple[TopTokens, ...]
    most: int

    def first(self, count: int) -> PromptStats:
        """The same with fewer of the likeliest."""
        if count == self.most:
            return self
        return PromptStats(self.logprobs, tuple(top.first(count) for top in self.tops), count)


def likeliest_stats(own: object, top: Sequence[object]) -> TokenStats:
    """Of a token of which only log-probabilities are told: its own, and those of the TOP likeliest, in nats.

    self_certainty is then -mean of the likeliest ones; what is no finite number counts as not told
    """
    values = [float(x) for x in top if isinstance(x, int | float) and isfinite(x)][:TOP]
    certainty = -fsum(values) / len(values) if values else nan
    raw = float(own) if isinstance(own, int | float) and isfinite(own) else nan
    return TokenStats(nan, raw, nan, certainty)


class MeanStats(NamedTuple):
    """The means over a sample's tokens, in nats; None where there is none (no token, or a value that is not finite)."""

    logprob: float | None = None
    raw_logprob: float | None = None
    entropy: float | None = None
    self_certainty: float | None = None

    @classmethod
    def of(cls, tokens: Sequence[TokenStats]) -> MeanStats:
        """Summed exactly, so that the order of the tokens does not matter."""
        return cls(*(_mean(column) for column in zip(*tokens))) if tokens else cls()


NO_MEANS = MeanStats()


def _mean(values: Sequence[float]) -> float | None:
    mean = fsum(values) / len(values) if all(map(isfinite, values)) else nan
    return mean if isfinite(mean) else None
