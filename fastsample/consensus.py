"""Many samples of a question, asked until a rule has seen enough: generation + extractor + rule = early exit.

All questions and temperatures share one running batch. After every finished sample the rule is asked; once it has
decided, the question's other samples leave the batch in the middle of a word and their slots go to the next question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .answers import extractor_of
from .crowd import Crowd, Event, OnEvent, prompt_for, reader_of
from .generation import Generator
from .inquiry import FULL_VOTE, Extractor, Inquiry, Question, Settings, Verify
from .results import Result, Written
from .rules import rule_of
from .tally import Rule
from .verifiers import verifier_of

__all__ = ["Event", "Question", "Result", "Settings", "Written", "repeat", "solve", "solve_many"]


def solve(
    model: Any,
    tokenizer: Any,
    question: str,
    *,
    temperatures: Iterable[float] = (0.0, 0.4, 0.8, 1.2),
    samples: int = 5,
    rule: Rule | str = FULL_VOTE,
    extractor: str | Extractor = "auto",
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    max_new_tokens: int = 256,
    seed: int = 0,
    slots: int = 64,
    system: str | None = None,
    history: Iterable[Mapping[str, str]] = (),
    prompt_template: str | None = None,
    suffix: str | None = None,
    stop: tuple[str, ...] = (),
    together: bool = True,
    prepack: bool = False,
    on_event: OnEvent | None = None,
    verify: Verify | str | None = None,
) -> Result:
    """Answer one question by a vote over samples of several temperatures, stopping as soon as the rule allows.

    question:     text; the tokenizer's chat template is put around it where it has one
    temperatures: 0 is drawn once, every other one `samples` times; sample number n is the n-th of them in turn
    rule:         a rule of `voting` or `weighing`, or its name ("beta:confidence=0.9")
    extractor:    text -> answer or None (never votes), or the name of one of `answers`; equal answers are merged
    history:      a chat before the question, {"role": ..., "content": ...} each: part of the one stored prompt
    slots:        the largest number of samples written at once
    together:     start the whole budget at once (least waiting); False starts what the rule may need (fewest tokens)
    prepack:      see `generation.Generator`: more memory, faster on a CPU, and the same bits in any batch
    verify:       (question, answer, text) -> score, or the name of one of `verifiers` ("mean-logprob"); decides, best
                  first, where the rule did not stop early
    on_event:     called with an `Event` for everything that happens

    returns: a `Result`; the same settings and seed give the same one, whatever the batch
    raises: ValueError for settings or a question that cannot be served, with the remedy; what a callable raises
    """
    settings = Settings(
        temperatures=tuple(temperatures),
        samples=samples,
        rule=rule_of(rule),
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
        system=system,
        prompt_template=prompt_template,
        suffix=suffix,
        stop=tuple(stop),
        together=together,
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
        verify=verify,
        is_strict=True,
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
    verify: Verify | str | None = None,
    is_strict: bool = False,
    generator: Any = None,
) -> Iterator[Result]:
    """Answer many questions in one running batch; yields each result as soon as its vote is over, so out of order.

    questions: read only as fast as slots fall free; nothing of a question is kept once its result was yielded
    is_strict: raise what goes wrong with a question, instead of yielding a result of status "error"
    generator: whatever steps the samples, with the methods of `generation.Generator`; None makes one of the model
    """
    settings = settings or Settings()
    settings.plan()
    if isinstance(verify, str):
        verify = verifier_of(verify)
    crowd = Crowd(tokenizer, settings, extractor_of(extractor), on_event, verify, is_strict)
    if generator is None:
        generator = Generator(
            model,
            tokenizer,
            slots=slots,
            prepack=prepack,
            on_piece=crowd.on_piece if on_event else None,
            progress=crowd.on_progress if on_event else None,
        )
    crowd.generator = generator
    yield from crowd.run(iter(questions))


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
    `generation`). Elsewhere a matrix product may round differently in a batch of another size; that changes a token
    where the random number falls into the gap, about once in some ten thousand tokens.
    """
    question = Question(question) if isinstance(question, str) else question
    prompt = prompt_for(tokenizer, question, settings)
    inquiry = Inquiry(question, prompt, settings, reader_of(extractor_of(extractor)))
    # Twice, side by side: without packed weights a batch of one row is rounded in another way than larger ones.
    generator = Generator(model, tokenizer, slots=2, prepack=prepack)
    sample, _ = generator.submit([inquiry.request(number)] * 2)
    inquiry.live[number] = sample
    while sample.finish is None:
        generator.step()
    return inquiry.finish(sample)
