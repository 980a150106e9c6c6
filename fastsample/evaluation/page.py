"""The plots of a report as SVG text (matplotlib), and the page that holds them: one file that needs no network."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from html import escape
from string import ascii_lowercase
from typing import Any

from .report import Report, Row

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#666666")
LONGEST = 300  # characters of a setting


def plots(page: Report) -> list[tuple[str, str]]:
    """[(caption, SVG)]; raises ModuleNotFoundError where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    drawn = [
        ("Right votes against tokens: every rule, and votes over random subsets at one temperature or all.", _accuracy),
        ("Questions by the temperatures that have a right sample (an oracle's view: a vote reaches less).", _coverage),
        ("Mean entropy of a token in right and in wrong samples, by how often the question is solved.", _entropy),
    ]
    return [(caption, _svg(draw, page)) for caption, draw in drawn]


def _svg(draw: Callable[[Any, Report], None], page: Report) -> str:
    import matplotlib.pyplot as plt

    # Salted ids would make every page of the same run differ; dates likewise.
    with plt.rc_context({"svg.hashsalt": "fastsample", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(8.4, 4.2), layout="constrained")
        draw(axes, page)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _accuracy(axes: Any, page: Report) -> None:
    for colour, (t, points) in zip(COLOURS, page.singles.items()):
        style = "o" if len(points) == 1 else "-"
        axes.plot(
            [p.tokens for p in points], [100 * p.accuracy for p in points], style, color=colour, label=f"T = {t:g}"
        )
    axes.plot([p.tokens for p in page.mix], [100 * p.accuracy for p in page.mix], "k--", label="all temperatures")
    for letter, row in zip(ascii_lowercase, page.rows):
        place = (row.tokens, 100 * row.accuracy)
        axes.plot(*place, ls="", marker=f"${letter}$", color="#333333", markersize=6, label=row.rule)
    axes.set_xscale("log")
    axes.set_xlabel("tokens a question")
    axes.set_ylabel("right votes, %")
    axes.legend(frameon=False, fontsize=6.5, loc="upper left", bbox_to_anchor=(1, 1))


def _coverage(axes: Any, page: Report) -> None:
    assert page.coverage is not None
    by_set = list(page.coverage.by_set.items())[:10]
    names = [" ".join(f"{t:g}" for t in s) or "none" for s, _ in by_set]
    axes.barh(names[::-1], [100 * share for _, share in by_set][::-1], color=COLOURS[0])
    axes.set_xlabel("questions, %")
    axes.set_ylabel("temperatures that solve them")


def _entropy(axes: Any, page: Report) -> None:
    places = range(len(page.entropies))
    for shift, name, colour in ((-0.2, "right", COLOURS[2]), (0.2, "wrong", COLOURS[1])):
        heights = [getattr(e, name) for e in page.entropies]
        axes.bar([p + shift for p in places], heights, width=0.38, label=name, color=colour)
    labels = [f"{100 * e.low:.0f} to {100 * e.high:.0f} %\n{e.questions} questions" for e in page.entropies]
    axes.set_xticks(list(places), labels)
    axes.set_ylabel("entropy, nats a token")
    axes.legend(frameon=False)


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; } figcaption { color: #555; } .plain { background: #f4f4f0; padding: .7rem 1rem; }
@media (prefers-color-scheme: dark) { body { background: #fff; } }
"""

HEADS = ("rule", "right %", "95 %", "against majority", "95 %", "samples", "tokens", "of tokens", "steps", "of steps",
         "stopped early", "answers changed")  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table, as text."""
    return (
        row.rule,
        f"{100 * row.accuracy:.1f}",
        f"{100 * row.low:.0f} to {100 * row.high:.0f}",
        f"{100 * row.difference:+.1f}",
        f"{100 * row.difference_low:+.1f} to {100 * row.difference_high:+.1f}",
        f"{row.samples:.1f}",
        f"{row.tokens:,.0f}",
        f"{100 * row.token_share:.0f} %",
        f"{row.steps:,}",
        f"{100 * row.step_share:.0f} %",
        f"{100 * row.stopped:.0f} %",
        f"{row.changed}",
    )


def html(pages: Sequence[Report], graphs: Sequence[Sequence[tuple[str, str]]]) -> str:
    """One self-contained page about all runs."""
    body = "".join(_section(page, drawn) for page, drawn in zip(pages, graphs))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>fastsample report</title>'
        f"<style>{STYLE}</style></head><body><h1>fastsample report</h1>{body}</body></html>\n"
    )


def plain(text: object) -> str:
    """Text of a run's, for a page or a terminal: short, and what would steer either is shown as its code."""
    cut = str(text)[: LONGEST + 1]
    if len(cut) > LONGEST:
        cut = cut[:LONGEST] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def _section(page: Report, drawn: Sequence[tuple[str, str]]) -> str:
    parts = [f"<h2>{escape(plain(page.folder))}</h2>", _table(("setting", "value"), settings_table(page))]
    if not page.rows:
        return "".join([*parts, f'<p class="plain">{escape(incomplete(page))}</p>'])
    parts.append(f'<p class="plain">{escape(page.verdict)}</p>')
    if page.complete < page.questions:
        parts.append(f"<p>{escape(incomplete(page))}</p>")
    parts.append(_table(HEADS, [cells(row) for row in page.rows]))
    parts.append(
        _table(
            ("temperature", "Avg@N %", "vote of its own samples %", "solves %", "alone solves %"), by_temperature(page)
        )
    )
    passed = ", ".join(f"Pass@{k} {100 * p:.1f} %" for k, p in page.pass_at.items())
    parts.append(
        f"<p>Over all temperatures: {passed}. Pass@K is what an oracle could pick out, not what a vote reaches.</p>"
    )
    parts += [f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for caption, svg in drawn]
    return "".join(parts)


def settings_table(page: Report) -> list[tuple[str, str]]:
    """The run's settings and what it cost when it ran, as text."""
    shown = [(k, v) for k, v in page.config.items() if k not in ("format", "questions") and v not in (None, [], "")]
    live = page.live
    time = f"{live['seconds']:,.0f} s ({live['cpu_seconds']:,.0f} s of processor)"
    cost = f"{live['tokens']:,} tokens, {live['steps']:,} steps, {time}"
    right = f"{live['right']} of {live['questions']} questions right"
    return [*((plain(k), plain(v)) for k, v in shown), ("the run itself", f"{right}, {cost}")]


def by_temperature(page: Report) -> list[tuple[str, ...]]:
    """Per temperature: its name, Avg@N, the vote over all its samples, coverage and what only it solves; in %."""
    assert page.coverage is not None
    return [
        (
            f"{t:g}",
            *(
                f"{100 * x:.1f}"
                for x in (page.avg[t], page.own_vote[t], page.coverage.solved[t], page.coverage.only[t])
            ),
        )
        for t in page.singles
    ]


def incomplete(page: Report) -> str:
    """One sentence on the questions that cannot be replayed."""
    rule = plain(page.config["rule"])
    return (
        f"Rules can be replayed on {page.complete} of {page.questions} questions: those with an answer to compare with "
        f"whose whole budget is stored, in a run that does not stop early (this one's rule is {rule})."
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
