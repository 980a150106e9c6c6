"""Threads: several engines at once write what each would have written alone; one engine serves one thread at a time."""

from __future__ import annotations

import threading

import pytest
from tiny import tiny

from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine

PROMPTS = [(1, 17, 44, 80, 9, 33), (1, 5, 60)]
REQUESTS = [
    Request(prompt, temperature=t, seed=7, stream=10 * i + j, max_new_tokens=12, eos=())
    for i, prompt in enumerate(PROMPTS)
    for j, t in enumerate((0.0, 0.7, 1.3))
]


def written(model):
    engine = LocalEngine(model, None, slots=4)
    samples = engine.submit(REQUESTS)
    engine.run()
    return [s.tokens for s in samples]


def at_once(*calls):
    """What each call returns, all of them started at the same moment in threads of their own."""
    barrier, found = threading.Barrier(len(calls)), [None] * len(calls)

    def run(i):
        barrier.wait()
        try:
            found[i] = calls[i]()
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("names", [("llama", "mistral"), ("llama", "llama"), ("gemma2", "gpt2")])
def test_two_models_in_two_threads(names):
    """Each writes what it writes alone, round after round."""
    models = [tiny(name, seed=i) for i, name in enumerate(names)]
    want = [written(model) for model in models]
    for _ in range(10):
        assert at_once(*(lambda model=model: written(model) for model in models)) == want


def test_one_model_in_two_threads():
    """Two engines of one model, one thread each: right, because neither switches the model."""
    model = tiny("llama")
    want = written(model)
    for _ in range(10):
        assert at_once(lambda: written(model), lambda: written(model)) == [want, want]
    assert model.config._attn_implementation == "sdpa"


def test_one_engine_in_two_threads_is_refused(monkeypatch):
    """Whoever comes while another thread is inside gets a sentence; the first is not disturbed."""
    model = tiny("llama")
    want, engine = written(model), LocalEngine(model, None, slots=4)
    inside, may_go_on = threading.Event(), threading.Event()
    step = engine.runner.step

    def slow(*arguments):
        inside.set()
        assert may_go_on.wait(10)
        return step(*arguments)

    monkeypatch.setattr(engine.runner, "step", slow)
    samples = engine.submit(REQUESTS)
    thread = threading.Thread(target=engine.run)
    thread.start()
    assert inside.wait(10)
    for call in (engine.step, lambda: engine.submit(REQUESTS), lambda: engine.cancel(samples)):
        with pytest.raises(RuntimeError, match=r"one thread at a time.*an engine of its own"):
            call()
    may_go_on.set()
    thread.join()
    assert [s.tokens for s in samples] == want


def test_a_callback_may_call_its_engine():
    """The thread that steps is inside already: cancelling from `on_piece` is no second thread."""
    model, cancelled = tiny("llama"), []

    class Letters:
        eos_token_id = None

        def decode(self, ids, **_):
            return "x" * len(ids)

    def on_piece(sample, piece):
        if not cancelled:
            cancelled.append(sample)
            engine.cancel([sample])

    engine = LocalEngine(model, Letters(), on_piece=on_piece)
    samples = engine.submit(REQUESTS[:2])
    engine.run()
    assert cancelled[0].finish == "cancelled"
    assert [s.finish for s in samples if s not in cancelled] == ["length"]
