"""ONNX files for tests: exported by torch, or made of single operators."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn


def exported(model: nn.Module, name: str = "net.onnx", *, shape: tuple[int, ...], **options: Any) -> Path:
    """Write ``model`` as torch's older exporter does, for one image unless ``dynamic_axes`` says otherwise."""
    with warnings.catch_warnings():
        # The older exporter is deprecated, and files of it are everywhere.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(1, *shape),), name, **{"dynamo": False, "input_names": ["input"], **options}
        )
    return Path(name)


def onnx_graph(nodes: list[Any], weights: dict[str, Any], shape: Any, opset: int = 19) -> Path:
    """Write a graph from the value ``x`` to the value ``y``."""
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(values), key) for key, values in weights.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), "graph.onnx")
    return Path("graph.onnx")


def node(kind: str, *inputs: str, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def random(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)
