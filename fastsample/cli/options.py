"""The options that several commands share: each is spelt once, here; a command only chooses its default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..scoring.verifiers import FORMS

if TYPE_CHECKING:
    from ..strategies.question import Settings
    from ..strategies.task import Budget


def _panel(name: str, text: str, *spellings: str, metavar: str | None = None) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*spellings, help=text, metavar=metavar, rich_help_panel=name)
    return option


ModelName = Annotated[
    str | None,
    _panel(
        "Model",
        "A Hugging Face id, a folder, or a .gguf file; the name that servers know. Left out: SmolLM2-135M-Instruct.",
        "--model",
        "-m",
        metavar="MODEL",
    ),
]
Dtype = Annotated[
    str | None, _panel("Model", "float32, bfloat16 or float16. Left out: as the model is stored.", "--dtype")
]
Device = Annotated[str, _panel("Model", "cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.", "--device")]
EngineName = Annotated[
    str | None,
    _panel(
        "Model",
        "What writes the samples: local (a model of ours), openai (servers) or vllm (here).",
        "--engine",
        metavar="ENGINE",
    ),
]
TokenizerName = Annotated[
    str | None,
    _panel(
        "Model",
        "With --base-url: the model's own, a folder or a hub id; prompts are then sent as token ids.",
        "--tokenizer",
        metavar="NAME",
    ),
]
Servers = Annotated[
    list[str] | None,
    _panel(
        "Model",
        "An OpenAI-compatible server, http://HOST:PORT; may be given again. Its key: FASTSAMPLE_API_KEY.",
        "--base-url",
        "--server",
        metavar="URL",
    ),
]
Logprobs = Annotated[
    bool, _panel("Model", "Ask servers or vLLM for log-probabilities, which the rule confidence needs.", "--logprobs")
]
VllmOptions = Annotated[
    list[str] | None,
    _panel(
        "Model",
        "With --engine vllm: an option of its engine, such as enforce_eager=true; may be given again.",
        "--vllm",
        metavar="NAME=VALUE",
    ),
]
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
Temperatures = Annotated[
    str, _panel("Sampling", "Temperatures with commas between them; auto: a question's votes choose.", "--temperatures")
]
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
RepetitionPenalty = Annotated[
    float,
    _panel("Sampling", "Above 1: tokens of question and sample become less likely; 1: off.", "--repetition-penalty"),
]
FrequencyPenalty = Annotated[
    float, _panel("Sampling", "Taken off a token's logit each time that it was written.", "--frequency-penalty")
]
PresencePenalty = Annotated[float, _panel("Sampling", "Taken off once, if a token was written.", "--presence-penalty")]
MaxNewTokens = Annotated[int, _panel("Sampling", "A sample ends there if it does not end before.", "--max-new-tokens")]
Seed = Annotated[int, _panel("Sampling", "The same seed gives the same samples.", "--seed")]
_RULES = "When a vote ends: majority (the whole budget), beta, ahead:k=4, two-stage, ..."
RuleName = Annotated[str, _panel("Vote", _RULES, "--rule")]
RuleOrUsual = Annotated[
    str | None, _panel("Vote", _RULES + " Left out: ahead:k=3, or majority where a scorer chooses.", "--rule")
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
StrategyName = Annotated[
    str,
    _panel(
        "Strategy",
        "vote, or how texts are grown instead: best:n=16, weighted, beam:n=16,m=4, dvts, particles, mcts, refine, "
        "scrutinize, force, ...; docs/search.md has them. They leave --rule, --samples and --temperatures aside.",
        "--strategy",
    ),
]
BudgetTokens = Annotated[
    int | None,
    _panel("Strategy", "Tokens that a question may cost, dropped ones included; no limit if left out.", "--budget"),
]
Together = Annotated[
    bool,
    _panel(
        "Vote",
        "Start a question's whole budget at once (least waiting), or only what the rule may need (fewest tokens).",
        "--together/--waves",
    ),
]
CutVotes = Annotated[
    bool,
    _panel("Vote", "Let samples vote that were cut at --max-new-tokens; else they are counted as cut.", "--cut-votes"),
]
AsJson = Annotated[bool, _panel("Output", "One JSON object on standard output and nothing else there.", "--json")]


def settings_of(
    *,
    temperatures: str,
    samples: int,
    rule: str,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    frequency_penalty: float,
    presence_penalty: float,
    max_new_tokens: int,
    seed: int,
    stop: list[str] | None,
    system: str | None,
    prompt_template: str | None,
    step_by_step: bool,
    together: bool,
    cut_votes: bool,
    is_local: bool = True,
) -> Settings:
    """The settings of a run from a command's options; raises ValueError before a model is loaded for wrong ones.

    is_local: whether this machine writes; an engine over servers looks at its requests without torch
    """
    from ..engines.base import Request
    from ..engines.penalties import Penalties
    from ..strategies.plan import temperatures_of
    from ..strategies.prompts import STEP_BY_STEP
    from ..strategies.question import Settings, is_auto

    settings = Settings(
        temperatures=temperatures if is_auto(temperatures) else temperatures_of(temperatures),  # type: ignore[arg-type]
        samples=samples,
        rule=rule,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        penalties=Penalties(repetition_penalty, frequency_penalty, presence_penalty),
        max_new_tokens=max_new_tokens,
        seed=seed,
        stop=tuple(stop or ()),
        system=system,
        prompt_template=prompt_template,
        suffix=STEP_BY_STEP if step_by_step else None,
        together=together,
        cut_votes=cut_votes,
    )
    settings.plan()
    if prompt_template is not None and "{question}" not in prompt_template:
        raise ValueError(f"the prompt template must contain {{question}}, got {prompt_template!r}")
    if not is_local:
        return settings
    from ..engines.checks import check_request
    from ..models.config import NO_LIMIT

    limits = {name: getattr(settings, name) for name in ("top_k", "top_p", "min_p", "max_new_tokens", "seed")}
    for temperature in settings.temperatures:
        check_request(Request((0,), temperature=temperature, **limits), NO_LIMIT, None)
    return settings


def check_strategy(strategy: str, scorer: str | None, budget: int | None) -> Budget | None:
    """The budget; raises ValueError for a strategy that is none, or that cannot work with this scorer."""
    from ..scoring.verifiers import scorer_of
    from ..strategies.registry import check_fit, method_of
    from ..strategies.task import Budget

    method = method_of(strategy)
    if method is not None:
        check_fit(method, None if scorer is None else scorer_of(scorer))
    elif budget is not None:
        raise ValueError("--budget is for strategies that grow texts; a vote's budget is --samples of each temperature")
    return None if budget is None else Budget(tokens=budget)
