"""A report as one page that needs no network: what was asked and found, the rules, and every question with its texts.

Nothing that a run holds becomes markup: it is escaped here, and what the page's script shows is text, packed in letters
that mean nothing to a browser. The page's own policy lets no other script than that one run.
"""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path

from ..words import plural
from . import efforts, replayed
from .explorer import PAGE_BYTES, Entry, Shelf, pairs_of, shelf_of
from .plots import letters
from .report import Report, Row

LONGEST = 300  # characters of a setting
Graphs = Sequence[tuple[str, str, str]]  # caption, wide SVG, narrow SVG

HEADS = ("rule", "right %", "95 %", "against majority", "95 %", "samples", "tokens", "of tokens", "steps", "of steps",
         "stopped early", "answers changed")  # fmt: skip
TEMPERATURE_HEADS = ("temperature", "Avg@N %", "vote of its own samples %", "solves %", "alone solves %")


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


def plain(text: object) -> str:
    """Text of a run's, for a page or a terminal: short, and what would steer either is shown as its code."""
    cut = str(text)[: LONGEST + 1]
    if len(cut) > LONGEST:
        cut = cut[:LONGEST] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def names_of(pages: Sequence[Report]) -> list[str]:
    """What the runs are called on the page: their folders' names, with a number where two are the same."""
    names = [plain(page.folder.resolve().name or page.folder) for page in pages]
    return [f"{name} ({n})" if names.count(name) > 1 else name for n, name in enumerate(names, 1)]


def headline(page: Report) -> str:
    """One sentence: what was asked, of what model, with what result."""
    config, live = page.config, page.live
    model = config.get("model") or "the embedded SmolLM2-135M-Instruct"
    temperatures = [f"{t:g}" for t in config["temperatures"]]
    spread = f"temperature {temperatures[0]}" if len(temperatures) == 1 else f"temperatures {', '.join(temperatures)}"
    if config.get("is_adaptive"):
        spread += ", shared out by the votes"
    asked = f"{plural(page.questions, 'question')} to {plain(model)}"
    drawn = f"{live['samples']:,} samples at {spread}"
    if not live["questions"]:
        return f"{asked}: none is answered yet."
    right = (
        f"{live['right']:,} right by the rule {plain(config['rule'])} ({100 * live['right'] / live['questions']:.0f} %)"
    )
    of = "" if live["questions"] == page.questions else f"{live['questions']:,} answered, "
    return f"{asked}, {drawn}: {of}{right}."


def write_page(target: Path, pages: Sequence[Report], graphs: Sequence[Graphs], entries: Sequence[Entry]) -> list[Path]:
    """Write the page, and beside it the files for texts that it has no room for; returns the files, the page first.

    raises: OSError for what cannot be written
    """
    folder = target.with_name(f"{target.stem}-texts")
    text, shelf = html(pages, graphs, entries, folder.name)
    digest = _digest(shelf)
    if (folder / "fastsample").exists():  # of an earlier report: ours to take away
        shutil.rmtree(folder)
    written = [target]
    if shelf.beside:
        folder.mkdir(exist_ok=True)
        (folder / "fastsample").write_text("Texts of the samples of the report beside this folder.\n")
        for number, texts in enumerate(shelf.beside):
            path = folder / f"{number}.js"
            path.write_text(f"fastsampleTexts({number}, {json.dumps(digest)}, {json.dumps(texts)});\n")
            written.append(path)
    target.write_text(text, encoding="utf-8", errors="backslashreplace")
    return written


