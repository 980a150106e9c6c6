"""Extractors against answers that were labelled by reading: 40 questions, several texts each, of SmolLM2-135M-Instruct.

    python bench/extractors.py

agree: the label, or none where the label is none; wrong: an answer that the label is not, which would be a wrong vote;
missed: none where there is one, which is a vote lost. Texts that were cut by their length do not vote. Ends with one
line of JSON. The rules of `auto` were written while looking at 30 of the questions, and not at the 10 held out.
"""

from __future__ import annotations

import json
from pathlib import Path

from fastsample.answers.equivalence import canonical
from fastsample.answers.extractors import EXTRACTORS, extractor_of

LABELLED = Path(__file__).parent.parent / "tests" / "data" / "labelled_outputs.jsonl"


def rows():
    """The labelled texts."""
    return [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]


def score(extract, texts):
    """(agree, wrong, missed) of one extractor over labelled texts."""
    agree = wrong = missed = 0
    for row in texts:
        found, label = (None if a is None else canonical(a) for a in (extract(row["text"]), row["answer"]))
        agree += found == label
        wrong += found is not None and found != label
        missed += found is None and label is not None
    return agree, wrong, missed


def main():
    """Print a table for the texts that ended, all of them and those held out, and for those that were cut."""
    texts = rows()
    ended = [row for row in texts if row["finish"] != "length"]
    groups = {
        "ended": ended,
        "ended, held out": [row for row in ended if row["held_out"]],
        "cut": [row for row in texts if row["finish"] == "length"],
    }
    table = {}
    for name in [*EXTRACTORS, "math"]:
        table[name] = {group: score(extractor_of(name), members) for group, members in groups.items()}
    print(f"{'':10}" + "".join(f"{group} ({len(members)})".rjust(26) for group, members in groups.items()))
    print(f"{'':10}" + "agree wrong missed".rjust(26) * len(groups))
    for name, found in table.items():
        print(f"{name:10}" + "".join("{:>13}{:>6}{:>7}".format(*found[group]) for group in groups))
    print(json.dumps({"texts": len(texts), "scores": table}))


if __name__ == "__main__":
    main()
