"""Longer and shorter thinking: the end of thinking ignored or forced (s1, arXiv 2501.19393), and levels of effort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..scoring.base import Scorer
from ..voting.rule import at_least
from .base import Choice, Grow, Score, Steps
from .choice import check_how
from .path import Path
from .task import Task
from .thought_switches import ThoughtSwitchPenalty
from .together import together

THINK_END = "</think>"
# Tokens of thinking (the levels of vLLM's reasoning efforts), and TOPS's idea of a system prompt for each.
LEVELS = {
    "low": (1024, "Think briefly: a few short steps, then the answer."),
    "medium": (2048, "Think step by step, as long as the question needs, then give the answer."),
    "high": (8192, "Think for long: try other ways, check every step, look for mistakes, then give the answer."),
}


@dataclass(frozen=True)
class Force:
    """Think for a budget of tokens, then answer.

    ignore:   so many ends of thinking are dropped, `wait` put there instead (s1: 1; "Wait" was its best word)
    thinking: tokens, appended ones included; 0 takes the effort's, or what max_new_tokens leaves
    answer:   tokens of the answer behind it (s1's "auto" leaves 100)
    end:      the text that ends thinking; "" is </think> where the tokenizer has it as one token, and the model's own
              end of text where it has not: then there is no thinking to end, and the whole text is prolonged
    final:    put behind an end that was forced (s1: "Final Answer:")
    effort:   low, medium or high: tokens and a system prompt
    alpha, beta: so many nats are taken from words that switch to another thought, in a thought's first beta tokens
              (arXiv 2501.18585: 3 and 600); alpha 0 leaves them alone
    n:        chains of thought, the answer chosen by `how`; temperature 0 (s1) has one
    """

    ignore: int = 1
    wait: str = "Wait"
    thinking: int = 0
    answer: int = 100
    end: str = ""
    final: str = "Final Answer:"
    effort: str = ""
    alpha: float = 0.0
    beta: int = 600
    n: int = 1
    temperature: float = 0.0
    answer_temperature: float = 0.0
    how: str = "vote"

    def __post_init__(self) -> None:
        at_least(0, ignore=self.ignore, thinking=self.thinking)
        at_least(1, answer=self.answer, n=self.n)
        if self.effort and self.effort not in LEVELS:
            raise ValueError(f"effort must be one of {', '.join(LEVELS)}, got {self.effort!r}; leave it out for none")

    def check(self, scorer: Scorer | None) -> None:
        """Raise ValueError for a scorer that does not fit."""
        check_how(self.how, scorer)

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        self.check(task.scorer)
        root = task.root
        if self.effort:
            root = task.asked(LEVELS[self.effort][1])
        paths = yield from together([self.chain(task, root) for _ in range(self.n)])
        if self.how != "vote":
            yield Score([path for path in paths if path.is_final])
        choice: Choice = task.choose(paths, self.how)
        return Choice(choice.path, choice.answer, choice.score, f"{choice.reason}; {self.mode(task)}")

    def end_of(self, task: Task) -> tuple[int, ...]:
        """Token ids of the end of thinking, () where the model's own end of text stands for it."""
        if self.end == "eos":
            return ()
        ids = task.encode(self.end or THINK_END)
        return ids if self.end or len(ids) == 1 else ()

    def mode(self, task: Task) -> str:
        """What was prolonged, in words."""
        return f"thinking up to {self.end or THINK_END}" if self.end_of(task) else "the text up to the model's own end"

    def chain(self, task: Task, root: Path) -> Any:
        """One chain of thought with its answer."""
        end = self.end_of(task)
        closing = (*task.encode("\n"), *end, *task.encode("\n" + self.final))
        thinking = self.thinking or (LEVELS[self.effort][0] if self.effort else 0)
        if thinking:
            task.limit = max(task.limit, thinking + len(closing) + self.answer)
        else:
            thinking = task.limit - len(closing) - self.answer
        if task.context is not None:
            thinking = min(thinking, task.context - len(root.prompt) - len(closing) - self.answer)
        if thinking < 1:
            raise ValueError(
                f"thinking must have room for a token, got {thinking}: the answer takes {self.answer} and what "
                f"leads to it {len(closing)}; ask for more max_new_tokens or less answer"
            )
        until: dict[str, Any] = {}
        if len(end) == 1:
            until["until_ids"] = end
        elif end:
            until["until"] = (self.end,)
        if self.alpha:
            until["logits_processor"] = ThoughtSwitchPenalty.of(task.tokenizer, len(root.prompt), self.alpha, self.beta)
        append: tuple[int, ...] = ()
        path, ignored = root, 0
        wait = task.encode(self.wait)
        while True:
            left = thinking - len(path.written_ids()) - len(append)
            (path,) = yield Grow(
                [task.ask(path, append=append, temperature=self.temperature, max_new_tokens=left, **until)]
            )
            has_ended = path.finish in ("eos", "stop", "until")
            if not has_ended or ignored == self.ignore or len(path.written_ids()) + len(wait) >= thinking:
                break
            ignored, append = ignored + 1, wait
        if not end and has_ended:
            return path
        if has_ended:
            append = () if path.finish == "until" and len(end) > 1 else end
        else:
            append = closing[0 if not path.whole().endswith("\n") else len(task.encode("\n")) :]
        answer = task.ask(path, append=append, temperature=self.answer_temperature, max_new_tokens=self.answer)
        (path,) = yield Grow([answer], ends=True)
        return path


@dataclass(frozen=True)
class Efforts:
    """n samples at each of several efforts, all in one batch; the answer by `how`.

    levels: with "/" between them; temperature 1.0 (TOPS, arXiv 2502.18080)
    """

    n: int = 4
    levels: str = "low/medium/high"
    temperature: float = 1.0
    how: str = "vote"

    def __post_init__(self) -> None:
        at_least(1, n=self.n)
        if odd := [level for level in self.levels.split("/") if level not in LEVELS]:
            raise ValueError(f"levels must be of {'/'.join(LEVELS)}, got {odd[0]!r}")

    def check(self, scorer: Scorer | None) -> None:
        """Raise ValueError for a scorer that does not fit."""
        check_how(self.how, scorer)

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        self.check(task.scorer)
        roots = [task.asked(LEVELS[level][1]) for level in self.levels.split("/")]
        asks = [task.ask(root, temperature=self.temperature) for root in roots for _ in range(self.n)]
        paths = yield Grow(asks, ends=True)
        if self.how != "vote":
            yield Score([path for path in paths if path.answer is not None])
        choice: Choice = task.choose(paths, self.how)
        return choice
