"""The cache itself: what it stores, what a fork and a retired row cost, and that nothing is left half-written."""

from __future__ import annotations

import pytest
import torch
from drive import alone, prompts_of
from tiny import VOCAB, tiny

from fastsample.engines.local.runners import SharedPrefixRunner
from fastsample.models import attention, compat
from fastsample.models.cache import SharedCache
from fastsample.models.forward import Forward
from fastsample.shared_prefix import attention as arithmetic
from fastsample.shared_prefix.sizes import FIRST_TAIL
from fastsample.torch_ops import onednn

PROMPT = prompts_of(30)[0]


def started(model, rows=4, steps=0, prompt=PROMPT):
    engine = SharedPrefixRunner(model)
    prefix = engine.prefill(prompt)
    engine.add(prefix, rows)
    for step in range(steps):
        engine.step(torch.arange(rows) + step + 3)
    return engine, prefix


@torch.inference_mode()
def read_more(model, ids, cache, *, is_shared):
    """The logits [B, n, V] of further tokens behind a cache, by our attention or by the model's own."""
    names, positions = compat.Signature.of(model), torch.tensor(cache.positions)[:, None] + torch.arange(ids.shape[1])
    arguments = {"input_ids": ids, names.cache: cache, "position_ids": positions}
    if not is_shared:
        return model(**arguments).logits
    return attention.in_step(cache, lambda: Forward(model).twin.attend_by(attention.NAME)(**arguments).logits)


def test_fork_stores_the_prefix_once():
    """64 rows cost no byte of prefix; each row's tail is its own, and its storage doubles when it is full."""
    model = tiny("llama")
    engine, prefix = started(model, rows=64)
    a_token = 2 * 2 * 2 * 8 * 4  # layers, K and V, key heads, head width, float32
    assert prefix.cache.nbytes == len(PROMPT) * a_token
    assert engine.cache.nbytes == 0
    before = [layer.keys.data_ptr() for layer in prefix.cache.layers]
    engine.step(torch.full((64,), 5))
    assert engine.cache.nbytes == 64 * FIRST_TAIL * a_token
    for _ in range(FIRST_TAIL):
        engine.step(torch.full((64,), 5))
    assert engine.cache.nbytes == 64 * 2 * FIRST_TAIL * a_token
    assert [layer.keys.data_ptr() for layer in prefix.cache.layers] == before
    assert prefix.cache.nbytes == len(PROMPT) * a_token


def test_window_keeps_only_what_it_needs_of_the_prefix():
    """Window 12: eleven tokens of the prompt can still be seen by the next one, and no more are stored."""
    model = tiny("qwen2-2")
    _, prefix = started(model)
    kept = [(layer.window, layer.keys.shape[2]) for layer in prefix.cache.layers]
    assert kept == [(None, 30), (None, 30), (12, 11), (12, 11)]
    for layer in prefix.cache.layers:
        assert layer.keys.untyped_storage().nbytes() == layer.keys.nbytes


def test_window_keeps_only_what_it_needs_of_a_tail():
    """Window 12: sixteen columns, whole vectors of them, however long the tail grows; full layers keep all of it."""
    model = tiny("qwen2-2")
    engine, _ = started(model, rows=3, steps=70)
    assert [(layer.window, layer.keys.shape[2]) for layer in engine.cache.layers] == [
        (None, 128),
        (None, 128),
        (12, 16),
        (12, 16),
    ]


@pytest.mark.parametrize("order", [[0, 3, 2], [3, 2, 1, 0], [1], [0, 0, 2], [], [2, 1]])
def test_keep_renumbers_rows(order):
    """Any order of rows, repeats included, goes on exactly as those rows would have gone on."""
    model = tiny("llama")
    engine, _ = started(model, steps=5)
    twin, _ = started(model, steps=5)
    engine.keep(order)
    assert engine.cache.positions == [len(PROMPT) + 5] * len(order)
    if order:
        tokens = torch.arange(4) + 40
        torch.testing.assert_close(engine.step(tokens[order]), twin.step(tokens)[order], rtol=0, atol=1e-5)


