"""Test-time training (arXiv 2411.07279): for each puzzle the model learns from its pairs, answers it, and forgets.

    lessons   every training pair left out in turn, the others in front of it, in many views
    learn     LoRA on the outputs (`adapters`)
    answer    the test's grid in every view, put back into the puzzle's own
    vote      the three most frequent of each symmetry; then the two most frequent of these, ties by the identity's
    forget    the weights are put back to the bit

The test's output is looked at to judge the answer, and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..engines.base import Engine
from ..generating.generate import generate_each
from ..models.config import context_length
from ..strategies.task import encode
from ..voting.rule import at_least
from .adapters import Lesson, Tuning, adapted
from .puzzles import END, Encode, Grid, Pair, Puzzle, View, grid_in, ids_of, text_of, views_of, without

LESSONS = 250  # at most, of a puzzle
EACH = 3  # answers of a symmetry that come into the last vote
ATTEMPTS = 2  # answers that a puzzle's test may have, as in ARC


@dataclass(frozen=True)
class Looks:
    """How a puzzle is looked at while it is answered.

    orders:      views of each symmetry: the first as it is, the others with other colours and orders of pairs
    colours:     whether colours are changed; samples, temperature: of each view; 0 draws one
    """

    orders: int = 2
    colours: bool = True
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, orders=self.orders, samples=self.samples)
        at_least(0, seed=self.seed)
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be a finite number of at least 0, got {self.temperature}; 0 is usual")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"at temperature 0 all {self.samples} samples say the same; ask for 1, or for a warmer one"
            )


@dataclass(frozen=True)
class Answer:
    """What was found for one test of a puzzle.

    test:     its number, from 0; attempts: up to two grids, the likelier one first
    is_right: whether one of them is the right one, None where that is not known; first: the same of the first
    votes:    of each attempt, over all views; texts: that were written; grids: how many of them were grids
    losses:   of each step of learning; lessons: how many there were; tokens: that were written
    """

    puzzle: str
    test: int
    attempts: tuple[Grid, ...]
    is_right: bool | None
    first: bool | None
    votes: tuple[int, ...]
    texts: int
    grids: int
    lessons: int
    tokens: int
    losses: tuple[float, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`."""
        return asdict(self)


def lessons_of(puzzle: Puzzle, encode: Encode, *, most: int = LESSONS, seed: int = 0) -> list[Lesson]:
    """What the puzzle's training pairs teach; its tests are not looked at.

    Every pair is left out in turn, in every symmetry; then again with other colours and orders, until there are `most`.
    A puzzle of one pair teaches nothing.
    """
    count = len(puzzle.train)
    if count < 2:
        return []
    symmetries = puzzle.symmetries()
    each = -(-most // (count * len(symmetries)))
    views = views_of(symmetries, count - 1, each, colours=True, seed=f"{seed} {puzzle.id}")
    # By number, so that a cut at `most` takes no symmetry's plain views away before another's drawn ones.
    turns = sorted(range(len(views)), key=lambda n: (n % each, n // each))
    lessons = []
    for n in turns:
        for left_out in range(count):
            *shown, last = without(puzzle.train, left_out)
            view = views[n]
            seen = [*view.pairs(shown), *View(view.symmetry, view.colours, (0,)).pairs([last])]
            ids, learnt = ids_of(seen, encode)
            lessons.append(Lesson(tuple(ids), tuple(learnt)))
    return lessons[:most]


def answer_puzzle(
    model: Any,
    tokenizer: Any,
    puzzle: Puzzle,
    *,
    tuning: Tuning | None = None,
    looks: Looks | None = None,
    most: int = LESSONS,
    engine: Engine | None = None,
) -> list[Answer]:
    """Learn from a puzzle, answer each of its tests, forget. The model is afterwards what it was before, to the bit.

    tuning: with steps=0 nothing is learnt, and what is compared with it has the same views and votes
    most:   lessons; engine: what writes, over this model; None makes one

    raises: ValueError for a puzzle that is too long for the model; what `adapters.adapted` raises
    """
    looks = looks or Looks()

    def tokens(text: str) -> tuple[int, ...]:
        return encode(tokenizer, text)

    start = tuple(tokenizer("")["input_ids"])
    lessons = [
        Lesson(start + lesson.ids, (False,) * len(start) + lesson.learnt)
        for lesson in lessons_of(puzzle, tokens, most=most, seed=looks.seed)
    ]
    asked = [_asked(puzzle, n, looks, tokens, start) for n in range(len(puzzle.test))]
    grids = [g for pair in puzzle.train for g in (pair.input, pair.output) if g is not None]
    room = len(tokens(END)) + max(len(tokens(text_of(g))) for g in [*grids, *(pair.input for pair in puzzle.test)])
    longest = max([len(lesson.ids) for lesson in lessons] + [len(ids) + room for mine in asked for _, ids in mine])
    if longest > context_length(model):
        raise ValueError(f"puzzle {puzzle.id} takes {longest:,} tokens, and the model reads {context_length(model):,}")
    found = []
    with adapted(model, lessons, tuning) as losses:
        for n, mine in enumerate(asked):
            samples = generate_each(
                model, tokenizer, [ids for _, ids in mine], n=looks.samples, temperature=looks.temperature,
                max_new_tokens=room, stop=(END,), seed=looks.seed, engine=engine,
            )  # fmt: skip
            for _ in samples:
                pass
            views = [view for view, _ in mine for _ in range(looks.samples)]
            said = [(view, grid_in(sample.text)) for view, sample in zip(views, samples.all)]
            back = [(view.symmetry, view.back(grid)) for view, grid in said if grid is not None]
            attempts = elected(back)
            right = puzzle.test[n].output
            found.append(
                Answer(
                    puzzle.id, n, attempts,
                    is_right=None if right is None else right in attempts,
                    first=None if right is None else attempts[:1] == (right,),
                    votes=tuple(sum(grid == one for _, grid in back) for one in attempts),
                    texts=len(said), grids=len(back), lessons=len(lessons) if losses else 0,
                    tokens=sum(len(sample.tokens) for sample in samples.all), losses=tuple(losses),
                )
            )  # fmt: skip
    return found


def _asked(puzzle: Puzzle, test: int, looks: Looks, tokens: Encode, start: tuple[int, ...]) -> list[tuple[View, Any]]:
    """(view, prompt as token ids) of one test in all its views."""
    views = views_of(
        puzzle.symmetries(), len(puzzle.train), looks.orders, colours=looks.colours, seed=f"{looks.seed} {puzzle.id}"
    )
    question = puzzle.test[test].input
    return [(v, start + tuple(ids_of([*v.pairs(puzzle.train), Pair(v.of(question), None)], tokens)[0])) for v in views]


def elected(said: Sequence[tuple[str, Grid]]) -> tuple[Grid, ...]:
    """The attempts among (symmetry, grid in the puzzle's own view): see the top of this file.

    The last vote has a voice a symmetry for each of its three; ties go to the identity's votes, then to all votes,
    then to what was said first.
    """
    each: dict[str, Counter[Grid]] = {}
    for symmetry, grid in said:
        each.setdefault(symmetry, Counter())[grid] += 1
    voices: Counter[Grid] = Counter()
    everyone: Counter[Grid] = Counter(grid for _, grid in said)
    for votes in each.values():
        voices.update(grid for grid, _ in votes.most_common(EACH))
    own: Mapping[Grid, int] = each.get("identity", Counter())
    ranked = sorted(voices, key=lambda g: (-voices[g], -own.get(g, 0), -everyone[g]))
    return tuple(ranked[:ATTEMPTS])
