"""What Hugging Face's `generate` is given: two logits processors, and a `custom_generate` over the shared prefix.

    model.generate(**inputs, logits_processor=[FastSampler(temperature=[0.3, 0.7, 1.0, 1.3], seed=7)], top_k=0)
    model.generate(**inputs, custom_generate=fastsample.hf.generate, temperatures=[0.3, 0.7, 1.0, 1.3], seed=7, top_k=0)

Both write the same tokens, and so does a `LocalEngine` with the same (seed, stream): the randomness of a token is named
by seed, stream (the row's number unless given) and position (its index in its own unpadded sequence).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from ..engines.base import Request, Sample
from ..engines.local.engine import LocalEngine
from ..models import compat, loops
from ..sampling.api import named_or_fresh
from .per_row import RowProcessors, kept


def generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: Any,
    temperatures: Sequence[float] | Tensor | None = None,
    seed: int | None = None,
    streams: Sequence[int] | Tensor | None = None,
    slots: int | None = None,
    **model_kwargs: Any,
) -> Any:
    """For `model.generate(..., custom_generate=fastsample.hf.generate)`: each prompt is prefilled once and stored once.

    temperatures: one for each row (prompts x num_return_sequences) or one for each sequence of a prompt, which without
                  num_return_sequences also says how many there are; None = the generation config's, 0 without do_sample
    seed:         names the experiment; None = a fresh one, from torch's generator
    streams:      one for each row, names the samples; None = the row's number
    slots:        the largest number of rows at once; None = all
    top_k, top_p, min_p, max_new_tokens, eos_token_id, penalties, processors, stopping criteria, streamer: as
                  `generate` was given them; every row gets a copy of a processor. For stop strings pass
                  stopping_criteria=[StopStringCriteria(tokenizer, [...])]: generate keeps the tokenizer to itself

    returns: what `generate` returns: [B, L] int64, or GenerateDecoderOnlyOutput with `return_dict_in_generate`
    raises:  ValueError for what a shared prefix cannot give, before anything is generated
    """
    rows = input_ids.shape[0]
    if rows == 0:
        raise ValueError("input_ids must have at least one row, got 0; ask for one sample at least")
    streamer, assistant = loops.dropped_by_generate()
    mask = _refuse(model, input_ids, generation_config, model_kwargs, assistant)
    is_random = generation_config.do_sample or temperatures is not None
    processors, given = kept(logits_processor, generation_config, is_random), rows
    seed = named_or_fresh(seed)
    per_row = _temperatures(temperatures, rows, generation_config)
    each = len(per_row) // rows  # sequences of every row that only the list of temperatures asks for
    input_ids, mask, rows = input_ids.repeat_interleave(each, 0), mask.repeat_interleave(each, 0), len(per_row)
    prompts = [tuple(ids[keep].tolist()) for ids, keep in zip(input_ids, mask.bool())]
    names = list(range(rows)) if streams is None else torch.as_tensor(streams).tolist()
    if len(names) != rows:
        raise ValueError(f"streams must have one value for each of the {rows} rows, got {len(names)}")
    width, longest, eos, others = input_ids.shape[1], None, (), []
    for criterion in stopping_criteria:
        if isinstance(criterion, MaxLengthCriteria):
            longest = criterion.max_length - width
        elif isinstance(criterion, EosTokenCriteria):
            eos = tuple(criterion.eos_token_id.tolist())
        else:
            others.append(criterion)
    requests = [
        Request(
            prompt=prompts[b],
            temperature=per_row[b],
            top_k=int(generation_config.top_k or 0) if is_random else 0,
            top_p=float(generation_config.top_p or 1.0) if is_random else 1.0,
            min_p=float(generation_config.min_p or 0.0) if is_random else 0.0,
            seed=seed,
            stream=names[b],
            max_new_tokens=2**31 if longest is None else longest,
            eos=eos,
            logits_processor=(
                RowProcessors(processors, input_ids[b, : width - len(prompts[b])], b // each, given)
                if processors
                else None
            ),
            key=b,
        )
        for b in range(rows)
    ]
    engine = LocalEngine(model, None, slots=slots or rows)
    samples = engine.submit(requests)
    _write(engine, samples, input_ids, StoppingCriteriaList(others), _Columns(streamer, generation_config))
    return _output(samples, input_ids, model.get_output_embeddings().weight.shape[0], generation_config)


class _Columns:
    """Hands a streamer what it is used to: a tensor [B] for every step, with padding for rows that have ended."""

    def __init__(self, streamer: Any, config: Any) -> None:
        self.streamer, self.pad, self.shown = streamer, compat.padding_of(config), 0

    def show(self, samples: list[Sample]) -> None:
        if self.streamer is None:
            return
        while any(len(s.tokens) > self.shown for s in samples) and all(
            s.finish is not None or len(s.tokens) > self.shown for s in samples
        ):
            column = [s.tokens[self.shown] if len(s.tokens) > self.shown else self.pad for s in samples]
            self.streamer.put(torch.tensor(column))
            self.shown += 1

    def end(self) -> None:
        if self.streamer is not None:
            self.streamer.end()


def _write(
    engine: LocalEngine, samples: list[Sample], input_ids: Tensor, criteria: StoppingCriteriaList, columns: _Columns
) -> None:
    """Step to the end; a row that a criterion stops leaves at once, cut to where the criterion first held."""
    judged = [0] * len(samples)
    while not engine.is_idle:
        finished = engine.step()
        for s in finished:
            if s.finish == "failed":
                raise ValueError(f"row {s.request.key} cannot go on: {s.error}")
        for s in [*finished, *engine.running] if criteria else ():
            b = int(s.request.key)  # type: ignore[call-overload]
            for length in range(judged[b] + 1, len(s.tokens) + 1):
                ids = torch.cat([input_ids[b], input_ids.new_tensor(s.tokens[:length])])[None]
                if bool(criteria(ids, None).all()):  # type: ignore[arg-type]
                    del s.tokens[length:], s.stats[length:]
                    engine.cancel([s])
                    break
            judged[b] = len(s.tokens)
        columns.show(samples)
    columns.end()


def _output(samples: list[Sample], input_ids: Tensor, vocab: int, config: Any) -> Any:
    pad = compat.padding_of(config)
    longest = max(len(s.tokens) for s in samples)
    written = torch.full((len(samples), longest), pad, dtype=input_ids.dtype, device=input_ids.device)
    logprobs = torch.zeros(len(samples), longest, device=input_ids.device)
    for b, s in enumerate(samples):
        written[b, : len(s.tokens)] = input_ids.new_tensor(s.tokens)
        logprobs[b, : len(s.tokens)] = torch.tensor(s.logprobs)
    sequences = torch.cat([input_ids, written], 1)
    if not config.return_dict_in_generate:
        return sequences
    scores = None
    if config.output_scores:  # as FastSampler leaves them: all that is known of a step is the token and its logprob
        empty = torch.full((len(samples), vocab), -torch.inf, device=input_ids.device)
        scores = tuple(empty.scatter(1, written[:, i : i + 1], logprobs[:, i : i + 1]) for i in range(longest))
    return GenerateDecoderOnlyOutput(sequences=sequences, scores=scores)  # type: ignore[arg-type]


def _temperatures(given: Any, rows: int, config: Any) -> list[float]:
    """One for each row, or several where the list is all that says how many sequences a row gets."""
    if given is None:
        return [float(config.temperature or 1.0) if config.do_sample else 0.0] * rows
    values = torch.as_tensor(given, dtype=torch.float64).flatten().tolist()
    each = config.num_return_sequences or 1
    if each == 1 and len(values) > 1 and len(values) != rows:
        return values * rows
    if len(values) not in (rows, each):
        raise ValueError(
            f"temperatures must have one value for each of the {rows} rows or for each of num_return_sequences = "
            f"{each}, got {len(values)}"
        )
    return values * (rows // len(values))


def _refuse(model: Any, input_ids: Tensor, config: Any, model_kwargs: dict[str, Any], assistant: Any) -> Tensor:
    """Raise for what cannot be served; returns the attention mask, [B, L]."""
    remedy = "call generate without custom_generate"
    if assistant is not None:
        raise ValueError(
            f"custom_generate decodes token by token, got an assistant model, {type(assistant).__name__}; {remedy}"
        )
    if (config.num_beams or 1) > 1:
        raise ValueError(f"custom_generate samples, got num_beams = {config.num_beams}; {remedy}")
    if compat.asks_for_prompt_lookup(config):
        raise ValueError(f"custom_generate decodes token by token, got prompt lookup; {remedy}")
    for name in ("output_logits", "output_attentions", "output_hidden_states"):
        if getattr(config, name, None):
            raise ValueError(f"{name} is not kept by custom_generate; {remedy}")
    mask, caches, unknown = compat.split_arguments(model_kwargs)
    if any(map(compat.is_filled, caches)):
        raise ValueError(f"custom_generate prefills by itself, got a cache with tokens in it; {remedy}")
    if unknown:
        raise ValueError(f"custom_generate takes token ids only, got {', '.join(sorted(unknown))}; {remedy}")
    where = model.get_input_embeddings().weight.device
    if input_ids.device != where:
        raise ValueError(f"input_ids must be on the model's device {where}, got {input_ids.device}; move them there")
    if mask is None:
        return torch.ones_like(input_ids)
    if mask.dim() != 2 or mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask must be {tuple(input_ids.shape)}, got {tuple(mask.shape)}")
    if mask.device != where:
        raise ValueError(f"attention_mask must be on the device of input_ids {where}, got {mask.device}; move it there")
    if bool((mask[:, 1:].bool().int() < mask[:, :-1].bool().int()).any()):
        raise ValueError("attention_mask may hide tokens on the left only, got zeros behind ones; pad on the left")
    return mask
