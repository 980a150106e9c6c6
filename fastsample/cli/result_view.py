"""A result for people: temperatures against answers, the answer that won, and what it cost."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..strategies.records import Found
from ..words import plural
from .live_view import Palette, short
from .terminal import harmless

if TYPE_CHECKING:
    from ..strategies.records import Result

MOST = 6  # answers with a column of their own


def show(result: Result, console: Console, palette: Palette) -> None:
    """Print the table, the answer with its reason, and the cost."""
    console.print(votes_table(result, palette, console.width))
    console.print()
    console.print(answer_line(result, palette))
    console.print(Text(harmless(result.reason), "dim"), soft_wrap=not console.is_terminal)
    console.print(Text(cost(result), "dim"), soft_wrap=not console.is_terminal)


def votes_table(result: Result, palette: Palette, width: int) -> Table:
    """A row per temperature, a column per answer, the leader first; what has no vote and what was cancelled last.

    width: of the terminal, in characters; answers that have no room for a whole column of theirs are "others"
    """
    totals = Counter[str]()
    for votes in result.votes.values():
        totals.update(votes)
    answers = [answer for answer, _ in totals.most_common()]
    if result.answer in totals:
        answers.sort(key=lambda answer: answer != result.answer)
    shown = _fitting(answers, width - max(map(len, [*result.votes, "all"])) - 2)
    rest = answers[len(shown) :]
    counted = [s for s in result.samples if s.is_counted]
    columns = {
        "others": lambda t: sum(result.votes[t].get(a, 0) for a in rest),
        "no answer": lambda t: sum(s.answer is None for s in counted if f"{s.temperature:g}" == t),
        "not counted": lambda t: sum(not s.is_counted for s in result.samples if f"{s.temperature:g}" == t),
        "tokens": lambda t: sum(s.tokens for s in result.samples if f"{s.temperature:g}" == t),
    }
    extras = {name: {t: value(t) for t in result.votes} for name, value in columns.items()}
    extras = {name: by for name, by in extras.items() if name == "tokens" or any(by.values())}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("T", justify="right", min_width=max(map(len, [*result.votes, "all"])))
    for answer in shown:
        style = f"bold {palette[answer]}" if answer == result.answer else palette[answer]
        table.add_column(Text(short(answer), style), justify="right", no_wrap=True)
    for name in extras:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))  # an answer gives way before it
    for t, votes in result.votes.items():
        cells = [_number(votes.get(answer, 0), palette[answer]) for answer in shown]
        table.add_row(Text(t, "bold"), *cells, *(_number(by[t], "dim") for by in extras.values()))
    if len(result.votes) > 1:
        cells = [_number(totals[answer], f"bold {palette[answer]}") for answer in shown]
        table.add_row(Text("all", "bold"), *cells, *(_number(sum(by.values()), "dim") for by in extras.values()))
    return table


def _fitting(answers: list[str], width: int) -> list[str]:
    """The first answers, at least one, whose columns fit beside those that every table may have."""
    room = width - sum(len(name) + 2 for name in ("others", "no answer", "not counted", "1,000,000"))
    shown: list[str] = []
    for answer in answers[:MOST]:
        room -= max(len(short(answer)), 6) + 2
        if shown and room < 0:
            break
        shown.append(answer)
    return shown


def answer_line(result: Result, palette: Palette) -> Text:
    """The answer with its votes, or why there is none."""
    if result.answer is None and result.status == "interrupted":
        return Text("no answer yet", "bold")
    if result.answer is None and result.cut:
        said = f"no answer: {result.cut} of {plural(result.counted, 'sample')} cut by their length, without a vote"
        return Text(f"{said}; raise --max-new-tokens, or let them vote by --cut-votes", "bold red")
    if result.answer is None and isinstance(result, Found):
        return Text(_no_answer(result), "bold red")
    if result.answer is None:
        return Text("no answer could be read in any sample; --texts shows what they wrote", "bold red")
    votes = sum(by.get(result.answer, 0) for by in result.votes.values())
    total = sum(sum(by.values()) for by in result.votes.values())
    line = Text("leading so far  " if result.status == "interrupted" else "answer  ", "bold").append(
        harmless(result.answer), f"bold {palette[result.answer]}"
    )
    noun = "path" if isinstance(result, Found) else "vote"
    line.append(f"  {votes} of {total} {noun if total == 1 else noun + 's'}", "dim")
    return line.append("  tied; the answer given first wins", "yellow") if result.is_tie else line


def _no_answer(found: Found) -> str:
    """Why a strategy that grows texts has none, and what to do about it."""
    if not found.samples:
        return "no answer: no path came to its end"
    able, all_of_them = sum(s.answer is not None for s in found.samples), plural(len(found.samples), "finished path")
    if able:
        return (
            f"no answer: {able} of {all_of_them} can be read, and the strategy took none of these; --texts shows them"
        )
    cut = sum(s.finish == "length" for s in found.samples)
    why = f", {cut} of them cut by their length; raise --max-new-tokens, or the --budget" if cut else ""
    return f"no answer could be read in any of {all_of_them}{why}; --texts shows what they wrote"


def cost(result: Result) -> str:
    """Samples, tokens, seconds, tokens a second; and what was saved where the vote ended early."""
    rate = result.tokens / result.seconds if result.seconds > 0 else 0.0
    if isinstance(result, Found):
        ended = f"{plural(len(result.samples), 'finished path')}, {result.dropped:,} dropped"
        time = f"{result.seconds:.1f} s ({rate:,.0f} tokens/s), {plural(result.steps, 'step')}"
        line = f"{plural(result.legs, 'leg')} in {plural(result.rounds, 'round')}, {ended}; "
        line += f"{plural(result.tokens, 'token')} in {time}"
        return line + ("; paths were read again: this engine keeps none" if result.reread else "")
    line = (
        f"{plural(len(result.samples), 'sample')}, {plural(result.tokens, 'token')} in {result.seconds:.1f} s "
        f"({rate:,.0f} tokens/s); {plural(result.steps, 'step')} after one prefill of {result.prompt_tokens:,}"
    )
    if result.tokens < result.budget_tokens:
        saved = 1 - result.tokens / result.budget_tokens
        line += f"; stopping early saved about {saved:.0%} of the full budget's {result.budget_tokens:,} tokens"
    return line + (f"; {plural(result.cut, 'sample')} cut by the length" if result.cut else "")


def show_texts(result: Result, console: Console, palette: Palette) -> None:
    """Every sample's text under its temperature, number and answer."""
    for s in result.samples:
        head = Text(f"T {s.temperature:g}, sample {s.k + 1}  ", "bold")
        head.append(harmless(s.answer) if s.answer else "no answer", palette[s.answer] if s.answer else "dim")
        console.print(head.append(f"  {s.tokens} tokens, {s.finish}", "dim"))
        console.print(Text(harmless(s.text.strip()) + "\n"))


def _number(n: int, style: str) -> Text:
    return Text(f"{n:,}", style) if n else Text("·", "dim")
