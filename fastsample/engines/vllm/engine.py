"""Samples written by vLLM in this program: its `LLMEngine` has what an engine needs, `add_request`, `step` and
`abort_request`. Its worker is a process of its own, which it spawns: a script that uses this needs the line
`if __name__ == "__main__":`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from ...token_stats import TOP, TokenStats, likeliest_stats
from ..base import Request, Runs, Sample, Traits, check_untold, numbered
from ..checks import check_request
from ..local.detokenizer import Detokenizer
from .asked import Asked

DRAW = "fastsample.engines.vllm.draw:FastDraw"
GRACE = 30.0  # seconds in which vLLM's processes end by themselves
SLOWER = (
    "vLLM draws by its own sampler, which takes about as long as the model's own work on a CPU and does not repeat a "
    "text by its seed: FastDraw was left out when the engine was made"
)


@dataclass(eq=False)
class _Writing:
    """A sample that vLLM was asked for, or will be. name: vLLM's of the request"""

    name: str
    sample: Sample
    params: Any
    detokenizer: Detokenizer
    has_begun: bool = False


class VllmEngine(Runs):
    """Writes samples by a `vllm.LLMEngine`; a context manager that ends it.

    engine:   made with `logits_processors=[DRAW]`, it draws our tokens by seed and stream; see `loading.load`
    slots:    the largest number of samples that vLLM is asked for at once; None = its own `max_num_seqs`
    logprobs: have it tell the log-probabilities that `Confidence` needs
    on_piece: called with (sample, piece of its text) as text comes

    raises: ValueError or TypeError in `submit` for a request that it cannot serve; what vLLM raises passes unchanged
    """

    def __init__(
        self,
        engine: Any,
        *,
        slots: int | None = None,
        logprobs: bool = False,
        on_piece: Callable[[Sample, str], None] | None = None,
    ) -> None:
        import vllm

        self.engine = engine
        self.tokenizer = engine.get_tokenizer()
        model, scheduler = engine.vllm_config.model_config, engine.vllm_config.scheduler_config
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.device = str(engine.vllm_config.device_config.device_type)
        self.context = int(model.max_model_len)
        self.vocabulary = int(model.get_vocab_size())
        self.slots = scheduler.max_num_seqs if slots is None else slots
        if self.slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}; 64 is the default")
        self.on_piece = on_piece
        self.logprobs = TOP if logprobs else None
        self.is_fast = any(_is_draw(one) for one in model.logits_processors or ())
        self.traits = Traits(
            f"vllm {vllm.__version__}",
            names if isinstance(names := model.served_model_name, str) else names[0],
            draws="fastsample" if self.is_fast else "free",
            certainty="top20" if logprobs else "none",
            reason=None if self.is_fast else SLOWER,
        )
        self.steps = self.prefill_tokens = 0
        self._names, self._submitted = count(), 0
        self._waiting: dict[str, _Writing] = {}  # by vLLM's name, in order
        self._running: dict[str, _Writing] = {}
        self._is_closed = False

    @property
    def waiting(self) -> list[Sample]:
        """Samples that vLLM has not been asked for yet."""
        return [w.sample for w in self._waiting.values()]

    @property
    def running(self) -> list[Sample]:
        """Samples that vLLM was asked for."""
        return [w.sample for w in self._running.values()]

    def submit(self, requests: Iterable[Request]) -> list[Sample]:
        """Queue the requests, in order; returns their samples at once. Nothing is queued if one of them is refused."""
        fresh = []
        for request in numbered(requests, self._submitted):
            self._check(request)
            detokenizer = Detokenizer(self.tokenizer, request.stop)
            fresh.append(_Writing(str(next(self._names)), Sample(request), self._params(request), detokenizer))
        self._submitted += len(fresh)
        self._waiting |= {w.name: w for w in fresh}
        return [w.sample for w in fresh]

    def cancel(self, samples: Iterable[Sample]) -> None:
        """End samples at once; vLLM drops them before its next step. Finished ones are left as they are."""
        unwanted = {id(s) for s in samples if s.finish is None}
        if not unwanted:
            return
        running = [w for w in self._running.values() if id(w.sample) in unwanted]
        for w in [*running, *(w for w in self._waiting.values() if id(w.sample) in unwanted)]:
            w.detokenizer.finish(w.sample.tokens)
            self._end(w, "cancelled")
        if running:
            self.engine.abort_request([w.name for w in running])

    def step(self) -> list[Sample]:
        """Go on by one forward pass of vLLM's; returns the samples that ended."""
        if self._is_closed:
            raise RuntimeError("the engine was closed; make another one")
        ended = self._launch()
        if not self._running:
            return ended
        outputs = self.engine.step()
        self.steps += 1
        stopped: list[str] = []
        for output in outputs:
            w = self._running.get(output.request_id)
            if w is None:  # late news of one that was cancelled
                continue
            if not w.has_begun:
                w.has_begun = True
                self.prefill_tokens += len(w.sample.request.prompt) - (output.num_cached_tokens or 0)
            self._take(w, output.outputs[0])
            if w.sample.finish is not None:
                ended.append(w.sample)
                if not output.finished:
                    stopped.append(w.name)
        if stopped:
            self.engine.abort_request(stopped)
        return ended

    def close(self) -> None:
        """End everything, vLLM's process too; a second time does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._waiting, self._running = {}, {}
            self.engine.engine_core.shutdown(timeout=GRACE)

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, request: Request) -> None:
        r = request
        if r.logits_processor is not None:
            raise ValueError(
                "a request's logits processor runs in this process, and vLLM's worker is another one; leave it out, or "
                "load it into vLLM"
            )
        if r.penalties.are_any or r.grammar is not None:
            raise ValueError("penalties, logit_bias and grammars are not passed on to vLLM; choose an engine of ours")
        if r.after is not None or r.append or r.until or r.until_ids or r.park:
            raise ValueError("vLLM keeps no paths (Traits.parks is False); choose an engine of ours")
        if r.layer is not None:
            raise ValueError("vLLM gives no hidden states (Traits.states is False); choose an engine of ours")
        check_untold(r)
        check_request(r, self.context, self.tokenizer, self.vocabulary)

    def _params(self, request: Request) -> Any:
        """vLLM's form of a request. Stop strings are looked for here, by the code that does it everywhere."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        r = request
        drawn = (
            {"temperature": 0.0, "extra_args": Asked.of(r).fields}
            if self.is_fast
            else {"temperature": r.temperature, "top_k": r.top_k, "top_p": r.top_p, "min_p": r.min_p}
        )
        ends = {} if r.eos is None else {"ignore_eos": True, "stop_token_ids": list(r.eos)}
        try:
            return SamplingParams(
                **drawn,
                **ends,
                max_tokens=min(r.max_new_tokens, self.context - len(r.prompt)),
                min_tokens=r.min_new_tokens,
                logprobs=self.logprobs,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
        except VLLMClientError as error:  # no ValueError
            raise ValueError(f"vLLM refuses the request: {error}") from None

    def _launch(self) -> list[Sample]:
        """Ask vLLM for waiting samples while there are slots; returns those that it refuses, which fail alone."""
        from vllm.exceptions import VLLMClientError

        refused = []
        for name in list(self._waiting)[: max(0, self.slots - len(self._running))]:
            w = self._waiting.pop(name)
            self._running[name], prompt = w, w.sample.request.prompt
            try:
                self.engine.add_request(name, {"type": "token", "prompt_token_ids": list(prompt)}, w.params)
            except VLLMClientError as error:
                w.sample.error = f"vLLM refuses the request: {error}"
                self._end(w, "failed")
                refused.append(w.sample)
        return refused

    def _take(self, w: _Writing, output: Any) -> None:
        """Write down the tokens that came, and how the sample ended, if it did."""
        s, piece = w.sample, ""
        stats = [_stats_of(one, token) for one, token in zip(output.logprobs or (), output.token_ids)]
        for place, token in enumerate(output.token_ids):
            s.tokens.append(token)
            s.stats += stats[place : place + 1]
            if output.finish_reason == "stop" and place == len(output.token_ids) - 1:  # no strings were sent: an id
                break
            piece += w.detokenizer.advance(s.tokens, watch=len(s.tokens) >= s.request.min_new_tokens)
            if w.detokenizer.is_stopped:
                break
        finish = "stop" if w.detokenizer.is_stopped else FINISHES.get(output.finish_reason, "failed")
        if finish is not None:
            piece += w.detokenizer.finish(s.tokens[:-1] if finish == "eos" else s.tokens)
            if finish == "failed":
                s.error = f"vLLM ended it: {output.finish_reason}"
            self._end(w, finish)
        s.text = w.detokenizer.text
        if piece and self.on_piece is not None:
            self.on_piece(s, piece)

    def _end(self, w: _Writing, finish: str) -> None:
        self._waiting.pop(w.name, None)
        self._running.pop(w.name, None)
        w.sample.text = w.detokenizer.text
        w.sample.finish = finish


FINISHES = {None: None, "stop": "eos", "length": "length"}


def _stats_of(told: Mapping[int, Any], token: int) -> TokenStats:
    """Of a token, from vLLM's {id: log-probability} of the likeliest and of the token itself."""
    return likeliest_stats(told[token].logprob, sorted((one.logprob for one in told.values()), reverse=True))


def _is_draw(processor: Any) -> bool:
    return processor == DRAW or getattr(processor, "__name__", None) == "FastDraw"
