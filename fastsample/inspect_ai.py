"""A model provider of inspect-ai: samples of a model in this process, or votes with early exit, in one shared batch.

    inspect eval task.py --model fastsample/embedded -M rule=ahead:k=3 -M temperatures=0.4/0.8 -M samples=8

inspect finds this module by the entry point of its name. Tested with inspect-ai 0.3.285.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

from .answers.extractors import extractor_of
from .engines.local.engine import LocalEngine
from .models import load
from .serving.asked import Asked
from .serving.desk import Desk
from .serving.said import choices_of, finish_of, vote_of
from .strategies.plan import temperatures_of
from .strategies.question import TEMPERATURES, Question, Settings

try:
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        GenerateConfig,
        ModelAPI,
        ModelOutput,
        ModelUsage,
        modelapi,
    )
except ImportError as error:
    raise ImportError(f'fastsample.inspect_ai needs inspect-ai ({error}); pip install "fastsample[inspect]"') from None

EMBEDDED = "embedded"
MOST = 4096  # requests open at once; inspect itself bounds them
STOPS = {"stop": "stop", "length": "max_tokens", None: "unknown"}
UNSERVED = (
    "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "best_of", "response_schema",
    "reasoning_effort", "reasoning_tokens",
)  # fmt: skip


@modelapi(name="fastsample")
class VotingAPI(ModelAPI):
    """Answers by one sample, or, with any of temperatures, samples and rule, by the elected answer's text.

    model_name: for `models.load`: a hub id, a folder, a .gguf file; "embedded" is the embedded model
    temperatures: "0.4/0.8" or numbers; samples, rule, extractor, cut_votes: of a vote, as in `solve`
    slots, prepack, dtype, device: of the engine and the model
    lm, tokenizer: a model and its tokenizer, instead of those that are loaded by name

    A prompt that is asked again, in another epoch, is answered by other random numbers; `seed` of inspect's settings
    names them all. Metadata of an output holds the votes.
    raises: ValueError for what cannot be served: tools, images, `logprobs`, a chat that does not end with the user
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        *,
        temperatures: Any = None,
        samples: int | None = None,
        rule: str | None = None,
        extractor: str = "auto",
        cut_votes: bool = False,
        slots: int = 64,
        prepack: bool = False,
        dtype: str | None = None,
        device: str | None = None,
        lm: Any = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        if lm is None:
            lm, tokenizer = load(None if model_name == EMBEDDED else model_name, dtype=dtype)
            lm = lm if device is None else lm.to(device)
        self.is_vote = any(value is not None for value in (temperatures, samples, rule))
        self.vote: dict[str, Any] = {
            "temperatures": TEMPERATURES if temperatures is None else temperatures_of(temperatures),
            "samples": samples or 5,
            "rule": rule or "majority",
            "cut_votes": cut_votes,
        }
        self.extract = extractor_of(extractor) if self.is_vote else _nothing
        Settings(**self.vote).plan()
        self.slots = slots
        self.earlier: Counter[str] = Counter()
        engine = LocalEngine(lm, tokenizer, slots=slots, prepack=prepack)
        self.desk = Desk(engine, tokenizer, most=MOST, on_over=lambda asked, result: None)

    async def generate(self, input: list[Any], tools: list[Any], tool_choice: Any, config: GenerateConfig) -> Any:
        """inspect's call: a chat in, a `ModelOutput` out. All that are open at once share the engine's batch."""
        if tools:
            raise ValueError("fastsample serves no tools; leave them out of the solver")
        odd = [name for name in UNSERVED if getattr(config, name, None) not in (None, False)]
        if odd:
            raise ValueError(f"fastsample does not serve {', '.join(odd)}; leave it out of the settings")
        turns = [_turn(message) for message in input]
        if not turns or turns[-1]["role"] != "user":
            raise ValueError("the last message must be the user's: it is what is answered")
        question = Question(turns[-1]["content"], history=tuple(turns[:-1]))
        asked = Asked(question, None, self._settings(config, turns), self.extract, self.model_name,
                      n=config.num_choices or 1, is_vote=self.is_vote)  # fmt: skip
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Any] = loop.create_future()

        def settle(kind: str, said: Any) -> None:
            if told.done():
                return
            if kind == "error":
                told.set_exception(ValueError(str(said)))
            else:
                told.set_result(said)

        def tell(kind: str, said: Any) -> None:
            with suppress(RuntimeError):  # the loop has ended before the desk
                loop.call_soon_threadsafe(settle, kind, said)

        job = self.desk.ask(asked, tell)
        try:
            result = await told
        finally:
            self.desk.drop(job)  # where it is over, nothing happens
        choices = [
            ChatCompletionChoice(
                message=ChatMessageAssistant(content="" if s is None else s.text, model=self.model_name),
                stop_reason=STOPS[finish_of(s)],  # type: ignore[arg-type]
            )
            for s in choices_of(asked, result)
        ]
        usage = ModelUsage(
            input_tokens=result.prompt_tokens,
            output_tokens=result.tokens,
            total_tokens=result.prompt_tokens + result.tokens,
        )
        metadata = {"fastsample": vote_of(asked, result)} if self.is_vote else None
        return ModelOutput(model=self.model_name, choices=choices, usage=usage, metadata=metadata)

    def _settings(self, config: GenerateConfig, turns: list[dict[str, str]]) -> Settings:
        name = repr((turns, config.seed))
        again = self.earlier[name]
        self.earlier[name] += 1
        plain = {"temperatures": (1.0 if config.temperature is None else config.temperature,),
                 "samples": config.num_choices or 1, "together": True}  # fmt: skip
        if self.is_vote and (config.num_choices or 1) != 1:
            raise ValueError(f"a vote has one answer, so num_choices must be 1, got {config.num_choices}")
        return Settings(
            **(self.vote if self.is_vote else plain),
            top_k=config.top_k or 0,
            top_p=1.0 if config.top_p is None else config.top_p,
            max_new_tokens=config.max_tokens or 256,
            seed=(config.seed or 0) + again,
            stop=tuple(config.stop_seqs or ()),
        )

    async def aclose(self) -> None:
        """End the engine's thread."""
        await asyncio.to_thread(self.desk.close)

    def max_connections(self) -> int:
        """So many requests keep the engine's rows busy."""
        return self.slots

    def max_tokens(self) -> int | None:
        """Of a sample, where inspect's settings name no other number."""
        return 256


def _nothing(text: str) -> None:
    return None


def _turn(message: Any) -> dict[str, str]:
    """One message as role and text."""
    content = message.content
    parts = [] if isinstance(content, str) else content
    odd = sorted({part.type for part in parts} - {"text", "reasoning"})
    if message.role == "tool" or odd:
        raise ValueError(f"a message must be text here, got one with {', '.join(odd) or 'a tool'}; leave it out")
    return {"role": message.role, "content": message.text}
