"""Labels of legs from stored runs: how often the policy's own texts end right behind each of them.

A leg's label is the share of right ends behind it: of a text that was written at once, its verdict, 0 or 1; in a tree,
the mean over its children of what they are worth, each being one draw of the policy (Math-Shepherd, arXiv 2312.08935,
has it over rollouts: `evaluate --strategy rollouts` writes them; `omega` looks for the first mistake, and the places
that it has continued are all that is labelled). So it is an estimate of what *this* policy will do,
and no truth about the leg: models reach right answers from wrong legs (arXiv 2501.07301). A tree that a scorer has
pruned says more of what that scorer liked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import fsum, isfinite
from pathlib import Path
from typing import Any

from ..answers.equivalence import canonical
from ..evaluation.dataset import Item, RunError, parsed, shown
from ..evaluation.stored import read_config, read_items, read_paths, read_samples, settings_of
from ..scoring.base import Candidate, Scorer, numbers_of
from ..strategies.prompts import prompt_for
from ..strategies.question import Question
from ..strategies.splitting import Splitter

FINAL = ("eos", "stop", "length", "limit", "context")


@dataclass(frozen=True)
class Labelled:
    """A text whose legs have labels.

    question: its id; prompt, tokens: token ids, without the EOS that ended it
    ends:     how many of the tokens there are up to the end of each leg; those of legs told before are left out
    labels:   [len(ends)] in [0, 1]
    """

    question: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    ends: tuple[int, ...]
    labels: tuple[float, ...]


@dataclass
class Counts:
    """What was read. unknown: questions without a key, open: texts that have not come to an end; both are passed by."""

    texts: int = 0
    legs: int = 0
    right: float = 0.0
    unknown: int = 0
    open: int = 0


def labels_of(
    folder: str | Path,
    tokenizer: Any,
    *,
    until: str = "\n\n",
    verifier: Scorer | None = None,
    counts: Counts | None = None,
) -> Iterator[Labelled]:
    """The labelled texts of a run.

    until:    what ends a leg, "" for whole texts; legs of a tree are split there too
    verifier: a scorer of whole texts, 0.5 or more is right; None compares with the question's key
    raises:   RunError for a folder without a run, or with damaged lines
    """
    folder, counts = Path(folder), Counts() if counts is None else counts
    config, items = read_config(folder), {item.id: item for item in read_items(folder)}
    texts = _trees(folder, items) if "strategy" in config else _samples(folder, items, config, tokenizer)
    # A search for the first mistake says nothing of the legs between the places that it has looked at.
    split = Splitter(tokenizer, "" if str(config.get("strategy")).startswith("omega") else until)
    unknown = set()
    for item, nodes, prompt in texts:
        if verifier is None and item.answer is None:
            unknown.add(item.id)
            continue
        yield from _labelled(item, nodes, prompt, split, verifier, counts)
    counts.unknown += len(unknown)


@dataclass
class _Node:
    """A leg: its tokens without EOS; answer, text: of the whole text up to its end, where it is final."""

    tokens: tuple[int, ...]
    text: str
    parent: int | None
    is_final: bool
    answer: str | None


_Nodes = dict[int, _Node]  # by number, parents before their children


def _trees(folder: Path, items: Mapping[str, Item]) -> Iterator[tuple[Item, _Nodes, tuple[int, ...]]]:
    """Every tree of a run of a method; what a method wrote behind another prompt answers no question."""
    roots: dict[str, tuple[int, tuple[int, ...]]] = {}
    trees: dict[str, _Nodes] = {}
    for record in read_paths(folder):
        question, number = record["question"], record["number"]
        if record["parent"] is None:
            if number == 0:
                roots[question] = 0, tuple(record.get("prompt", ()))
                trees[question] = {}
            continue
        parent = record["parent"]
        nodes = trees.get(question, {})
        if parent != 0 and parent not in nodes:
            continue
        before = nodes[parent].text if parent else ""
        tokens, text = tuple(record["tokens"]), before + record["text"]
        nodes[number] = _Node(tokens, text, parent or None, record["finish"] in FINAL, record["answer"])
    for question, nodes in trees.items():
        if question in items:
            yield items[question], nodes, roots[question][1]


def _samples(
    folder: Path, items: Mapping[str, Item], config: dict[str, Any], tokenizer: Any
) -> Iterator[tuple[Item, _Nodes, tuple[int, ...]]]:
    """Every sample of a vote, as a tree of one leg."""
    settings = settings_of(config)
    for question, sample in read_samples(folder):
        if question not in items:
            continue
        item, ids = items[question], sample.token_ids
        tokens = ids[:-1] if sample.finish == "eos" and ids else ids
        node = _Node(tokens, sample.text, None, sample.finish in FINAL, sample.answer)
        yield item, {1: node}, prompt_for(tokenizer, Question(item.question), settings)


def _labelled(
    item: Item, nodes: _Nodes, prompt: tuple[int, ...], split: Splitter, verifier: Scorer | None, counts: Counts
) -> Iterator[Labelled]:
    worth: dict[int, list[float]] = {}
    values: dict[int, float] = {}
    for number in sorted(nodes, reverse=True):  # children have larger numbers than their parents
        node = nodes[number]
        if node.is_final:
            values[number] = float(_is_right(item, node, verifier))
            counts.texts += 1
            counts.right += values[number]
        elif number in worth:
            values[number] = fsum(worth[number]) / len(worth[number])
        if number in values and node.parent is not None:
            worth.setdefault(node.parent, []).append(values[number])
    told: set[int] = set()
    parents = {node.parent for number, node in nodes.items() if number in values}
    inner = {node.parent for node in nodes.values()}
    counts.open += sum(number not in values and number not in inner for number in nodes)
    for number in sorted(values):
        if number in parents:
            continue
        line = [number]
        while (parent := nodes[line[0]].parent) is not None:
            line.insert(0, parent)
        tokens: tuple[int, ...] = ()
        ends: list[int] = []
        labels: list[float] = []
        for step in line:
            mine = nodes[step].tokens
            if step not in told:
                found = [len(tokens) + end for end in split.ends(mine)]
                ends += found
                labels += [values[step]] * len(found)
                told.add(step)
            tokens += mine
        if ends:
            counts.legs += len(ends)
            yield Labelled(item.id, prompt, tokens, tuple(ends), tuple(labels))


def _is_right(item: Item, node: _Node, verifier: Scorer | None) -> bool:
    if verifier is None:
        return node.answer is not None and node.answer == canonical(item.answer or "")
    ((number,),) = numbers_of(verifier, [Candidate(item.question, node.text, node.answer)])
    return number >= 0.5


def write_labels(path: str | Path, labels: Iterable[Labelled], about: Mapping[str, Any]) -> None:
    """A line of what they were made from, then one for each text. raises: OSError where it cannot be written"""
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps({"labels": 1, **about}) + "\n")
        for one in labels:
            file.write(json.dumps({name: getattr(one, name) for name in Labelled.__dataclass_fields__}) + "\n")


def read_labels(path: str | Path) -> tuple[list[Labelled], dict[str, Any]]:
    """What `write_labels` wrote. raises: RunError, with the line, for a file that is none of its kind"""
    found: list[Labelled] = []
    about: dict[str, Any] = {}
    number = 0
    try:
        with open(path, "rb") as file:
            for line in file:
                number += 1
                record = parsed(line)
                if number > 1:
                    found.append(_checked(record))
                elif isinstance(record, dict) and record.get("labels") == 1:
                    about = {name: value for name, value in record.items() if name != "labels"}
                else:
                    raise RunError("it is no file of labels; fastsample labels makes one")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except RunError as error:
        raise RunError(f"{path}, line {number}: {error}") from None
    if not found:
        raise RunError(f"{path} holds no labelled text; fastsample labels makes them of runs with keys")
    return found, about


def _checked(record: Any) -> Labelled:
    if not isinstance(record, dict) or set(record) != set(Labelled.__dataclass_fields__):
        raise RunError(f"a line must hold {', '.join(Labelled.__dataclass_fields__)}, got {shown(record)}")
    rules: dict[str, Callable[[Any], bool]] = {
        "prompt": lambda x: type(x) is int and x >= 0,
        "tokens": lambda x: type(x) is int and x >= 0,
        "ends": lambda x: type(x) is int and 1 <= x <= len(record["tokens"]),
        "labels": lambda x: type(x) in (int, float) and isfinite(x) and 0 <= x <= 1,
    }
    for name, is_one in rules.items():
        wrong = [x for x in record[name] if not is_one(x)] if isinstance(record[name], list) else [record[name]]
        if wrong:
            raise RunError(f"{name} holds {shown(wrong[0])}; the file was edited or damaged, make it again")
    if len(record["ends"]) != len(record["labels"]) or not isinstance(record["question"], str):
        raise RunError("a label for each end is needed, and a question's id; the file was damaged, make it again")
    return Labelled(record["question"], *(tuple(record[name]) for name in rules))
