"""A .gguf file, unpacked once into the user's cache folder.

transformers reads a GGUF by unpacking every block in Python, half a minute for 135 million weights. So its weights and
tokenizer are saved as safetensors under the hash of the file's content; every later load maps those (half a second).
One folder serves every dtype. Each tensor is kept in the fewest bits that hold it exactly: 16 where it was stored so;
32 for most that were quantised, because a scale times a block's number has more digits than a 16-bit number.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTROL = 3  # a token's kind in a GGUF: it is never text
LAYOUT = "3"  # part of the cache key: raise it when a conversion would come out differently


Say = Callable[[str], None]


class ModelError(ValueError):
    """The model cannot be loaded; the message says why and what to do, in one sentence."""


def cache_folder() -> Path:
    """Where unpacked models are kept; deleting it costs nothing but the time to unpack again."""
    need("platformdirs")
    import platformdirs

    return Path(platformdirs.user_cache_dir("fastsample", appauthor=False)) / "models"


def unpacked(path: Path, progress: Say = lambda line: None) -> Path:
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

    folder = cache_folder() / f"{path.stem}-{_key(path)}"
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
                    _unpack(path, part)
                    part.rename(folder)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"unpacked models are kept in {folder.parent}, which cannot be written ({error.strerror or error}); "
            "set XDG_CACHE_HOME to a folder that can"
        ) from error
    return folder


def _unpack(path: Path, folder: Path) -> None:
    import torch
    import transformers
    from gguf import GGUFReader

    from . import compat

    here, file = str(path.parent), path.name
    try:
        reader = GGUFReader(path)
        _check_sizes(here, file, reader)
        tokenizer = _tokenizer(here, file, reader.fields)
        with compat.without_unpacking_bar():
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                here, gguf_file=file, dtype=torch.float32, **compat.unpack_options()
            )
    except Exception as error:  # a damaged file fails in numpy, struct, Rust or transformers, each in its own way
        raise ModelError(f"{str(path)!r} cannot be read as a GGUF model: {first_line(error)}") from error
    for parameter in model.parameters():
        parameter.data = _exact(parameter.data)
    need, free = sum(p.numel() * p.element_size() for p in model.parameters()), shutil.disk_usage(folder).free
    if free < need * 1.05:
        raise ModelError(
            f"unpacking {path.name} needs {need / 1e6:,.0f} MB in {folder.parent}, "
            f"which has {free / 1e6:,.0f} MB free; set XDG_CACHE_HOME to a folder with room"
        )
    compat.forget_packing(model)
    model.save_pretrained(folder)
    model.config.dtype = torch.float32  # what it is loaded in unless another is asked for
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _exact(weights: Any) -> Any:
    """The same numbers in the fewest bits: in bfloat16 or float16 where no bit is lost, else as they are."""
    import torch

    for dtype in (torch.bfloat16, torch.float16):
        shorter = weights.to(dtype)
        if torch.equal(shorter.to(weights.dtype).view(torch.int32), weights.view(torch.int32)):
            return shorter
    return weights


def _check_sizes(folder: str, file: str, reader: Any) -> None:
    """Raise ValueError where the header describes more than the file holds: to make that model could take for ever."""
    import torch
    import transformers

    blocks = _said(reader.fields, f"{_said(reader.fields, 'general.architecture')}.block_count")
    found = [int(match[1]) + 1 for t in reader.tensors if (match := re.match(r"blk\.(\d{1,9})\.", t.name))]
    layers = max(found, default=0)
    if isinstance(blocks, int) and blocks > layers:
        raise ValueError(f"block_count must be the number of layers in the file, {layers}, got {blocks}")
    config = transformers.AutoConfig.from_pretrained(folder, gguf_file=file)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    wanted, held = sum(p.numel() for p in model.parameters()), sum(int(t.n_elements) for t in reader.tensors)
    if wanted > 2 * held:  # tied embeddings are stored once
        raise ValueError(f"its header describes {wanted:,} weights and the file holds {held:,}; it is damaged")


def _tokenizer(folder: str, file: str, metadata: Any) -> Any:
    """As transformers reads it, if it gives a text back as it was; else made of the file's own tokens and merges.

    Some releases (5.4 among them) read a byte-level tokenizer as one of another kind, and every text comes out garbled.
    """
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
        if _said(metadata, "tokenizer.ggml.pre") == "smollm":
            _split_digits(tokenizer)
        if reads_back(tokenizer):
            return tokenizer
    except Exception:
        if _said(metadata, "tokenizer.ggml.model") != "gpt2":
            raise
    if _said(metadata, "tokenizer.ggml.model") == "gpt2":
        tokenizer = _byte_level(metadata)
        if reads_back(tokenizer):
            return tokenizer
    raise ValueError("its tokenizer does not give a text back as it was; use another release of transformers")


def reads_back(tokenizer: Any) -> bool:
    """Whether a text survives being made tokens and text again."""
    text = "What is 12 + 8? It's 20.\n\n  x = {3: 'a'}"
    try:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return bool(tokenizer.decode(ids, skip_special_tokens=True).strip() == text)
    except Exception:  # of the tokenizers library, about a vocabulary that does not fit its own kind
        return False


def _byte_level(metadata: Any) -> Any:
    """A byte-level BPE tokenizer from the tokens, merges and special tokens that the file lists."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens, merges = _said(metadata, "tokenizer.ggml.tokens"), _said(metadata, "tokenizer.ggml.merges")
    merges = [merges] if isinstance(merges, str) else merges
    vocab = {token: i for i, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(merge.split(" ", 1)) for merge in merges]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    kinds = _said(metadata, "tokenizer.ggml.token_type") or []
    core.add_special_tokens([token for token, kind in zip(tokens, kinds) if kind == CONTROL])
    named = {
        f"{name}_token": tokens[number]
        for name in ("bos", "eos", "unk")
        if (number := _said(metadata, f"tokenizer.ggml.{name if name != 'unk' else 'unknown'}_token_id")) is not None
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **named)
    tokenizer.chat_template = _said(metadata, "tokenizer.chat_template")
    if _said(metadata, "tokenizer.ggml.pre") == "smollm":
        _split_digits(tokenizer)
    return tokenizer


def _said(metadata: Any, name: str) -> Any:
    """What a field of the file holds; None where it has none."""
    field = metadata.get(name)
    return None if field is None else field.contents()


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
