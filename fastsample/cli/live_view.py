"""The view of a running vote: a row per temperature with its votes as bars, who leads, and what is being written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ..strategies.search import Search
from ..strategies.self_consistency import SelfConsistency
from ..voting.ballots import leader
from ..voting.registry import name_of
from ..words import plural
from .terminal import harmless
from .tree_view import tree_table

if TYPE_CHECKING:
    from ..strategies.events import Event

COLORS = ("green", "magenta", "cyan", "yellow", "blue", "red")
BAR = 20  # characters of a temperature's full bar, on a terminal that has them
WIDEST = 100  # columns of the whole view
FRAMES = 5  # drawings a second, by a thread of rich's own: a step of the model may take longer than a frame


class Palette:
    """A colour for every answer, by the order in which they came; the same one in the live view and in the table."""

    def __init__(self) -> None:
        self._colors: dict[str, str] = {}

    def __getitem__(self, answer: str) -> str:
        return self._colors.setdefault(answer, COLORS[len(self._colors) % len(COLORS)])


def short(answer: str, width: int = 16) -> str:
    """An answer on one line, harmless and within `width` characters."""
    line = " ".join(harmless(answer).split())
    return line if len(line) <= width else line[: width - 1] + "…"


class Board:
    """What is known of a question at any moment; hand it to `fastsample.solve` as `on_event`.

    The view is drawn by another thread than the one that writes the samples, so it reads copies (`list(d.items())` is
    one step of the interpreter).

    has_bar: whether a bar shows how much of a prompt of several blocks has been read
    """

    def __init__(self, console: Console, palette: Palette, *, has_bar: bool = True) -> None:
        self.console = console
        self.palette = palette
        self.has_bar = has_bar
        self.read: int | None = None  # tokens of a prompt that takes several blocks
        self.strategy: Any = None
        self.rule_state = ""  # when the rule would end the vote, in words
        self.first_token: float | None = None
        self._spinner = Spinner("dots", style="green")
        self._live: Live | None = None

    def __enter__(self) -> Board:
        if self.console.is_terminal:
            self._live = Live(
                console=self.console, get_renderable=self.picture, refresh_per_second=FRAMES, transient=True
            )
            self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*exception)

    def __call__(self, event: Event) -> None:
        self.strategy = event.strategy
        if self._live is not None and event.kind in ("start", "votes"):
            self.rule_state = state_of(event.strategy)  # here, as the drawing thread only reads
        if event.kind == "prompt" and (self.read is not None or event.read < len(event.strategy.prompt)):
            self.read = event.read
        if event.kind == "token" and self.first_token is None:
            self.first_token = perf_counter()
        if self._live is None and event.kind == "finished" and event.sample is not None:
            s = event.sample
            what = "no answer" if s.answer is None else short(s.answer, 60)
            line = f"T {s.temperature:g}, sample {s.k + 1}: {what} ({s.tokens} tokens, {s.finish})"
            self.console.print(line, markup=False, soft_wrap=True)
        for path in event.paths if self._live is None and event.kind == "leg" else ():
            if path.is_candidate:
                what = "no answer" if path.answer is None else short(path.answer, 60)
                line = f"path {path.number}: {what} ({plural(path.depth, 'leg')}, {path.finish})"
                self.console.print(line, markup=False, soft_wrap=True)

    def picture(self) -> RenderableType:
        """The whole view as it stands."""
        if isinstance(self.strategy, Search):
            return Group(tree_table(self.strategy.tree, self.console.width), Text(), self._tree_status(self.strategy))
        if self.strategy is None or not (self.strategy.live or self.strategy.written):
            self._spinner.update(text="preparing the model")
            return self._spinner
        written, live = dict(self.strategy.written), dict(self.strategy.live)
        table = Table.grid(padding=(0, 2))
        for justify in ("right", "left", "left", "right", "right", "right"):
            table.add_column(justify=justify, no_wrap=True)
        table.columns[2].ratio = 1
        table.columns[0].min_width = 3
        table.width = min(self.console.width, WIDEST)
        table.add_row("T", "votes", "answers", "writing", "longest", "tokens", style="dim")
        by: dict[float, list[int]] = {}
        for number, (temperature, _) in enumerate(self.strategy.plan):
            by.setdefault(temperature, []).append(number)
        for temperature, numbers in by.items():
            table.add_row(*self._row(f"{temperature:g}", numbers, written, live))
        if len(by) > 1:
            table.add_row(*self._row("all", list(range(len(self.strategy.plan))), written, live))
        return Group(table, Text(), self._leader(written), self._status(written, live), self._preview(live))

    def _row(
        self, name: str, numbers: list[int], written: dict[int, Any], live: dict[int, Any]
    ) -> tuple[RenderableType, ...]:
        ended = [written[n] for n in numbers if n in written]
        alive = [live[n] for n in numbers if n in live]
        votes = Counter(w.answer for w in ended if w.answer is not None)
        silent = sum(w.answer is None for w in ended)
        room = min(BAR, self.console.width // 4)
        scale = min(room // len(numbers), 3) or room / len(numbers)
        parts = [(n, "█", self.palette[answer]) for answer, n in votes.most_common()]
        parts += [(silent, "░", "dim"), (len(numbers) - len(ended), "·", "dim")]
        bar, names, so_far = Text(), Text(overflow="ellipsis"), 0
        for n, mark, style in parts:
            bar.append(mark * (round((so_far + n) * scale) - round(so_far * scale)), style)
            so_far += n
        for answer, n in votes.most_common():
            names.append(short(answer), f"bold {self.palette[answer]}").append(f" ×{n}  ", "dim")
        if silent:
            names.append(f"none ×{silent}", "dim")
        longest = max(alive, key=lambda sample: len(sample.tokens), default=None)
        place = f"{len(longest.tokens):,}/{longest.request.max_new_tokens:,}" if longest else ""
        tokens = tokens_of(ended, alive)
        return Text(name, "bold"), bar, names, str(len(alive)) if alive else "", place, f"{tokens:,}"

    def _leader(self, written: dict[int, Any]) -> Text:
        """Who leads, by how much, and when the rule would end the vote."""
        votes = Counter(w.answer for _, w in sorted(written.items()) if w.answer is not None)
        answer, is_tied = leader(votes)
        line = Text()
        if answer is not None:
            behind = [n for other, n in votes.most_common(2) if other != answer]
            ahead = "tied" if is_tied else f"{votes[answer] - max(behind, default=0)} ahead"
            line.append("leading  ", "dim").append(short(answer), f"bold {self.palette[answer]}")
            line.append(
                f"  {votes[answer]} of {votes.total()} {'vote' if votes.total() == 1 else 'votes'}, {ahead}", "dim"
            )
        if self.rule_state:
            line.append(" · " if line else "", "dim").append(self.rule_state, "dim")
        line.truncate(min(self.console.width, WIDEST), overflow="ellipsis")
        return line

    def _status(self, written: dict[int, Any], live: dict[int, Any]) -> RenderableType:
        tokens = tokens_of(written.values(), live.values())
        if self.first_token is None:
            self._spinner.update(text="reading the prompt")
            return self._spinner if self.read is None or not self.has_bar else self._reading(self.read)
        elapsed = perf_counter() - self.first_token
        rate = tokens / max(elapsed, 0.1)
        line = f"{len(written)} of {len(self.strategy.plan)} finished · {tokens:,} tokens · {rate:,.0f} tokens/s"
        text = Text(f"{line} · {elapsed:.0f} s", "default")
        text.truncate(self.console.width - 2, overflow="ellipsis")  # the spinner would wrap it
        self._spinner.update(text=text)
        return self._spinner

    def _tree_status(self, search: Search) -> RenderableType:
        """How far the tree has grown, and the answers that its finished paths have."""
        written = list(dict(search.written).values())
        votes = Counter(w.answer for w in written if w.answer is not None)
        line = f"round {search.tree.rounds} · {len(written)} finished · {search.tree.tokens:,} tokens"
        text = Text(line + "".join(f" · {short(a)} ×{n}" for a, n in votes.most_common(3)), "default")
        text.truncate(self.console.width - 2, overflow="ellipsis")
        self._spinner.update(text=text)
        return self._spinner

    def _reading(self, read: int) -> RenderableType:
        """A bar of the prompt's tokens that have been read, and how many they are of how many."""
        total = len(self.strategy.prompt)
        line = Table.grid(padding=(0, 1))
        line.add_row(self._spinner, ProgressBar(total, read, width=BAR), f"{read:,} of {total:,} tokens")
        return line

    def _preview(self, live: dict[int, Any]) -> Text:
        """The newest words of the sample that comes first in the plan, on one line."""
        if not live:
            return Text()
        number = min(live)
        temperature, _ = self.strategy.plan[number]
        head = f"T {temperature:g}  "
        room = max(min(self.console.width, WIDEST) - len(head), 10)
        words = " ".join(harmless(live[number].text).split())
        return Text(head, "dim").append(words if len(words) <= room else "…" + words[1 - room :], "dim italic")


def state_of(strategy: Any) -> str:
    """When the rule of a vote would end it, in words; "" for a strategy without a rule."""
    if not isinstance(strategy, SelfConsistency):
        return ""
    rule, budget = strategy.rule, strategy.tally.budget
    name = name_of(rule)
    if strategy.verdict.is_final:
        return f"{name}: has ended the vote"
    reach = budget if rule.spends_budget else rule.reach(strategy.tally)
    if reach >= budget:
        return f"{name}: waits for all {budget}"
    return f"{name}: may end at sample {reach} of {budget}"


def tokens_of(written: Iterable[Any], live: Iterable[Any]) -> int:
    """Tokens written so far by samples that ended and by samples that have not."""
    return sum(w.tokens for w in written) + sum(len(s.tokens) for s in live)
