"""What a run's folder holds, read with every field looked at: a file that was edited or damaged is told by its line.

Fields that are not known are passed by. A last line without its line break is being written, or never was finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from ..engines.penalties import Penalties
from ..strategies.plan import auto_plan_of, plan_of
from ..strategies.question import Settings
from ..strategies.records import MEANS, Written
from .dataset import Item, RunError, item_of, parsed, shown
from .journal import is_whole

FORMAT = 1
MOST_SAMPLES = 1_000_000  # of a temperature, and so many million tokens of a sample: more is a damaged number
MOST_TOKENS = 1 << 24

Rule = tuple[str, Callable[[Any], bool]]  # what a field must be, in words and as a test


def _is_number(x: Any) -> bool:
    try:
        return isinstance(x, int | float) and not isinstance(x, bool) and isfinite(x)
    except OverflowError:  # of a whole number beyond the floats
        return False


def _whole(least: int, most: int = (1 << 63) - 1) -> Rule:
    words = f"a whole number from {least:,} to {most:,}" if most < 1 << 62 else f"a whole number of at least {least}"
    return words, lambda x: type(x) is int and least <= x <= most


def _list_of(words: str, is_one: Callable[[Any], bool]) -> Rule:
    return f"a list of {words}", lambda x: isinstance(x, list) and all(map(is_one, x))


def _is_votes(x: Any) -> bool:
    return isinstance(x, dict) and all(
        isinstance(by, dict) and all(type(n) is int and 0 <= n <= MOST_SAMPLES for n in by.values())
        for by in x.values()
    )


TEXT: Rule = ("text", lambda x: isinstance(x, str))
TEXT_OR_NULL: Rule = ("text or null", lambda x: x is None or isinstance(x, str))
NUMBER: Rule = ("a finite number", _is_number)
NUMBER_OR_NULL: Rule = ("a finite number or null", lambda x: x is None or _is_number(x))
BOOLEAN: Rule = ("true or false", lambda x: isinstance(x, bool))
ANY_WHOLE: Rule = ("a whole number", lambda x: type(x) is int)
NOT_NEGATIVE: Rule = ("a finite number of at least 0", lambda x: _is_number(x) and x >= 0)
FINISHES = ("eos", "stop", "length", "cancelled", "aborted")

CONFIG = {
    "rule": TEXT,
    "temperatures": _list_of("numbers", _is_number),
    "samples": _whole(1, MOST_SAMPLES),
    "slots": _whole(1, 1 << 31),
    "top_k": ANY_WHOLE,
    "top_p": NUMBER,
    "min_p": NUMBER,
    "max_new_tokens": ANY_WHOLE,
    "seed": ANY_WHOLE,
    "stop": _list_of("texts", lambda x: isinstance(x, str)),
    "system": TEXT_OR_NULL,
    "prompt_template": TEXT_OR_NULL,
    "suffix": TEXT_OR_NULL,
    "together": BOOLEAN,
    "certainty": ("full, top20 or none", ("full", "top20", "none").__contains__),
    "cut_votes": BOOLEAN,
    "is_adaptive": BOOLEAN,
    "penalties": ("an object of numbers", lambda x: isinstance(x, dict)),
}
SAMPLE = {
    "question": TEXT,
    "number": _whole(0),
    "temperature": NOT_NEGATIVE,
    "k": _whole(0),
    "stream": ANY_WHOLE,
    "text": TEXT,
    "answer": TEXT_OR_NULL,
    "tokens": _whole(0, MOST_TOKENS),
    "finish": (f"one of {', '.join(FINISHES)}", FINISHES.__contains__),
    "score": NUMBER_OR_NULL,
    "is_counted": BOOLEAN,
    "token_ids": _list_of("whole numbers", lambda x: type(x) is int),
    "certainties": _list_of("numbers up to 1e9", lambda x: _is_number(x) and abs(x) <= 1e9),
    **dict.fromkeys(MEANS, NUMBER_OR_NULL),
}
RESULT = {
    "id": TEXT,
    "tokens": _whole(0),
    "counted": _whole(0),
    "cancelled": _whole(0),
    "is_right": ("true, false or null", lambda x: x is None or isinstance(x, bool)),
}
PATH = {
    "question": TEXT,
    "number": _whole(0),
    "parent": ("a whole number of at least 0 or null", lambda x: x is None or (type(x) is int and x >= 0)),
    "temperature": NOT_NEGATIVE,
    "k": _whole(0),
    "stream": ANY_WHOLE,
    "tokens": _list_of("whole numbers", lambda x: type(x) is int),
    "appended": _whole(0, MOST_TOKENS),
    "text": TEXT,
    "finish": TEXT,
    "answer": TEXT_OR_NULL,
    "scores": _list_of("numbers", _is_number),
    "fate": TEXT,
}
# What else of a result is read, where it is there.
RESULT_EXTRAS = {
    "answer": TEXT_OR_NULL,
    "votes": ("an object of whole numbers by temperature and answer", _is_votes),
}
SESSION = dict.fromkeys(("seconds", "cpu_seconds", "steps", "prefill_tokens", "tokens"), NOT_NEGATIVE)
NEEDED_OF_A_SAMPLE = ("question", "number", "temperature", "k", "stream", "text", "answer", "tokens", "finish")
MEND = "; the file was edited or damaged: take the line out, and --resume makes up for what it held"
COSTS = "; take the line out: only the sum of the costs needs it"


def _check(record: Mapping[str, Any], rules: Mapping[str, Rule], needed: Sequence[str]) -> None:
    for name in needed:
        if name not in record:
            raise RunError(f"the field {name!r} is missing")
    for name, (words, is_met) in rules.items():
        if name in record and not is_met(record[name]):
            raise RunError(f"{name} must be {words}, got {shown(record[name])}")


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of the run in `folder`; raises RunError where there is none, or none that can be read."""
    path = folder / "config.json"
    try:
        config = parsed(path.read_bytes())
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise RunError(f"it is not of format {FORMAT}; this version cannot read it")
        _check(config, CONFIG, ("rule", "temperatures", "samples"))
        (auto_plan_of if config.get("is_adaptive") else plan_of)(config["temperatures"], config["samples"])
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder} holds no run (no config.json); fastsample evaluate makes one") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    return config


