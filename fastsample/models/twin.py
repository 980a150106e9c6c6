"""A model once more, without its weights: the same parameters and hooks, its own attention and linear layers.

A running step needs another attention implementation and faster linear layers. Switching the caller's model to them and
back would leave it switched when a step is interrupted, and would let two threads switch it under each other. So the
model is never touched: a twin is a copy of its module objects (a few thousand small Python objects, no tensor), whose
parameters are the very same. `is_current` tells when the model was changed in a way that the twin cannot see.
"""

from __future__ import annotations

import copy
import functools
import types
from typing import Any, cast

from torch import nn

from ..torch_ops import onednn
from . import compat
from .states import Watched


class Twin:
    """The copy, in eval mode.

    model:     what is called
    is_fast:   run the linear layers by `torch_ops.onednn` where it can serve them
    prepack:   let those read packed copies of their weights
    drops_softcap: whether the model's own attention leaves out soft-capping, so that ours must as well
    watched:   the decoder layers whose states are taken from each forward pass
    objection: why the linear layers are the model's own, in one sentence, or None
    """

    def __init__(self, original: nn.Module, *, is_fast: bool = True, prepack: bool = False) -> None:
        self.original = original
        self.is_fast = is_fast
        self.prepack = prepack
        self.watched = Watched()
        self._linears: dict[nn.Module, Any] = {}  # kept when the twin is renewed: packing takes time
        self.renew()

    def renew(self) -> None:
        """Copy the model's modules as they are now."""
        modules = list(self.original.modules())
        twins = {id(module): module.__class__.__new__(module.__class__) for module in modules}
        configs = {id(c): c for c in (getattr(m, "config", None) for m in modules) if c is not None}
        memo: dict[int, Any] = {}  # one for all: a config inside another stays the same object in both
        copies = {key: copy.deepcopy(config, memo) for key, config in configs.items()}
        for module in modules:
            _fill(twins[id(module)], module, twins, copies)
        self._configs = [(copies[key], compat.attention_of(config)) for key, config in configs.items()]
        self.drops_softcap = any(map(compat.drops_softcap, configs.values()))
        self.model: Any = twins[id(self.original)].eval()
        self.objection = onednn.why_not(self.original) if self.is_fast else "they were not asked for"
        self._linears = {} if self.objection else {m: self._fast(m) for m in modules if _is_plain_linear(m)}
        for layer, forward in self._linears.items():
            twins[id(layer)].forward = forward  # type: ignore[method-assign]
        self.watched.put_on(self.model)
        self._seen = [(vars(m), dict(vars(m)), dict(m._modules), dict(m._buffers)) for m in modules]

    def is_current(self) -> bool:
        """Whether the model is what was copied: its modules, buffers and attributes. Parameters are always its own."""
        return all(
            len(now) == len(then)
            and all(now.get(name) is value or name == "training" for name, value in then.items())
            and now["_modules"] == modules
            and len(now["_buffers"]) == len(buffers)
            and all(now["_buffers"].get(name) is tensor for name, tensor in buffers.items())
            for now, then, modules, buffers in self._seen
        )

    def _fast(self, layer: nn.Module) -> Any:
        return self._linears.get(layer) or onednn.forward_of(cast(nn.Linear, layer), prepack=self.prepack)

    def attend_by(self, name: str | None) -> Any:
        """The copy, switched to an attention implementation; None is the model's own."""
        for config, own in self._configs:
            compat.set_attention(config, own if name is None else name)
        return self.model


def _fill(twin: nn.Module, module: nn.Module, twins: dict[int, nn.Module], configs: dict[int, Any]) -> None:
    """Give a bare twin what its module has; parameters and hooks are the same dictionaries."""
    state = vars(twin)
    for name, value in vars(module).items():
        state[name] = _rebound(value, twins)
    state["_modules"] = {name: None if c is None else twins[id(c)] for name, c in module._modules.items()}
    state["_buffers"] = dict(module._buffers)  # a layer that renews a buffer must not do it for the model
    state["_compiled_call_impl"] = None  # it is bound to the model
    if state.get("config") is not None:
        state["config"] = configs[id(module.config)]


def _is_plain_linear(module: nn.Module) -> bool:
    """Whether nobody derived from the layer or replaced its forward: both mean that it does something of its own."""
    return type(module) is nn.Linear and "forward" not in vars(module)


def _rebound(value: Any, twins: dict[int, nn.Module], around: tuple[Any, ...] = ()) -> Any:
    """What reaches one of the model's modules, as that which reaches its twin: a bound method, a partial, a function
    that somebody wrapped around one of them (trainers do), to any depth. All else is left as it is.

    around: the functions that hold this one, which it may hold as well
    """
    if any(value is f for f in around):
        return value
    if isinstance(value, types.MethodType):
        owner, function = value.__self__, _rebound(value.__func__, twins, around)
        is_same = id(owner) not in twins and function is value.__func__
        return value if is_same else types.MethodType(function, twins.get(id(owner), owner))
    if isinstance(value, functools.partial) and any(id(a) in twins for a in value.args):
        renewed = functools.partial(value.func, *(twins.get(id(a), a) for a in value.args), **value.keywords)
        return functools.update_wrapper(renewed, value) if hasattr(value, "__wrapped__") else renewed
    if isinstance(value, types.FunctionType) and value.__closure__:
        cells = tuple(_cell(cell, twins, (*around, value)) for cell in value.__closure__)
        if all(a is b for a, b in zip(cells, value.__closure__)):
            return value
        copied = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        copied.__kwdefaults__ = value.__kwdefaults__
        vars(copied).update(vars(value))
        return copied
    held = getattr(value, "__dict__", {})
    if "__wrapped__" in held and not isinstance(value, types.FunctionType | type):  # accelerate's mixed precision
        inner = {name: _rebound(v, twins, (*around, value)) for name, v in held.items()}
        if any(inner[name] is not v for name, v in held.items()):
            copied = object.__new__(type(value))
            vars(copied).update(inner)
            return copied
    return value


def _cell(cell: types.CellType, twins: dict[int, nn.Module], around: tuple[Any, ...]) -> types.CellType:
    """A variable that a function holds: the same one, unless it reaches one of the model's modules."""
    try:
        content = cell.cell_contents
    except ValueError:  # it is empty still
        return cell
    renewed = twins[id(content)] if id(content) in twins else _rebound(content, twins, around)
    return cell if renewed is content else types.CellType(renewed)
