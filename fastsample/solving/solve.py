"""Many samples of a question, asked until a rule has seen enough: engine + extractor + rule = early exit.

All questions and temperatures share one running batch. After every finished sample the rule is asked; once it has
decided, the question's other samples leave the batch in the middle of a word and their slots go to the next question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, cast

from ..answers.extractors import Extractor, extractor_of
from ..engines.base import Engine, ParkingEngine, is_parking
from ..engines.penalties import Penalties
from ..scoring.base import Scorer
from ..scoring.verifiers import scorer_of
from ..strategies.base import MakeStrategy, Method
from ..strategies.events import OnEvent
from ..strategies.prompts import prompt_for
from ..strategies.question import TEMPERATURES, Question, Settings, usual_rule
from ..strategies.records import Result, Written
from ..strategies.registry import VOTE, check_fit, method_of, strategy_name
from ..strategies.search import Search
from ..strategies.self_consistency import SelfConsistency
from ..strategies.task import Budget
from ..strategies.tree import Tools
from ..voting.rule import Rule
from .fit import serving
from .rereading import Rereading
from .scheduler import Scheduler, reader_of


def solve(
    model: Any,
    tokenizer: Any,
    question: str,
    *,
    temperatures: Iterable[float] | str = TEMPERATURES,
    samples: int = 5,
    rule: Rule | str | None = None,
    extractor: str | Extractor = "auto",
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    max_new_tokens: int = 256,
    seed: int = 0,
    slots: int = 64,
    system: str | None = None,
    history: Iterable[Mapping[str, str]] = (),
    prompt_template: str | None = None,
    suffix: str | None = None,
    stop: tuple[str, ...] = (),
    together: bool = True,
    cut_votes: bool = False,
    prepack: bool = False,
    on_event: OnEvent | None = None,
    scorer: Scorer | str | None = None,
    engine: Engine | None = None,
    strategy: str | Method | MakeStrategy = "vote",
    budget: Budget | None = None,
) -> Result:
    """Answer one question by a vote over samples of several temperatures, stopping as soon as the rule allows.

    Or by another strategy: docs/search.md has them.

    question:     text; the tokenizer's chat template is put around it where it has one
    temperatures: 0 is drawn once, every other one `samples` times; sample number n is the n-th of them in turn.
                  "auto" (or "auto:0.4,0.8") has the question's own votes choose, so many samples in all
    rule:         a rule of `voting`, or its name; "majority" spends the whole budget. None is "ahead:k=3", and
                  "majority" where a scorer chooses
    extractor:    text -> answer or None (never votes), or the name of one; equal answers are merged
    history:      a chat before the question, {"role": ..., "content": ...} each: part of the one stored prompt
    repetition_penalty, frequency_penalty, presence_penalty, logit_bias: as in `Edits`; a sample counts its own tokens
    slots:        the largest number of samples written at once
    together:     start the whole budget at once (least waiting); False starts what the rule may need (fewest tokens)
    cut_votes:    let samples vote that were cut by max_new_tokens
    prepack:      see `LocalEngine`: more memory, faster on a CPU, and the same bits in any batch
    scorer:       a `scoring.base.Scorer`, a function (question, answer, text) -> number, or a name ("mean-logprob");
                  the best score decides where the rule did not stop early
    on_event:     called with an `Event` for everything that happens
    engine:       see `solve_many`
    strategy:     "vote"; the short form of a method ("beam:n=16,m=4"); a method (a generator over a `Task`); or what
                  makes a `strategies.base.Strategy`. Methods pass `rule`, `temperatures` and `samples` by
    budget:       what a method may cost: tokens, legs, scores

    returns: a `Result` (`Found` of a method); the same settings and seed give the same one, whatever the batch
    raises: ValueError for settings or a question that cannot be served, with the remedy; what a callable raises
    """
    biases: Any = logit_bias  # made pairs there
    settings = Settings(
        temperatures=temperatures,  # type: ignore[arg-type]  # made a tuple, or refused, there
        samples=samples,
        rule=usual_rule(scorer) if rule is None else rule,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        penalties=Penalties(repetition_penalty, frequency_penalty, presence_penalty, biases),
        max_new_tokens=max_new_tokens,
        seed=seed,
        system=system,
        prompt_template=prompt_template,
        suffix=suffix,
        stop=stop,
        together=together,
        cut_votes=cut_votes,
    )
    run = solve_many(
        model,
        tokenizer,
        [Question(question, history=tuple(history))],
        settings=settings,
        extractor=extractor,
        slots=slots,
        prepack=prepack,
        on_event=on_event,
        scorer=scorer,
        strategy=strategy,
        budget=budget,
        is_strict=True,
        engine=engine,
    )
    return next(iter(run))


def solve_many(
    model: Any,
    tokenizer: Any,
    questions: Iterable[Question | str],
    *,
    settings: Settings | None = None,
    extractor: str | Extractor = "auto",
    slots: int = 64,
    prepack: bool = False,
    on_event: OnEvent | None = None,
    scorer: Scorer | str | None = None,
    strategy: str | Method | MakeStrategy = "vote",
    budget: Budget | None = None,
    is_strict: bool = False,
    engine: Engine | None = None,
) -> Iterator[Result]:
    """Answer many questions in one running batch; yields each result as soon as its vote is over, so out of order.

    questions: read only as fast as slots fall free; nothing of a question is kept once its result was yielded
    strategy:  what grows the samples of a question and elects its answer, as in `solve`; docs/adding_a_strategy.md
               shows how to write one; budget: of each question
    is_strict: raise what goes wrong with a question, instead of yielding a result of status "error"
    engine:    what writes the samples; None makes a `LocalEngine` of the model, with `slots` and `prepack`. With one,
               model may be None, and tokenizer makes the prompts that it reads
    raises: ValueError for a rule or a scorer that needs what the engine does not tell, before the first request
    """
    settings = settings or Settings()
    settings.plan()
    if engine is None:
        from ..engines.local.engine import LocalEngine  # not above: a vote over another engine needs no model of ours

        engine = LocalEngine(model, tokenizer, slots=slots, prepack=prepack)
    teller = engine  # of pieces of text
    judge = serving(None if scorer is None else scorer_of(scorer), settings, engine, model, tokenizer)
    method = method_of(strategy)
    name, make = None, cast(MakeStrategy, strategy)
    if strategy == VOTE:
        make = SelfConsistency
    elif method is not None:
        check_fit(method, judge)
        growing, name = _growing(engine, tokenizer), strategy_name(method)
        tools = Tools(name, growing, tokenizer, judge, budget or Budget(), is_reread=growing is not engine)
        engine, make = growing, partial(Search, method, tools)
    scheduler = Scheduler(
        engine,
        tokenizer,
        settings,
        extractor_of(extractor),
        on_event=on_event,
        scorer=judge,
        strategy=make,
        name=name,
        is_strict=is_strict,
    )
    if on_event is not None:
        for hook in ("on_piece", "on_prefill"):
            if getattr(teller, hook, scheduler) is None:  # it tells of that, and nobody else listens
                setattr(teller, hook, getattr(scheduler, hook))
    yield from scheduler.run(iter(questions))


def _growing(engine: Engine, tokenizer: Any) -> ParkingEngine:
    """The engine, if it keeps paths; else one that sends them again leg by leg."""
    return engine if is_parking(engine) else Rereading(engine, tokenizer)


def repeat(
    model: Any,
    tokenizer: Any,
    question: Question | str,
    number: int,
    *,
    settings: Settings,
    extractor: str | Extractor = "auto",
    prepack: bool = False,
) -> Written:
    """Write sample `number` of the plan again, without the others: the same text as in its first batch.

    To the bit on a CPU, `prepack` as in the first batch, unless without it the sample was left alone in its batch (see
    `engines.local.engine`). Elsewhere a matrix product may round differently in a batch of another size; that changes a
    token where the random number falls into the gap, about once in some ten thousand tokens.
    """
    from ..engines.local.engine import LocalEngine

    question = Question(question) if isinstance(question, str) else question
    prompt = prompt_for(tokenizer, question, settings)
    strategy = SelfConsistency(question, prompt, settings, reader_of(extractor_of(extractor)))
    if number >= strategy.decided:
        raise ValueError(
            f"sample {number}'s temperature was chosen by the votes before it; name the one in its record as the only "
            "one of the settings, and its k there as the number"
        )
    # Twice, side by side: without packed weights a batch of one row is rounded in another way than larger ones.
    engine = LocalEngine(model, tokenizer, slots=2, prepack=prepack)
    sample, _ = engine.submit([strategy.request(number)] * 2)
    while sample.finish is None:
        engine.step()
    return Written.of(sample, (number, *strategy.plan[number]), strategy.answer_of(sample))
