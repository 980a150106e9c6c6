"""Many puzzles, each learnt from and answered by itself; a line for each test, kept as soon as it is there.

The file's first line has the settings, and it is gone on with under the same ones only. `compared` holds two such files
against each other, such as one with and one without learning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..engines.base import Engine
from ..evaluation.dataset import RunError, parsed
from ..evaluation.journal import Journal, Lock
from ..evaluation.metrics import paired_interval, wilson
from .adapters import Tuning
from .puzzles import Puzzle
from .test_time import LESSONS, Answer, Looks, answer_puzzle

FORMAT = 1
OnAnswer = Callable[[Answer], None]
OnFailure = Callable[[str, str], None]  # (puzzle, what is wrong with it)


@dataclass(frozen=True)
class Score:
    """Of so many tests with known outputs: how many were right in two attempts, and in the first; [95 % Wilson].

    tests: all that are in the file
    """

    tests: int
    known: int
    right: int
    first: int

    def __str__(self) -> str:
        low, high = wilson(self.right, self.known)
        return (
            f"{self.right} of {self.known} right in two attempts ({low:.0%} to {high:.0%}), {self.first} in the first"
        )


def answer_all(
    model: Any,
    tokenizer: Any,
    puzzles: Sequence[Puzzle],
    out: Path,
    *,
    tuning: Tuning | None = None,
    looks: Looks | None = None,
    most: int = LESSONS,
    resume: bool = False,
    named: dict[str, Any] | None = None,
    on_answer: OnAnswer | None = None,
    on_failure: OnFailure | None = None,
    engine: Engine | None = None,
) -> Score:
    """Answer every puzzle into the file `out`; what it has already is not answered again.

    named: what the settings say of the model; None = its name_or_path
    on_failure: called for a puzzle that cannot be answered, one that is too long for example; the others go on

    raises: RunError for a file that cannot be gone on with; ModuleNotFoundError without peft
    """
    tuning, looks = tuning or Tuning(), looks or Looks()
    named = {"model": str(getattr(model, "name_or_path", ""))} if named is None else named
    head = settings(puzzles, tuning, looks, most, named)
    check_file(out, head, resume=resume)
    lock = Lock(out.with_name(out.name + ".lock"))
    try:
        journal = Journal(out)
        try:
            journal.repair()
            if not journal.size:
                journal.append(_line(head))
            done = {(record["puzzle"], record["test"]) for record in read_answers(out)[1]}
            if engine is None:
                from ..engines.local.engine import LocalEngine

                engine = LocalEngine(model, tokenizer)
            for puzzle in puzzles:
                if all((puzzle.id, n) in done for n in range(len(puzzle.test))):
                    continue
                try:
                    answers = answer_puzzle(
                        model, tokenizer, puzzle, tuning=tuning, looks=looks, most=most, engine=engine
                    )
                except ValueError as error:
                    if on_failure is None:
                        raise
                    on_failure(puzzle.id, str(error))
                    continue
                for answer in answers:
                    if (puzzle.id, answer.test) not in done:
                        journal.append(_line(answer.to_json()))
                    if on_answer is not None:
                        on_answer(answer)
            journal.sync()
        finally:
            journal.close()
    finally:
        lock.release()
    return score_of(out)


def settings(
    puzzles: Sequence[Puzzle], tuning: Tuning, looks: Looks, most: int, named: dict[str, Any]
) -> dict[str, Any]:
    """The first line of a file of answers."""
    digest = sha256(json.dumps([asdict(puzzle) for puzzle in puzzles]).encode("utf-8", "backslashreplace"))
    return {
        "answers": FORMAT,
        **named,
        "puzzles": digest.hexdigest(),
        "tuning": asdict(tuning),
        "looks": asdict(looks),
        "most": most,
    }


def check_file(out: Path, head: dict[str, Any], *, resume: bool) -> None:
    """Raise RunError where answers under these settings cannot be put there."""
    if not out.exists():
        if resume:
            raise RunError(f"--resume goes on with a file of answers, and there is no {out}; leave it out to begin one")
        return
    if not resume:
        raise RunError(f"{out} is there already; go on with it by --resume, or name another file")
    if out.stat().st_size == 0:
        return
    old = read_answers(out)[0]
    if odd := [name for name in head if old.get(name) != head[name]]:
        raise RunError(
            f"{out} was begun with {odd[0]} {old.get(odd[0])!r}, and now it is {head[odd[0]]!r}; take the old one, or "
            "name another file"
        )


def read_answers(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(settings, a record a test) of a file of `answer_all`; raises RunError, with the line, for any other."""
    records: list[dict[str, Any]] = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            record = parsed(line)
            if number == 1 and (not isinstance(record, dict) or record.get("answers") != FORMAT):
                raise RunError("it is no file of answers; fastsample ttt makes one")
            if number > 1 and not {"puzzle", "test", "is_right", "first", "tokens"} <= set(record):
                raise RunError("it is no answer; the file was edited or damaged: take the line out, and --resume")
        except RunError as error:
            if number == len(lines) > 1 and not path.read_bytes().endswith(b"\n"):
                break  # it was never finished
            raise RunError(f"{path}, line {number}: {error}") from None
        records.append(record)
    if not records:
        raise RunError(f"{path} is empty; fastsample ttt makes a file of answers")
    return records[0], records[1:]


def score_of(path: Path) -> Score:
    """What a file of answers comes to."""
    records = read_answers(path)[1]
    known = [record for record in records if record["is_right"] is not None]
    return Score(len(records), len(known), sum(r["is_right"] for r in known), sum(r["first"] for r in known))


def compared(path: Path, other: Path) -> tuple[int, float, float, float]:
    """(tests that both have, difference of the shares right, its 95 % paired interval): path less other.

    raises: RunError for files that have no test in common, or are not of the same puzzles
    """
    (head, mine), (other_head, others) = read_answers(path), read_answers(other)
    if head["puzzles"] != other_head["puzzles"]:
        raise RunError(f"{path} and {other} are of other puzzles, and cannot be compared test by test")
    right = {(r["puzzle"], r["test"]): bool(r["is_right"]) for r in others if r["is_right"] is not None}
    pairs = [(r["is_right"], right[key]) for r in mine if (key := (r["puzzle"], r["test"])) in right]
    if not pairs:
        raise RunError(f"{path} and {other} have no test with a known output in common")
    a, b = zip(*pairs)
    low, high = paired_interval(a, b)
    return len(pairs), (sum(a) - sum(b)) / len(pairs), low, high


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"
