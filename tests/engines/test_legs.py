"""Where a leg ends: text and tokens of a scripted model, and the delimiters of texts that a person can read."""

from __future__ import annotations

import bigram
import pytest

from fastsample.engines.base import Request
from fastsample.engines.local.detokenizer import Detokenizer
from fastsample.engines.local.engine import LocalEngine
from fastsample.engines.local.legs import Delimiters
from fastsample.engines.local.runners import SharedPrefixRunner


def pieces_of(text, *, until, legs=1, start=0):
    """How much of a text has come, letter by letter, when the leg ends; None where it does not."""
    left = Delimiters(until, legs, start)
    for end in range(1, len(text) + 1):
        left = left.after(text[:end])
        if left.are_seen:
            return text[:end]
    return None


@pytest.mark.parametrize(
    ("text", "until", "legs", "want"),
    [
        ("a\nb\n", ("\n",), 1, "a\n"),
        ("a\nb\nc\n", ("\n",), 2, "a\nb\n"),
        ("\n\na\n", ("\n",), 1, "\n\na\n"),  # white space makes no leg
        ("a\n\n\nb\n", ("\n",), 2, "a\n\n\nb\n"),
        ("a. b\n", ("\n", ". "), 1, "a. "),
        (" \t\n ", ("\n",), 1, None),
        ("Step 1 Step 2", ("Step",), 2, "Step 1 Step"),
        ("abc", (), 1, None),
    ],
)
def test_delimiters_count_from_the_first_visible_character(text, until, legs, want):
    """Each by hand."""
    assert pieces_of(text, until=until, legs=legs) == want


def test_a_token_that_holds_more_than_the_delimiter_ends_the_leg():
    """Text that comes in pieces: the leg ends behind the piece that completes the delimiter."""
    assert Delimiters(("\n\n",)).after("so.\n\nNext").are_seen
    assert not Delimiters(("\n\n",)).after("so.\n").are_seen
    assert Delimiters(("\n\n",)).after("so.\n").after("so.\n\n").are_seen


# What a bigram model follows at temperature 0: "ab", then "cd" for ever, a line each and a token a character.
SCRIPT = {
    bigram.ASSISTANT: {"a": 1.0},
    "a": {"b": 1.0},
    "b": {"Ċ": 1.0},
    "Ċ": {"c": 1.0},
    "c": {"d": 1.0},
    "d": {"Ċ": 1.0},
}


@pytest.fixture(scope="module")
def scripted():
    tokenizer = bigram.bigram_tokenizer()
    model = bigram.bigram_model(tokenizer, SCRIPT)
    return tokenizer, model, tuple(tokenizer.convert_tokens_to_ids([bigram.USER, bigram.ASSISTANT]))


def write(scripted, told=None, **changes):
    tokenizer, model, prompt = scripted
    engine = LocalEngine(model, tokenizer, runner=SharedPrefixRunner(model), on_piece=told)
    request = {"prompt": prompt, "temperature": 0.0, "max_new_tokens": 12, "park": True, **changes}
    (s,) = engine.submit([Request(**request)])
    engine.run()
    return engine, s


@pytest.mark.parametrize(
    ("changes", "text", "finish"),
    [
        ({"until": ("\n",)}, "ab\n", "until"),
        ({"until": ("\n",), "legs": 3}, "ab\ncd\ncd\n", "until"),
        ({"until": ("\n",), "min_new_tokens": 4}, "ab\ncd\n", "until"),
        ({"until": ("\n",), "max_new_tokens": 2}, "ab", "length"),
        ({"until": ("\nc",)}, "ab\nc", "until"),
        ({"until": ("\n",), "stop": ("b\nc",)}, "ab\n", "until"),  # the stop string is not complete yet
        ({"until": ("d",), "stop": ("\n",)}, "ab", "stop"),
        ({"append": "x", "until": ("\n",)}, "xb\n", "until"),
        ({"append": "\n", "until": ("\n",)}, "\ncd\n", "until"),  # appended text is passed by
    ],
)
def test_legs_of_a_script(scripted, changes, text, finish):
    """Text, finish, and a parked path with all of it; the pieces that are told add up."""
    tokenizer, pieces = scripted[0], []
    if "append" in changes:  # "x" is not in the script: "a" instead, whose next is b
        letter = "a" if changes["append"] == "x" else "Ċ"
        changes, text = changes | {"append": tuple(tokenizer.convert_tokens_to_ids([letter]))}, text.replace("x", "a")
    _, s = write(scripted, lambda _, piece: pieces.append(piece), **changes)
    assert (s.text, s.finish) == (text, finish)
    assert "".join(pieces) == text
    assert s.parked.length == len(s.request.prompt) + len(s.tokens)


def test_a_stop_string_across_legs(scripted):
    """It begins in one leg and is completed in the next, whose text it then takes away."""
    engine, first = write(scripted, until=("\n",), stop=("\ncd",))
    assert first.text == "ab\n"
    rest = {"after": first.parked, "temperature": 0.0, "max_new_tokens": 9, "park": True}
    (second,) = engine.submit([Request((*first.request.prompt, *first.tokens), stop=("\ncd",), **rest)])
    engine.run()
    assert (second.text, second.finish) == ("", "stop")
    (other,) = engine.submit([Request((*first.request.prompt, *first.tokens), stop=("\ncx",), **rest)])
    engine.run()
    assert (other.text, other.finish) == ("cd\ncd\ncd\n", "length")


class Pieces:
    """A tokenizer that strips the blank in front of a text, as SentencePiece does."""

    words = ("", "▁the", "▁cat", "s")

    def decode(self, ids, skip_special_tokens=True):
        return "".join(self.words[i] for i in ids).replace("▁", " ").removeprefix(" ")


def test_legs_add_up_to_the_text_of_one_go():
    """Decoded behind the tokens before it, a leg keeps the blank that a tokenizer strips at a text's beginning."""
    whole = Detokenizer(Pieces())
    for n in range(1, 5):
        whole.advance([1, 2, 3, 2][:n])
    first, second = Detokenizer(Pieces()), Detokenizer(Pieces(), before=[1])
    first.advance([1])
    for n in range(1, 4):
        second.advance([2, 3, 2][:n])
    assert first.text + second.text == whole.text == "the cats cat"
