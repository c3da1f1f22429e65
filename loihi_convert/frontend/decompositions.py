"""Functions of torch that the tracer records as calls of simpler ones.

====================================  ==========================================
function                              calls
====================================  ==========================================
``max(x, dim)``                       ``amax``, ``argmax``
``stack(tensors, dim)``               ``unsqueeze`` of each, ``cat``
``mean`` or ``sum`` over that ``dim``   ``+`` of the tensors, ``/`` their number
====================================  ==========================================
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import fx

Create = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Records a call of a function with arguments, and returns its `fx.Proxy`."""


def decomposed(create: Create, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the proxies of simpler calls in place of ``target``, a function or the name of a method, or ``None``."""
    name = getattr(target, "__name__", target)
    names = ("tensors", "dim") if name == "stack" else ("input", "dim", "keepdim")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if "axis" in given:
        given["dim"] = given.pop("axis")
    if not set(given) <= {*names}:
        return None
    if name == "max" and isinstance(given.get("dim"), int):
        # Most models do not use the indices of the largest numbers.
        over = {"dim": given["dim"], "keepdim": given.get("keepdim", False)}
        found: Any = [create(each, (given["input"],), over) for each in (torch.amax, torch.argmax)]
        return torch.return_types.max(found)
    if name == "stack":
        tensors, axis = tuple(given["tensors"]), given.get("dim", 0)
        if axis == 0:
            joined = create(torch.stack, (tensors,), {})
        else:
            joined = create(torch.cat, ([create(torch.unsqueeze, (each, axis), {}) for each in tensors], axis), {})
        joined.node.meta["stacked"] = tensors, axis
        return joined
    if name in ("mean", "sum") and not given.get("keepdim"):
        tensors = _stacked(given["input"], given.get("dim"))
        if tensors:
            total = reduce(lambda one, other: create(operator.add, (one, other), {}), tensors)
            return total if name == "sum" else create(operator.truediv, (total, len(tensors)), {})
    return None


def _stacked(joined: Any, axes: Any) -> tuple[Any, ...]:
    """The tensors that were stacked along ``axes``; none if something else happened since, as they may have changed."""
    (axis, *others) = axes if isinstance(axes, tuple | list) else (axes,)
    if not isinstance(joined, fx.Proxy) or "stacked" not in joined.node.meta or joined.node.next.op != "root":
        return ()
    rank = joined.node.meta["value"].ndim
    tensors, along = joined.node.meta["stacked"]
    return tensors if isinstance(axis, int) and not others and (axis - along) % rank == 0 else ()
