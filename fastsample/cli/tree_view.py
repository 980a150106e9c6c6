"""A growing tree on a terminal: a row for each depth, a mark for each path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..strategies.path import Path
    from ..strategies.tree import Tree

# What became of a path: its mark and colour.
MARKS = {
    "kept": ("█", "green"),
    "finished": ("●", "cyan"),
    "dropped": ("░", "dim"),
    "written": ("·", "dim"),
}
MOST = 32  # marks of a row; more paths share one
ROWS = 12  # of the deepest levels


def state_of(path: Path) -> str:
    """kept, finished, dropped, or being written."""
    if not path.finish:
        return "written"
    if path.is_final:
        return "finished"
    return "dropped" if path.fate or path.finish == "cancelled" else "kept"


def tree_table(tree: Tree, width: int = 80) -> Table:
    """Depth, paths (kept █, finished ●, dropped ░, being written ·), the best score and the tokens of each depth."""
    levels: dict[int, list[Path]] = {}
    for path in list(tree.paths):
        if path.parent is not None:
            levels.setdefault(path.depth, []).append(path)
    table = Table.grid(padding=(0, 2))
    for justify in ("right", "left", "right", "right", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_row("leg", "paths", "of them", "best score", "tokens", style="dim")
    room = max(8, min(MOST, width - 48))
    for depth, paths in sorted(levels.items())[-ROWS:]:
        row = Text()
        for path in paths[:room]:
            row.append(*MARKS[state_of(path)])
        if len(paths) > room:
            row.append("…", "dim")
        kept = sum(state_of(path) in ("kept", "finished") for path in paths)
        scores = [path.scores[-1] for path in paths if path.scores]
        tokens = sum(len(path.tokens) for path in paths)
        best = f"{max(scores):.3f}" if scores else ""
        table.add_row(Text(str(depth), "bold"), row, f"{kept} of {len(paths)}", best, f"{tokens:,}")
    return table
