"""Puzzles of the ARC kind: pairs of grids that show a rule, and grids that it is to be applied to.

    {"id": "p1", "train": [{"input": [[0, 1]], "output": [[1, 0]]}, ...], "test": [{"input": [[2, 0]], "output": ...}]}

A *view* is the same puzzle seen otherwise: turned or mirrored, in other colours, its pairs in another order. The rule
holds in all of them, and a grid that was found in a view can be put back into the puzzle's own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.dataset import RunError, parsed, shown

Grid = tuple[tuple[int, ...], ...]  # rows of colours, 0 to 9
Encode = Callable[[str], tuple[int, ...]]  # text -> token ids, no special ones

COLOURS = 10
LARGEST = 30  # rows and columns, as in ARC
END = "\n\n"  # the text behind an output
# Mirrored left to right or not, then turned so many times by a quarter, clockwise.
SYMMETRIES = {
    "identity": (False, 0),
    "turn": (False, 1),
    "half-turn": (False, 2),
    "back-turn": (False, 3),
    "mirror": (True, 0),
    "anti-transpose": (True, 1),
    "flip": (True, 2),
    "transpose": (True, 3),
}
OF_A_LINE = ("identity", "mirror")  # those that leave a line a line


@dataclass(frozen=True)
class Pair:
    """A grid and what the rule makes of it; output None where that is not known."""

    input: Grid
    output: Grid | None


@dataclass(frozen=True)
class Puzzle:
    """train: at least one pair with its output; test: what is asked"""

    id: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def symmetries(self) -> tuple[str, ...]:
        """The names of SYMMETRIES, or of those that leave a line a line where all grids are lines."""
        grids = [g for pair in (*self.train, *self.test) for g in (pair.input, pair.output) if g is not None]
        return OF_A_LINE if all(len(grid) == 1 for grid in grids) else tuple(SYMMETRIES)


@dataclass(frozen=True)
class View:
    """A way to see a puzzle.

    symmetry: a name of SYMMETRIES; colours: [10], what each colour becomes; order: of its training pairs
    """

    symmetry: str
    colours: tuple[int, ...]
    order: tuple[int, ...]

    def of(self, grid: Grid) -> Grid:
        """The grid as it looks in this view."""
        is_mirrored, turns = SYMMETRIES[self.symmetry]
        grid = tuple(tuple(self.colours[cell] for cell in row) for row in grid)
        return turned(mirrored(grid) if is_mirrored else grid, turns)

    def back(self, grid: Grid) -> Grid:
        """The grid that looks so in this view: `back(of(grid)) == grid`."""
        is_mirrored, turns = SYMMETRIES[self.symmetry]
        grid = turned(grid, -turns)
        own = {colour: cell for cell, colour in enumerate(self.colours)}
        grid = tuple(tuple(own[cell] for cell in row) for row in grid)
        return mirrored(grid) if is_mirrored else grid

    def pairs(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Training pairs as they look in this view, in its order."""
        return [
            Pair(self.of(pairs[n].input), None if (o := pairs[n].output) is None else self.of(o)) for n in self.order
        ]


def mirrored(grid: Grid) -> Grid:
    """Left and right changed over."""
    return tuple(row[::-1] for row in grid)


def turned(grid: Grid, quarters: int) -> Grid:
    """Turned clockwise by so many quarters."""
    for _ in range(quarters % 4):
        grid = tuple(zip(*grid[::-1]))
    return grid


def views_of(symmetries: Sequence[str], pairs: int, count: int, *, colours: bool, seed: str) -> list[View]:
    """`count` views of each symmetry: the first with its own colours and order, the others drawn by the seed.

    pairs: how many are to be put in order; colours: whether they are changed. 0 stays 0: it is the ground
    """
    own = View("identity", tuple(range(COLOURS)), tuple(range(pairs)))
    found = []
    for symmetry in symmetries:
        for n in range(count):
            view = View(symmetry, own.colours, own.order)
            if n:
                draw = random.Random(f"{seed} {symmetry} {n}")
                others = draw.sample(range(1, COLOURS), COLOURS - 1) if colours else own.colours[1:]
                view = View(symmetry, (0, *others), tuple(draw.sample(range(pairs), pairs)))
            found.append(view)
    return found


# --- as text ----------------------------------------------------------------------------------------------------------


def text_of(grid: Grid) -> str:
    """A digit a cell, a line a row."""
    return "\n".join("".join(map(str, row)) for row in grid)


def pieces_of(pairs: Sequence[Pair]) -> list[tuple[str, bool]]:
    """The text of pairs, in pieces; True for those that are outputs. A last pair without its output is left open.

    Pieces are encoded apart, so that a text that is learnt has the tokens of one that is written.
    """
    pieces = []
    for pair in pairs:
        pieces += [("input\n", False), (text_of(pair.input), False), ("\noutput\n", False)]
        if pair.output is not None:
            pieces += [(text_of(pair.output), True), (END, True)]
    return pieces


