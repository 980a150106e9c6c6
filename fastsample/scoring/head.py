"""A process reward model on the policy's own hidden states: one dot product for each leg.

    score = sigmoid(w . (x - mean) / std + b),   x = the hidden state behind one decoder layer at a leg's last token

The engine has x anyway, so that a score costs no forward pass. Small probes of this kind come close to reward models of
many times the policy's size (ReProbe, arXiv 2511.06209). `training.heads` fits one, `fastsample head` is its command.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from .base import Candidate

FORMAT = "fastsample head 1"
TENSORS = ("w", "mean", "std", "b")
NEEDED = ("layer", "width", "model", "digest")


@dataclass(frozen=True)
class Head:
    """A number in (0, 1) for each leg: how likely the policy is to end right behind it, as far as the head can tell.

    w, mean, std: [width] float64 tensors; b: [] float64
    about: what it was made from: layer, width, model and its digest (`models.digest.digest_of`), and what
           `fastsample head` says of labels and held-out figures
    name:  head:FILE, and the beginning of a digest of the numbers

    A leg of which nothing was drawn has the number of the leg before it, or 0. raises: ValueError for numbers that are
    not finite, or do not fit each other
    """

    w: Any = field(repr=False)
    mean: Any = field(repr=False)
    std: Any = field(repr=False)
    b: Any = field(repr=False)
    about: dict[str, Any]
    name: str = "head"
    is_process: ClassVar[bool] = True
    is_probability: ClassVar[bool] = True

    def __post_init__(self) -> None:
        missing = [name for name in NEEDED if name not in self.about]
        if missing:
            raise ValueError(f"a head must say its {', '.join(NEEDED)}, got none of {', '.join(missing)}")
        width = self.about["width"]
        for name in TENSORS:
            tensor = getattr(self, name)
            shape = () if name == "b" else (width,)
            if tuple(tensor.shape) != shape:
                raise ValueError(f"a head's {name} must have the shape {list(shape)}, got {list(tensor.shape)}")
            if not bool(tensor.isfinite().all()):
                raise ValueError(f"a head's {name} must be finite, got a NaN or an infinity in it; train it again")
            object.__setattr__(self, name, tensor.double())
        if not bool((self.std > 0).all()):
            raise ValueError("a head's std must be above 0, got one that is not; train it again")

    @property
    def layer(self) -> int:
        """The decoder layer, 1, 2, ..., behind which the state is read."""
        return int(self.about["layer"])

    def score(self, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        """See `Scorer`."""
        return [self._legs(candidate) for candidate in candidates]

    def of(self, state: Any) -> float:
        """The number of one hidden state, [width]. raises: ValueError for another width, or one that is not finite"""
        if tuple(state.shape) != tuple(self.mean.shape):
            raise ValueError(f"{self.name} reads states of {self.mean.shape[0]} numbers, got {list(state.shape)}")
        # One state at a time: a row of a larger product could round differently beside other rows.
        logit = float((state.cpu().double() - self.mean).dot(self.w / self.std) + self.b)
        if not math.isfinite(logit):
            raise ValueError(f"{self.name} read a hidden state with a NaN or an infinity in it; the model overflows")
        return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))

    def _legs(self, candidate: Candidate) -> tuple[float, ...]:
        numbers: list[float] = []
        for leg in candidate.legs:
            if leg.state is not None:
                numbers.append(self.of(leg.state))
            elif leg.is_drawn:
                raise ValueError(
                    f"{self.name} reads hidden states, and the engine has kept none of a leg that it wrote; "
                    "a path that was cut is scored after its next leg"
                )
            else:
                numbers.append(numbers[-1] if numbers else 0.0)
        return tuple(numbers)

    def bound(self, model: Any, tokenizer: Any = None) -> Head:
        """Itself. raises: ValueError for a model that it was not made for, and where there is none"""
        if model is None:
            raise ValueError(f"{self.name} reads hidden states, and no model runs in this process; use a local engine")
        from ..models.digest import digest_of

        made_for, here = str(self.about["digest"]), digest_of(model, self.layer)
        if made_for != here:
            raise ValueError(
                f"{self.name} is for {self.about['model']} (digest {made_for[:12]}), got "
                f"{getattr(model, 'name_or_path', '') or type(model).__name__} (digest {here[:12]}); train one with "
                "fastsample head"
            )
        return self

    def save(self, path: str | Path) -> None:
        """Write it as safetensors. raises: OSError where that cannot be"""
        from safetensors.torch import save

        tensors = {name: getattr(self, name).contiguous() for name in TENSORS}
        Path(path).write_bytes(save(tensors, {"format": FORMAT, "about": json.dumps(self.about)}))

    @classmethod
    def load(cls, path: str | Path) -> Head:
        """Read what `save` wrote. raises: ValueError, in one sentence, for a file that holds no head"""
        try:
            from safetensors import SafetensorError, safe_open
        except ModuleNotFoundError:
            missing = "a head is a safetensors file, and safetensors is not installed; pip install safetensors"
            raise ValueError(missing) from None
        try:
            raw = Path(path).read_bytes()
            with safe_open(str(path), "pt") as file:
                known = file.metadata() or {}
                if known.get("format") != FORMAT:
                    raise ValueError("it holds other tensors")
                about = json.loads(known["about"])
                if not isinstance(about, dict):
                    raise ValueError("it says nothing of what it was made from")
                tensors = {name: file.get_tensor(name) for name in TENSORS}
            return cls(**tensors, about=about, name=f"head:{Path(path).name}@{sha256(raw).hexdigest()[:8]}")
        except OSError as error:
            raise ValueError(f"the head {path} cannot be read: {error.strerror or error}") from None
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            said = str(error).splitlines()[0].rstrip(".")
            raise ValueError(f"{path} holds no head ({said}); fastsample head makes one") from None