def html(pages: Sequence[Report], graphs: Sequence[Graphs], entries: Sequence[Entry], folder: str) -> tuple[str, Shelf]:
    """(the page, the texts that go beside it into `folder`)."""
    names = names_of(pages)
    style, script = (files(__package__).joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    sections = "".join(
        _section(n, "" if len(pages) == 1 else name, page, drawn)
        for n, (name, page, drawn) in enumerate(zip(names, pages, graphs))
    )
    top = _top(names, pages, entries)
    room = PAGE_BYTES - len(f"{style}{script}{sections}{top}".encode("utf-8", "backslashreplace"))
    shelf = shelf_of(entries, names, room)
    allowed = b64encode(sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}' 'self' file:; base-uri 'none'; "
        "form-action 'none'"
    )
    title = f"{' and '.join(names)}: fastsample report"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>{top}{sections}"
        '<section id="questions"><h2 class="list">Questions</h2><p>A question opens to its votes by temperature and '
        "the texts of its samples. <b>split</b>: no answer has more than half of the votes. <b>cut</b>: a sample was "
        "ended by its limit of tokens. <b>right</b> and <b>wrong</b> are the run's own verdict.</p>"
        "<noscript><p class='note'>The list needs JavaScript; what stands above does not.</p></noscript>"
        '<div class="bar" id="filters"></div><p class="count" id="count" role="status"></p><div id="list"></div>'
        f"</section></main>\n{_stored('index', shelf.index)}"
        f"{_stored('texts', shelf.inside, digest=_digest(shelf), folder=folder)}<script>{script}</script>"
        "</body></html>\n",
        shelf,
    )


def _stored(name: str, value: object, **more: str) -> str:
    """A value that the page's script reads; it holds digits and the letters of base64, and no browser runs it."""
    extra = "".join(f' data-{key}="{escape(plain(text))}"' for key, text in more.items())
    return f'<script type="application/json" id="{name}"{extra}>{json.dumps(value)}</script>\n'


def _digest(shelf: Shelf) -> str:
    return sha256(shelf.index.encode()).hexdigest()[:16]


def _top(names: Sequence[str], pages: Sequence[Report], entries: Sequence[Entry]) -> str:
    parts = ["<p class='over'>fastsample report</p>", f"<h1>{escape(' and '.join(names))}</h1>"]
    if len(pages) == 1:
        parts.append(f'<p class="lead">{escape(headline(pages[0]))}</p>')
    links = [f'<a href="#run-{n}">{escape(name)}</a>' for n, name in enumerate(names)] if len(names) > 1 else []
    for place, pair in pairs_of(entries, len(pages)):
        gap = 100 * (pair.second_only - pair.first_only) / pair.questions
        first, second = escape(names[0]), escape(names[place])
        parts.append(
            f'<p class="lead">On the {plural(pair.questions, "question")} that both judged, {second} is right on '
            f"{pair.both + pair.second_only} and {first} on {pair.both + pair.first_only}: {gap:+.1f} points (95 %: "
            f"{100 * pair.low:+.1f} to {100 * pair.high:+.1f}). Both are right on {pair.both}, only {second} on "
            f"{pair.second_only}, only {first} on {pair.first_only}, neither on {pair.neither}.</p>"
        )
    links.append('<a href="#questions">every question</a>')
    return "".join([*parts, f"<nav>{' '.join(links)}</nav>"])


def _section(number: int, name: str, page: Report, drawn: Graphs) -> str:
    head = f"<h2>{escape(name)}</h2><p>{escape(headline(page))}</p>" if name else ""
    parts = [f'<section id="run-{number}">{head}']
    if page.rows:
        parts.append(_tiles(page))
        parts.append(f'<p class="note">{escape(page.verdict)}</p>')
    if page.complete < page.questions:
        parts.append(f"<p>{escape(incomplete(page))}</p>")
    if page.levels:
        parts += ["<h3>Levels of effort</h3>", _table("temps", efforts.HEADS, [efforts.cells(x) for x in page.levels])]
    parts += _strategies(page)
    if page.rows:
        shown = [f"<figure>{_both(graph)}<figcaption>{escape(graph[0])}</figcaption></figure>" for graph in drawn]
        passed = ", ".join(f"Pass@{k} {100 * p:.1f} %" for k, p in page.pass_at.items())
        parts += [
            "<h3>Rules, replayed on the same samples</h3>",
            *shown[:1],
            _rules(page),
            "<h3>Temperatures</h3>",
            _table("temps", TEMPERATURE_HEADS, by_temperature(page)),
            f"<p>Over all temperatures: {passed}. Pass@K is what an oracle could pick out; a vote reaches less.</p>",
            *shown[1:],
        ]
    settings = _table("settings", (), settings_table(page))
    parts.append(f'<details class="more"><summary>Settings and cost of the run</summary>{settings}</details></section>')
    return "".join(parts)


