"""What is given to Hugging Face's `generate`: the tokens it must choose, the scores it must keep, what is refused."""

from __future__ import annotations

import bigram
import pytest
import torch
from tiny import VOCAB, tiny
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList, StopStringCriteria

import fastsample
from fastsample.engines.base import Request
from fastsample.engines.local.engine import LocalEngine
from fastsample.hf import FastSampler, PerRowWarper
from fastsample.hf import generate as shared

PROMPT = [1, 17, 44, 80, 9, 33]
SHORT = [1, 5, 60]
TEMPERATURES = [0.3, 0.7, 1.0, 1.6]
SETTINGS = {"max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": 2}
SEVERAL = {**SETTINGS, "do_sample": True, "top_k": 0}  # `generate` allows num_return_sequences only when it samples


@pytest.fixture(scope="module")
def model():
    return tiny("llama", num_hidden_layers=2)


def ids(*prompts):
    """Prompts of one length, or left-padded with 0: the inputs of `generate`."""
    width = max(map(len, prompts))
    rows = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    return {"input_ids": rows, "attention_mask": (rows != 0).long()}


def written_alone(model, prompt, temperature, stream, seed=7, **filters):
    """The tokens of one sample from a LocalEngine that writes nothing else."""
    generator = LocalEngine(model, None)
    request = Request(tuple(prompt), temperature=temperature, seed=seed, stream=stream, max_new_tokens=12, **filters)
    (s,) = generator.submit([request])
    generator.run()
    return s


@pytest.mark.parametrize("do_sample", [False, True])
def test_fast_sampler_chooses_the_tokens_of_a_generator(model, do_sample):
    """Greedy and sampling `generate` both take exactly the token that was drawn, whatever warpers follow."""
    sampler = FastSampler(temperature=TEMPERATURES, top_p=0.9, seed=7)
    options = {"do_sample": do_sample, "logits_processor": [sampler], **SETTINGS}
    out = model.generate(**ids(*[PROMPT] * 4), **options)
    for b, temperature in enumerate(TEMPERATURES):
        want = written_alone(model, PROMPT, temperature, b, top_p=0.9).tokens
        assert out[b, len(PROMPT) :].tolist()[: len(want)] == want
    again = model.generate(**ids(*[PROMPT] * 4), **options)  # one object, a second call
    assert torch.equal(out, again)


def test_fast_sampler_with_return_sequences_and_left_padding(model):
    """Rows are prompts x num_return_sequences, and padding moves neither the positions nor the tokens."""
    sampler = FastSampler(temperature=TEMPERATURES, seed=7, pad_token_id=0)
    out = model.generate(**ids(PROMPT, SHORT), num_return_sequences=2, logits_processor=[sampler], **SEVERAL)
    for b, prompt in enumerate([PROMPT, PROMPT, SHORT, SHORT]):
        want = written_alone(model, prompt, TEMPERATURES[b], b).tokens
        assert out[b, len(PROMPT) :].tolist()[: len(want)] == want


def test_fast_sampler_keeps_transition_scores_and_raw_logits(model):
    """compute_transition_scores gives what the token was drawn with, and output_logits stay the model's."""
    sampler = FastSampler(temperature=1.3, top_k=20, seed=3)
    out = model.generate(**ids(PROMPT), logits_processor=[sampler], output_scores=True, output_logits=True,
                         return_dict_in_generate=True, **SETTINGS)  # fmt: skip
    got = model.compute_transition_scores(out.sequences, out.scores)[0]
    tokens = out.sequences[0, len(PROMPT) :]
    for step, token in enumerate(tokens):
        logits = out.logits[step][0].double()
        assert logits.isfinite().all()
        kept = logits.topk(20).indices
        want = torch.log_softmax(logits[kept] / 1.3, 0)[kept.tolist().index(int(token))]
        assert float((got[step] - want).abs()) <= 1e-5


