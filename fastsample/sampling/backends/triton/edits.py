"""Rows as they are once edited, in memory of the call: the two kernels then read these in place of the logits.

`copy_rows` writes each row without the tokens that the bitmask forbids, `edit_entries` then those with an entry: V
logits read and written, V / 8 bytes of the bitmask, and 12 bytes an entry. The formulas are those of `sampling.edits`.
"""

# mypy: ignore-errors
# (the arguments of Triton's functions get their types from Triton)

from __future__ import annotations

import triton
import triton.language as tl

from ...contract import Case
from .kernels import row_start

BLOCK = 2048  # tokens of a program that copies
ENTRIES = 256  # at once, of a program that edits
THREADS = 128


@triton.jit
def is_allowed(allowed, i, mask):
    """Whether tokens i of a row are allowed; without a bitmask all are."""
    if allowed is None:
        return mask
    else:  # noqa: RET505 (Triton compiles one branch or the other)
        word = tl.load(allowed + i // 32, mask=mask, other=0)
        return ((word >> (i % 32)) & 1) != 0


@triton.jit
def narrow(x, TYPE: tl.constexpr):
    """float32 to the row's own type, to nearest, ties to even. By hand for bfloat16: the interpreter would cut off."""
    if tl.bfloat16 == TYPE:
        bits = x.to(tl.uint32, bitcast=True)
        near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where(x == x, near, (bits >> 16) | 0x40).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:  # noqa: RET505
        return x.to(TYPE)


@triton.jit(do_not_specialize=["count", "vocab", "copy_stride", "allowed_stride"])
def copy_rows(logits, stride, count, vocab, indices, allowed, allowed_stride, copies, copy_stride, BLOCK: tl.constexpr):
    """Tokens `BLOCK * program_id(1)` and on of row `program_id(0)`."""
    b = tl.program_id(0)
    start, is_row = row_start(logits, stride, count, indices, b)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_token = i < vocab
    if allowed is not None:
        allowed += b.to(tl.int64) * allowed_stride
    kept = is_allowed(allowed, i, is_token) & is_row
    x = tl.load(start + i, mask=is_token & kept, other=float("-inf"))
    tl.store(copies + b.to(tl.int64) * copy_stride + i, x, mask=is_token)


@triton.jit(do_not_specialize=["count", "vocab", "copy_stride", "allowed_stride", "entries"])
def edit_entries(
    logits,
    stride,
    count,
    vocab,
    indices,
    allowed,
    allowed_stride,
    copies,
    copy_stride,
    entries,
    ids,
    counts,
    biases,
    repetition,
    frequency,
    presence,
    ENTRIES: tl.constexpr,
):
    """All entries of row `program_id(0)`."""
    b = tl.program_id(0)
    start, is_row = row_start(logits, stride, count, indices, b)
    copies += b.to(tl.int64) * copy_stride
    if allowed is not None:
        allowed += b.to(tl.int64) * allowed_stride
    r, f, p = tl.load(repetition + b), tl.load(frequency + b), tl.load(presence + b)
    for first in range(0, entries, ENTRIES):
        place = first + tl.arange(0, ENTRIES)
        is_entry = (place < entries) & is_row
        place += b.to(tl.int64) * entries
        i = tl.load(ids + place, mask=is_entry, other=-1)
        is_entry = is_entry & (i >= 0) & (i < vocab)
        is_entry = is_allowed(allowed, i, is_entry) & is_entry
        n = tl.load(counts + place, mask=is_entry, other=0)
        x = tl.load(start + i, mask=is_entry, other=0.0).to(tl.float32)
        x = x + tl.load(biases + place, mask=is_entry, other=0.0)
        x = tl.where(n != 0, tl.where(x > 0, tl.div_rn(x, tl.zeros_like(x) + r), x * r), x)
        x = x - f * tl.maximum(n, 0).to(tl.float32)
        x = x - tl.where(n > 0, p, 0.0)
        tl.store(copies + i, narrow(x, logits.dtype.element_ty), mask=is_entry)


def edit(case: Case, rows, warp: int) -> None:
    """Write the edited rows of a case. rows: [B, V] of the logits' dtype; warp: threads of one on the device"""
    logits, allowed, edits = case.logits, case.allowed, case.edits
    count, vocab = logits.shape
    bits = (None, 0) if allowed is None else (allowed, allowed.stride(0))
    source = (logits, logits.stride(0), count, vocab, case.indices, *bits, rows, rows.stride(0))
    settings = dict(num_warps=THREADS // warp, enable_fp_fusion=False)
    copy_rows[case.rows, triton.cdiv(vocab, BLOCK)](*source, BLOCK=BLOCK, **settings)
    if edits is not None and edits.ids.shape[1]:
        edit_entries[case.rows,](*source, edits.ids.shape[1], *edits, ENTRIES=ENTRIES, **settings)
