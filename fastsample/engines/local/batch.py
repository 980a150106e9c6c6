"""A sample's place in the batch, and what is drawn from for it: parameters as columns, rows edited before the draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any, cast

import torch
from torch import Tensor

from ...models.forward import Prefix
from ...sampling.api import sample
from ...sampling.contract import STATUS, row_status
from ...sampling.edits import Edits, edited
from ...token_stats import TokenStats, TopTokens
from ..base import Sample
from ..columns import COLUMNS
from .counted import Counted
from .detokenizer import Detokenizer
from .grammar import Follower, masks_of
from .legs import Delimiters
from .told import pack, unpack
from .tops import drawn_tops


@dataclass(eq=False)
class Row:
    """A sample in the batch: what it continues, its text so far, what ends it.

    name:   of the runner's row
    prefix: its request's prompt and what was appended to it
    limit:  tokens that may be drawn
    follower: of its grammar, None without one
    ending: how it has ended, while it waits for the step that closes it
    """

    sample: Sample
    name: int
    prefix: Prefix
    detokenizer: Detokenizer
    delimiters: Delimiters
    eos: frozenset[int]
    limit: int
    follower: Follower | None = None
    ending: str | None = None

    @property
    def drawn(self) -> int:
        """The sample's tokens that were not appended."""
        return len(self.sample.tokens) - self.sample.appended

    @property
    def position(self) -> int:
        """Of the next token in prompt and sample."""
        return len(self.sample.request.prompt) + len(self.sample.tokens)


@dataclass(frozen=True)
class Drawn:
    """A token, its statistics and the likeliest ones in its place, if they were asked for; or why there is none."""

    token: int = -1
    stats: TokenStats | None = None
    top: TopTokens | None = None
    failure: str | None = None


@dataclass(eq=False)
class Columns:
    """The parameters of `sample` for some rows, all but the position; kept as long as the rows are the same.

    rows: their names
    """

    rows: list[int] = field(default_factory=list)
    values: dict[str, Tensor] = field(default_factory=dict)
    counted: Counted = field(default_factory=Counted)

    def of(self, rows: Sequence[Row], device: torch.device) -> dict[str, Tensor]:
        """The arguments of `sample` for these rows, [B] each: the same dictionary while the rows are the same."""
        names = [row.name for row in rows]
        if names != self.rows:
            requests = [row.sample.request for row in rows]
            values = {
                name: torch.tensor([getattr(r, name) for r in requests], dtype=dtype, device=device)
                for name, dtype in COLUMNS
            }
            vars(self).update(rows=names, values=values)  # one call: no interrupt parts the two
        return self.values


def unfinished(rows: Sequence[Row]) -> list[int]:
    """The rows that go on, each hole filled by the last of them, so that few rows are copied."""
    order = list(range(len(rows)))
    for i in reversed(range(len(order))):
        if rows[i].sample.finish is not None:
            order[i] = order[-1]
            order.pop()
    return order


def first_logits(prefixes: Sequence[Prefix]) -> tuple[Tensor, Tensor]:
    """The prefixes' last logits, one row for each of them ([G, V]), and which of them each place reads ([B])."""
    different = list({id(prefix): prefix for prefix in prefixes}.values())
    place = {id(prefix): g for g, prefix in enumerate(different)}
    logits = torch.cat([p.logits for p in different])
    return logits, torch.tensor([place[id(prefix)] for prefix in prefixes], device=logits.device)


def draw(
    rows: Sequence[Row], logits: Tensor, indices: Tensor | None, columns: Columns, told: Sequence[Any] | None = None
) -> list[Drawn]:
    """A token and its statistics for every row; row b reads logits[b] or logits[indices[b]] of [N, V].

    told: what the step itself has drawn from these logits, if it has; it does so where no row is edited
    """
    own = logits, indices
    failures: dict[int, str] = {}
    tops = drawn_tops([row.sample.request.top_logprobs for row in rows], logits, indices)
    changed = [b for b, row in enumerate(rows) if is_edited(row)]
    edits: Edits | None = None
    allowed: Tensor | None = None
    if changed:
        allowed, failures = masks_of(rows, logits.shape[1], logits.device)
        if any(is_rewritten(row) for row in rows):
            logits, found = rewrite_all(rows, logits, indices)
            failures, indices = found | failures, None
        edits = columns.counted.of(rows, logits.device)
        if edits is not None:
            logits = logits.float()  # 16 bits would swallow a small penalty
    if told is None:
        arguments: dict[str, Any] = dict(columns.of(rows, logits.device), return_stats=True)
        arguments["position"] = torch.tensor([row.position for row in rows], device=logits.device)
        try:
            tokens, stats = sample(logits, indices=indices, edits=edits, allowed=allowed, **arguments)
        except ValueError:  # rows without a valid logit, on a CPU; elsewhere their token is -1
            logits, found = without_invalid(len(rows), *as_edited(logits, indices, edits, allowed))
            indices = indices if edits is None and allowed is None else None
            edits, allowed, failures = None, None, found | failures
            tokens, stats = sample(logits, indices=indices, **arguments)
        told = unpack(pack(tokens, stats))
    if min(token for token, _ in told) < 0:
        failures = without_invalid(len(rows), *as_edited(logits, indices, edits, allowed))[1] | failures
    told = list(told)
    if changed:
        for b, values in zip(changed, own_stats(*own, changed, [token for token, _ in told])):
            told[b] = told[b][0], TokenStats(told[b][1].logprob, *values)
    return [
        Drawn(failure=failures[b]) if b in failures else Drawn(token, token_stats, tops.get(b))
        for b, (token, token_stats) in enumerate(told)
    ]