def settings_of(config: dict[str, Any]) -> Settings:
    """The settings of a run from its `config.json`; raises RunError where they are none."""
    values = {name: config[name] for name in Settings.__dataclass_fields__ if name in config}
    for name in ("temperatures", "stop"):
        values[name] = tuple(values.get(name, ()))
    try:
        return Settings(**values | {"penalties": Penalties(**config.get("penalties", {}))})
    except (ValueError, TypeError) as error:
        raise RunError(f"config.json cannot be replayed: {error}") from None


def read_items(folder: Path) -> Iterator[Item]:
    """The questions of a run; raises RunError for a line that is none, and for an id used twice."""
    seen: set[str] = set()
    for where, number, record in _lines(folder / "questions.jsonl"):
        try:
            item = item_of(record, number)
            if item.id in seen:
                raise RunError(f"the id {shown(item.id)} has been used before; ids must differ")
        except RunError as error:
            raise RunError(f"{where}: {error}") from None
        seen.add(item.id)
        yield item


def read_samples(folder: Path, plan: Sequence[tuple[float, int]] | None = None) -> Iterator[tuple[str, Written]]:
    """(question id, sample) of every complete line, in the order in which they ended.

    plan: (temperature, k) by sample number: a sample that does not belong to it is refused; None takes any
    """
    for where, _, record in _lines(folder / "samples.jsonl", MEND):
        try:
            _check(record, SAMPLE, NEEDED_OF_A_SAMPLE)
            if plan is not None:
                _belongs(record, plan)
        except RunError as error:
            raise RunError(f"{where}: {error}{MEND}") from None
        yield record["question"], Written.from_json(record)


def read_paths(folder: Path) -> Iterator[dict[str, Any]]:
    """Every leg of every tree, the `question`'s id with it; a question that was answered twice has its paths twice."""
    for where, _, record in _lines(folder / "paths.jsonl", MEND):
        try:
            _check(record, PATH, tuple(PATH))
        except RunError as error:
            raise RunError(f"{where}: {error}{MEND}") from None
        yield record


def _belongs(record: Mapping[str, Any], plan: Sequence[tuple[float, int]]) -> None:
    number, drawn = record["number"], (record["temperature"], record["k"])
    if number >= len(plan):
        raise RunError(f"number must be below {len(plan)}, the samples of this run's plan, got {shown(number)}")
    if isnan(plan[number][0]):
        if drawn[0] not in {t for t, _ in plan if t > 0}:
            named = ", ".join(f"{t:g}" for t in dict.fromkeys(t for t, _ in plan) if t > 0)
            raise RunError(f"sample {number} of this run has one of the temperatures {named}, got {shown(drawn[0])}")
    elif drawn != plan[number]:
        (t, k), (found, place) = plan[number], drawn
        raise RunError(
            f"sample {number} of this run's plan has temperature {t:g} and k {k}, got {shown(found)} and {shown(place)}"
        )


def read_results(folder: Path) -> Iterator[dict[str, Any]]:
    """Every question's result, without its samples, with the `key` and `is_right`; of one id the last line holds."""
    for where, _, record in _lines(folder / "results.jsonl", MEND):
        try:
            _check(record, RESULT | RESULT_EXTRAS, tuple(RESULT))
        except RunError as error:
            raise RunError(f"{where}: {error}{MEND}") from None
        yield record


def read_sessions(folder: Path) -> Iterator[dict[str, Any]]:
    """What each session of the run cost."""
    for where, _, record in _lines(folder / "sessions.jsonl", COSTS):
        try:
            _check(record, SESSION, ("seconds", "cpu_seconds", "steps"))
        except RunError as error:
            raise RunError(f"{where}: {error}{COSTS}") from None
        yield record


def _lines(path: Path, mend: str = "") -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(where, line number, object) of every line that is whole and not blank."""
    if not path.exists() and path.name != "questions.jsonl":
        return
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait
            raise RunError(f"{path} must be a plain file")
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and not is_whole(line):
                    return
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    record = parsed(line)
                    if not isinstance(record, dict):
                        raise RunError(f"a line must be an object, got {shown(record)}")
                except RunError as error:
                    raise RunError(f"{where}: {error}{mend}") from None
                yield where, number, record
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
