"""Servers over tiny models."""

from __future__ import annotations

import importlib.util

import bigram
import pytest
from served import local, serving

collect_ignore_glob = []
for package in ("starlette", "uvicorn", "prometheus_client"):
    if importlib.util.find_spec(package) is None:
        collect_ignore_glob = ["test_*.py"]  # the extra `serve` is not installed


@pytest.fixture(scope="module")
def served():
    with serving(*local()) as one:
        yield one


@pytest.fixture(scope="module")
def endless():
    """Texts that go on until their limit."""
    with serving(*local({bigram.ASSISTANT: {"a": 1.0}, "a": {"a": 1.0}}, slots=4, context=100_000)) as one:
        yield one
