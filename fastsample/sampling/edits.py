"""What is done to the logits before the draw: biases, penalties, and a bitmask of the tokens that are allowed.

`edited` is the definition, which every backend follows to the bit. In float32, each operation rounded by itself:

    x = x + bias                                  tokens with an entry
    x = x / repetition if x > 0 else x * repetition    those that stand in the prompt or in the output
    x = x - frequency * count                     count: how often the token stands in the output
    x = x - presence                              if count > 0
    x rounded to the logits' own dtype, ties to even
    x = -inf                                      tokens whose bit in `allowed` is not set, whatever they held

source: the order is that of vLLM (v1/sample/sampler.py) and of transformers' processors: biases, then penalties.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .values import Parameter, as_float32, check_rows, parameter_of, shown, tensor_of

PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")
WORD = 32  # tokens of a word of the bitmask
ROOM = 32  # entries that a row's list grows by at least


class EditColumns(NamedTuple):
    """B rows of edits as the kernels read them: C entries a row, in any order, a token in one of them at most."""

    ids: Tensor  # [B, C] int32: a token; -1: no entry
    counts: Tensor  # [B, C] int32: how often it stands in the output; -1: in the prompt alone; 0: in neither
    biases: Tensor  # [B, C] float32
    repetition: Tensor  # [B] float32
    frequency: Tensor  # [B] float32
    presence: Tensor  # [B] float32


class Edits:
    """Penalties and biases of B rows, with the tokens that they count; for `sample` and `distribution`.

    prompts, outputs:   token ids, B lists or tensors of any lengths, or one [B, L]; None = none so far
    repetition_penalty: number or [B], > 0; tokens of prompt and output: logits above 0 are divided by it, others
                        multiplied; 1 changes nothing
    frequency_penalty:  number or [B]; is subtracted for each time that a token stands in the output
    presence_penalty:   number or [B]; is subtracted once from tokens that stand in the output
    logit_bias:         {token id: what is added to its logit} for all rows, or B of these; -inf forbids a token
    rows:               B, where nothing else has a value a row
    device:             of the logits

    Every step's tokens are counted by `append`; `keep` drops and reorders rows. In bfloat16 and float16 an edited logit
    is rounded to that dtype, so that a small penalty can vanish: pass `logits.float()` where it must not.
    raises: ValueError or TypeError with the rule, the value and the remedy
    """

    def __init__(
        self,
        *,
        prompts: Any = None,
        outputs: Any = None,
        repetition_penalty: Parameter = 1.0,
        frequency_penalty: Parameter = 0.0,
        presence_penalty: Parameter = 0.0,
        logit_bias: Mapping[int, float] | Sequence[Mapping[int, float] | None] | None = None,
        rows: int | None = None,
        device: Any = "cpu",
    ) -> None:
        penalties = dict(zip(PENALTIES, (repetition_penalty, frequency_penalty, presence_penalty)))
        biases = None if logit_bias is None or isinstance(logit_bias, Mapping) else logit_bias
        self.rows = _rows(rows, prompts=prompts, outputs=outputs, logit_bias=biases, **penalties)
        lists = [_ids(name, given, self.rows) for name, given in (("prompts", prompts), ("outputs", outputs))]
        biased = [_biases(b) for b in biases] if biases is not None else [_biases(logit_bias)] * self.rows
        entries = [_entries(*row) for row in zip(*lists, biased)]
        self._most = max((len(ids) for ids, *_ in entries), default=0)  # entries of a row, at most
        empty = torch.empty(0, device=device)
        self.columns = EditColumns(
            *(_padded([row[i] for row in entries], self._most, fill).to(empty.device) for i, fill in enumerate(_FILL)),
            *(_column(name, value, self.rows, empty) for name, value in penalties.items()),
        )
        self._used = torch.tensor([len(ids) for ids, *_ in entries], dtype=torch.int64, device=empty.device)

    def append(self, tokens: Tensor | Sequence[int]) -> None:
        """Count one more token of each row's output; -1, the token of an invalid row, counts for nothing.

        tokens: [B]
        """
        ids, counts, biases, *penalties = self.columns
        token = tensor_of("tokens", tokens, self.rows, torch.int64, ids).clamp(-1, 2**31 - 1).to(torch.int32)[:, None]
        is_there = (ids == token) & (token >= 0)
        is_new = (token >= 0) & ~is_there.any(1, keepdim=True)
        most = self._most
        if most == ids.shape[1] and ids.device.type == "cpu":  # elsewhere it would have to be waited for
            most = int(self._used.max()) if self.rows else 0
        counts = torch.where(is_there, counts.clamp(min=0) + 1, counts)
        if most == ids.shape[1]:
            room = max(ROOM, most)
            ids, counts, biases = (
                torch.nn.functional.pad(column, (0, room), value=float(fill))
                for column, fill in zip((ids, counts, biases), _FILL)
            )
        place = self._used[:, None]
        ids = ids.scatter(1, place, torch.where(is_new, token, -1))
        counts = counts.scatter(1, place, is_new.to(torch.int32))
        columns = EditColumns(ids, counts, biases, *penalties)
        vars(self).update(columns=columns, _used=self._used + is_new[:, 0], _most=most + 1)

    def keep(self, rows: Sequence[int] | Tensor) -> None:
        """From now on these rows only, in this order. rows: numbers of rows, [b]"""
        chosen = torch.as_tensor(rows, dtype=torch.int64, device=self.columns.ids.device)
        columns = EditColumns._make(column[chosen] for column in self.columns)
        vars(self).update(columns=columns, _used=self._used[chosen], rows=len(chosen))

    def apply(self, logits: Tensor) -> Tensor:
        """What is drawn from: logits [B, V] with the edits, in their own dtype. A new tensor."""
        return edited(logits, columns_of(self, logits.shape[0], logits), None)


def edited(logits: Tensor, edits: EditColumns | None, allowed: Tensor | None) -> Tensor:
    """The definition of every edit: [B, V] of the logits' dtype, a new tensor. logits: [B, V]"""
    vocab = logits.shape[1]
    if edits is not None:
        ids, counts, biases = edits.ids.long(), edits.counts, edits.biases
        repetition, frequency, presence = (column[:, None] for column in edits[3:])
        is_entry = (ids >= 0) & (ids < vocab)
        x = logits.gather(1, ids.where(is_entry, 0)).float() + biases
        x = torch.where(counts != 0, torch.where(x > 0, x / repetition, x * repetition), x)
        x = x - frequency * counts.clamp(min=0)
        x = x - torch.where(counts > 0, presence, 0)
        beside = torch.nn.functional.pad(logits, (0, 1))  # a column for the places without an entry
        logits = beside.scatter(1, ids.where(is_entry, vocab), x.to(logits.dtype))[:, :vocab]
    if allowed is not None:
        bits = allowed[:, :, None] >> torch.arange(WORD, device=allowed.device) & 1
        logits = logits.masked_fill(bits.reshape(allowed.shape[0], -1)[:, :vocab] == 0, -math.inf)
    return logits


