"""Every logits processor of transformers under `custom_generate`: as `generate` alone does it, or refused by name."""

from __future__ import annotations

import inspect

import pytest
import torch
from tiny import VOCAB, tiny
from transformers import LogitsProcessor
from transformers.generation import logits_process

from fastsample.hf import generate as shared

LONG, SHORT = [1, 17, 44, 80, 9, 33, 44, 80], [1, 5, 60, 5]
WIDTH = len(LONG)
ROWS = torch.tensor([LONG, [0] * (WIDTH - len(SHORT)) + SHORT])
INPUTS = {"input_ids": ROWS, "attention_mask": (ROWS != 0).long()}
SETTINGS = {"max_new_tokens": 14, "pad_token_id": 0, "eos_token_id": 2, "do_sample": False}
EOS, MANY = torch.tensor([2]), torch.arange(3, 60)
ALL = sorted(
    name
    for name, kind in vars(logits_process).items()
    if inspect.isclass(kind) and issubclass(kind, LogitsProcessor) and kind is not LogitsProcessor
)
# How each is made: of its class and the model. What is not named here fails the test: a release has brought it.
MAKE = {
    "MinLengthLogitsProcessor": lambda kind, _: kind(WIDTH + 9, MANY),
    "MinNewTokensLengthLogitsProcessor": lambda kind, _: kind(WIDTH, 9, MANY),
    "TemperatureLogitsWarper": lambda kind, _: kind(0.5),
    "RepetitionPenaltyLogitsProcessor": lambda kind, _: kind(1.7),
    "EncoderRepetitionPenaltyLogitsProcessor": lambda kind, _: kind(1.7, ROWS),
    "TopPLogitsWarper": lambda kind, _: kind(0.5),
    "TopKLogitsWarper": lambda kind, _: kind(5),
    "TopHLogitsWarper": lambda kind, _: kind(0.5),
    "MinPLogitsWarper": lambda kind, _: kind(0.1),
    "TypicalLogitsWarper": lambda kind, _: kind(0.5),
    "EpsilonLogitsWarper": lambda kind, _: kind(0.01),
    "EtaLogitsWarper": lambda kind, _: kind(0.01),
    "NoRepeatNGramLogitsProcessor": lambda kind, _: kind(2),
    "EncoderNoRepeatNGramLogitsProcessor": lambda kind, _: kind(2, ROWS),
    "SequenceBiasLogitsProcessor": lambda kind, _: kind([[[9], 8.0], [[44, 7], 30.0]]),
    "NoBadWordsLogitsProcessor": lambda kind, _: kind([[i] for i in range(3, 40)], EOS),
    "PrefixConstrainedLogitsProcessor": lambda kind, _: kind(lambda b, sent: list(range(3 + 40 * b, 30 + 40 * b)), 1),
    "ForcedBOSTokenLogitsProcessor": lambda kind, _: kind(7),
    "ForcedEOSTokenLogitsProcessor": lambda kind, _: kind(WIDTH + 10, EOS),
    "InfNanRemoveLogitsProcessor": lambda kind, _: kind(),
    "ExponentialDecayLengthPenalty": lambda kind, _: kind((2, 1.5), EOS, WIDTH),
    "LogitNormalization": lambda kind, _: kind(),
    "SuppressTokensAtBeginLogitsProcessor": lambda kind, _: kind(list(range(3, 60)), WIDTH),
    "SuppressTokensLogitsProcessor": lambda kind, _: kind(list(range(3, 60))),
    "ClassifierFreeGuidanceLogitsProcessor": lambda kind, _: kind(1.5),
    "AlternatingCodebooksLogitsProcessor": lambda kind, _: kind(WIDTH, 10, 10),
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": lambda kind, model: kind(1.5, model),
    "BarkEosPrioritizerLogitsProcessor": lambda kind, _: kind(EOS, 0.1),
    "WatermarkLogitsProcessor": lambda kind, _: kind(VOCAB, "cpu", bias=8.0),
    "SynthIDTextWatermarkLogitsProcessor": lambda kind, _: kind(3, [5, 6, 7], 64, 0, 16, "cpu"),
    "DiaClassifierFreeGuidanceLogitsProcessor": lambda kind, _: kind(1.5),
    "DiaEOSChannelFilterLogitsProcessor": lambda kind, _: kind(2, 2),
    "DiaEOSDelayPatternLogitsProcessor": lambda kind, _: kind([0, 1], 2, 20),
    "WhisperTimeStampLogitsProcessor": lambda kind, _: kind.__new__(kind),
    "WhisperNoSpeechDetection": lambda kind, _: kind.__new__(kind),
}
REFUSED = {
    *("TopHLogitsWarper", "TypicalLogitsWarper", "EpsilonLogitsWarper", "EtaLogitsWarper"),
    *("ClassifierFreeGuidanceLogitsProcessor", "AlternatingCodebooksLogitsProcessor"),
    *("BarkEosPrioritizerLogitsProcessor", "WhisperTimeStampLogitsProcessor", "WhisperNoSpeechDetection"),
    *(name for name in ALL if name.startswith("Dia")),
}
# They change no token of a greedy text behind a prompt, however they are set.
IDLE = {
    "LogitNormalization",
    "ForcedBOSTokenLogitsProcessor",
    "InfNanRemoveLogitsProcessor",
    *(name for name in ALL if name.endswith("LogitsWarper")),
}


