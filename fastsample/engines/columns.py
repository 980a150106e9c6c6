"""The parameters of `sample` that a request fixes, as columns of a batch; the position is not one of them."""

from __future__ import annotations

import torch

COLUMNS = (
    ("temperature", torch.float32),
    ("top_k", torch.int64),
    ("top_p", torch.float32),
    ("min_p", torch.float32),
    ("seed", torch.int64),
    ("stream", torch.int64),
)
