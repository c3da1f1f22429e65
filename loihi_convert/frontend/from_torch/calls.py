"""The call at a node of a traced graph: its name, its arguments, and its place in the CNN."""

from __future__ import annotations

from typing import Any, Final

from torch import fx

# x + c is operator.add, x += c operator.iadd, x.add(c) the method add, x.add_(c) the method add_.
ARITHMETIC: Final = {
    spelling: name
    for name, others in (("add", ()), ("sub", ("subtract",)), ("mul", ("multiply",)), ("truediv", ("div", "divide")))
    for each in (name, *others)
    for spelling in (each, f"i{each}", f"{each}_")
}


def called(node: fx.Node) -> str:
    """The name of the function or method; empty for a module."""
    return "" if node.op == "call_module" else str(getattr(node.target, "__name__", node.target))


def arithmetic_of(node: fx.Node) -> str | None:
    """``"add"``, ``"sub"``, ``"mul"`` or ``"truediv"`` if ``node`` is one of them, in any spelling."""
    if node.op == "call_method" or getattr(node.target, "__module__", None) in ("_operator", "torch", None):
        return ARITHMETIC.get(called(node))
    return None


def arguments_of(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """The arguments after the tensor, by name."""
    return {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}


def positional(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of arithmetic, with both operands among the first ones."""
    named = dict(node.kwargs)
    first, second = ([named.pop(name)] if name in named else [] for name in ("input", "other"))
    return (*first, *node.args, *second), named


def operands(node: fx.Node) -> tuple[fx.Node, ...]:
    found = (*node.args[:2], *(node.kwargs[each] for each in ("input", "other") if each in node.kwargs))
    return tuple(each for each in found if isinstance(each, fx.Node))


def name_of(node: fx.Node) -> str:
    """The module's name in the CNN; for a function, or a module called again, also the module that it follows.

    If that is outside the user's module that calls the function, the latter's name.
    """
    name, before = node.name, _producer(node)
    if node.op == "call_module":
        name = str(node.target)
        if node is next(each for each in node.graph.nodes if (each.op, each.target) == (node.op, node.target)):
            return name
    while before is not None and before.op != "call_module":
        before = _producer(before)
    after = "" if before is None else str(before.target)
    stack = list(node.meta.get("nn_module_stack", {}).values())
    caller = stack[-1][0] if stack else ""
    if node.op != "call_module" and caller and not after.startswith(f"{caller}."):
        return f"{name} (in {caller})"
    return f"{name} (after {after})" if after else name


def _producer(node: fx.Node) -> fx.Node | None:
    """The last of the nodes that ``node`` takes and that depend on the image; None if there is none."""
    inputs = [each for each in node.all_input_nodes if not each.meta["is_constant"]]
    before = node.prev
    while inputs and before not in inputs:
        before = before.prev
    return before if inputs else None
