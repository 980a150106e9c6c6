"""Every finished text of a run, plain samples and trees alike, with the level of effort that it was asked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..strategies.budget_forcing import Efforts
from ..strategies.path import FINAL
from ..strategies.registry import method_of
from .dataset import RunError
from .stored import read_paths, read_samples


@dataclass(frozen=True)
class Text:
    """A text that came to its end, or was cut.

    effort: "low", "medium", "high", or "" of a run without efforts; run: the folder's name
    """

    text: str
    ids: tuple[int, ...]
    is_right: bool
    is_cut: bool
    effort: str
    run: str

    @property
    def tokens(self) -> int:
        """Its length."""
        return len(self.ids)


def texts_of(folder: Path, config: Mapping[str, Any], keys: Mapping[str, str]) -> Iterator[tuple[str, Text]]:
    """(question id, text) of every question with a key.

    keys: right answers in canonical form, by question id
    raises: RunError for a tree that was damaged
    """
    if "strategy" not in config:
        for q, s in read_samples(folder):
            if q in keys and s.is_finished:
                yield q, Text(s.text, s.token_ids, s.answer == keys[q], s.finish == "length", "", folder.name)
        return
    method = method_of(config["strategy"])
    levels = method.levels.split("/") if isinstance(method, Efforts) else []
    trees: dict[str, dict[int, dict[str, Any]]] = {}
    for path in read_paths(folder):
        trees.setdefault(path["question"], {})[path["number"]] = path
    for q, tree in trees.items():
        if q not in keys:
            continue
        roots = [n for n, path in sorted(tree.items()) if path["parent"] is None]
        for path in tree.values():
            if path["parent"] is None or path["finish"] not in FINAL:
                continue
            line = line_of(path, tree, f"{folder}, question {q}")
            # An Efforts run has the question's own root first, and then one for each level.
            is_leveled = levels and len(roots) == len(levels) + 1
            level = levels[roots.index(line[0]["number"]) - 1] if is_leveled else ""
            ids = tuple(token for leg in line[1:] for token in leg["tokens"])
            text = "".join(leg["text"] for leg in line[1:])
            is_cut = path["finish"] in ("limit", "context")
            yield q, Text(text, ids, path["answer"] == keys[q], is_cut, level, folder.name)


def line_of(record: dict[str, Any], tree: Mapping[int, dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """A record's path, from its root to itself; raises RunError where one of them is not there."""
    line = [record]
    while line[0]["parent"] is not None:
        parent = tree.get(line[0]["parent"])
        if parent is None or len(line) > len(tree):
            raise RunError(f"{where}: path {record['number']} continues one that is not there; the file was damaged")
        line.insert(0, parent)
    return line
