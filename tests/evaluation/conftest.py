"""Made-up runs to look at."""

from __future__ import annotations

import pytest
from stored_run import made_up


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """Twelve questions, four temperatures, five samples of each."""
    return made_up(tmp_path_factory.mktemp("made") / "small", questions=12, samples=5)
