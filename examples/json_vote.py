"""A vote of answers that are all JSON of one schema: xgrammar says which tokens may come next, a field is counted.

    pip install ".[demo]" xgrammar
    python examples/json_vote.py

The samples share one prompt and one batch as always; each has a matcher of its own, which follows its text. So no
sample is lost to a form that cannot be read, and a model that knows the answer need not know how to write it.
"""

from __future__ import annotations

import json

import fastsample
from fastsample.strategies.base import Grow

SCHEMA = {
    "type": "object",
    "properties": {"unit": {"type": "string", "maxLength": 12}, "answer": {"type": "integer"}},
    "required": ["unit", "answer"],
    "additionalProperties": False,
}
QUESTION = (
    "A farmer has 12 cows and buys 8 more. How many cows has he now? "
    'Reply as JSON: {"unit": what is counted, "answer": the number}.'
)


def grammar_of(model, tokenizer, schema):
    """A function that makes a matcher of the schema, one for each sample."""
    import xgrammar

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=model.config.vocab_size)
    compiled = xgrammar.GrammarCompiler(info).compile_json_schema(json.dumps(schema), any_whitespace=False)
    return lambda: xgrammar.GrammarMatcher(compiled)


def vote(model, tokenizer, question, schema=SCHEMA, *, samples=12, temperature=0.8, max_new_tokens=48, seed=0):
    """The `Found` of a vote whose samples are JSON of the schema; its answer is what most say in the field "answer"."""
    grammar = grammar_of(model, tokenizer, schema)

    def constrained(task):
        paths = yield Grow([task.ask(task.root, temperature=temperature, grammar=grammar) for _ in range(samples)])
        return task.choose(paths, how="vote")

    return fastsample.solve(
        model,
        tokenizer,
        question,
        strategy=constrained,
        extractor=answer_of,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )


def answer_of(text):
    """The field "answer" of a text that is JSON; None where it was cut."""
    try:  # not strict: xgrammar lets a control character into a string of limited length
        return str(json.loads(text, strict=False)["answer"])
    except (ValueError, KeyError, TypeError):
        return None


if __name__ == "__main__":
    model, tokenizer = fastsample.models.load()
    found = vote(model, tokenizer, QUESTION)
    for sample in found.samples[:4]:
        print(sample.text)
    print(f"{found.answer}: {found.votes}")
    print(f"{found.unparsable} of {found.planned} could not be read, {found.tokens} tokens")