def is_rewritten(row: Row) -> bool:
    """Whether something changes the model's row before the sampler: a processor, or an end forbidden for now."""
    request = row.sample.request
    return bool(request.logits_processor) or row.drawn < request.min_new_tokens


def is_edited(row: Row) -> bool:
    """Whether a row is drawn from otherwise than as the model gives it: rewritten, or penalties, or a grammar."""
    return is_rewritten(row) or row.sample.request.penalties.are_any or row.follower is not None


def rewrite(scores: Tensor, row: Row) -> Tensor:
    """scores [V] after the sample's own processors and its minimum length."""
    request, tokens = row.sample.request, row.sample.tokens
    if request.logits_processor:
        ids = torch.tensor([[*request.prompt, *tokens]], device=scores.device)
        scores = request.logits_processor(cast(Any, ids), cast(Any, scores[None].clone()))[0]
    ends = sorted(row.eos | set(request.until_ids))
    if row.drawn < request.min_new_tokens and ends:
        scores = scores.index_fill(0, torch.tensor(ends, device=scores.device), -torch.inf)
    return scores


def as_edited(
    logits: Tensor, indices: Tensor | None, edits: Edits | None, allowed: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The logits and indices of what the sampler draws from."""
    if edits is None and allowed is None:
        return logits, indices
    columns = None if edits is None else edits.columns
    return edited(logits if indices is None else logits[indices], columns, allowed), None


def rewrite_all(rows: Sequence[Row], logits: Tensor, indices: Tensor | None) -> tuple[Tensor, dict[int, str]]:
    """The rows' logits [B, V] as their processors and minimum lengths leave them, and which of these failed, by row.

    logits: [N, V], of which row b reads logits[b] or logits[indices[b]]; a copy is changed
    """
    # A copy of our own, and a plain tensor: what inference mode made cannot be written to outside of it.
    logits = logits.clone() if indices is None else logits[indices].clone()
    failures = {}
    for b, row in enumerate(rows):
        if is_rewritten(row):
            try:
                logits[b] = rewrite(logits[b], row)
            except Exception as error:  # of somebody else's processor: it ends its own sample, not the batch
                failures[b] = f"a logits processor failed: {type(error).__name__}: {error}"
    return logits, failures


def without_invalid(rows: int, logits: Tensor, indices: Tensor | None) -> tuple[Tensor, dict[int, str]]:
    """logits with zeros for what nothing can be drawn from, and why, by row."""
    status = [row_status(line) for line in logits]
    places = range(rows) if indices is None else indices.tolist()
    failures = {
        b: f"the model's logits for it must be finite or -inf, the row {STATUS[status[place]]}"
        for b, place in enumerate(places)
        if status[place]
    }
    logits = logits.clone()
    logits[[i for i, code in enumerate(status) if code]] = 0
    return logits, failures


def own_stats(logits: Tensor, indices: Tensor | None, rows: Sequence[int], chosen: Sequence[int]) -> list[list[float]]:
    """What the model's own logits say of the tokens chosen for some rows, before anything edited them.

    logits, indices: as in `draw`; returns raw_logprob, entropy and self-certainty of each of the rows, in nats. The
    sampler's own pass gives them for the token that it would take at temperature 0, from which others have a distance.
    """
    places = torch.tensor(rows, device=logits.device)
    places = places if indices is None else indices[places]
    invalid: dict[int, str] = {}
    try:
        best, stats = sample(logits, indices=places, temperature=0.0, return_stats=True)
    except ValueError:  # a row without a valid logit, from which a processor may have made one
        logits, invalid = without_invalid(len(rows), logits, places)
        best, stats = sample(logits, indices=places, temperature=0.0, return_stats=True)
    best, tokens = best.clamp(min=0), torch.tensor([chosen[b] for b in rows], device=logits.device).clamp(min=0)
    below = logits[places, tokens].double() - logits[places, best].double()
    columns = (stats.raw_logprob + below, stats.entropy, stats.self_certainty)
    told = zip(*(column.tolist() for column in columns))
    return [[nan] * 3 if i in invalid else list(values) for i, values in enumerate(told)]