def grid_in(text: str) -> Grid | None:
    """The grid that a text begins with, or None where it begins with none."""
    rows = text.split(END)[0].rstrip().split("\n")
    if not 1 <= len(rows) <= LARGEST or any(not (row.isascii() and row.isdigit()) for row in rows):
        return None
    grid = tuple(tuple(map(int, row)) for row in rows)
    return grid if len(set(map(len, grid))) == 1 and len(grid[0]) <= LARGEST else None


# --- files ------------------------------------------------------------------------------------------------------------


def read_puzzles(paths: Iterable[Path]) -> list[Puzzle]:
    """The puzzles of files: one of ARC's (one puzzle, named by the file), lines of puzzles, or a folder of these.

    raises: RunError, with the file and the line, for what is no puzzle, and for an id used twice
    """
    found: dict[str, Puzzle] = {}
    for path in paths:
        files = sorted(p for p in path.glob("*.json*") if p.is_file()) if path.is_dir() else [path]
        if not files:
            raise RunError(f"{path} holds no .json and no .jsonl file; name ARC's tasks, or a file with one a line")
        for file in files:
            for where, record, name in _records(file):
                try:
                    puzzle = puzzle_of(record, name)
                except RunError as error:
                    raise RunError(f"{where}: {error}") from None
                if puzzle.id in found:
                    raise RunError(f"{where}: the id {shown(puzzle.id)} has been used before; ids must differ")
                found[puzzle.id] = puzzle
    return list(found.values())


def _records(path: Path) -> Iterable[tuple[str, Any, str]]:
    """(where, value, name) of each puzzle of a file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    try:
        yield str(path), parsed(data), path.stem
        return
    except RunError as error:
        lines = [(n, line) for n, line in enumerate(data.splitlines(), 1) if line.strip()]
        if len(lines) < 2:
            raise RunError(f"{path}: {error}") from None
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            record = parsed(line)
        except RunError as error:
            raise RunError(f"{where}: {error}") from None
        yield where, record, f"{path.stem}-{number}"


def puzzle_of(record: Any, name: str) -> Puzzle:
    """The puzzle that a JSON value describes; raises RunError with what is wrong with it. name: where it has no id"""
    if not isinstance(record, dict) or not {"train", "test"} <= set(record):
        raise RunError('a puzzle is an object like {"train": [{"input": [[0]], "output": [[1]]}], "test": [...]}')
    own = record.get("id", name)
    if isinstance(own, bool) or not isinstance(own, str | int):
        raise RunError(f"id must be text or a whole number, got {shown(own)}")
    parts: dict[str, tuple[Pair, ...]] = {}
    for part in ("train", "test"):
        pairs = record[part]
        if not isinstance(pairs, list) or not pairs:
            raise RunError(f"{part} must be a list of at least one pair, got {shown(pairs)}")
        parts[part] = tuple(_pair(pair, f"{part} {n}", part == "train") for n, pair in enumerate(pairs, 1))
    return Puzzle(str(own), parts["train"], parts["test"])


def _pair(record: Any, where: str, is_known: bool) -> Pair:
    if not isinstance(record, dict) or "input" not in record or (is_known and record.get("output") is None):
        raise RunError(f"{where} must be an object with input{' and output' * is_known}, got {shown(record)}")
    output = record.get("output")
    return Pair(
        _grid(record["input"], f"{where}, input"), None if output is None else _grid(output, f"{where}, output")
    )


def _grid(rows: Any, where: str) -> Grid:
    is_grid = (
        isinstance(rows, list)
        and 1 <= len(rows) <= LARGEST
        and all(isinstance(row, list) and 1 <= len(row) <= LARGEST and len(row) == len(rows[0]) for row in rows)
        and all(type(cell) is int and 0 <= cell < COLOURS for row in rows for cell in row)
    )
    if not is_grid:
        raise RunError(
            f"{where} must be 1 to {LARGEST} rows of 1 to {LARGEST} colours, all as long, each from 0 to "
            f"{COLOURS - 1}, got {json.dumps(rows)[:60]}"
        )
    return tuple(map(tuple, rows))


def without(pairs: Sequence[Pair], left_out: int) -> list[Pair]:
    """All pairs, the one that is left out last: it is what the others are to explain."""
    return [*pairs[:left_out], *pairs[left_out + 1 :], pairs[left_out]]


def ids_of(pairs: Sequence[Pair], encode: Encode) -> tuple[list[int], list[bool]]:
    """Token ids of pairs, and which of them are to be learnt: every output but the first, which nothing has shown."""
    ids: list[int] = []
    learnt: list[bool] = []
    outputs = 0
    for text, is_output in pieces_of(pairs):
        tokens = encode(text)
        ids += tokens
        learnt += [is_output and outputs >= 2] * len(tokens)
        outputs += is_output  # an output is two pieces: its grid, and its end
    return ids, learnt
