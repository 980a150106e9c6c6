"""fastsample plan: bytes that can be worked out by hand."""

from __future__ import annotations

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from fastsample import models
from fastsample.cli import main

NUMBERS = ("--prompt-tokens", "100", "--samples", "8", "--max-new-tokens", "64")


def plan(*args):
    return CliRunner().invoke(main, ["plan", *map(str, args)])


def test_the_bytes_are_those_of_the_model(tiny_folder):
    """One layer, one head of 16 and float32: 128 bytes of K and V a token; the prompt once, or once a sample."""
    record = json.loads(plan("-m", tiny_folder, *NUMBERS, "--memory", "1GB", "--json").stdout)
    model, tokenizer = models.load(str(tiny_folder))
    weights = sum(p.numel() * 4 for p in model.parameters())
    assert record["weights"] == weights
    assert record["prefix"] == 100 * 128
    assert record["tails"] == 8 * 64 * 128
    assert record["logits"] == 8 * len(tokenizer) * 4
    assert record["repeated"] == 8 * 164 * 128
    assert record["shared_total"] == weights + 100 * 128 + 8 * 64 * 128 + 8 * len(tokenizer) * 4
    assert record["fits_shared"] == (10**9 - weights - 100 * 128) // (64 * 128 + len(tokenizer) * 4)


def test_half_the_dtype_is_half_the_bytes(tiny_folder):
    """bfloat16 halves weights and cache and leaves the logits in float32."""
    full = json.loads(plan("-m", tiny_folder, *NUMBERS, "--json").stdout)
    half = json.loads(plan("-m", tiny_folder, *NUMBERS, "--json", "--dtype", "bfloat16").stdout)
    for name in ("weights", "prefix", "tails", "repeated"):
        assert 2 * half[name] == full[name]
    assert half["logits"] == full["logits"]


def test_packed_weights_are_a_second_copy(tiny_folder):
    """--prepack adds the linear layers' bytes to the shared side, and fewer samples fit; nothing is packed on a GPU."""
    options = ("-m", tiny_folder, *NUMBERS, "--memory", "2MB", "--device", "cpu")
    plain, packed = (json.loads(plan(*options, *more, "--json").stdout) for more in ((), ("--prepack",)))
    model, _ = models.load(str(tiny_folder))
    linear = sum(4 * m.weight.numel() for m in model.modules() if type(m) is torch.nn.Linear)
    assert packed["packed"] - plain["packed"] == packed["packed"] == linear
    assert packed["shared_total"] == plain["shared_total"] + linear
    assert packed["repeated_total"] == plain["repeated_total"]
    each = plain["tails"] // 8 + plain["logits"] // 8
    assert packed["fits_shared"] == (2 * 10**6 - packed["weights"] - linear - packed["prefix"]) // each
    assert "weights, packed" in plan(*options, "--prepack").output
    elsewhere = json.loads(plan(*options[:-1], "cuda", "--prepack", "--json").stdout)
    assert elsewhere["packed"] == 0


def test_people_get_a_table_and_the_number_that_fits(tiny_folder):
    """Shared beside repeated, and how many samples fit in the memory that was named."""
    record = json.loads(plan("-m", tiny_folder, *NUMBERS, "--memory", "2GB", "--json").stdout)
    done = plan("-m", tiny_folder, *NUMBERS, "--memory", "2GB")
    assert done.exit_code == 0, done.output
    assert "8 samples of up to 64 tokens over a prompt of 100" in done.output
    line = next(line for line in done.output.splitlines() if "fit in 2GB" in line)
    assert re.findall(r"[\d,]{4,}", line) == [f"{record['fits_shared']:,}", f"{record['fits_repeated']:,}"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--memory", "much"], "memory must be a size such as 80GB or 500MB, got 'much'"),
        (["--samples", "0"], "samples must be at least 1, got 0"),
        (["--device", "nope"], "got 'nope'"),
        (["--model", "/no/such/folder"], "no such file"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(options, sentence, tiny_folder):
    """Rule, value and remedy; no traceback."""
    done = plan("-m", tiny_folder, *options)
    assert done.exit_code == 2, done.output
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
