"""Work with an end: its result or its error comes through, and what loops is stopped, in any thread."""

from __future__ import annotations

import os
import signal
import threading
import time

import bigram
import pytest

from fastsample.solving.solve import solve_many
from fastsample.strategies import prompts
from fastsample.strategies.question import Settings
from fastsample.strategies.time_limit import in_time

NESTED = "".join("{% for a in range(99999) %}" for _ in range(4)) + "x" + "{% endfor %}" * 4


def test_what_ends_in_time_comes_through():
    """A value, None, an exception as a value, and an error as it was raised."""
    error = KeyError("k")
    assert [in_time(lambda value=value: value, 5, "it") for value in (3, None, error)] == [3, None, error]

    def fail():
        raise error

    with pytest.raises(KeyError) as raised:
        in_time(fail, 5, "it")
    assert raised.value is error


def forever(seen):
    while True:
        seen.append(time.monotonic())
        try:
            time.sleep(0.001)
        except Exception:
            continue


@pytest.mark.parametrize("is_main", [True, False])
def test_what_loops_is_stopped(is_main):
    """With a sentence, and it does not go on behind it; from the main thread and from another."""
    seen, told = [], []

    def ask():
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"^the thing must end within 0.2 s, and it does not; use another one$"):
            in_time(lambda: forever(seen), 0.2, "the thing")
        told.append(time.monotonic() - start)

    if is_main:
        ask()
    else:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert told[0] < 5
    last = seen[-1]
    time.sleep(0.1)
    assert seen[-1] == last


def test_ctrl_c_stops_the_work():
    """It ends the wait at once, and nothing runs on."""
    seen = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            in_time(lambda: forever(seen), 60, "the thing")
    finally:
        signal.signal(signal.SIGINT, before)
    last = len(seen)
    time.sleep(0.2)
    assert len(seen) == last


def test_a_chat_template_that_loops_fails_its_question_alone(monkeypatch):
    """10^20 rounds of a template end in a sentence, and the run goes on."""
    monkeypatch.setattr(prompts, "TEMPLATE_SECONDS", 0.3)
    tokenizer = bigram.bigram_tokenizer()
    model = bigram.bigram_model(tokenizer)
    tokenizer.chat_template = "{% if 'loop' in messages[0]['content'] %}" + NESTED + "{% endif %}" + bigram.TEMPLATE
    questions = ["2 + 2?", "loop", "2 + 2?"]
    settings = Settings((1.0,), 2, max_new_tokens=4)
    results = list(solve_many(model, tokenizer, questions, settings=settings))
    by_question = sorted((r.question, r.status == "error") for r in results)
    assert by_question == [("2 + 2?", False), ("2 + 2?", False), ("loop", True)]
    (failed,) = [r for r in results if r.status == "error"]
    assert "the tokenizer's chat template must end within 0.3 s" in failed.error
