"""A set of questions answered in one running batch, every sample kept, gone on with after any stop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..answers.equivalence import canonical
from ..answers.extractors import Extractor
from ..engines.base import Engine
from ..scoring.base import Scorer
from ..scoring.verifiers import Keys, scorer_of
from ..solving.fit import fitted, serving
from ..solving.ray_pool import RayPool
from ..solving.solve import solve_many
from ..strategies.base import MakeStrategy, Method
from ..strategies.events import Event
from ..strategies.question import SPREAD, Question, Settings
from ..strategies.records import Found, Result, Written
from ..strategies.registry import VOTE, strategy_name
from ..strategies.task import Budget
from ..voting.registry import name_of, rule_of
from .dataset import Item, check_items
from .run_folder import Run, check_run, open_run, writing
from .shards import Shard

OnResult = Callable[[Result, "bool | None"], None]


@dataclass
class Evaluation:
    """What one session of a run came to.

    questions: of the whole set; answered, right, tokens, failed: of this session; done: of the run so far
    """

    folder: Path
    questions: int
    answered: int = 0
    right: int = 0
    tokens: int = 0
    failed: int = 0
    done: int = 0


def evaluate(
    model: Any,
    tokenizer: Any,
    questions: Iterable[Item],
    folder: str | Path,
    *,
    settings: Settings | None = None,
    extractor: str | Extractor = "auto",
    scorer: str | Scorer | None = None,
    slots: int = 64,
    prepack: bool = False,
    resume: bool = False,
    named: Mapping[str, Any] | None = None,
    on_open: Callable[[Run], None] | None = None,
    on_result: OnResult | None = None,
    engine: Engine | None = None,
    strategy: str | Method | MakeStrategy = VOTE,
    budget: Budget | None = None,
    shard: Shard | None = None,
    pool: RayPool | None = None,
) -> Evaluation:
    """Answer every question and keep all samples in `folder`; `report_of(folder)` then compares the rules.

    questions: `dataset.Item`s; `dataset.read_questions` reads them from a file
    settings:  as in `solve_many`; a rule that spends the whole budget keeps everything that a report needs
    resume:    go on with the run in the folder, under the same settings; what it has is not written again
    named:     what the run's settings say of the model; None = its name_or_path and dtype
    on_open:   called with the run once its folder is open (its `notes` are for people; without on_open they are
               warnings); on_result: with each result and whether it is right (None
               where the right answer is not known), after it was kept
    engine:    as in `solve_many`; a run is gone on with on the same kind of engine, serving the same model
    shard:     answer these of the questions only; `shards.merge` puts the runs of all shards together
    pool:      actors of Ray instead of an engine; model and tokenizer may be None. What is written here is the same

    strategy, budget: as in `solve_many`; a method's trees are kept in paths.jsonl

    raises: RunError for a folder that cannot be used; WritingError, an OSError, where something cannot be written:
            nothing that was written before is lost, and `resume` goes on; what the engine raises passes unchanged
    """
    settings, items, folder = settings or Settings(SPREAD), list(questions), Path(folder)
    check_items(items)
    if named is None:
        named = {"model": str(getattr(model, "name_or_path", "")), "dtype": _dtype(model)}
    config = configuration(items, settings, extractor, scorer, slots=slots, prepack=prepack, named=named, shard=shard)
    config |= growth_of(strategy, budget)
    items = items if shard is None else shard.of_items(items)
    check_run(folder, config, resume=resume)
    writer = engine if pool is None else pool
    if writer is None:
        from ..engines.local.engine import LocalEngine

        writer = engine = LocalEngine(model, tokenizer, slots=slots, prepack=prepack)
    judge = None if scorer is None else scorer_of(scorer)
    if isinstance(judge, Keys):
        judge = scorer = Keys({item.question: item.answer for item in items})
    if engine is None:
        fitted(settings, writer.traits, judge)
    else:
        judge = serving(judge, settings, engine, model, tokenizer)
    config |= traits_of(writer)
    with writing():
        opened = open_run(folder, config, items, resume=resume)
    with opened as run:
        if on_open is not None:
            on_open(run)
        else:
            for note in run.notes:
                warnings.warn(note, RuntimeWarning, stacklevel=2)
        found = Evaluation(folder, len(items))

        steps, prefill_tokens = writer.steps, writer.prefill_tokens  # an engine that was given may have run before

        def keep(question: str, sample: Written) -> None:
            run.add_sample(question, sample)
            found.tokens += sample.tokens
            count()

        def hear(event: Event) -> None:
            if event.kind in ("finished", "cancelled") and event.sample is not None:
                keep(event.strategy.question.id, event.sample)

        def count(is_last: bool = False) -> None:
            run.add_costs(writer.steps - steps, writer.prefill_tokens - prefill_tokens, found.tokens, is_last=is_last)

        def of_pool(pool: RayPool, **asked: Any) -> Iterator[Result]:
            for answered in pool.solve(_open_questions(run, items), scorer=scorer, **asked):
                for sample in answered.samples:
                    keep(answered.result.id, sample)
                yield answered.result

        asked: dict[str, Any] = dict(settings=settings, extractor=extractor, strategy=strategy, budget=budget)
        if pool is None:
            results = solve_many(
                model, tokenizer, _open_questions(run, items), on_event=hear, engine=engine, scorer=judge, **asked
            )
        else:
            results = of_pool(pool, **asked)
        keys = {item.id: item.answer for item in items}
        try:
            for result in results:
                key = keys[result.id]
                is_right = None if key is None or result.error else result.answer == canonical(key)
                if result.error is None:
                    if isinstance(result, Found):
                        run.add_paths(result.id, result.paths)
                        found.tokens += result.tokens
                    run.add_result(result, key, is_right)
                found.answered += result.error is None
                found.failed += result.error is not None
                found.right += bool(is_right)
                if on_result is not None:
                    on_result(result, is_right)
        except BaseException:
            with suppress(OSError):  # the disk may be what failed
                count(is_last=True)
            raise
        run.flush()
        count(is_last=True)
        found.done = len(run.done)
    return found


def traits_of(engine: Engine | RayPool) -> dict[str, Any]:
    """What a run's config.json says of its engine."""
    t = engine.traits
    return {
        "engine": t.name,
        "engine_model": t.model,
        "draws": t.draws,
        "certainty": t.certainty,
        "engine_reason": t.reason,
    }


