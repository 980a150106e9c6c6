"""Process reward models in the four forms in which they were published: a text, and places that hold its numbers.

math-shepherd     every leg followed by " ки"; softmax over "+" and "-" at the tag
rlhflow           turns, user = leg (the question before the first), answered by "+"; softmax over "+" and "-" there
qwen2.5-math-prm  one answer, every leg closed by <extra_0>; the second of two classes at the tag
skywork           every leg closed by a line break; sigmoid of the value head there
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, ClassVar

from .base import Candidate

TAG, EXTRA = " ки", "<extra_0>"
FORMS = ("math-shepherd", "rlhflow", "qwen2.5-math-prm", "skywork")
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class TokenPRM:
    """A process reward model with a tokenizer of its own; one pass of it for each text, whatever its legs.

    model: called with [1, L] ids. Its `logits` are [1, L, V] (math-shepherd, rlhflow) or [1, L, 2] (qwen); skywork's
           output has `values`, [1, L]
    form:  one of FORMS

    raises: ValueError for another form, or where the places do not fit the legs
    """

    model: Any
    tokenizer: Any
    form: str
    is_process: ClassVar[bool] = True
    is_probability: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"a form is one of {', '.join(FORMS)}, got {self.form!r}")

    @property
    def name(self) -> str:
        """prm:FORM"""
        return f"prm:{self.form}"

    def score(self, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        """See `Scorer`."""
        return [self._legs(c.question, [leg.text for leg in c.legs]) for c in candidates]

    def encode(self, question: str, legs: Sequence[str]) -> tuple[list[int], list[int]]:
        """(ids, the place of each leg's number in them)."""
        ids, places = {
            "math-shepherd": lambda: self._tagged(question, legs, self._ids(TAG)[-1:]),
            "rlhflow": lambda: self._turns(question, legs),
            "qwen2.5-math-prm": lambda: self._answer(question, legs),
            "skywork": lambda: self._tagged(question + "\n", legs, self._ids("\n")[-1:]),
        }[self.form]()
        if len(places) != len(legs):
            raise ValueError(f"{self.name} found {len(places)} places for {len(legs)} legs; a leg holds its tag")
        return ids, places

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _chat(self, turns: list[dict[str, str]], *, opens: bool) -> list[int]:
        return self._ids(self.tokenizer.apply_chat_template(turns, add_generation_prompt=opens, tokenize=False))

    def _tagged(self, question: str, legs: Sequence[str], tag: list[int]) -> tuple[list[int], list[int]]:
        """Legs are encoded apart, so that no merge crosses a seam and a tag inside a leg is none."""
        ids, places = list(self.tokenizer(question)["input_ids"]), []
        for leg in legs:
            ids += self._ids(leg.strip()) + tag
            places.append(len(ids) - 1)
        return ids, places

    def _turns(self, question: str, legs: Sequence[str]) -> tuple[list[int], list[int]]:
        turns: list[dict[str, str]] = []
        ids: list[int] = []
        places = []
        for n, leg in enumerate(legs):
            text = f"{question} {leg.strip()}" if n == 0 else leg.strip()
            turns.append({"role": "user", "content": text})
            longer = self._chat(turns, opens=True)
            if longer[: len(ids)] != ids:
                raise ValueError(
                    f"{self.name}: this chat template changes earlier turns; use the model's own tokenizer"
                )
            ids = longer
            places.append(len(ids) - 1)  # where "+" or "-" would be drawn
            turns.append({"role": "assistant", "content": "+"})
        return ids, places

    def _answer(self, question: str, legs: Sequence[str]) -> tuple[list[int], list[int]]:
        (tag,) = self._ids(EXTRA) if len(self._ids(EXTRA)) == 1 else (None,)
        if tag is None:
            raise ValueError(f"{self.name} needs {EXTRA} as one token; use the model's own tokenizer")
        answer = "".join(leg.strip().replace(EXTRA, "") + EXTRA for leg in legs)
        turns = [("system", SYSTEM), ("user", question), ("assistant", answer)]
        ids = self._chat([{"role": role, "content": text} for role, text in turns], opens=False)
        return ids, [place for place, token in enumerate(ids) if token == tag]

    def _legs(self, question: str, legs: Sequence[str]) -> tuple[float, ...]:
        import torch

        ids, places = self.encode(question, legs)
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            out = self.model(torch.tensor([ids], device=device))
        if self.form == "skywork":
            return tuple(_sigmoid(float(out.values[0, place])) for place in places)
        good, bad = (1, 0) if self.form == "qwen2.5-math-prm" else (self._ids("+")[-1], self._ids("-")[-1])
        rows = out.logits[0].double()
        return tuple(_sigmoid(float(rows[place, good] - rows[place, bad])) for place in places)


def _sigmoid(x: float) -> float:
    """Of two logits' difference it is the softmax of the first."""
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))
