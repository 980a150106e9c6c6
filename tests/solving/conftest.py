"""Tiny models whose answers can be worked out."""

from __future__ import annotations

import bigram
import pytest

# "4" ends at once (40 %); "5" (60 %) goes on for many tokens: an answer that correlates with length.
SHORT_FOUR_LONG_FIVE = {
    bigram.ASSISTANT: {"4": 0.4, "5": 0.6},
    "4": {bigram.END: 1.0},
    "5": {"a": 1.0},
    "a": {"a": 0.9, bigram.END: 0.1},
}


@pytest.fixture(scope="module")
def seven():
    tokenizer = bigram.bigram_tokenizer()
    return bigram.bigram_model(tokenizer), tokenizer


@pytest.fixture(scope="module")
def biased():
    tokenizer = bigram.bigram_tokenizer()
    return bigram.bigram_model(tokenizer, SHORT_FOUR_LONG_FIVE), tokenizer
