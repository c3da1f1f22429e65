"""NIR graphs in NumPy, by nir's own definitions: slow, but short enough to verify."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 (as torch's users write it)

from loihi_convert.ground.arrays import Array


def executed(graph: Any, inputs: Array, reset: str = "hard") -> dict[str, Array]:
    """Return the output of each node at each step, for inputs ``(T, *shape)``, by the formulas in nir's docstrings.

    A step's input to a node is the sum of the outputs of its sources; around a loop, of the step before. ``reset`` is
    that of IF nodes: ``"hard"`` as nir defines them, or ``"soft"``, as some tools mean them.
    """
    order = list(dict.fromkeys(name for edge in graph.edges for name in edge))
    state: dict[str, Any] = defaultdict(float)
    before: dict[str, Any] = defaultdict(float)
    found: dict[str, list[Array]] = defaultdict(list)
    for signal in inputs:
        now: dict[str, Any] = {}
        for name in order:
            node = graph.nodes[name]
            x = sum(now.get(source, before[source]) for source, target in graph.edges if target == name)
            match type(node).__name__:
                case "Input":
                    y = signal
                case "Output":
                    y = x
                case "Conv2d":
                    y = _convolved(node, x)
                case "Linear":
                    y = node.weight.astype(np.float64) @ x
                case "Affine":
                    y = node.weight.astype(np.float64) @ x + node.bias
                case "SumPool2d":
                    y = F.avg_pool2d(torch.from_numpy(x), tuple(map(int, node.kernel_size)), divisor_override=1).numpy()
                case "AvgPool2d":
                    y = F.avg_pool2d(torch.from_numpy(x), tuple(map(int, node.kernel_size))).numpy()
                case "Flatten":
                    y = x.reshape(-1)
                case "Scale":
                    y = x * node.scale.astype(np.float64)
                case "Threshold":
                    y = (x > node.threshold).astype(np.float64)
                case "I":
                    y = state[name] = state[name] + node.r * x
                case "IF":
                    v = state[name] + node.r * x
                    found[f"{name}_potential"].append(v)
                    y = (v > node.v_threshold).astype(np.float64)
                    state[name] = v - y * node.v_threshold if reset == "soft" else np.where(y > 0, node.v_reset, v)
                case other:
                    raise AssertionError(other)
            now[name] = y
            found[name].append(y)
        before |= now
    return {name: np.stack(values) for name, values in found.items()}


def _convolved(node: Any, x: Array) -> Array:
    weight, bias = torch.from_numpy(node.weight).double(), torch.from_numpy(node.bias).double()
    stride, padding, dilation = ([int(side) for side in each] for each in (node.stride, node.padding, node.dilation))
    found = F.conv2d(torch.from_numpy(x), weight, bias, stride, padding, dilation, int(node.groups))
    return np.asarray(found.numpy())