def test_fast_sampler_refuses_rows_that_do_not_match(model):
    """Three temperatures for four rows are an error with both numbers, not a broadcast."""
    with pytest.raises(ValueError, match=r"temperature must be one value or \[4\]"):
        model.generate(**ids(*[PROMPT] * 4), logits_processor=[FastSampler(temperature=[1, 1, 1])], **SETTINGS)


def test_fast_sampler_refuses_assisted_generation(model):
    """A sampler that draws by itself leaves nothing to verify; the sentence says what to leave out."""
    with pytest.raises(ValueError, match="assisted generation; call generate without an assistant model"):
        model.generate(**ids(PROMPT), logits_processor=[FastSampler()], prompt_lookup_num_tokens=2, **SETTINGS)


def test_per_row_warper_leaves_exactly_the_kept_distribution():
    """softmax of the warped scores is `distribution`, row by row."""
    scores = torch.randn(3, VOCAB) * 3
    settings = {"temperature": [0.5, 1.0, 2.0], "top_k": [5, 0, 40], "top_p": [1.0, 0.8, 0.9], "min_p": [0.0, 0.0, 0.1]}
    warped = PerRowWarper(**settings)(torch.ones(3, 4, dtype=torch.long), scores)
    want = fastsample.distribution(scores, **settings)
    assert float((warped.softmax(1) - want).abs().max()) <= 1e-6
    assert (warped[0] > -torch.inf).sum() == 5


def test_per_row_warper_in_generate(model):
    """With one kept token a row, Hugging Face's own draw has no choice: the greedy text comes out."""
    greedy = model.generate(**ids(PROMPT, PROMPT), do_sample=False, **SETTINGS)
    warper = PerRowWarper(temperature=[0.7, 2.0], top_k=[1, 1])
    assert torch.equal(
        model.generate(**ids(PROMPT, PROMPT), do_sample=True, logits_processor=[warper], **SETTINGS), greedy
    )


@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba"])
def test_custom_generate_writes_what_fast_sampler_writes(name):
    """Through the shared prefix or the fallback, the same tokens come back in the same shape."""
    model = tiny(name)
    rows = {**ids(PROMPT, SHORT)} if name != "mamba" else {**ids(PROMPT, PROMPT[::-1])}
    options = {**rows, "num_return_sequences": 4, **SEVERAL}
    sampler = FastSampler(temperature=TEMPERATURES * 2, seed=7, pad_token_id=0)
    want = model.generate(logits_processor=[sampler], **options)
    got = model.generate(custom_generate=shared, temperatures=TEMPERATURES, seed=7, **options)
    assert torch.equal(got, want)


def test_temperatures_alone_say_how_many_sequences(model):
    """Four temperatures without num_return_sequences are four sequences of every prompt, penalties included."""
    options = {**ids(PROMPT, SHORT), "custom_generate": shared, "temperatures": TEMPERATURES, "seed": 7}
    options |= {"repetition_penalty": 1.3, "top_k": 0, **SETTINGS}
    want = model.generate(num_return_sequences=4, do_sample=True, **options)
    assert want.shape[0] == 8
    assert torch.equal(model.generate(**options), want)


def test_custom_generate_without_temperatures_is_generate():
    """Greedy decoding equals `generate`'s own, with penalties and a minimum counted from the padded width."""
    model = tiny("llama")
    options = {**ids(PROMPT, SHORT), "do_sample": False, "repetition_penalty": 1.3, "min_new_tokens": 5, **SETTINGS}
    assert torch.equal(model.generate(custom_generate=shared, **options), model.generate(**options))


def test_custom_generate_returns_dict_with_scores(model):
    """sequences and scores as `generate` returns them: transition scores are the drawn log-probabilities."""
    out = model.generate(**ids(PROMPT), custom_generate=shared, temperatures=[0.8, 1.4], num_return_sequences=2,
                         seed=7, return_dict_in_generate=True, output_scores=True, **SEVERAL)  # fmt: skip
    got = model.compute_transition_scores(out.sequences, out.scores)
    for b, temperature in enumerate([0.8, 1.4]):
        s = written_alone(model, PROMPT, temperature, b)
        assert out.sequences[b, len(PROMPT) :].tolist()[: len(s.tokens)] == s.tokens
        assert got[b].tolist()[: len(s.tokens)] == pytest.approx(s.logprobs, abs=1e-5)


