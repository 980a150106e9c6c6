"""The plots of a report as SVG text, drawn by matplotlib in the page's own colours: they follow its dark and light."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from string import ascii_lowercase
from typing import Any

from .report import Report

# Colours that stand for variables of the page's style, and are replaced by them in the finished SVG.
INK, MUTED, LINE, RIGHT, WRONG = "#010101", "#010102", "#010103", "#010104", "#010105"
SERIES = tuple(f"#0102{n:02d}" for n in range(1, 9))
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", RIGHT: "right", WRONG: "wrong"}
VARIABLES |= {colour: f"c{n}" for n, colour in enumerate(SERIES, 1)}
WIDE, NARROW = (9.2, 4.4), (4.3, 4.1)  # inches, at 72 points of which a point is about a pixel


def plots(page: Report) -> list[tuple[str, str, str]]:
    """[(caption, wide SVG, narrow SVG)]; raises ModuleNotFoundError where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    drawn: list[tuple[str, Callable[[Any, Any, Report, bool], None]]] = [
        (
            "Right votes against tokens. Points: every rule, on the same samples. Lines: votes over random subsets, at "
            "one temperature or over all. Up and to the left is better.",
            _accuracy,
        ),
        (
            "Questions by the temperatures that have a right sample. A vote reaches less.",
            _coverage,
        ),
        ("Mean entropy of a token in right and in wrong samples, by how often the question is solved.", _entropy),
    ]
    return [(caption, _svg(draw, page, WIDE), _svg(draw, page, NARROW)) for caption, draw in drawn]


def _svg(draw: Callable[[Any, Any, Report, bool], None], page: Report, size: tuple[float, float]) -> str:
    import matplotlib.pyplot as plt

    style: dict[Any, object] = {  # the names are literals in the types of matplotlib 3.11, and not before
        # Salted ids would make every page of the same run differ; dates likewise. Two plots must not share an id.
        "svg.hashsalt": f"fastsample {page.folder} {draw.__name__} {size}",
        "svg.fonttype": "none",
        "font.size": 10,
        "font.family": "sans-serif",
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": LINE,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": LINE,
        "savefig.transparent": True,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        draw(figure, axes, page, size == WIDE)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    tips = [escape(tip(row)) for row in page.rows]

    def point(found: re.Match[str]) -> str:
        # Each rule's point becomes something that one can reach by mouse, finger or key, and that says what it is.
        number, inside, x, y = found.groups()
        around = f'<circle cx="{x}" cy="{y}" r="10" fill="transparent"/>'
        return f'<g class="point" tabindex="0" data-rule="{number}"><title>{tips[int(number)]}</title>{around}{inside}'

    return re.sub(r'<g id="rule-(\d+)">(.*?<use [^>]*x="([\d.]+)" y="([\d.]+)")', point, svg, flags=re.S)


def tip(row: Any) -> str:
    """What is said of a rule's point."""
    return (
        f"{row.rule}: {100 * row.accuracy:.1f} % right ({100 * row.low:.0f} to {100 * row.high:.0f}), "
        f"{row.tokens:,.0f} tokens a question, {100 * row.token_share:.0f} % of the full vote's"
    )


def letters(n: int) -> str:
    """0, 1, ... 25, 26 -> a, b, ... z, aa: what stands for a rule in the table and in a narrow plot."""
    return ascii_lowercase[n % 26] * (n // 26 + 1)


def _accuracy(figure: Any, axes: Any, page: Report, is_wide: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for colour, (t, points) in zip(SERIES * 9, page.singles.items()):
        style = "o" if len(points) == 1 else "-"
        axes.plot(
            [p.tokens for p in points], [100 * p.accuracy for p in points], style, color=colour, lw=1.6, ms=4,
            label=f"T = {t:g}",
        )  # fmt: skip
    mix = page.mix
    axes.plot([p.tokens for p in mix], [100 * p.accuracy for p in mix], "--", color=INK, lw=1.4, label="all")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_wide else (1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("tokens a question")
    axes.set_ylabel("right votes, %")
    axes.grid(axis="y", lw=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncol=6 if is_wide else 3, frameon=False, fontsize=9)
    for n, row in enumerate(page.rows):
        axes.plot(row.tokens, 100 * row.accuracy, "o", ms=6 if is_wide else 4, color=INK, gid=f"rule-{n}", zorder=5)
    _names(axes, page, [row.rule if is_wide else letters(n) for n, row in enumerate(page.rows)])


def _names(axes: Any, page: Report, names: Sequence[str]) -> None:
    """Every rule's name in a column beside the plot, in the order of its points, with a line to its point."""
    low, high = axes.get_ylim()
    order = sorted(range(len(page.rows)), key=lambda n: (page.rows[n].accuracy, -page.rows[n].tokens))
    gap = min(0.068, 1 / max(1, len(order) - 1))
    heights = spread([(100 * page.rows[n].accuracy - low) / (high - low) for n in order], gap)
    for n, height in zip(order, heights):
        row = page.rows[n]
        axes.annotate(
            names[n], (row.tokens, 100 * row.accuracy), (1.06, height), textcoords="axes fraction", fontsize=9,
            va="center", color=INK, annotation_clip=False, zorder=4,
            arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.5, "shrinkA": 0, "shrinkB": 4, "alpha": 0.55,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """The same heights, in ascending order, moved so that neighbours are at least `gap` apart, within 0 to 1.

    Each group that must move is set around the middle of where it would be.
    """
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _start(groups[-1], gap) < _start(groups[-2], gap) + gap * len(groups[-2]):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_start(group, gap) + gap * n for group in groups for n in range(len(group))]


def _start(group: Sequence[float], gap: float) -> float:
    """Where a group begins so that its members are nearest to where they would be, on the average."""
    wanted = sum(height - gap * n for n, height in enumerate(group)) / len(group)
    return max(0.0, min(wanted, 1 - gap * (len(group) - 1)))


def _coverage(figure: Any, axes: Any, page: Report, is_wide: bool) -> None:
    assert page.coverage is not None
    by_set = list(page.coverage.by_set.items())[: 10 if is_wide else 8]
    names = [" ".join(f"{t:g}" for t in s) or "none" for s, _ in by_set]
    bars = axes.barh(names[::-1], [100 * share for _, share in by_set][::-1], color=SERIES[0], height=0.62)
    axes.bar_label(bars, fmt="%.0f", padding=3, color=MUTED, fontsize=9)
    axes.set_xlabel("questions, %")
    axes.set_ylabel("temperatures that solve them")


def _entropy(figure: Any, axes: Any, page: Report, is_wide: bool) -> None:
    places = range(len(page.entropies))
    for shift, name, colour in ((-0.2, "right", RIGHT), (0.2, "wrong", WRONG)):
        heights = [getattr(e, name) for e in page.entropies]
        axes.bar([p + shift for p in places], heights, width=0.36, label=name, color=colour)
    unit = " questions" if is_wide else ""
    labels = [f"{100 * e.low:.0f} to {100 * e.high:.0f} %\n{e.questions}{unit}" for e in page.entropies]
    axes.set_xticks(list(places), labels)
    axes.set_ylabel("entropy, nats a token")
    axes.grid(axis="y", lw=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncol=2, frameon=False, fontsize=9)
