# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["onnx>=1.16", "tensorflow-cpu==2.21.*", "tf2onnx==1.17.*"]
# ///
"""Convert an official trained model of MLPerf Tiny to ONNX: ``cnn.onnx`` in a folder, as its ``build.toml`` says.

git clone https://github.com/mlcommons/tiny
uv run netx_models/mlperf-tiny/to_onnx.py tiny netx_models/mlperf-tiny-keyword-spotting

``source`` is a TensorFlow Lite file of that repository at ``commit``, with the SHA-256 ``source_sha256``. The ONNX file
takes pixels / 255 with channels first, and computes what the model takes, ``scale * (pixel - offset)``, itself.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

# No GPU is needed, and its absence is not worth pages of text.
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}

import numpy as np
import onnx
import tensorflow
import tf2onnx.convert
from onnx import helper, numpy_helper


def main() -> None:
    """Convert the model of a folder."""
    clone, folder = map(Path, sys.argv[1:])
    plan = tomllib.loads((folder / "build.toml").read_text())
    command = ["git", "-C", str(clone), "show", f"{plan['commit']}:{plan['source']}"]
    content = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    if (found := hashlib.sha256(content).hexdigest()) != plan["source_sha256"]:
        sys.exit(f"{plan['source']}: its SHA-256 is {found}, not {plan['source_sha256']}")
    model = converted(content)
    normalize(model.graph, plan["scale"], plan["offset"])
    model.doc_string = f"https://github.com/mlcommons/tiny, {plan['commit']}, {plan['source']}. Apache-2.0."
    onnx.checker.check_model(model)
    (folder / "cnn.onnx").write_bytes(model.SerializeToString(deterministic=True))


def converted(content: bytes) -> onnx.ModelProto:
    """Return the model in a TensorFlow Lite file; it takes images (N, C, H, W) or vectors (N, K)."""
    (image,) = tensorflow.lite.Interpreter(model_content=content).get_input_details()
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "model.tflite")
        path.write_bytes(content)
        images = [image["name"]] if len(image["shape"]) == 4 else None
        model, _ = tf2onnx.convert.from_tflite(str(path), opset=17, inputs_as_nchw=images)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    return model


def normalize(graph: onnx.GraphProto, scale: float, offset: float) -> None:
    """Let the graph take pixels / 255 instead of ``scale * (pixel - offset)``; number its nodes."""
    name = graph.input[0].name
    for number, node in enumerate(graph.node, 1):
        # The converter joins the names of all operators that it fused.
        node.name = f"{node.op_type.lower()}_{number}"
        node.input[:] = [f"{name}_normalized" if each == name else each for each in node.input]
    values = {"pixel_scale": 255 * scale, "pixel_offset": -offset * scale}
    graph.initializer.extend(numpy_helper.from_array(np.float32(value), key) for key, value in values.items())
    scaled = helper.make_node("Mul", [name, "pixel_scale"], [f"{name}_scaled"])
    graph.node.insert(0, helper.make_node("Add", [f"{name}_scaled", "pixel_offset"], [f"{name}_normalized"]))
    graph.node.insert(0, scaled)


if __name__ == "__main__":
    main()