def _dtype(model: Any) -> str | None:
    return None if model is None else str(model.dtype).removeprefix("torch.")


def growth_of(strategy: str | Method | MakeStrategy, budget: Budget | None) -> dict[str, Any]:
    """What a run's config.json says of its strategy: nothing of a vote."""
    name = strategy_name(strategy)
    if name == VOTE:
        return {}
    return {"strategy": name, "budget": None if budget is None else asdict(budget)}


def configuration(
    items: Iterable[Item],
    settings: Settings,
    extractor: str | Extractor,
    scorer: str | Scorer | None,
    *,
    slots: int,
    prepack: bool,
    named: Mapping[str, Any],
    shard: Shard | None = None,
) -> dict[str, Any]:
    """What a run's config.json says before its engine is known: a run is gone on with under the same values only."""
    digest, between = sha256(), b""
    for i in items:
        digest.update(between + f"{i.id}\n{i.question}\n{i.answer}".encode("utf-8", "backslashreplace"))
        between = b"\0"
    values = asdict(settings)
    if not settings.penalties.are_any:
        del values["penalties"]
    else:
        values["penalties"] = settings.penalties.to_json()
    if not settings.is_adaptive:  # as in the runs of before there was a choice
        del values["is_adaptive"]
    return {
        **values,
        "rule": name_of(rule_of(settings.rule)),
        "extractor": extractor if isinstance(extractor, str) else getattr(extractor, "__name__", "function"),
        "scorer": None if scorer is None else scorer_of(scorer).name,
        **named,
        "prepack": prepack,
        "slots": slots,
        "questions": digest.hexdigest(),
        **({} if shard is None else {"shard": str(shard)}),
    }


def _open_questions(run: Run, items: Iterable[Item]) -> Iterator[Question]:
    for item in items:
        if item.id not in run.done:
            yield Question(item.question, item.id, tuple(run.known.get(item.id, ())))
