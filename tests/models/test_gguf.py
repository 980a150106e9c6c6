"""A .gguf file unpacked: once, by one process, and nothing half-written that is taken for a model."""

from __future__ import annotations

import shutil
import subprocess
import sys
from types import SimpleNamespace

import bigram
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize

from fastsample import models
from fastsample.models import gguf

QUIET = {"progress": lambda line: None}


def test_a_gguf_is_unpacked_once_and_is_the_same_model(tiny_folder, tiny_gguf, cache, logits_of):
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


@pytest.mark.parametrize("stored", ["F32", "BF16", "F16"])
def test_one_folder_serves_every_dtype_and_loses_no_bit(stored, cache, tmp_path):
    """A file of 16 bits takes 16 on the disk too; in float32 it is the file's numbers, else these rounded once."""
    path = bigram.save_gguf(tmp_path / "model.gguf", stored=stored)
    whole = {t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).copy()) for t in GGUFReader(path).tensors}
    held = {
        dtype: models.load(str(path), dtype=dtype, **QUIET)[0].state_dict() for dtype in (None, "bfloat16", "float16")
    }
    names = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
    for ours, theirs in names.items():
        assert torch.equal(held[None][theirs], whole[ours])
    for dtype in (torch.bfloat16, torch.float16):
        rounded = held[str(dtype).removeprefix("torch.")]
        assert {t.dtype for t in rounded.values()} == {dtype}
        assert all(torch.equal(rounded[name], t.to(dtype)) for name, t in held[None].items())
    (folder,) = [place for place in cache.iterdir() if place.is_dir()]
    numbers = sum(t.numel() for t in held[None].values())
    bytes_each = (folder / "model.safetensors").stat().st_size / numbers
    assert bytes_each == pytest.approx(
        3.05 if stored == "F32" else 2, rel=0.03
    )  # of F32 the zeros and ones need 16 bits


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("BF16", torch.bfloat16), ("F16", torch.float16), ("F32", torch.float32), ("Q8_0", torch.float32),
     ("Q4_1", torch.float32)],
)  # fmt: skip
def test_what_fits_into_sixteen_bits(kind, kept):
    """Sixteen bits where no bit is lost; a quantised number, a scale of 11 bits times one of 8, needs more."""
    numbers = torch.randn(4, 256, generator=torch.Generator().manual_seed(1)).numpy()
    stored = GGMLQuantizationType[kind]
    weights = torch.from_numpy(dequantize(quantize(numbers, stored), stored).copy())
    found = gguf._exact(weights)
    assert found.dtype == kept
    assert torch.equal(found.float(), weights)
    assert gguf._exact(torch.tensor([-0.0, 1.0, float("inf")])).dtype == torch.bfloat16
    assert gguf._exact(torch.tensor([2.0**-30, 1 + 2.0**-9])).dtype == torch.float32  # one for each of the two kinds


def test_digits_are_split_as_the_gguf_says(tiny_gguf, cache):
    """Blanks before a number stay one token, as in the model's training; transformers alone gives the last to it."""
    _, tokenizer = models.load(str(tiny_gguf), **QUIET)
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]


def test_the_cache_follows_the_content_not_the_name(tiny_gguf, cache, tmp_path):
    """A file replaced under the same name and size is unpacked again; a moved one is not."""
    path = tmp_path / "model.gguf"
    first = gguf.unpacked(shutil.copy(tiny_gguf, path) and path)
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "model.gguf"
    path.rename(moved)
    assert gguf.unpacked(moved) == first
    bigram.save_gguf(path, {**bigram.SEVEN_TO_THREE, bigram.ASSISTANT: {"4": 0.2, "5": 0.8}})
    assert path.stat().st_size == moved.stat().st_size
    assert gguf.unpacked(path) != first


def patched(source, target, key, value):
    """A copy of a .gguf file with another 32-bit number behind a key of its header."""
    content = bytearray(source.read_bytes())
    at = content.index(key.encode()) + len(key) + 4  # behind the type of the value
    content[at : at + 4] = value.to_bytes(4, "little")
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.block_count", 2**31, "block_count must be the number of layers in the file, 1, got 2147483648"),
        ("llama.block_count", 2, "block_count must be the number of layers in the file, 1, got 2"),
        ("llama.feed_forward_length", 2**31 - 1, "its header describes .* weights and the file holds"),
        ("llama.vocab_size", 2**31 - 1, "its header describes .* weights and the file holds"),
    ],
)
def test_a_header_larger_than_its_file_is_refused(tiny_gguf, cache, tmp_path, key, value, message):
    """Before a model of that size is made: two billion layers would take days."""
    path = patched(tiny_gguf, tmp_path / "large.gguf", key, value)
    with pytest.raises(models.ModelError, match=message):
        models.load(str(path), **QUIET)


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

    def interrupt(path, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "_unpack", interrupt)
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


def test_a_cache_that_cannot_be_written_names_the_setting(tiny_gguf, tmp_path, monkeypatch):
    """A cache folder in the place of a file: the sentence names it and XDG_CACHE_HOME."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(models.ModelError, match="XDG_CACHE_HOME"):
        models.load(str(tiny_gguf), **QUIET)


def test_a_full_disk_is_seen_before_anything_is_written(tiny_gguf, cache, monkeypatch):
    """The sentence has both numbers, and no folder stays behind."""
    monkeypatch.setattr(gguf.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(models.ModelError, match="MB free"):
        models.load(str(tiny_gguf), **QUIET)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_tokenizer_that_garbles_is_replaced_by_one_of_the_file_s_own_tokens(tiny_gguf, monkeypatch):
    """A release that reads it as one of another kind: the file's tokens and merges give the same ids and texts."""
    metadata = GGUFReader(tiny_gguf).fields
    where = str(tiny_gguf.parent), tiny_gguf.name
    right = gguf._tokenizer(*where, metadata)

    class Garbled:
        def __call__(self, text, **_):
            return {"input_ids": [0]}

        def decode(self, ids, **_):
            return "auraġbalcos"

    for broken in (lambda *_, **__: Garbled(), lambda *_, **__: (_ for _ in ()).throw(Exception("Unk token"))):
        with monkeypatch.context() as patch:
            patch.setattr("transformers.AutoTokenizer.from_pretrained", broken)
            mended = gguf._tokenizer(*where, metadata)
        assert mended.chat_template == right.chat_template
        assert (mended.eos_token_id, mended.bos_token_id) == (right.eos_token_id, right.bos_token_id)
        for text in ("2 + 2 = 4", "a  b", "<|user|>héllo\n<|end|>"):
            ids = [t(text, add_special_tokens=False)["input_ids"] for t in (mended, right)]
            assert ids[0] == ids[1]
            assert mended.decode(ids[0]) == text


def test_a_tokenizer_of_another_kind_that_garbles_is_refused(tiny_gguf, monkeypatch):
    """What cannot be read rightly is not read at all."""
    metadata = dict(GGUFReader(tiny_gguf).fields)
    metadata["tokenizer.ggml.model"] = SimpleNamespace(contents=lambda: "llama")
    monkeypatch.setattr(gguf, "reads_back", lambda tokenizer: False)
    with pytest.raises(ValueError, match="does not give a text back as it was"):
        gguf._tokenizer(str(tiny_gguf.parent), tiny_gguf.name, metadata)
