"""A headless Chromium, where there is one, and made-up runs to look at."""

from __future__ import annotations

import shutil

import pytest
from stored_run import made_up

BROWSERS = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by playwright; no page of it reaches a network."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser is installed: a package of one of these names brings it: {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """Twelve questions, four temperatures, five samples of each."""
    return made_up(tmp_path_factory.mktemp("made") / "small", questions=12, samples=5)
