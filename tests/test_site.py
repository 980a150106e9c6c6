"""The documentation's pages as `make docs` lays them out: links lead somewhere, the reference names what there is."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastsample

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))
site = importlib.import_module("site_pages")


def test_links_are_led_to_their_places():
    """A page, a heading of one, a file, a folder, another host; and what stands in code is left alone."""
    page, pages, files = ROOT / "docs/gpu.md", site.sources(), set()
    text = (
        "[a](../README.md) [b](voting.md#early) ![c](prefix.png) [`d`](../csrc) [e](https://a.b) [f](#here)\n"
        "```text\n[g](../README.md)\n```\n"
    )
    assert site.laid_out(page, text, pages, files) == (
        "[a](index.md) [b](voting.md#early) ![c](files/docs/prefix.png) `d` [e](https://a.b) [f](#here)\n"
        "```text\n[g](../README.md)\n```\n"
    )
    assert files == {ROOT / "docs/prefix.png"}


def test_every_page_is_in_the_navigation():
    """Each page of the checkout once, and no page that there is not."""
    named = re.findall(r"([\w.]+\.md)$", (ROOT / "mkdocs.yml").read_text().partition("nav:")[2], re.M)
    assert sorted(named) == sorted([*site.sources().values(), "reference.md"])


def test_the_reference_names_what_there_is():
    """All that `import fastsample` offers, and modules that can be imported with the names that are listed."""
    offered = {name for name, _ in site.public_names()}
    assert offered == set(fastsample.__all__) - {"__version__", "info"}
    for name, module in site.public_names():
        assert f"::: {module}.{name}\n" in site.reference()
    for modules in site.CHAPTERS.values():
        for module in modules:
            loaded = importlib.import_module(module)
            assert site.public_of(module)
            for name in site.public_of(module):
                assert hasattr(loaded, name), f"{module}.{name}"


def test_lists_of_arguments_keep_their_lines():
    """A paragraph whose lines name something becomes a block; prose, and the first sentence, stay."""
    pytest.importorskip("griffe", reason="mkdocstrings is not installed: make docs")
    docstrings = importlib.import_module("docstrings")
    listed, prose = "ids:   [B] tokens\n       and more\nmask:  [B]", "One sentence: and prose\nthat goes on."
    text = f"n samples: of each.\n\n{listed}\n\n{prose}"
    assert docstrings.as_markdown(text) == f"n samples: of each.\n\n```text\n{listed}\n```\n\n{prose}"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """By mkdocs, strictly, where it is installed."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs-material and mkdocstrings are not installed: make docs")
    subprocess.run([sys.executable, "tools/site_pages.py"], cwd=ROOT, check=True, capture_output=True)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fastsample.sample" in (tmp_path / "reference.html").read_text()