def test_custom_generate_honours_stopping_criteria(model):
    """A criterion of the user's own cuts each row where it first holds for that row."""

    class EvenToken(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return (input_ids[:, -1] % 10 == 0) & (input_ids.shape[1] > len(PROMPT))

    criteria = StoppingCriteriaList([EvenToken()])
    out = model.generate(**ids(PROMPT), custom_generate=shared, temperatures=[1.0, 1.0, 1.0], num_return_sequences=3,
                         seed=7, stopping_criteria=criteria, **SEVERAL)  # fmt: skip
    cut = 0
    for b in range(3):
        want = written_alone(model, PROMPT, 1.0, b).tokens
        end = next((i + 1 for i, t in enumerate(want) if t % 10 == 0), len(want))
        cut += end < len(want)
        assert out[b, len(PROMPT) :].tolist()[:end] == want[:end]
        assert all(t == 0 for t in out[b, len(PROMPT) + end :].tolist())
    assert cut > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperatures": [1.0, 1.0, 1.0]}, "rows or for each of num_return_sequences = 2, got 3"),
        ({"streams": [1]}, "streams must have one value for each of the 4 rows, got 1"),
        ({"num_beams": 2}, "num_beams = 2"),
        ({"output_logits": True, "return_dict_in_generate": True}, "output_logits is not kept"),
        ({"do_sample": True, "typical_p": 0.5}, "TypicalLogitsWarper"),
        ({"logits_processor": LogitsProcessorList([FastSampler()])}, "got a FastSampler as well"),
        ({"prompt_lookup_num_tokens": 3, "num_return_sequences": 1}, "prompt lookup"),
        ({"temperatures": [1.0, -1.0]}, "temperature must be >= 0"),
        ({"attention_mask": torch.tensor([[1, 1, 0, 1, 1, 1]] * 2)}, "on the left only"),
    ],
)
def test_custom_generate_refuses(model, options, message):
    """Each thing that a shared prefix cannot give is refused in a sentence with the value."""
    with pytest.raises(ValueError, match=message):
        model.generate(
            **{**ids(PROMPT, PROMPT), "num_return_sequences": 2, "custom_generate": shared, **SEVERAL, **options}
        )


def test_custom_generate_refuses_no_rows(model):
    """No sample asked for is an error, not an empty answer."""
    nothing = torch.zeros(0, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="at least one row, got 0"):
        shared(model, nothing, LogitsProcessorList(), StoppingCriteriaList(), model.generation_config)


def test_fast_sampler_refuses_beams(model):
    """One token a row leaves a beam nothing to choose from; it changed the beams in silence."""
    with pytest.raises(ValueError, match="leaves beams nothing to choose from; call generate with num_beams = 1"):
        model.generate(**ids(PROMPT), logits_processor=[FastSampler(seed=1)], num_beams=2, **SETTINGS)


