"""An engine that keeps paths and has no model: what it writes is a function of the text so far. And its tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from fastsample.engines.base import Sample, Traits
from fastsample.token_stats import NO_STATS, TokenStats

EOS = 0


def chance(*parts):
    """A number in [0, 1), fixed by its parts."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little") / 2**64


@dataclass(eq=False)
class Kept:
    """What is parked."""

    ids: tuple[int, ...]
    is_released: bool = False

    @property
    def length(self):
        return len(self.ids)


class ScriptedEngine:
    """next_token(request, ids) -> token id; tokenizer.decode finds the ends of legs. Log-probabilities are made up."""

    def __init__(self, next_token, tokenizer, slots=64):
        self.next_token = next_token
        self.tokenizer = tokenizer
        self.slots = slots
        self.traits = Traits("scripted", "", parks=True)
        self.steps = self.prefill_tokens = self.most = 0
        self.waiting, self.running = [], []
        self.kept = set()
        self.requests = []

    def submit(self, requests):
        samples = []
        for request in requests:
            if request.after is not None:
                assert request.after.ids == request.prompt
                if request.after.is_released:
                    raise ValueError("a released path was asked for")
            self.requests.append(request)
            appended = len(request.append)
            sample = Sample(request, list(request.append), stats=[NO_STATS] * appended, appended=appended)
            sample.legs = 0
            samples.append(sample)
        self.waiting += samples
        return samples

    def cancel(self, samples):
        for sample in samples:
            if sample.finish is None:
                sample.finish = "cancelled"
        self.waiting = [s for s in self.waiting if s.finish is None]
        self.running = [s for s in self.running if s.finish is None]

    def step(self):
        free = self.slots - len(self.running)
        self.running, self.waiting = self.running + self.waiting[:free], self.waiting[free:]
        self.most = max(self.most, len(self.running))
        self.steps += 1
        for sample in self.running:
            self._write(sample)
        ended = [s for s in self.running if s.finish is not None]
        self.running = [s for s in self.running if s.finish is None]
        return ended

    def _write(self, sample):
        request = sample.request
        token = self.next_token(request, request.prompt + tuple(sample.tokens))
        if token in request.until_ids:
            sample.finish, sample.ended_by = "until", token
        else:
            sample.tokens.append(token)
            sample.stats.append(TokenStats(-0.5, -0.5, 1.0, 2.0))
            drawn = self.tokenizer.decode(sample.tokens[sample.appended :])
            if token == EOS:
                sample.finish = "eos"
            elif any(text in drawn for text in request.stop):
                sample.finish = "stop"
            elif request.until and sum(drawn.lstrip().count(text) for text in request.until) > sample.legs:
                sample.legs += 1
                sample.finish = "until" if sample.legs == request.legs else None
            if sample.finish is None and len(sample.tokens) - sample.appended >= request.max_new_tokens:
                sample.finish = "length"
        if sample.finish is not None:
            tokens = sample.tokens[:-1] if sample.finish == "eos" else sample.tokens
            sample.text = self.tokenizer.decode(tokens)
            for text in request.stop:
                sample.text = sample.text.partition(text)[0]
            if request.park:
                sample.parked = self._keep(request.prompt + tuple(tokens))

    def _keep(self, ids):
        kept = Kept(tuple(ids))
        self.kept.add(kept)
        return kept

    def release(self, parked):
        for one in parked:
            one.is_released = True
            self.kept.discard(one)

    def cut(self, parked, kept):
        assert not parked.is_released
        return self._keep(parked.ids[:kept])

    def read(self, parked, tokens):
        assert not parked.is_released
        return [-1 / (1 + len(tokens))] * len(tokens)


class Characters:
    """A token for each character; 0 ends the text, 1 ends a thought and is written </think>."""

    chat_template = "yes"
    eos_token_id = EOS

    def __call__(self, text, add_special_tokens=True):
        parts = text.split("</think>")
        ids = [ord(c) for c in parts[0]]
        for part in parts[1:]:
            ids += [1, *(ord(c) for c in part)]
        return {"input_ids": ids}

    def decode(self, ids, skip_special_tokens=True):
        return "".join("</think>" if i == 1 else chr(i) for i in ids if i != EOS)

    def apply_chat_template(self, messages, add_generation_prompt=True, tokenize=False):
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


def scripted(reply, slots=64):
    """An engine whose texts are reply(prompt, written, request) -> what comes next; "" ends the text."""
    tokenizer = Characters()

    def next_token(request, ids):
        prompt, _, written = tokenizer.decode(ids).rpartition("<assistant>")
        following = reply(prompt, written, request)
        return tokenizer(following)["input_ids"][0] if following else EOS

    return ScriptedEngine(next_token, tokenizer, slots)