def test_rows_added_and_dropped_before_their_first_step():
    """Rows that have no storage yet can be renumbered with the others."""
    model = tiny("llama")
    engine, prefix = started(model, rows=2, steps=3)
    engine.add(prefix, 2)
    engine.keep([3, 1])
    texts = [[*PROMPT, 50], [*PROMPT, 4, 5, 6, 51]]
    want = alone(model, [(text, None) for text in texts])
    got = engine.step(torch.tensor([50, 51]))
    torch.testing.assert_close(got, torch.stack(want), rtol=0, atol=1e-5)


def test_prefix_without_rows_is_dropped():
    """A prefix leaves the cache with its last row."""
    model = tiny("llama")
    engine, _ = started(model, rows=2)
    engine.add(engine.prefill([5, 6, 7]), 1)
    engine.keep([2])
    assert [p.length for p in engine.cache.prefixes] == [3]


@pytest.mark.parametrize("where", ["attention", "head"])
def test_failed_step_can_be_taken_again(where, monkeypatch):
    """A step that fails in the middle or at its very end leaves the rows as they were: taken again, it is right."""
    model = tiny("llama")
    engine, _ = started(model, steps=2)
    twin, _ = started(model, steps=2)
    calls = []

    def fail(*args, **kwargs):
        calls.append(1)
        raise MemoryError("no memory")

    hook = model.lm_head.register_forward_hook(fail) if where == "head" else None
    with monkeypatch.context() as patch:
        if hook is None:
            patch.setattr(arithmetic, "attend", fail)
        with pytest.raises(MemoryError):
            engine.step(torch.tensor([9, 8, 7, 6]))
    if hook is not None:
        hook.remove()
    assert calls
    assert engine.cache.positions == [len(PROMPT) + 2] * 4
    assert model.config._attn_implementation == "sdpa"
    tokens = torch.tensor([9, 8, 7, 6])
    assert torch.equal(engine.step(tokens), twin.step(tokens))


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_plain_hugging_face_loop_over_a_fork(name):
    """`generate` over a forked cache with the model's own attention: slow and right; and with ours, right too.
    With a window the tail has gone round it twice at the end."""
    model = tiny(name)
    ids = torch.tensor([PROMPT] * 3)
    options = {"do_sample": False, "max_new_tokens": 40, "pad_token_id": 0, "repetition_penalty": 1.2}
    want = model.generate(ids, **options)
    prefix, name = SharedPrefixRunner(model).prefill(PROMPT[:-1]).cache, compat.Signature.of(model).cache
    assert torch.equal(model.generate(ids, **{name: SharedCache.fork(prefix, 3)}, **options), want)
    twin, cache = Forward(model).twin.attend_by(attention.NAME), SharedCache.fork(prefix, 3)
    found = attention.in_step(cache, lambda: twin.generate(ids, **{name: cache}, **options))
    assert torch.equal(found, want)
    assert model.config._attn_implementation == "sdpa"


def test_several_query_tokens_after_the_fork():
    """Appended text of more than one token is causal within itself, with and without a window."""
    for name in ("llama", "mistral"):
        model = tiny(name)
        prefix = SharedPrefixRunner(model).prefill(PROMPT)
        more = torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]])
        cache = SharedCache.fork(prefix.cache, 2)
        for piece in (more[:, :3], more[:, 3:]):
            got = read_more(model, piece, cache, is_shared=True)
        for b in range(2):
            text = torch.tensor([[*PROMPT, *more[b].tolist()]])
            want = model(input_ids=text).logits[0, -2:]
            torch.testing.assert_close(got[b], want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [5, 40])
