"""Prints, as one line of JSON, which engine each architecture gets under the transformers that is imported here.

`tools/compat.py` runs it under each release. An architecture is a tiny random model of `tests/helpers/tiny.py`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from requirements import ROOT

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "gpt2", "gpt_oss")
SHARED = "shared-prefix"


def engine_of(model: Any) -> str:
    """The name of the runner that serves this model; of one that is not the best, the sentence that says why."""
    from fastsample.engines.local import selection

    service = selection.service_for(model)
    return service.reason or service.name


def engine_of_architecture(name: str) -> str:
    """The engine of a tiny model; in the place of its name the error, if making or asking ends in one."""
    sys.path.insert(0, str(ROOT / "tests/helpers"))
    try:
        from tiny import tiny

        return engine_of(tiny(name))
    except Exception as error:  # one architecture that a release cannot make says nothing about the others
        return f"{type(error).__name__}: {error}".splitlines()[0]


if __name__ == "__main__":
    print(json.dumps({name: engine_of_architecture(name) for name in ARCHITECTURES}))