def test_fast_sampler_finds_the_padding_by_itself(model):
    """Left padding without pad_token_id: the mask that generate has says what is padding, and no token differs."""
    temperatures = TEMPERATURES[1:3]
    sampler = FastSampler(temperature=temperatures, seed=7)
    out = model.generate(**ids(PROMPT, SHORT), logits_processor=[sampler], **SETTINGS)
    for b, prompt in enumerate([PROMPT, SHORT]):
        want = written_alone(model, prompt, temperatures[b], b).tokens
        assert out[b, len(PROMPT) :].tolist()[: len(want)] == want
    # A text may begin with the padding token: the mask is surer than the token.
    begins = {"input_ids": torch.tensor([[0, 5, 60]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    sampler = FastSampler(temperature=1.3, seed=7, pad_token_id=0)
    out = model.generate(**begins, logits_processor=[sampler], **SETTINGS)
    want = written_alone(model, [0, 5, 60], 1.3, 0).tokens
    assert out[0, 3:].tolist()[: len(want)] == want


def test_fast_sampler_refuses_padding_that_it_cannot_tell(model):
    """A loop without a mask: a row that begins with the padding token is padded, or it is not."""

    def _sample(processor):  # as a loop of transformers whose model takes no mask
        model_kwargs, generation_config = {}, model.generation_config  # noqa: F841
        return processor(torch.tensor([[1, 7, 5], [0, 0, 5]]), torch.zeros(2, VOCAB))

    model.generation_config.pad_token_id = 0
    with pytest.raises(ValueError, match="row 1 begins with the padding token 0 without an attention mask; name pad"):
        _sample(FastSampler(seed=7))
    got = _sample(FastSampler(seed=7, pad_token_id=0)).argmax(1)
    assert torch.equal(got, fastsample.sample(torch.zeros(2, VOCAB), seed=7, position=[3, 1]))


@pytest.mark.parametrize("way", ["processor", "custom"])
def test_noise_without_a_seed_is_fresh(model, way):
    """Two calls differ, as two calls of generate do, and torch's seed gives them again."""

    def texts():
        if way == "processor":
            return model.generate(**ids(PROMPT), logits_processor=[FastSampler(temperature=1.6)], **SETTINGS).tolist()
        return model.generate(**ids(PROMPT), custom_generate=shared, temperatures=[1.6], **SETTINGS).tolist()

    torch.manual_seed(3)
    first, second = texts(), texts()
    assert first != second
    torch.manual_seed(3)
    assert texts() == first


class Kept:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.columns, self.has_ended = [], False

    def put(self, value):
        self.columns.append(value)

    def end(self):
        self.has_ended = True


@pytest.mark.parametrize("slots", [None, 1])
def test_a_streamer_sees_every_column(model, slots):
    """The prompt, then a token of every row a step, padding behind a row's end: as `generate` streams by itself."""
    sampler = FastSampler(temperature=TEMPERATURES, seed=7)
    mine, theirs = Kept(), Kept()
    options = {**ids(*[PROMPT] * 4), **SETTINGS}
    model.generate(logits_processor=[sampler], streamer=theirs, **options)
    out = model.generate(
        custom_generate=shared, temperatures=TEMPERATURES, seed=7, streamer=mine, slots=slots, top_k=0, **options
    )
    assert [c.tolist() for c in mine.columns] == [c.tolist() for c in theirs.columns]
    assert torch.equal(torch.stack(mine.columns[1:], 1), out[:, len(PROMPT) :])
    assert mine.has_ended


def test_an_assistant_model_is_refused(model):
    """It was dropped: generate hands it to nobody."""
    with pytest.raises(ValueError, match="token by token, got an assistant model, LlamaForCausalLM; call generate"):
        model.generate(**ids(PROMPT), custom_generate=shared, assistant_model=model, **SETTINGS)


def test_stop_strings_end_a_row(model):
    """As a stopping criterion, which is what generate makes of them."""
    tokenizer = bigram.bigram_tokenizer()
    written = written_alone(model, PROMPT, 1.6, 0, seed=2).tokens
    word = tokenizer.decode(written[5:6])
    assert word.isascii()
    criterion = StopStringCriteria(tokenizer=tokenizer, stop_strings=[word])
    options = {**ids(PROMPT), **SETTINGS, "stopping_criteria": [criterion]}
    want = model.generate(logits_processor=[FastSampler(temperature=1.6, seed=2)], **options)
    got = model.generate(custom_generate=shared, temperatures=[1.6], seed=2, top_k=0, **options)
    assert torch.equal(got, want)
    assert got.shape[1] <= len(PROMPT) + 6