def columns_of(edits: Edits, rows: int, logits: Tensor) -> EditColumns:
    """The edits of a call that draws so many rows; raises ValueError or TypeError where they are not of it."""
    if not isinstance(edits, Edits):
        raise TypeError(f"edits must be None or fastsample.Edits, got {type(edits).__name__}; make it with Edits(...)")
    if edits.rows != rows:
        raise ValueError(f"edits must have a row for each of the {rows} rows drawn, got {edits.rows}; call keep")
    if edits.columns.ids.device != logits.device:
        raise ValueError(
            f"edits must be on the device of the logits, {logits.device}, got {edits.columns.ids.device}; "
            f"make them with device={str(logits.device)!r}"
        )
    return edits.columns


def check_edits(edits: EditColumns, vocab: int) -> None:
    """Raise ValueError for a token outside of the vocabulary, naming the row. Reads the tensor."""
    if edits.ids.numel() and int(edits.ids.max()) >= vocab:
        row, place = (edits.ids >= vocab).nonzero()[0].tolist()
        raise ValueError(
            f"edits must name token ids in [0, {vocab}), the vocabulary of the logits, got "
            f"{int(edits.ids[row, place])} at row {row}; use the model's own tokenizer"
        )


def allowed_of(allowed: Tensor, rows: int, logits: Tensor) -> Tensor:
    """The bitmask of B rows, [B, ceil(V / 32)] int32; raises ValueError or TypeError with the remedy."""
    vocab = logits.shape[1]
    words = -(-vocab // WORD)
    wanted = f"int32 [{rows}, {words}], a bit a token, or bool [{rows}, {vocab}]"
    if not isinstance(allowed, Tensor) or allowed.dtype not in (torch.int32, torch.bool):
        got = allowed.dtype if isinstance(allowed, Tensor) else type(allowed).__name__
        raise TypeError(f"allowed must be {wanted}, got {got}; a bit that is set allows its token")
    width = words if allowed.dtype == torch.int32 else vocab
    if allowed.shape not in ((rows, width), (width,)):
        raise ValueError(f"allowed must be {wanted}, or one such row for all, got shape {tuple(allowed.shape)}")
    if allowed.device != logits.device:
        raise ValueError(
            f"allowed must be on the device of the logits, {logits.device}, got {allowed.device}; move it there first"
        )
    if allowed.dtype == torch.bool:
        allowed = bits_of(allowed)
    if allowed.dim() == 1:
        allowed = allowed.expand(rows, words)
    return allowed if allowed.stride(1) == 1 or words == 1 else allowed.contiguous()


def bits_of(is_allowed: Tensor) -> Tensor:
    """A bitmask of what is True: [..., V] bool to [..., ceil(V / 32)] int32, in xgrammar's layout."""
    padded = torch.nn.functional.pad(is_allowed, (0, -is_allowed.shape[-1] % WORD))
    bits = padded.unflatten(-1, (-1, WORD)).long() << torch.arange(WORD, device=padded.device)
    total = bits.sum(-1)
    return torch.where(total < 2**31, total, total - 2**32).to(torch.int32)


_FILL = (np.int32(-1), np.int32(0), np.float32(0))  # of ids, counts and biases behind a row's last entry


def _rows(rows: int | None, **given: Any) -> int:
    """B, by whatever has a value a row."""
    found = {name: len(value) for name, value in given.items() if _has_rows(name, value)}
    if rows is not None:
        found["rows"] = rows
    if not found:
        raise ValueError("rows must be given where nothing else has a value a row, got None; rows=1 for a single row")
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in found.items())
        raise ValueError(f"edits must have the same number of rows in everything: {listed}")
    return next(iter(found.values()))