@pytest.mark.parametrize("is_shared", [True, False])
def test_a_ring_makes_room_for_several_tokens(steps, is_shared):
    """Ten tokens appended at once to tails within, and twice round, a window of 12: more than the ring of 16 holds."""
    model = tiny("mistral")
    engine, _ = started(model, rows=2, steps=steps)
    more = torch.tensor([[5 + i for i in range(10)], [25 + i for i in range(10)]])
    got = read_more(model, more, engine.cache, is_shared=is_shared)
    texts = [[*PROMPT, *(b + step + 3 for step in range(steps)), *more[b].tolist()] for b in range(2)]
    for b, text in enumerate(texts):
        want = alone(model, [(text[: len(text) - 9 + i], None) for i in range(10)])
        torch.testing.assert_close(got[b], torch.stack(want), rtol=0, atol=1e-5)
    again = engine.step(torch.tensor([7, 8]))  # one token again, in the wider ring
    want = alone(model, [([*text, 7 + b], None) for b, text in enumerate(texts)])
    torch.testing.assert_close(again, torch.stack(want), rtol=0, atol=1e-5)


def test_foreign_attention_refuses_ragged_rows():
    """With the model's own attention, rows of different lengths have no right answer: a sentence, not a wrong logit."""
    model = tiny("llama")
    engine, prefix = started(model, rows=1, steps=2)
    engine.add(prefix, 1)
    with pytest.raises(attention.SharingError, match="step them by a LocalEngine"):
        read_more(model, torch.tensor([[5], [6]]), engine.cache, is_shared=False)


def test_nobody_else_gets_what_a_step_handed_out():
    """Our attention outside of a step, and with tensors that the cache did not hand out, is refused."""
    model = tiny("llama")
    twin = Forward(model).twin.attend_by(attention.NAME)
    with pytest.raises(attention.SharingError, match="outside of a step"):
        twin(input_ids=torch.tensor([[5, 6]]))
    engine, _ = started(model, steps=1)
    with pytest.raises(attention.SharingError, match="changes K/V"):
        attention.in_step(engine.cache, lambda: twin(input_ids=torch.tensor([[5, 6]]), use_cache=False))


def test_wrong_number_of_rows():
    """A batch that is not the cache's is refused with both numbers."""
    engine, _ = started(tiny("llama"), rows=4)
    with pytest.raises(ValueError, match="each of the 4 rows, got 3"):
        engine.step(torch.tensor([5, 6, 7]))


@pytest.mark.model
@pytest.mark.parametrize("prepack", [False, True])
@pytest.mark.parametrize(
    ("dtype", "length"), [(torch.float32, 19), (torch.bfloat16, 19), (torch.float32, arithmetic.LONG)]
)
def test_logits_do_not_depend_on_the_batch(embedded, dtype, length, prepack):
    """A row's logits are the same bits in batches of 2, 5, 12 and beside rows ahead; and alone with packed weights."""
    model = embedded[0].to(dtype)
    try:
        engine = SharedPrefixRunner(model, prepack=prepack)
        if engine.forward.twin.objection:
            pytest.skip(engine.forward.twin.objection)
        if not onednn.rounds_alike(dtype):
            pytest.skip("this torch rounds a row differently in small batches")
        prefix = engine.prefill([100 + 7 * i for i in range(length)])
        tokens = torch.randint(100, VOCAB * 100, (20, 12), generator=torch.Generator().manual_seed(1))

        def logits(rows, ahead):
            engine.cache, got = None, []
            engine.add(prefix, ahead)
            for step in range(3 * bool(ahead)):
                engine.step(tokens[step, :ahead])
            engine.add(prefix, len(rows))
            for step in range(20):
                beside = tokens[step, :ahead]
                got.append(engine.step(torch.cat([beside, tokens[step, rows]]))[ahead:])
            return torch.stack(got, 1)

        everyone = logits(list(range(12)), 0)
        for rows, ahead in (([7], 0),) * prepack + (([3, 8], 0), ([0, 1, 5, 6, 11], 0), ([2], 3), (list(range(12)), 2)):
            assert torch.equal(logits(rows, ahead), everyone[rows])
    finally:
        model.to(torch.float32)