@pytest.fixture(scope="module")
def model():
    return tiny("llama", num_hidden_layers=2)


@pytest.mark.parametrize("name", ALL)
def test_as_generate_alone_or_refused(model, name):
    """Greedy, two rows of which one is padded: the same tokens, and other ones than without the processor."""
    kind = getattr(logits_process, name)

    def written(**options):
        return model.generate(**INPUTS, logits_processor=[MAKE[name](kind, model)], **SETTINGS, **options)

    if name in REFUSED:
        with pytest.raises(ValueError, match=f"got an? {name}"):
            written(custom_generate=shared)
        return
    want = written()
    assert torch.equal(written(custom_generate=shared), want)
    if name not in IDLE:
        assert not torch.equal(want, model.generate(**INPUTS, **SETTINGS))


def test_guidance_by_the_argument(model):
    """`guidance_scale` makes one processor with a cache for all rows; with a negative prompt a row, too."""
    negative = torch.tensor([[1, 9, 9, 9], [1, 30, 31, 32]])
    for more in ({}, {"negative_prompt_ids": negative}):
        options = {**INPUTS, **SETTINGS, "guidance_scale": 1.5, **more}
        assert torch.equal(model.generate(custom_generate=shared, **options), model.generate(**options))


def test_a_processor_that_counts_its_calls(model):
    """A user's own, with state: each row's copy counts that row's tokens, and the object itself stays as it was."""

    class Counts(LogitsProcessor):
        def __init__(self):
            self.calls = []

        def __call__(self, input_ids, scores):
            self.calls.append(len(self.calls))
            return scores.index_fill(1, torch.tensor([3 + len(self.calls)]), 1e4)

    counts = Counts()
    out = model.generate(**INPUTS, logits_processor=[counts], custom_generate=shared, **SETTINGS)
    assert out[:, WIDTH:].tolist() == [list(range(4, 18))] * 2
    assert counts.calls == []


def test_what_cannot_be_copied_is_refused(model):
    """A processor that holds something of which there can be no copy, by its name and with the reason."""

    class Holds(LogitsProcessor):
        def __init__(self):
            self.lines = (line for line in ())

        def __call__(self, input_ids, scores):
            return scores

    with pytest.raises(ValueError, match=r"a Holds cannot be copied \(cannot pickle 'generator' object\); call gen"):
        model.generate(**INPUTS, logits_processor=[Holds()], custom_generate=shared, **SETTINGS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"logits_processor": [logits_process.TopKLogitsWarper(5)]},
            "top_k = 0, got TopKLogitsWarper of 5; pass top_k",
        ),
        ({"logits_processor": [logits_process.TemperatureLogitsWarper(0.5)]}, "temperature = 1.0, got Temp"),
        (
            {"logits_processor": [MAKE["WatermarkLogitsProcessor"](logits_process.WatermarkLogitsProcessor, None)]},
            "a WatermarkLogitsProcessor works on what the filters left",
        ),
        (
            {"logits_processor": [logits_process.EncoderRepetitionPenaltyLogitsProcessor(1.7, ROWS[:1])]},
            "encoder_input_ids of a logits processor must have one entry for each of the 2 rows, got 1",
        ),
    ],
)
def test_what_would_be_lost_is_refused(model, options, message):
    """When it samples: a filter that only the object asks for, a mark that belongs behind the filters, a short one."""
    with pytest.raises(ValueError, match=message):
        model.generate(**INPUTS, **{**SETTINGS, "do_sample": True, "top_k": 0}, custom_generate=shared, **options)


def test_filters_as_objects_beside_the_same_arguments(model):
    """What the draw does anyway is taken."""
    options = {**INPUTS, **SETTINGS, "do_sample": True, "top_k": 0, "top_p": 0.8, "custom_generate": shared, "seed": 4}
    want = model.generate(**options)
    assert torch.equal(model.generate(**options, renormalize_logits=True), want)
