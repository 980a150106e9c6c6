"""A model of lm-evaluation-harness that answers every request by a vote, with early exit.

    python -m fastsample.lm_eval --model fastsample --model_args temperatures=0.4/0.8,samples=8,rule=ahead:k=3 --tasks T

The harness looks for no models of other packages. So this module registers the model when it is imported, and run as a
program it then is the harness's own command, with all of its options. Tested with lm_eval 0.4.13.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from .engines.base import Engine
from .engines.local.engine import LocalEngine
from .models import load
from .solving.solve import solve_many
from .strategies.plan import temperatures_of
from .strategies.question import TEMPERATURES, Question, Settings
from .strategies.records import elected

try:
    import lm_eval.models  # noqa: F401  # first: the harness registers its own models only where there are none yet
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise ImportError(f'fastsample.lm_eval needs lm_eval ({error}); pip install "fastsample[lm-eval]"') from None

log = logging.getLogger("fastsample.lm_eval")
IGNORED = {"do_sample", "temperature", "num_beams", "num_return_sequences"}  # the vote has temperatures of its own
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@register_model("fastsample")
class VotingLM(LM):
    """Answers `generate_until` with the text of the sample that gave the elected answer.

    pretrained:   for `models.load`; None is the embedded model
    temperatures: "0.4/0.8" or numbers; samples, rule, extractor, strategy, seed, top_k, top_p, min_p, cut_votes,
                  max_new_tokens: as in `solve`; a task may set the last and the three filters for its requests
    slots, prepack: of the engine; engine, tokenizer: others than those that are made of `pretrained`
    tokens, budget_tokens: what was written so far, and what the full votes would have taken

    A request that a task repeats is answered each time with other random numbers. Texts are read as the task writes
    them; `--apply_chat_template` puts the model's template around them.
    raises: ValueError for settings that cannot be served; NotImplementedError for tasks that ask for the probability
            of a given text: there is nothing in them to vote on
    """

    def __init__(
        self,
        pretrained: str | None = None,
        *,
        temperatures: str | float | Iterable[float] = TEMPERATURES,
        samples: int = 5,
        rule: str = "majority",
        extractor: str = "auto",
        strategy: str = "vote",
        seed: int = 0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        max_new_tokens: int = 256,
        cut_votes: bool = False,
        dtype: str | None = None,
        slots: int = 64,
        prepack: bool = False,
        engine: Engine | None = None,
        tokenizer: Any = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        model = None
        if engine is None:
            model, tokenizer = load(pretrained, dtype=dtype)
            model = model.to(_there(device))
            engine = LocalEngine(model, tokenizer, slots=slots, prepack=prepack)
        self.model, self.tokenizer, self.engine = model, tokenizer, engine
        self.extractor, self.strategy = extractor, strategy
        self.tokens = self.budget_tokens = 0
        self.settings = Settings(
            temperatures=temperatures_of(temperatures),
            samples=samples,
            rule=rule,
            seed=seed,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            max_new_tokens=max_new_tokens,
            cut_votes=cut_votes,
        )
        self.settings.plan()

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The text of the elected answer to each request, in their order."""
        from tqdm import tqdm

        groups: dict[Settings, list[int]] = {}
        earlier: Counter[str] = Counter()
        for number, request in enumerate(requests):
            text, wanted = request.args
            settings = self.settings_for(wanted)
            again = earlier[f"{text}\0{wanted}"]
            earlier[f"{text}\0{wanted}"] += 1
            groups.setdefault(replace(settings, seed=settings.seed + again), []).append(number)
        answers = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="fastsample") as bar:
            for settings, numbers in groups.items():
                questions = [self._question(requests[n].args[0], n) for n in numbers]
                for result in solve_many(
                    self.model,
                    self.tokenizer,
                    questions,
                    settings=settings,
                    extractor=self.extractor,
                    strategy=self.strategy,
                    engine=self.engine,
                ):
                    if result.error is not None:
                        raise RuntimeError(f"request {result.id}: {result.error}")
                    request, chosen = requests[int(result.id)], elected(result)
                    answers[int(result.id)] = "" if chosen is None else chosen.text
                    self.cache_hook.add_partial("generate_until", request.args, answers[int(result.id)])
                    self.tokens += result.tokens
                    self.budget_tokens += result.budget_tokens
                    bar.update(1)
        log.info("%d tokens were written; the full votes would have taken %d", self.tokens, self.budget_tokens)
        return answers

    def settings_for(self, wanted: dict[str, Any]) -> Settings:
        """Those of the model with what a task asks for; ValueError for what it cannot have."""
        left = {name: value for name, value in wanted.items() if name not in IGNORED and value is not None}
        until = left.pop("until", [])
        changed: dict[str, Any] = {"stop": tuple(filter(None, [until] if isinstance(until, str) else until))}
        limits = [left.pop(name) for name in LIMITS if name in left]
        if limits:
            changed["max_new_tokens"] = int(limits[0])
        for name in ("top_k", "top_p", "min_p"):
            if name in left:
                changed[name] = left.pop(name)
        if left:
            raise ValueError(
                f"a task's generation_kwargs may name until, {', '.join(LIMITS)}, top_k, top_p and min_p here, got "
                f"{', '.join(map(str, left))}; take it out of the task"
            )
        return replace(self.settings, **changed)

    def _question(self, text: str, number: int) -> Question:
        bos: str = getattr(self.tokenizer, "bos_token", None) or ""
        has_bos = bos != "" and text.startswith(bos)  # a chat template has written it
        ids = self.tokenizer(text, add_special_tokens=not has_bos)["input_ids"]
        return Question(text, id=str(number), prompt=tuple(ids))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Refused: see the class."""
        raise NotImplementedError(
            "this task asks for the probability of given texts, and there is nothing in them to vote on; "
            "use --model hf for it, or a task of the type generate_until"
        )

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Refused: see the class."""
        self.loglikelihood(requests)
        return []

    @property
    def tokenizer_name(self) -> str:
        """By which the harness tells one chat template's requests from another's."""
        return str(getattr(self.tokenizer, "name_or_path", type(self.tokenizer).__name__))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's own; another cannot be chosen by name."""
        return getattr(self.tokenizer, "chat_template", None) if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as one text, in the tokenizer's template."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )


def _there(device: str | None) -> str:
    """The harness asks for cuda:0 unless it is told otherwise, also where there is none."""
    if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
        log.warning("torch finds no GPU for --device %s here; the model runs on the CPU", device)
        return "cpu"
    return device or "cpu"


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
