"""Rollouts for TRL: GRPOTrainer's completions are written by this package, each prompt read once for all of its own.

    trainer = GRPOTrainer(..., rollout_func=fastsample.trl.rollout())

TRL calls a rollout function with the prompts of one process, each as often as it has completions there, and with the
trainer; it takes back the ids of prompts and completions and the log-probability of every token. TRL calls this door
experimental; tested with TRL 1.16.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from .engines.local.engine import LocalEngine
from .generating.generate import generate

Rollout = Callable[[list[Any], Any], dict[str, list[Any]]]
NAMES = ("temperature", "top_k", "top_p", "min_p")  # of the trainer's settings, and of a draw


def rollout(*, slots: int = 64, prepack: bool = False) -> Rollout:
    """What `GRPOTrainer(rollout_func=...)` takes: it draws with the trainer's model and the trainer's settings.

    slots:   the largest number of completions written at once
    prepack: as in `LocalEngine`; on a CPU an eighth faster, for the model's bytes again

    returns: (prompts, trainer) -> {"prompt_ids", "completion_ids": token ids, "logprobs": nats, of the distribution
             that was drawn from}, a list for each prompt. Weights that have changed since the last call are seen.
             The seed is made of the trainer's, the process, the step and the call within the step
    raises:  ValueError from the first call for settings that this cannot serve: tools, environments, images, a
             repetition penalty, other `generation_kwargs`, weights in shards (FSDP, DeepSpeed's third stage);
             RuntimeError where a completion fails
    """
    if slots < 1:
        raise ValueError(f"slots must be at least 1, got {slots}; it is the number of completions written at once")
    return _Rollout(slots, prepack)


class _Rollout:
    def __init__(self, slots: int, prepack: bool) -> None:
        self.slots, self.prepack = slots, prepack
        self._engine: LocalEngine | None = None
        self._step, self._call = -1, 0

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        from trl.models.utils import unwrap_model_for_generation

        settings = settings_of(trainer)
        ids = prompt_ids(prompts, trainer)
        args = trainer.args
        with unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
        ) as wrapped:
            model = _adapted(wrapped)
            if self._engine is None or self._engine.model is not model:
                self._engine = LocalEngine(model, None, slots=self.slots, prepack=self.prepack)
            batch = generate(
                model,
                None,
                ids,
                n=1,
                max_new_tokens=trainer.max_completion_length or self._engine.context,
                eos=tuple(trainer.eos_token_ids),
                seed=self._seed(trainer),
                engine=self._engine,
                progress=False,
                **settings,
            )
        for number, error in batch.errors.items():
            raise RuntimeError(f"completion {number} failed: {error}")
        rows = batch.to_list()
        return {
            "prompt_ids": ids,
            "completion_ids": [row["ids"] for row in rows],
            "logprobs": [row["logprobs"] for row in rows],
        }

    def _seed(self, trainer: Any) -> int:
        """Another one for every call of every process; a run that is gone on with gets those it would have had."""
        step = trainer.state.global_step
        self._call = self._call + 1 if step == self._step else 0
        self._step = step
        named = struct.pack("<4q", trainer.args.seed, trainer.accelerator.process_index, step, self._call)
        return int.from_bytes(blake2b(named, digest_size=8).digest(), "little") >> 1


def _adapted(model: Any) -> Any:
    """The model inside peft's, whose layers hold the adapters; one with learnt prompts stays as it is."""
    has_inner = hasattr(model, "get_base_model") and not model.active_peft_config.is_prompt_learning
    return model.get_base_model() if has_inner else model


def settings_of(trainer: Any) -> dict[str, Any]:
    """Temperature and filters of the trainer's settings; ValueError for one that cannot be served."""
    args = trainer.args
    extra = dict(args.generation_kwargs or {})
    settings = {name: extra.pop(name, getattr(args, name)) for name in NAMES}
    if extra:
        raise ValueError(f"generation_kwargs must name no others than {', '.join(NAMES)} here, got {', '.join(extra)}")
    if args.repetition_penalty != 1:
        raise ValueError(
            f"repetition_penalty must be 1 here, got {args.repetition_penalty}; leave rollout_func out to use it"
        )
    if trainer.tools or trainer.environment_factories is not None:
        raise ValueError(
            "a rollout here is one turn, and this trainer has tools or environments; leave one of them out"
        )
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if trainer.is_fsdp_enabled or getattr(plugin, "zero_stage", 0) == 3:
        raise ValueError(
            "a rollout here needs the whole model on each device, and these weights lie in shards (FSDP, or "
            "DeepSpeed's third stage); use plain data parallelism or DeepSpeed's second stage"
        )
    return {name: value or 0 for name, value in settings.items()}  # None filters nothing


def prompt_ids(prompts: Sequence[Any], trainer: Any) -> list[list[int]]:
    """The token ids of each prompt, as TRL itself makes them: a text as it stands, a chat in the trainer's template."""
    tokenizer = trainer.processing_class
    if isinstance(prompts[0], str):
        return list(tokenizer(text=list(prompts))["input_ids"])
    return [_chat_ids(chat, tokenizer, trainer) for chat in prompts]


def _chat_ids(chat: Sequence[Mapping[str, Any]], tokenizer: Any, trainer: Any) -> list[int]:
    parts = [part for turn in chat if isinstance(turn["content"], list) for part in turn["content"]]
    odd = sorted({part["type"] for part in parts} - {"text"})
    if odd:
        raise ValueError(f"a prompt must be text here, got one with {', '.join(odd)}; leave rollout_func out")
    text = tokenizer.apply_chat_template(
        list(chat),
        chat_template=trainer.chat_template,
        add_generation_prompt=True,
        tokenize=False,
        **trainer.chat_template_kwargs,
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # the template has written them