def _has_rows(name: str, value: Any) -> bool:
    if value is None or (isinstance(value, Tensor) and value.dim() == 0) or not hasattr(value, "__len__"):
        return False
    if isinstance(value, str | bytes):
        raise TypeError(f"{name} must be token ids, got {type(value).__name__}; call the tokenizer on a text first")
    return True


def _ids(name: str, given: Any, rows: int) -> list[np.ndarray]:
    """Each row's token ids, [L] int64."""
    if given is None:
        return [np.empty(0, np.int64)] * rows
    listed = []
    for row, ids in enumerate(given):
        array = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise TypeError(f"{name} must be a list of token ids for each row, got {shown(ids)[:60]} at row {row}")
        listed.append(_checked(name, array.astype(np.int64), f" at row {row}"))
    return listed


def _checked(name: str, ids: np.ndarray, where: str = "") -> np.ndarray:
    if ids.size and not 0 <= ids.min() <= ids.max() < 2**31:
        wrong = ids[(ids < 0) | (ids >= 2**31)][0]
        raise ValueError(f"{name} must hold token ids of the vocabulary, got {wrong}{where}; leave padding out")
    return ids


def _biases(given: Any) -> tuple[np.ndarray, np.ndarray]:
    """The tokens [n] int64 and what is added to each, [n] float32."""
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise TypeError(f"logit_bias must be a dictionary {{token id: bias}}, or one a row, got {shown(given)[:60]}")
    for token, bias in given.items():
        if isinstance(token, bool) or not isinstance(token, int | np.integer):
            raise TypeError(f"logit_bias must be for token ids, got {token!r}; call the tokenizer first")
        if isinstance(bias, str) or not as_float32(float(bias)) < math.inf:
            raise ValueError(f"logit_bias must be finite, or -inf to forbid a token, got {bias!r} for token {token}")
    tokens = _checked("logit_bias", np.fromiter(given.keys(), np.int64, len(given)))
    return tokens, np.fromiter(given.values(), np.float32, len(given))


def _entries(prompt: np.ndarray, output: np.ndarray, biased: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ...]:
    """One row's ids, counts and biases, [n] each."""
    ids = np.unique(np.concatenate([prompt, output, biased[0]]))
    counts, biases = np.zeros(len(ids), np.int32), np.zeros(len(ids), np.float32)
    counts[np.searchsorted(ids, prompt)] = -1
    written, times = np.unique(output, return_counts=True)
    counts[np.searchsorted(ids, written)] = times
    biases[np.searchsorted(ids, biased[0])] = biased[1]
    return ids.astype(np.int32), counts, biases


def _padded(column: Sequence[np.ndarray], width: int, fill: np.generic) -> Tensor:
    """[B, C] of the type of what fills the places behind each row."""
    table = np.full((len(column), width), fill)
    for b, values in enumerate(column):
        table[b, : len(values)] = values
    return torch.from_numpy(table)


def _column(name: str, value: Parameter, rows: int, like: Tensor) -> Tensor:
    checked = parameter_of(name, value, rows, torch.float32, like)
    if isinstance(checked, Tensor):
        if checked.device.type == "cpu":
            check_rows(name, checked)
        return checked
    return torch.full((rows,), checked, dtype=torch.float32, device=like.device)
