"""The README: its code runs, its commands parse, its files exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.model
def test_readme_snippets_run_in_order(embedded):
    """The python blocks, pasted one after the other into one session; torch's own lines among them."""
    session = {"__name__": "__main__"}
    snippets = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    assert len(snippets) >= 3
    for number, snippet in enumerate(snippets, 1):
        exec(compile(snippet, f"README.md, python block {number}", "exec"), session)


def test_readme_commands_are_understood():
    """Every `fastsample` line of the bash blocks parses: commands and options are those that there are."""
    from typer.main import get_command

    from fastsample.cli import main

    blocks = "\n".join(re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", README, re.M | re.S)).replace("\\\n", " ")
    lines = [
        line.removeprefix("$ ") for line in blocks.splitlines() if line.removeprefix("$ ").startswith("fastsample ")
    ]
    assert lines
    for line in lines:
        words = shlex.split(line.split(" > ")[0].split(" | ")[0], comments=True)[1:]
        group = get_command(main)
        with group.make_context("fastsample", words[:1]) as context:
            name, command, _ = group.resolve_command(context, words)
            command.make_context(name, words[1:], parent=context)
