"""A vote with early exit over vLLM in this program, its tokens drawn by fastsample.

    python examples/vllm_vote.py [MODEL]

vLLM starts a process that reads this file again, so what is done stands behind the last line's question.
"""

from __future__ import annotations

import sys

import fastsample
from fastsample.engines.vllm.loading import load

QUESTION = "What is 12 + 8? Answer with one number."


def vote(engine, question: str, **settings):
    """The result of a vote that ends as soon as an answer is three votes ahead."""
    return fastsample.solve(None, engine.tokenizer, question, rule="ahead:k=3", engine=engine, **settings)


def main() -> None:
    """Start vLLM with options of its own, vote, and say what was spent."""
    name = sys.argv[1] if len(sys.argv) > 1 else None
    with load(name, slots=16, options={"enforce_eager": True, "max_model_len": 1024}) as engine:
        result = vote(engine, QUESTION, samples=8, max_new_tokens=32, together=False)
        print(f"{result.answer} by {result.counted} of {result.planned} samples, {result.tokens} tokens")
        print(f"{engine.traits.name} serves {engine.traits.model}; {engine.traits.draws} draws")


if __name__ == "__main__":
    main()
