"""Self-consistency: many samples of one question vote, and the vote ends as soon as its answer is clear.

    python examples/self_consistency.py "A farmer has 12 cows and buys 8 more. How many has he now?"

Prints the votes by temperature, and what the early end saved against the whole budget.
"""

from __future__ import annotations

import sys

import fastsample

QUESTION = "A farmer has 12 cows and buys 8 more. How many has he now?"


def answer(model, tokenizer, question, rule="ahead:k=3"):
    """The result of a vote over up to 31 samples."""
    return fastsample.solve(
        model,
        tokenizer,
        question,
        temperatures=(0, 0.3, 0.6, 0.9),
        samples=10,
        rule=rule,  # stop when an answer is three votes ahead
        together=False,  # start only what the rule may need
        top_p=0.9,
        max_new_tokens=100,
        prompt_template="{question} Answer with one number.",
    )


if __name__ == "__main__":
    model, tokenizer = fastsample.models.load()
    result = answer(model, tokenizer, sys.argv[1] if len(sys.argv) > 1 else QUESTION)
    for temperature, votes in result.votes.items():
        print(f"T {temperature}: {votes}")
    share = result.tokens / max(1, result.budget_tokens)
    print(f"answer {result.answer}: {result.reason}")
    print(f"{len(result.samples)} of {result.planned} samples, {result.tokens} tokens, {share:.0%} of the whole budget")
