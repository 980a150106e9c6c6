"""The samplers that fastsample is compared with, each as a function of a [B, V] float32 tensor."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Sampler = Callable[[], object]


def one_by_one(calls: Sequence[Sampler]) -> Sampler:
    """One function that makes all the calls, with the preparation that each may need."""

    def call() -> None:
        for each in calls:
            each()

    def prepare() -> None:
        for each in calls:
            getattr(each, "prepare", int)()

    call.prepare = prepare
    return call


def transformers_warpers(x: Tensor, temperature: float, top_k: int, top_p: float) -> Sampler:
    """The warpers that `generate` builds, then softmax and multinomial, as it calls them."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []

    def call() -> Tensor:
        scores = x
        for warper in warpers:
            scores = warper(None, scores)
        return torch.multinomial(torch.softmax(scores, -1), 1)

    return call


def torch_sort(x: Tensor, temperature: float, top_k: int, top_p: float) -> Sampler:
    """The lines that everybody writes: sort, softmax, cumsum, mask, multinomial, gather."""

    def call() -> Tensor:
        values, order = (x / temperature).sort(-1, descending=True)
        if top_k:
            values, order = values[:, :top_k], order[:, :top_k]
        p = values.softmax(-1)
        p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0)
        return order.gather(1, torch.multinomial(p, 1))

    return call


def top_k_first(x: Tensor, temperature: float, top_k: int, top_p: float) -> Sampler:
    """The same with top-k in front: softmax, top-p and the draw see k values a row instead of the vocabulary."""

    def call() -> Tensor:
        values, order = (x / temperature).topk(top_k)
        p = values.softmax(-1)
        p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0)
        return order.gather(1, torch.multinomial(p, 1))

    return call


def llama_cpp(x: Tensor, temperature: float, top_k: int, top_p: float, library: Path) -> Sampler:
    """llama.cpp's sampler chain: top_k, temperature, top_p, a draw. Filling its array of candidates is left out."""
    lib = ctypes.CDLL(str(library))
    for name, result, arguments in (
        ("chain_init", ctypes.c_void_p, [ChainParams]),
        ("init_top_k", ctypes.c_void_p, [ctypes.c_int32]),
        ("init_temp", ctypes.c_void_p, [ctypes.c_float]),
        ("init_top_p", ctypes.c_void_p, [ctypes.c_float, ctypes.c_size_t]),
        ("init_dist", ctypes.c_void_p, [ctypes.c_uint32]),
        ("chain_add", None, [ctypes.c_void_p, ctypes.c_void_p]),
        ("apply", None, [ctypes.c_void_p, ctypes.c_void_p]),
    ):
        function = getattr(lib, f"llama_sampler_{name}")
        function.restype, function.argtypes = result, arguments
    chain = lib.llama_sampler_chain_init(ChainParams(no_perf=True))
    stages = [lib.llama_sampler_init_top_k(top_k)] if top_k else []
    stages += [lib.llama_sampler_init_temp(temperature)]
    stages += [lib.llama_sampler_init_top_p(top_p, 1)] if top_p < 1 else []
    for stage in [*stages, lib.llama_sampler_init_dist(1)]:
        lib.llama_sampler_chain_add(chain, stage)
    fresh = []
    for row in x.float().numpy():
        array = np.zeros(len(row), dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        array["id"], array["logit"] = np.arange(len(row)), row
        fresh.append(array)
    used = [array.copy() for array in fresh]

    def prepare() -> None:
        for array, original in zip(used, fresh):
            array[:] = original

    def call() -> None:
        for array in used:
            candidates = Candidates(array.ctypes.data, len(array), -1, False)
            lib.llama_sampler_apply(chain, ctypes.byref(candidates))

    call.prepare = prepare
    return call


class ChainParams(ctypes.Structure):
    _fields_ = [("no_perf", ctypes.c_bool)]


class Candidates(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int64),
        ("sorted", ctypes.c_bool),
    ]


def find_llama(library: str | None) -> Path | None:
    """libllama.so: the file that was named, or that of an installed llama-cpp-python."""
    if library:
        return Path(library)
    spec = importlib.util.find_spec("llama_cpp")
    places = [] if spec is None else [Path(p) / "lib" / "libllama.so" for p in spec.submodule_search_locations or ()]
    return next((p for p in places if p.exists()), None)


def floor(x: Tensor) -> Sampler | None:
    """Maximum and sum of exponentials, two plain vectorised passes; None where there is no compiler."""
    source = Path(__file__).parent / "floor.cpp"
    library = Path(tempfile.gettempdir()) / f"fastsample-floor-{source.stat().st_mtime_ns}.so"
    if not library.exists():
        flags = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-shared", "-fPIC"]
        try:
            subprocess.run(["g++", *flags, str(source), "-o", str(library), "-lmvec", "-lm"], check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
    function = ctypes.CDLL(str(library)).max_and_sum
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    return lambda: function(x.data_ptr(), *x.shape)
