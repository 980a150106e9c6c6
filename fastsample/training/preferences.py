"""TOPS (arXiv 2502.18080): a model learns from its own shortest right texts, of several efforts.

    right:    shortest right text of a question                        -> sft.jsonl, {"messages": [...]}
    pairs:    that one against the longest wrong text, and against the shortest wrong one where that is shorter still
              (against thinking too little)                            -> dpo.jsonl, {"prompt", "chosen", "rejected"}

The layout is TRL's for conversations. Every line names its question, its run and its effort; tokens and ids are the
policy's own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..answers.equivalence import canonical
from ..evaluation.stored import read_config, read_items
from ..evaluation.texts import Text, texts_of
from ..strategies.budget_forcing import LEVELS

HOWS = ("shortest", "random", "seed")
GAP = 300  # tokens between the texts of a seed question's neighbouring efforts (TOPS)


@dataclass
class Lessons:
    """The lines of the files, by name ("sft", "dpo", "sft_test", "dpo_test"), and of how many questions."""

    questions: int
    right: int
    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def lessons_of(folders: Sequence[Path], *, how: str = "shortest", holdout: float = 0.0, gap: int = GAP) -> Lessons:
    """What the runs teach.

    folders: of `evaluate`, plain votes or trees; `--strategy efforts` has three efforts. Of one question, all count
    how:     "shortest" right text; "random", a right one, the control; "seed", questions right at all three efforts
             whose texts differ by more than `gap` tokens from one effort to the next, with the effort's system prompt
    holdout: the share of questions whose lines go to the _test files; a question is never in both
    raises: RunError or ValueError for runs or words that cannot be used
    """
    if how not in HOWS:
        raise ValueError(f"how must be one of {', '.join(HOWS)}, got {how!r}")
    if not 0 <= holdout < 1 or gap < 0:
        raise ValueError(f"holdout must be in [0, 1) and gap at least 0, got holdout={holdout} and gap={gap}")
    texts: dict[str, list[Text]] = {}
    prompts: dict[str, str] = {}
    system: str | None = None
    for folder in folders:
        config = read_config(folder)
        system = config.get("system") or system
        items = {item.id: item for item in read_items(folder) if item.answer is not None}
        keys = {q: canonical(str(item.answer)) or "" for q, item in items.items()}
        for q, text in texts_of(folder, config, keys):
            asked = (config.get("prompt_template") or "{question}").replace("{question}", items[q].question)
            asked += config.get("suffix") or ""
            texts.setdefault(asked, []).append(text)
            prompts.setdefault(asked, q)
    found = Lessons(len(texts), sum(any(t.is_right for t in mine) for mine in texts.values()))
    for asked, mine in texts.items():
        right = sorted((t for t in mine if t.is_right and not t.is_cut), key=lambda t: t.tokens)
        suffix = "_test" if _place(asked) < holdout else ""
        head = [{"role": "system", "content": system}] if system else []
        prompt = [*head, {"role": "user", "content": asked}]
        named = {"question": prompts[asked]}
        if how == "seed":
            rows = [
                {
                    "messages": [{"role": "system", "content": LEVELS[t.effort][1]}, prompt[-1], _said(t)],
                    **_of(t),
                    **named,
                }
                for t in _seed(right, gap)
            ]
            found.files.setdefault(f"sft{suffix}", []).extend(rows)
            continue
        if not right:
            continue
        chosen = right[0] if how == "shortest" else random.Random(asked).choice(right)
        row = {"messages": [*prompt, _said(chosen)], **_of(chosen), **named}
        found.files.setdefault(f"sft{suffix}", []).append(row)
        wrong = sorted((t for t in mine if not t.is_right), key=lambda t: t.tokens)
        rejected = wrong[-1:] + ([wrong[0]] if len(wrong) > 1 and wrong[0].tokens < chosen.tokens else [])
        found.files.setdefault(f"dpo{suffix}", []).extend(
            {"prompt": prompt, "chosen": [_said(chosen)], "rejected": [_said(t)], **_of(chosen), **named}
            | {"rejected_tokens": t.tokens, "rejected_effort": t.effort}
            for t in rejected
        )
    return found


def write(lessons: Lessons, folder: Path) -> list[Path]:
    """Write the files that have lines; returns them. Raises FileExistsError rather than write over one."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.jsonl" for name, rows in lessons.files.items() if rows]
    if taken := [path for path in paths if path.exists()]:
        raise FileExistsError(f"{taken[0]} is there already; name another folder with --out")
    for path in paths:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in lessons.files[path.stem])
        path.write_text("".join(lines), encoding="utf-8")
    return paths


def hidden_tokens(summary: int, completion: int, reasoning: int) -> float:
    """An estimate of a hidden chain's tokens from its summary's: n_s n_r / (n_c - n_r), as S3 counts those of o1.

    raises: ValueError where the completion is not longer than its reasoning
    """
    if completion <= reasoning:
        raise ValueError(f"a completion is longer than its reasoning, got {completion} and {reasoning} tokens")
    return summary * reasoning / (completion - reasoning)


def _seed(right: Sequence[Text], gap: int) -> list[Text]:
    by = {level: next((t for t in right if t.effort == level), None) for level in LEVELS}
    texts = sorted((t for t in by.values() if t is not None), key=lambda t: t.tokens)
    is_spread = all(b.tokens - a.tokens > gap for a, b in pairwise(texts))
    return texts if len(texts) == len(LEVELS) and is_spread else []


def _said(text: Text) -> dict[str, str]:
    return {"role": "assistant", "content": text.text}


def _of(text: Text) -> dict[str, Any]:
    return {"effort": text.effort, "run": text.run, "tokens": text.tokens, "ids": list(text.ids)}


def _place(asked: str) -> float:
    digest = blake2b(asked.encode("utf-8", "backslashreplace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
