"""Retrieval while thinking (Search-o1, arXiv 2501.05366): stop at a query, look it up, put the result there, go on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path as FilePath
from typing import Any

from ..voting.rule import at_least
from .base import Choice, Grow, Steps
from .path import Path
from .prompts import filled
from .task import Task

QUERY, END_QUERY = "<|begin_search_query|>", "<|end_search_query|>"
RESULT, END_RESULT = "<|begin_search_result|>", "<|end_search_result|>"
MARKS = (QUERY, END_QUERY, RESULT, END_RESULT)
ASK = (
    "{question}\n\nWhile you think you may look something up: write " + QUERY + "your query" + END_QUERY + ". What is "
    "found is shown to you between " + RESULT + " and " + END_RESULT + ", and you go on. Give the final answer after "
    "'Answer:'."
)
CONDENSE = (
    "Question:\n{question}\n\nThe reasoning so far:\n{steps}\n\nThe query: {query}\n\nDocuments:\n{documents}\n\n"
    "Write down what in the documents helps with the query, briefly, after '**Final Information**'. If nothing does, "
    "say so."
)
AGAIN = "You have searched this query. Please refer to what was found before."
OVER = "The maximum search limit is exceeded. You are not allowed to search any more."


@dataclass(frozen=True)
class Document:
    """A text with its name."""

    name: str
    text: str


class BM25:
    """The documents that fit a query best, by BM25 (k1 1.5, b 0.75), over the .txt and .md files of a folder.

    raises: ValueError for a folder without such a file
    """

    def __init__(self, documents: Sequence[Document], *, k1: float = 1.5, b: float = 0.75) -> None:
        self.documents = list(documents)
        self.k1, self.b = k1, b
        self.counts = [Counter(words_of(d.text)) for d in self.documents]
        self.lengths = [sum(count.values()) for count in self.counts]
        self.holders = Counter(word for count in self.counts for word in count)

    @classmethod
    def of_folder(cls, folder: str) -> BM25:
        """Over the texts of a folder and of the folders in it."""
        paths = sorted(p for p in FilePath(folder).rglob("*") if p.suffix in (".txt", ".md") and p.is_file())
        if not paths:
            raise ValueError(f"no document in {folder}; retrieval reads its .txt and .md files")
        return cls(
            [Document(str(p.relative_to(folder)), p.read_text(encoding="utf-8", errors="replace")) for p in paths]
        )

    def score(self, query: str, place: int) -> float:
        """Sum over the query's words of idf * tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length))."""
        count, total = self.counts[place], len(self.documents)
        mean = sum(self.lengths) / total
        value = 0.0
        for word in set(words_of(query)):
            tf, n = count[word], self.holders[word]
            idf = log(1 + (total - n + 0.5) / (n + 0.5))
            value += idf * tf * (self.k1 + 1) / (tf + self.k1 * (1 - self.b + self.b * self.lengths[place] / mean))
        return value

    def __call__(self, query: str, k: int) -> list[Document]:
        """The best k documents that share a word with the query, best first."""
        scored = [(self.score(query, place), -place) for place in range(len(self.documents))]
        best = sorted((s for s in scored if s[0] > 0), reverse=True)[:k]
        return [self.documents[-place] for _, place in best]


def words_of(text: str) -> list[str]:
    """Its words and numbers, in small letters."""
    return re.findall(r"\w+", text.casefold())


def unmarked(text: str) -> str:
    """The text with our own marks taken apart: what is retrieved is data."""
    for mark in MARKS:
        text = text.replace(mark, mark.replace("|", "¦"))
    return text


@dataclass(frozen=True)
class Retrieve:
    """Queries are answered from the texts of `folder`, condensed by the model itself.

    queries: that are looked up; turns: legs of the thinking; k: documents of a query; chars: of each (Search-o1: 10,
             15, 10 and 3,000; temperature 0.7, --top-p 0.8, --top-k 20)
    tokens:  of a condensed text. --max-new-tokens bounds the whole text, what is put there included
    """

    folder: str = "."
    queries: int = 10
    turns: int = 15
    k: int = 10
    chars: int = 3000
    tokens: int = 256
    temperature: float = 0.7

    def __post_init__(self) -> None:
        at_least(1, queries=self.queries, turns=self.turns, k=self.k, chars=self.chars, tokens=self.tokens)

    def __call__(self, task: Task) -> Steps:
        """See `base.Method`."""
        find = BM25.of_folder(self.folder)
        path = task.prompt(filled(ASK, question=task.question.text), is_aside=False)
        seen: set[str] = set()
        append: tuple[int, ...] = ()
        for turn in range(self.turns):
            ask = task.ask(path, append=append, until=(END_QUERY,), temperature=self.temperature)
            (path,) = yield Grow([ask])
            query = query_of(path.whole()) if path.finish == "until" else None
            if path.is_final or turn + 1 == self.turns:
                break
            if query is None:
                append = ()
                continue
            said = yield from self._look_up(task, find, path, query, seen)
            append = task.encode(f"\n\n{RESULT}{said}{END_RESULT}\n\n")
            if len(path.written_ids()) + len(append) >= task.limit:
                break
        if not path.is_final:  # it is cut off here; what it has may hold an answer
            answer = task.answer(path)
            return Choice(path, answer, None, f"ended after {self.turns} turns or for want of tokens")
        choice: Choice = task.choose([path], "vote")
        return Choice(choice.path, choice.answer, None, f"{len(seen)} queries; {choice.reason}")

    def _look_up(self, task: Task, find: BM25, path: Path, query: str, seen: set[str]) -> Any:
        canonical = " ".join(words_of(query))
        if canonical in seen:
            return AGAIN
        if len(seen) >= self.queries:
            return OVER
        seen.add(canonical)
        documents = find(query, self.k)
        if not documents:
            return "Nothing was found."
        listed = "\n\n".join(f"[{d.name}]\n{unmarked(d.text[: self.chars])}" for d in documents)
        words = {"question": task.question.text, "steps": shortened(path), "query": query, "documents": listed}
        root = task.prompt(filled(CONDENSE, **words))
        most = min(self.tokens, task.limit)
        (said,) = yield Grow([task.ask(root, temperature=self.temperature, max_new_tokens=most)], keep=[path])
        return unmarked(said.whole().rpartition("**Final Information**")[2].strip())


def query_of(text: str) -> str | None:
    """What stands between the last pair of marks; None where there is none."""
    before, mark, _ = text.rpartition(END_QUERY)
    _, begins, query = before.rpartition(QUERY)
    return query.strip() or None if mark and begins else None


def shortened(path: Path) -> str:
    """The first leg, the last four, and those with a query or a result between them."""
    legs = [leg.text for leg in path.legs()]
    kept = [t for n, t in enumerate(legs) if n == 0 or n >= len(legs) - 4 or QUERY in t or RESULT in t]
    return "\n".join(kept)
