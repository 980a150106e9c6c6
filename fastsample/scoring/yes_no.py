"""A model as a judge: the chance of yes against no after a prompt that shows it the text, from one row of logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp
from typing import Any, ClassVar

from .base import Candidate

MOST = 10_000  # texts whose chances are kept
TEMPLATE = "Question:\n{question}\n\nAn answer:\n{text}\n\nIs this answer right so far? Say Yes or No and nothing else."


@dataclass(frozen=True)
class Judge:
    """p(yes) / (p(yes) + p(no)) for the next token behind the template; one pass of the model for each leg.

    A leg that was judged is not judged again with every leg behind it, as long as the weights are the same.

    model, tokenizer: None takes those of the run
    template: text with {question} and {text} in it; yes, no: words whose first tokens are compared
    is_process: whether each leg is judged with what is before it, or whole texts alone

    raises: ValueError where yes and no begin with the same token
    """

    model: Any = None
    tokenizer: Any = None
    template: str = TEMPLATE
    yes: str = "Yes"
    no: str = "No"
    is_process: bool = True
    name: str = "judge"
    is_probability: ClassVar[bool] = True
    _known: dict[Any, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def bound(self, model: Any, tokenizer: Any) -> Judge:
        """With the run's model, unless it has one of its own."""
        return self if self.model is not None else replace(self, model=model, tokenizer=tokenizer)

    def score(self, candidates: Sequence[Candidate]) -> list[float] | list[tuple[float, ...]]:
        """See `Scorer`."""
        yes, no = (self.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (self.yes, self.no))
        if yes == no:
            raise ValueError(
                f"{self.yes!r} and {self.no!r} begin with the same token; choose other words for the judge"
            )
        from ..models.config import weights_version

        now = hash(weights_version(self.model))
        if not self.is_process:
            return [self._chance((c.question, c.text, now), yes, no) for c in candidates]
        scores = []
        for c in candidates:
            so_far = ["".join(leg.text for leg in c.legs[: n + 1]) for n in range(len(c.legs))]
            scores.append(tuple(self._chance((c.question, text, now), yes, no) for text in so_far))
        return scores

    def _chance(self, key: tuple[str, str, int], yes: int, no: int) -> float:
        if key not in self._known:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[key] = self._read(*key[:2], yes, no)
        return self._known[key]

    def _read(self, question: str, text: str, yes: int, no: int) -> float:
        import torch

        before, _, rest = self.template.partition("{question}")
        middle, _, after = rest.partition("{text}")
        prompt = before + question + middle + text + after
        if getattr(self.tokenizer, "chat_template", None):
            turn = [{"role": "user", "content": prompt}]
            prompt = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
            ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        else:
            ids = self.tokenizer(prompt)["input_ids"]
        device = self.model.get_input_embeddings().weight.device
        with torch.inference_mode():
            row = self.model(torch.tensor([ids], device=device)).logits[0, -1].double()
        return 1 / (1 + exp(min(700.0, float(row[no] - row[yes]))))
