"""Triton's interpreter on CPU tensors, made exact and quick. Import it in a process started with TRITON_INTERPRET=1."""

from __future__ import annotations

import warnings

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

import fastsample.sampling.reference as reference
from fastsample.sampling.backends.triton import candidates, combine
from fastsample.sampling.backends.triton import kernels as triton_kernels

assert interpreter.InterpretedFunction is type(triton_kernels.finish_rows), "start with TRITON_INTERPRET=1"
warnings.filterwarnings("ignore", category=RuntimeWarning)  # numpy speaks of values that `where` throws away


def _fma(self, x, y, z):
    """Some versions round twice; the contract's fma rounds once."""
    a, b, c = np.broadcast_arrays(x.data, y.data, z.data)
    return interpreter.TensorHandle(reference.fma(a, b, c.astype(np.float64)), z.dtype.scalar)


_convert = interpreter._convert_float


def _widen(input, input_dtype, output_dtype, rounding_mode):
    """bfloat16 to float32 as hardware does it: a shift. The interpreter's own conversion gets subnormals wrong."""
    if input_dtype == tl.bfloat16 and output_dtype == tl.float32:
        return input.view(np.uint16).astype(np.uint32) << 16
    return _convert(input, input_dtype, output_dtype, rounding_mode)


_create_splat = interpreter.InterpreterBuilder.create_splat


def _splat(self, *given):
    """A truth value for all stays one. It has the type of the numbers that were compared, and Triton 3.9 refuses a mask
    of numbers."""
    found = _create_splat(self, *given)
    one = next(value for value in given if isinstance(value, interpreter.TensorHandle))
    return interpreter.TensorHandle(found.data.astype(bool), found.dtype) if one.data.dtype == bool else found


# A combine function of our own would be called once for every element, from Python.
QUICK = {
    combine.nan_max: (np.maximum,),
    combine.max_and_min: (np.maximum, np.minimum),
    combine.sum_and_max: (np.add, np.maximum),
    combine.two_sums: (np.add,) * 2,
    combine.three_sums: (np.add,) * 3,
    combine.eight_sums: (np.add,) * 8,
}
_reduce, _scan = interpreter.ReduceOps.apply_impl, interpreter.ScanOps.apply_impl


def _quick_reduce(self, values):
    if self.combine_fn not in QUICK:
        return _reduce(self, values)
    pairs = zip(values, QUICK[self.combine_fn])
    found = tuple(self.to_tensor(f.reduce(v.handle.data, axis=self.axis), v.dtype) for v, f in pairs)
    return found if len(found) > 1 else found[0]


def _quick_scan(self, values):
    if self.combine_fn not in QUICK:
        return _scan(self, values)
    pairs = zip(values, QUICK[self.combine_fn])
    return [self.to_tensor(f.accumulate(v.handle.data, axis=self.axis), v.dtype) for v, f in pairs]


_run, _patched = interpreter.GridExecutor.__call__, set()


def _launch(self, *args, **kwargs):
    _patched.clear()
    return _run(self, *args, **kwargs)


def _call_inside(self, *args, **kwargs):
    """The language is replaced once a module and launch; doing so for each call takes a third of the time."""
    if id(self.fn.__globals__) not in _patched:
        interpreter._patch_lang(self.fn)
        _patched.add(id(self.fn.__globals__))
    return self.rewrite()(*args, **kwargs)


candidates.MANY = tl.constexpr(512)  # all of them: whether a turn takes many or few, the interpreter takes as long
interpreter.InterpreterBuilder.create_fma = _fma
interpreter.InterpreterBuilder.create_splat = _splat
interpreter._convert_float = _widen
interpreter.ReduceOps.apply_impl = _quick_reduce
interpreter.ScanOps.apply_impl = _quick_scan
interpreter.GridExecutor.__call__ = _launch
interpreter.InterpretedFunction.__call__ = _call_inside
