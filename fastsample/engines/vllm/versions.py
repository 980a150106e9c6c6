"""Which releases of vLLM this was tested with. It says that its interface for logits processors may still change."""

from __future__ import annotations

TESTED = ("0.32", "0.32")  # the oldest and the newest; `make engines` runs the tests with the newest


def objection() -> str | None:
    """What is to be said of the installed release, in a sentence; None where it was tested."""
    import vllm

    oldest, newest = (tuple(map(int, version.split("."))) for version in TESTED)
    found = tuple(int(part) if part.isdigit() else 0 for part in str(vllm.__version__).split(".")[:2])
    if oldest <= found <= newest:
        return None
    return (
        f"fastsample was tested with vLLM {' to '.join(dict.fromkeys(TESTED))}, and this is {vllm.__version__}, whose "
        "interface for logits processors may be another one: compare some texts before you rely on them"
    )
