"""Text as it comes: pieces that add up, whole characters, stop strings that are never shown."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import Letters
from tiny import tiny

from fastsample.engines.base import Request
from fastsample.engines.local.detokenizer import Detokenizer
from fastsample.engines.local.engine import LocalEngine

TOKENS = st.lists(st.sampled_from([0, 2, *range(3, 9), 97, 98, 99, 100]), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(tokens=TOKENS, stop=st.lists(st.text("abcdefghi", min_size=1, max_size=3), max_size=3))
def test_pieces_add_up_to_the_text_before_the_first_stop(tokens, stop):
    """Whatever the tokens, no piece ends inside a character, and the text is cut in front of the first stop string."""
    whole = Letters().decode(tokens)
    stream, pieces = Detokenizer(Letters(), stop), []
    for i in range(len(tokens)):
        pieces.append(stream.advance(tokens[: i + 1]))
        assert "\ufffd" not in pieces[-1] or "\ufffd" in whole
        assert not any(s in stream.text for s in stop)
        if stream.is_stopped:
            break
    found = [whole.find(s) for s in stop if s in whole]
    pieces.append(stream.finish(tokens))
    assert "".join(pieces) == stream.text
    if stream.is_stopped:
        assert stream.text == whole[: min(found)]
    else:
        assert stream.text == whole


def test_the_earliest_of_several_stops_counts():
    """Of two stop strings that end in the same token, the one that begins first cuts."""
    stream = Detokenizer(Letters(), ["c", "bc"])
    tokens = [26, 27, 28]  # a, b, c
    shown = [stream.advance(tokens[: i + 1]) for i in range(3)]
    assert shown == ["a", "", ""]
    assert (stream.text, stream.is_stopped) == ("a", True)


def test_stop_strings_end_samples_and_are_held_back():
    """A sample ends with finish "stop"; the pieces that were streamed never held a letter of the stop string."""
    model = tiny("llama")
    streamed: dict[int, str] = {}

    def on_piece(s, piece):
        streamed[s.request.stream] = streamed.get(s.request.stream, "") + piece

    generator = LocalEngine(model, Letters(), on_piece=on_piece)
    free = generator.submit([Request((5, 6), seed=3, stream=i, max_new_tokens=30, eos=()) for i in range(8)])
    generator.run()
    streamed.clear()
    stops = tuple(s.text[6:8] for s in free)
    bound = generator.submit(
        [Request((5, 6), seed=3, stream=i, max_new_tokens=30, eos=(), stop=(stops[i],)) for i in range(8)]
    )
    generator.run()
    for before, s in zip(free, bound):
        assert s.finish == "stop"
        assert s.text == before.text[: before.text.index(s.request.stop[0])]
        assert streamed.get(s.request.stream, "") == s.text
        assert s.tokens == before.tokens[: len(s.tokens)]


def test_stop_strings_wait_for_the_minimum():
    """Below min_new_tokens a stop string is text like any other."""
    model = tiny("llama")
    generator = LocalEngine(model, Letters())
    (free,) = generator.submit([Request((5, 6), stream=0, max_new_tokens=30, eos=())])
    generator.run()
    early = free.text[1]
    (s,) = generator.submit([Request((5, 6), stream=0, max_new_tokens=30, min_new_tokens=8, eos=(), stop=(early,))])
    generator.run()
    assert len(s.tokens) >= 8
    assert early in s.text


def test_eos_is_not_in_the_text_although_it_is_a_letter():
    """A token that is made EOS ends the sample; it is in the tokens and not in the text."""
    generator = LocalEngine(tiny("llama"), Letters())
    (s,) = generator.submit([Request((5, 6), max_new_tokens=50, min_new_tokens=2, eos=tuple(range(3, 97)))])
    generator.run()
    assert s.finish == "eos"
    assert s.text == Letters().decode(s.tokens[:-1])


def test_a_caller_may_cancel_while_a_piece_is_shown():
    """on_piece may cancel its own sample and others; nothing is written to them afterwards."""
    generator = LocalEngine(tiny("llama"), Letters())

    lengths = {}

    def on_piece(s, piece):
        assert s not in lengths
        if len(s.tokens) >= 3:
            generator.cancel([s])
            lengths[s] = len(s.tokens)

    generator.on_piece = on_piece
    samples = generator.submit([Request((5, 6), stream=i, max_new_tokens=20, eos=()) for i in range(4)])
    generator.run()
    assert [s.finish for s in samples] == ["cancelled"] * 4
    assert lengths == {s: len(s.tokens) for s in samples}


@pytest.mark.model
def test_text_of_a_real_tokenizer(embedded):
    """Byte-level text with characters of several tokens: pieces add up to what the tokenizer decodes at once."""
    tokenizer = embedded[1]
    text = "Ünïcödé 😀 – 東京の天気 naïve\n\n\tx = {1: 'ä'}  end"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    stream = Detokenizer(tokenizer)
    pieces = [stream.advance(ids[: i + 1]) for i in range(len(ids))] + [stream.finish(ids)]
    assert "".join(pieces) == stream.text == text
    assert not any("\ufffd" in piece for piece in pieces)
