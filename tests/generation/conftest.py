"""One thread: the models are tiny, and threads that wait for a busy processor take longer than the work."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
