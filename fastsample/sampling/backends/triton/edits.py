"""Rows as they are once edited, in memory of the call: the two kernels then read these in place of the logits.

`copy_rows` writes each row without the tokens that the bitmask forbids, `edit_entries` then those with an entry: V
logits read and written, V / 8 bytes of the bitmask, and 12 bytes an entry. The formulas are those of `sampling.edits`.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ...contract import Case
from .rows import row_start

BLOCK = 2048  # tokens of a program that copies
ENTRIES = 256  # at once, of a program that edits
THREADS = 128
INDICES, ALLOWED = tl.constexpr(1), tl.constexpr(2)  # bits of `given`: what the call has; the kernels are the same
UNSPECIALISED = dict(
    do_not_specialize=["stride", "count", "vocab", "given", "allowed_stride", "copy_stride", "entries"],
    do_not_specialize_on_alignment=["logits", "indices", "allowed", "ids", "counts", "biases"],
)


@triton.jit
def is_allowed(allowed, i, mask, given):
    """Which of the tokens i, where `mask`, a row allows; without a bitmask it allows all."""
    word = tl.load(allowed + i // 32, mask=mask & ((given & ALLOWED) > 0), other=-1)
    return mask & (((word >> (i % 32)) & 1) != 0)


@triton.jit
def narrow(x, TYPE: tl.constexpr):
    """float32 to the row's own type, to nearest, ties to even. By hand for bfloat16: the interpreter would cut off."""
    if tl.bfloat16 == TYPE:
        bits = x.to(tl.uint32, bitcast=True)
        near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where(x == x, near, (bits >> 16) | 0x40).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:  # noqa: RET505
        return x.to(TYPE)


@triton.jit(**UNSPECIALISED)
def copy_rows(
    logits, stride: tl.int64, count: tl.int32, vocab: tl.int32, given: tl.int32, indices, allowed,
    allowed_stride: tl.int64, copies, copy_stride: tl.int64, BLOCK: tl.constexpr
):  # fmt: skip
    """Tokens `BLOCK * program_id(1)` and on of row `program_id(0)`."""
    b = tl.program_id(0)
    start, is_row = row_start(logits, stride, count, indices, b, (given & INDICES) > 0)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    kept = is_allowed(allowed + b.to(tl.int64) * allowed_stride, i, (i < vocab) & is_row, given)
    x = tl.load(start + i, mask=kept, other=float("-inf"))
    tl.store(copies + b.to(tl.int64) * copy_stride + i, x, mask=i < vocab)


@triton.jit(**UNSPECIALISED)
def edit_entries(
    logits, stride: tl.int64, count: tl.int32, vocab: tl.int32, given: tl.int32, indices, allowed,
    allowed_stride: tl.int64, copies, copy_stride: tl.int64,
    entries: tl.int32, ids, counts, biases, repetition, frequency, presence, ENTRIES: tl.constexpr
):  # fmt: skip
    """All entries of row `program_id(0)`."""
    b = tl.program_id(0)
    start, is_row = row_start(logits, stride, count, indices, b, (given & INDICES) > 0)
    copies += b.to(tl.int64) * copy_stride
    allowed += b.to(tl.int64) * allowed_stride
    r, f, p = tl.load(repetition + b), tl.load(frequency + b), tl.load(presence + b)
    for first in range(0, entries, ENTRIES):
        place = first + tl.arange(0, ENTRIES)
        is_entry = (place < entries) & is_row
        place += b.to(tl.int64) * entries
        i = tl.load(ids + place, mask=is_entry, other=-1)
        is_entry = is_entry & (i >= 0) & (i < vocab)
        is_entry = is_allowed(allowed, i, is_entry, given)
        n = tl.load(counts + place, mask=is_entry, other=0)
        x = tl.load(start + i, mask=is_entry, other=0.0).to(tl.float32)
        x = x + tl.load(biases + place, mask=is_entry, other=0.0)
        x = tl.where(n != 0, tl.where(x > 0, tl.div_rn(x, tl.zeros_like(x) + r), x * r), x)
        x = x - f * tl.maximum(n, 0).to(tl.float32)
        x = x - tl.where(n > 0, p, 0.0)
        tl.store(copies + i, narrow(x, logits.dtype.element_ty), mask=is_entry)


def arguments(case: Case, rows) -> tuple[tuple, tuple]:
    """What `copy_rows` and `edit_entries` are given, in their order, and of the same types in every call."""
    logits, edits = case.logits, case.edits
    blank = logits.new_empty(1, dtype=torch.int64)  # in the place of what is not given; it is not read
    indices = blank if case.indices is None else case.indices
    allowed = blank.view(torch.int32) if case.allowed is None else case.allowed
    given = (case.indices is not None) * INDICES.value | (case.allowed is not None) * ALLOWED.value
    shape = (logits.stride(0), *logits.shape, given)
    source = (logits, *shape, indices, allowed, allowed.stride(0), rows, rows.stride(0))
    return source, () if edits is None else (*source, edits.ids.shape[1], *edits)


def edit(case: Case, rows, warp: int) -> None:
    """Write the edited rows of a case. rows: [B, V] of the logits' dtype; warp: threads of one on the device"""
    source, entries = arguments(case, rows)
    settings = dict(num_warps=THREADS // warp, enable_fp_fusion=False)
    copy_rows[case.rows, triton.cdiv(rows.shape[1], BLOCK)](*source, BLOCK=BLOCK, **settings)
    if entries:
        edit_entries[case.rows,](*entries, ENTRIES=ENTRIES, **settings)
