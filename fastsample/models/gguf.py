"""A .gguf file, unpacked once into the user's cache folder.

transformers reads a GGUF by unpacking every block in Python, half a minute for 135 million weights. So its weights and
tokenizer are saved as safetensors under the hash of the file's content; every later load maps those (half a second).
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAYOUT = "1"  # part of the cache key: raise it when a conversion would come out differently


Say = Callable[[str], None]


class ModelError(ValueError):
    """The model cannot be loaded; the message says why and what to do, in one sentence."""


def cache_folder() -> Path:
    """Where unpacked models are kept; deleting it costs nothing but the time to unpack again."""
    need("platformdirs")
    import platformdirs

    return Path(platformdirs.user_cache_dir("fastsample", appauthor=False)) / "models"


def unpacked(path: Path, dtype: Any = None, progress: Say = lambda line: None) -> Path:
    """The folder with the safetensors of a .gguf file, unpacked now if it is the first time.

    A folder of its final name is complete: it is written under another name and renamed. Of two processes the second
    waits at the lock and finds the work done; what a killed one left is removed by the next that holds its lock.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelError(f"a model file must be a GGUF, and {str(path)!r} begins with {magic!r}; name a .gguf file")
    need("gguf", "accelerate", "filelock")
    from filelock import FileLock

    kind = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    folder = cache_folder() / f"{path.stem}-{kind}-{_key(path)}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            for stale in folder.parent.glob(f"{folder.name}.part-*"):
                shutil.rmtree(stale, ignore_errors=True)
            if not folder.is_dir():
                progress(f"unpacking {path.name} into {folder.parent}, this once (half a minute for 100 MB)")
                part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
                try:
                    _unpack(path, part, dtype)
                    part.rename(folder)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"unpacked models are kept in {folder.parent}, which cannot be written ({error.strerror or error}); "
            "set XDG_CACHE_HOME to a folder that can"
        ) from error
    return folder


def _unpack(path: Path, folder: Path, dtype: Any) -> None:
    import torch
    import transformers
    from gguf import GGUFReader

    from . import compat

    here, file = str(path.parent), path.name
    try:
        metadata = GGUFReader(path).fields
        tokenizer = transformers.AutoTokenizer.from_pretrained(here, gguf_file=file)
        with compat.without_unpacking_bar():
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                here, gguf_file=file, dtype=dtype or torch.float32, **compat.unpack_options()
            )
    except Exception as error:  # a damaged file fails in numpy, struct, Rust or transformers, each in its own way
        raise ModelError(f"{str(path)!r} cannot be read as a GGUF model: {first_line(error)}") from error
    pre = metadata.get("tokenizer.ggml.pre")
    if pre is not None and pre.contents() == "smollm":
        _split_digits(tokenizer)
    need, free = sum(p.numel() * p.element_size() for p in model.parameters()), shutil.disk_usage(folder).free
    if free < need * 1.05:
        raise ModelError(
            f"unpacking {path.name} needs {need / 1e6:,.0f} MB in {folder.parent}, "
            f"which has {free / 1e6:,.0f} MB free; set XDG_CACHE_HOME to a folder with room"
        )
    compat.forget_packing(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _split_digits(tokenizer: Any) -> None:
    # transformers drops this step of SmolLM's tokenizer when it reads one from a GGUF; blanks before digits show it.
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _key(path: Path) -> str:
    seen = hashlib.blake2b(LAYOUT.encode(), digest_size=8)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            seen.update(block)
    return seen.hexdigest()


def need(*packages: str) -> None:
    """Raise ModelError with the pip line where one of the packages is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ModelError(f"loading a model needs {' and '.join(missing)}; pip install 'fastsample[demo]'")


def first_line(error: BaseException) -> str:
    """What an exception of another library says, as far as it fits into a sentence of ours."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