def _strategies(page: Report) -> list[str]:
    if not page.strategies:
        return []
    played = [replayed.cells(row) for row in page.strategies if row.refusal is None]
    told = [f"<p>{escape(plain(f'{row.strategy}: {row.refusal}'))}</p>" for row in page.strategies if row.refusal]
    table = [_table("temps", replayed.HEADS, played)] if played else []
    return ["<h3>Strategies, replayed on the same texts</h3>", *table, *told]


def _both(graph: tuple[str, str, str]) -> str:
    return f'<div class="wide">{graph[1]}</div><div class="narrow">{graph[2]}</div>'


def _tiles(page: Report) -> str:
    """Four figures that a reader looks for first."""
    assert page.coverage is not None
    full, questions = page.rows[0], page.complete
    tiles = [
        (
            "the full vote is right on",
            f"{100 * full.accuracy:.0f} %",
            f"95 %: {cells(full)[2]} %, {questions} questions",
        )
    ]
    # The cheapest rule whose answers are not shown to be worse than the full vote's.
    alike = [row for row in page.rows[1:] if row.difference_high >= 0 and row.difference >= -0.01]
    if alike:
        best = min(alike, key=lambda row: row.tokens)
        about = f"of the tokens, {100 * best.difference:+.1f} points, by {best.rule}"
        tiles.append(("as good, within a point, for", f"{100 * best.token_share:.0f} %", about))
    tiles.append(("some sample is right on", f"{100 * page.coverage.anywhere:.0f} %", "an oracle's view"))
    tiles.append(("the run took", _seconds(page.live["seconds"]), f"{page.live['tokens']:,} tokens"))
    body = "".join(
        f"<div><dt>{escape(a)}</dt><dd>{escape(b)}<small>{escape(c)}</small></dd></div>" for a, b, c in tiles
    )
    return f'<dl class="tiles">{body}</dl>'


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


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
    """One sentence on the questions that cannot be replayed; of a run of trees, what it came to."""
    if page.search is not None:
        s = page.search
        return (
            f"{plain(page.config['strategy'])}: of {s['questions']} questions {100 * s['coverage']:.1f} % have a right "
            f"answer in some finished path, and {100 * s['choice']:.1f} % the chosen one; a scorer that always knew "
            f"would gain {100 * s['gap']:.1f} points. A question took {s['legs']:.1f} legs, {s['depth']:.1f} deep, and "
            f"{s['tokens']:,.0f} tokens."
        )
    rule = plain(page.config["rule"])
    return (
        f"Rules can be replayed on {page.complete} of {page.questions} questions: those with an answer to compare with "
        f"whose whole budget is stored, in a run that does not stop early (this one's rule is {rule})."
    )


def _rules(page: Report) -> str:
    """The table of rules: an interval stands below its figure; what narrow pages leave out is marked."""
    heads = ("rule", "right %", "against majority", "samples", "tokens", "of tokens", "steps", "of steps",
             "stopped early", "changed")  # fmt: skip
    body = []
    for n, row in enumerate(page.rows):
        rule, right, interval, gap, gap_interval, samples, tokens, share, *rest = cells(row)
        name = f'<td class="name"><span class="letter">{letters(n)}</span>{escape(rule)}</td>'
        values = [_cell(heads[1], right, interval), _cell(heads[2], gap, gap_interval), _cell(heads[3], samples)]
        values += [_cell(heads[4], tokens, less=True), _cell(heads[5], share)]
        values += [_cell(head, value, less=head in ("steps", "changed")) for head, value in zip(heads[6:], rest)]
        body.append(f'<tr data-rule="{n}">{name}{"".join(values)}</tr>')
    head = "".join(f"<th>{h}</th>" for h in heads)
    return f'<table class="rules"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _cell(head: str, value: str, below: str = "", *, less: bool = False) -> str:
    small = f"<small>{escape(below)}</small>" if below else ""
    return f'<td data-head="{escape(head)}"{" class=less" if less else ""}>{escape(value)}{small}</td>'


def _table(kind: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = f"<thead><tr>{''.join(f'<th>{escape(h)}</th>' for h in heads)}</tr></thead>" if heads else ""
    named = [dict(zip(heads, row)).items() if heads else [("", c) for c in row] for row in rows]
    body = "".join("<tr>" + "".join(_cell(h, c) for h, c in row) + "</tr>" for row in named)
    return f'<table class="{kind}">{head}<tbody>{body}</tbody></table>'
