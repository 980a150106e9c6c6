"""The paths of one question: numbered, turned into requests, taken in again, and let go of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, cast

from ..engines.base import ParkingEngine, Request, Sample
from ..scoring.base import Scorer
from .base import Grow
from .path import Ask, Path
from .task import Budget, SpentError, encode


@dataclass(frozen=True)
class Tools:
    """What a search uses. name: the method's short form; is_reread: whether the engine reads paths again."""

    name: str
    engine: ParkingEngine
    tokenizer: Any
    scorer: Scorer | None = None
    budget: Budget = field(default_factory=Budget)
    is_reread: bool = False


class Tree:
    """Every path that a question asked for.

    tokens: that were drawn, those of cancelled legs included; rounds: how often legs were asked for
    limit:  tokens that a path may have behind its prompt
    """

    def __init__(self, tools: Tools, seed: int, serial: int, limit: int) -> None:
        self.tools = tools
        self.seed = seed
        self.serial = serial
        self.limit = limit
        self.paths: list[Path] = []
        self.rounds = self.tokens = 0
        # By the number that the path will have; last what a leg that runs to its limit will have come to.
        self._asked: dict[int, tuple[Ask, Request, str]] = {}
        self._unsent: list[int] = []
        self._round: list[int] = []  # the numbers that the round waits for, in the order of its asks
        self._grown: dict[int, Path] = {}
        self._released: dict[Path, int] = {}
        self._parked: list[Path] = []

    def root(self, prompt: tuple[int, ...]) -> Path:
        """The root of a prompt."""
        root = Path(len(self.paths), None, tuple(prompt))
        self.paths.append(root)
        return root

    def cut(self, path: Path, kept: int) -> Path:
        """See `Task.cut`."""
        if path.parent is None or not 1 <= kept <= len(path.tokens):
            raise ValueError(f"of path {path.number} 1 to {len(path.tokens)} tokens may be kept, got {kept}")
        fresh: dict[str, Any] = {
            "ended_by": None,
            "scores": (),
            "answer": None,
            "fate": "",
            "parked": None,
            "state": None,
        }
        fresh |= {"number": len(self.paths), "origin": path, "finish": "cut", "_forks": {}, "greedy": {}}
        fresh |= {"tokens": path.tokens[:kept], "stats": path.stats[:kept], "appended": min(path.appended, kept)}
        less = replace(path, **fresh)
        self.paths.append(less)
        self._decode(less, (), less.text)
        return less

    @property
    def legs(self) -> list[Path]:
        """All paths but the roots."""
        return [path for path in self.paths if path.parent is not None]

    # --- growing ------------------------------------------------------------------------------------------------------

    def grow(self, grow: Grow) -> list[Path]:
        """Number the asks of a round and let go of what they leave behind; returns the paths that are dropped by it.

        raises: ValueError for an ask that cannot be served, SpentError where the budget does not reach
        """
        if not grow.asks:
            raise ValueError("Grow needs at least one ask, got none; return a Choice where nothing is left to grow")
        for ask in grow.asks:
            if not self.tools.engine.traits.token_ids and (ask.path.parent is not None or ask.append):
                engine = self.tools.engine.traits.name
                raise ValueError(
                    f"{self.tools.name} continues a text by its token ids, and {engine} does not tell them; use best, "
                    "weighted or vote"
                )
            if ask.path in self._released:
                raise ValueError(
                    f"path {ask.path.number} was let go of in round {self._released[ask.path]}; name it in keep="
                )
        share = self._share(len({_key(ask) for ask in grow.asks if ask.temperature == 0 and not _known(ask)})
                            + sum(ask.temperature > 0 for ask in grow.asks))  # fmt: skip
        self.rounds += 1
        dropped = self._let_go({ask.path for ask in grow.asks} | set(grow.keep))
        self._round, self._grown = [], {}
        for ask in grow.asks:
            path = _known(ask)
            if path is None:
                path = Path(len(self.paths), ask.path, ask.path.prompt, finish="", temperature=ask.temperature)
                path.stream, path.k = ask.path.next_stream(ask.temperature)
                self.paths.append(path)
                self._asked[path.number] = ask, *self._request(ask, path, share, park=not grow.ends)
                self._unsent.append(path.number)
                if ask.temperature == 0:
                    ask.path.greedy[_key(ask)] = path
            elif path.finish:
                self._grown[path.number] = path
            self._round.append(path.number)
        return dropped

    def grown(self) -> list[Path] | None:
        """The paths of the round, in the order of its asks; None while some of them are being written."""
        if not self._round or not all(number in self._grown for number in self._round):
            return None
        numbers, self._round = self._round, []
        return [self._grown[number] for number in numbers]

    def unsent(self) -> list[Request]:
        """What has not been sent to the engine yet."""
        unsent, self._unsent = self._unsent, []
        return [self._asked[number][1] for number in unsent]

    def _share(self, asks: int) -> float:
        """The tokens that each of so many asks may draw of what is left."""
        budget = self.tools.budget
        if len(self.legs) + asks > budget.legs:
            raise SpentError(f"the budget of {budget.legs:,} legs is spent")
        if budget.tokens is None or not asks:
            return inf
        share = (budget.tokens - self.tokens) // asks
        if share < 1:
            raise SpentError(f"{budget.tokens - self.tokens} of {budget.tokens:,} tokens are left for {asks} legs")
        return share

    def _request(self, ask: Ask, path: Path, share: float, *, park: bool) -> tuple[Request, str]:
        is_text = isinstance(ask.append, str) and ask.append
        append = encode(self.tools.tokenizer, str(ask.append)) if is_text else tuple(map(int, ask.append))
        written = len(ask.path.written_ids())
        room = self.limit - written - len(append)
        if room < 1:
            raise ValueError(
                f"a path may have {self.limit} tokens, path {ask.path.number} has {written} and append {len(append)} "
                "more; ask for more max_new_tokens"
            )
        most = int(min(ask.max_new_tokens, room, share))
        request = Request(
            ask.path.ids(),
            temperature=ask.temperature,
            top_k=ask.top_k,
            top_p=ask.top_p,
            min_p=ask.min_p,
            seed=self.seed,
            stream=path.stream,
            max_new_tokens=most,
            min_new_tokens=min(ask.min_new_tokens, most),
            stop=ask.stop,
            penalties=ask.penalties,
            logits_processor=ask.logits_processor,
            grammar=ask.grammar,
            key=(self.serial, path.number),
            after=None if ask.path.parent is None else self.parked(ask.path),
            append=append,
            until=ask.until,
            until_ids=ask.until_ids,
            legs=ask.legs,
            park=park,
        )
        return request, "limit" if min(room, share) <= ask.max_new_tokens else "length"

    def enter(self, sample: Sample) -> Path:
        """The path of a sample that is not written any more."""
        number = cast(tuple[int, int], sample.request.key)[1]
        ask, request, at_limit = self._asked.pop(number)
        path = self.paths[number]
        tokens, finish, path.ended_by = list(sample.tokens), sample.finish or "cancelled", sample.ended_by
        if finish == "eos":
            path.ended_by = tokens.pop()
        elif finish == "length":
            finish = at_limit if len(tokens) - sample.appended >= request.max_new_tokens else "context"
        path.tokens, path.stats, path.finish = tuple(tokens), tuple(sample.stats), finish
        if finish in ("until", "length") and len(path.written_ids()) >= self.limit:
            path.finish = "limit"  # its end and the limit fell together
        path.appended, path.parked, path.state = sample.appended, sample.parked, sample.state
        if path.parked is not None:
            self._parked.append(path)
        self.tokens += len(tokens) - sample.appended + (path.ended_by is not None)
        self._decode(path, ask.stop, sample.text)
        self._grown[number] = path
        return path

    def _decode(self, path: Path, stop: Sequence[str], text: str) -> None:
        """Its text: of all its tokens at once, since a character, or a space in front of a word, may span two legs."""
        assert path.parent is not None
        before = path.parent.whole()
        is_plain = path.parent.parent is None and not path.appended and path.finish != "cut"
        if self.tools.tokenizer is None or is_plain:
            path.text, path.whole_text = text, before + text
            return
        decode = self.tools.tokenizer.decode
        whole = str(decode(list(path.written_ids()), skip_special_tokens=True))
        if path.finish == "stop":
            ends = [at for word in stop if (at := whole.find(word, len(before))) >= 0]
            whole = whole[: min(ends)] if ends else whole
        path.whole_text = whole
        path.text = whole[len(before) :] if whole.startswith(before) else str(decode(path.tokens))

    # --- what the engine keeps ----------------------------------------------------------------------------------------

    def parked(self, path: Path) -> Any:
        """What the engine keeps of a path, or of a longer one cut down to it; None where it keeps nothing."""
        if path.parked is None:
            source = path.origin
            if path.parent is None:
                source = next((p for p in self._parked if p.line()[0] is path), None)
            if source is not None and source.parked is not None:
                path.parked = self.tools.engine.cut(source.parked, len(path.ids()))
                self._parked.append(path)
        return path.parked

    def read(self, path: Path, tokens: Sequence[int]) -> list[float]:
        """See `base.Read`."""
        parked = self.parked(path)
        if parked is None and not self.tools.is_reread:
            raise ValueError(f"nothing is kept of path {path.number}; grow it first, and name it in keep=")
        return self.tools.engine.read(parked, tuple(tokens))

    def _let_go(self, wanted: Iterable[Path]) -> list[Path]:
        """Release all but these paths and those above them; returns what might have been continued."""
        needed = {above for path in wanted for above in path.line()}
        needed |= {path.origin for path in needed if path.origin is not None}
        dropped = []
        for path in self.legs:
            if path not in needed and path not in self._released:
                self._released[path] = self.rounds
                if not path.is_final and path.finish != "cancelled" and not path.fate:
                    path.fate = "dropped"
                    dropped.append(path)
        self._release([path for path in self._parked if path in self._released])
        return dropped

    def _release(self, gone: Sequence[Path]) -> None:
        self.tools.engine.release([path.parked for path in gone if path.parked is not None])
        for path in gone:
            path.parked = None
        self._parked = [path for path in self._parked if path.parked is not None]

    def close(self) -> None:
        """Release all that is kept."""
        self._release(self._parked)


def _key(ask: Ask) -> tuple[Any, ...]:
    """What two asks of one path must have in common to be the same text at temperature 0."""
    filters = (id(ask.path), ask.append, ask.until, ask.until_ids, ask.legs, ask.stop)
    return (*filters, ask.max_new_tokens, ask.min_new_tokens, ask.penalties, id(ask.logits_processor), id(ask.grammar))


def _known(ask: Ask) -> Path | None:
    """The path that was asked for before and would be written again: at temperature 0 there is one text."""
    return ask.path.greedy.get(_key(ask)) if ask.temperature == 0 else None
