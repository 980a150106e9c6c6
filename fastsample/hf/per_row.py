"""The logits processors of one row: `generate` hands them a whole batch, a shared prefix has rows that come and go.

A processor may keep something between calls (a cache, a state, a count) or something of each row (a negative prompt,
the n-grams of the prompts). So every row gets a copy of its own, made for that row; what cannot be one is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList
from transformers.generation import logits_process as theirs
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .processors import FastSampler, PerRowWarper

# The draw does what these do: (kind, the field that both have, the value that is off).
FILTERED_HERE = (
    (TemperatureLogitsWarper, "temperature", 1.0),
    (TopKLogitsWarper, "top_k", 0),
    (TopPLogitsWarper, "top_p", 1.0),
    (MinPLogitsWarper, "min_p", 0.0),
)
FILTERS = tuple(kind for kind, _, _ in FILTERED_HERE)
# For models of sound, whose rows are codebooks or come in pairs; the releases differ in which of them there are.
OF_SOUND = ("Whisper", "Bark", "Dia", "AlternatingCodebooks", "ClassifierFreeGuidance")
AFTER_FILTERS = ("WatermarkLogitsProcessor", "SynthIDTextWatermarkLogitsProcessor")  # they mark what the filters left
NORMALIZES = "LogitNormalization"  # what it takes from all scores of a row changes no probability


def kept(given: LogitsProcessorList, config: Any, is_random: bool) -> list[Any]:
    """The processors that stay: temperature and the filters are done by the draw, as the generation config says.

    raises: ValueError for a processor that a shared prefix cannot serve, by its name
    """
    remedy = "call generate without custom_generate"
    for processor in given:
        name = type(processor).__name__
        if isinstance(processor, FastSampler | PerRowWarper):
            raise ValueError(f"custom_generate draws by itself, got a {name} as well; pass temperatures=[...] instead")
        if not isinstance(processor, FILTERS) and name.endswith("LogitsWarper"):
            raise ValueError(f"custom_generate filters by top_k, top_p and min_p, got a {name}; leave it out")
        if name.startswith(OF_SOUND):
            raise ValueError(f"custom_generate serves models of text, got a {name}, which is for others; {remedy}")
        if is_random and name in AFTER_FILTERS:
            raise ValueError(
                f"a {name} works on what the filters left, and custom_generate filters as it draws; {remedy}"
            )
    if is_random:
        _check_filters(given, config)
    return [p for p in given if not isinstance(p, FILTERS) and type(p).__name__ != NORMALIZES]


def _check_filters(given: LogitsProcessorList, config: Any) -> None:
    """A filter that was passed as an object must be the one that the config asks for: only that one is done."""
    for kind, field, off in FILTERED_HERE:
        found = [getattr(p, field) for p in given if isinstance(p, kind)]
        wanted = getattr(config, field) or off
        if len(found) > 1 or any(value != wanted for value in found):
            raise ValueError(
                f"custom_generate filters by the arguments of generate, {field} = {wanted}, got {kind.__name__} of "
                f"{', '.join(map(str, found))}; pass {field} to generate and leave the object out"
            )


class RowProcessors(LogitsProcessorList):
    """The processors of one row, shown the row with its padding in front: some count from the batch's width.

    row:  the row's number in the batch that `generate` was given; rows: how many there are
    """

    def __init__(self, processors: Sequence[Any], padding: Tensor, row: int, rows: int) -> None:
        super().__init__(_of_row(p, row, rows) for p in processors)
        self.padding = padding[None]

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """input_ids [1, L] without padding, scores [1, V]; returns [1, V]."""
        padded: Any = torch.cat([self.padding, input_ids], 1)
        return super().__call__(padded, scores, **kwargs)


def _of_row(processor: Any, row: int, rows: int) -> Any:
    """A copy of the processor that serves one row; models in it are not copied, they are too large and have no state.

    raises: ValueError, with its name, for one that cannot be copied or does not fit the rows
    """
    name = type(processor).__name__
    memo: dict[int, Any] = {id(v): v for v in vars(processor).values() if isinstance(v, nn.Module)}
    try:
        mine = copy.deepcopy(processor, memo)
    except Exception as error:  # of what it holds, in that one's words
        raise ValueError(
            f"custom_generate gives every row a copy of a processor, and a {name} cannot be copied ({error}); "
            "call generate without custom_generate"
        ) from error
    if isinstance(processor, theirs.RepetitionPenaltyLogitsProcessor):
        _narrow(mine, "prompt_ignore_length", row, rows)
    elif isinstance(processor, theirs.EncoderRepetitionPenaltyLogitsProcessor):
        _narrow(mine, "encoder_input_ids", row, rows)
    elif isinstance(processor, theirs.EncoderNoRepeatNGramLogitsProcessor):
        _narrow(mine, "generated_ngrams", row, rows)
        mine.batch_size = 1
    elif isinstance(processor, theirs.UnbatchedClassifierFreeGuidanceLogitsProcessor):
        for key in ("input_ids", "attention_mask"):
            _narrow(mine.unconditional_context, key, row, rows)
    elif isinstance(processor, theirs.PrefixConstrainedLogitsProcessor):
        allowed = processor._prefix_allowed_tokens_fn
        mine._prefix_allowed_tokens_fn = lambda _, sent: allowed(row, sent)
    return mine


def _narrow(owner: Any, name: str, row: int, rows: int) -> None:
    """Keep what a field holds for one row."""
    values = owner if isinstance(owner, dict) else vars(owner)
    value = values[name]
    if not isinstance(value, Tensor | list):
        return
    if len(value) != rows:
        raise ValueError(
            f"{name} of a logits processor must have one entry for each of the {rows} rows, got {len(value)}; "
            "repeat it for every sequence of a prompt"
        )
    values[name] = value[row : row + 1]
