"""Recover the CNN of a netx file from its integers: weights rounded to 8 bits, exact thresholds.

    python tools/recover_checkpoint.py model-T8.net -o cnn.safetensors            # with ReLU
    python tools/recover_checkpoint.py model-T8.net --qcfs 4 -o q4.safetensors    # with activations of 4 levels

This is for checkpoints that are too large to keep; `train --from` and `export` accept the result. Batch norm is
recovered as the bias it was folded to. Files with corrected biases (`export --bias-correction`) do not contain the
biases of the CNN and are refused.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from loihi_convert import netx
from loihi_convert.__main__ import exit_code
from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.accuracy import accuracy
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.models import build_model
from loihi_convert.data import load_data
from loihi_convert.errors import InputError, UsageError
from loihi_convert.files import refuse_to_overwrite, refuse_to_replace, require_writable, sha256
from loihi_convert.ir.quantized import QuantizedNetwork

_NEVER: Final = 1e4
"""Threshold of a channel that can never fire; checkpoints only contain finite numbers."""


def main() -> int:
    """Write the checkpoint and print its accuracies; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--qcfs", type=int, help="levels of its activations; default: ReLU")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    arguments = parser.parse_args()
    return exit_code(lambda: _recover(arguments))


def _recover(arguments: argparse.Namespace) -> None:
    checkpoint.require_suffix(arguments.output)
    refuse_to_replace(arguments.file, arguments.output)
    refuse_to_overwrite(arguments.output, arguments.overwrite)
    require_writable(arguments.output)
    found = recovered(arguments.file, arguments.qcfs, arguments.data_root)
    checkpoint.save(found, arguments.output)
    print(f"{arguments.output}: validation {found.validation_accuracy:.4f}, test {found.test_accuracy:.4f}")


def recovered(path: Path, levels: int | None, data_root: Path | None = None) -> Checkpoint:
    """Return the checkpoint recovered from the file at ``path``, with ReLU or with activations of ``levels``."""
    network = netx.read(path)
    source = network.provenance.get("model", {})
    if "calibration" in network.provenance:
        raise InputError(
            "its biases are corrected, so they are not those of the CNN",
            where=path,
            hint="Use a file without corrections.",
        )
    if "architecture" not in source:
        raise InputError(
            "was made from your own CNN (--arch)", where=path, expected="must be made from a CNN of loihi-convert train"
        )
    method = network.provenance["balance"]["method"]
    if levels is not None and method != "qcfs":
        raise UsageError(
            f"its thresholds are from {method}, not learned",
            where=path,
            hint="Leave out --qcfs, or use another file.",
        )
    splits = load_data(source["data"], data_root)
    model = build_model(source["architecture"], splits.input_shape, len(splits.classes), qcfs_levels=levels)
    state = _state(model, network)
    return Checkpoint(
        architecture=source["architecture"],
        state=state,
        data=splits.name,
        input_shape=splits.input_shape,
        classes=splits.classes,
        seed=source["seed"],
        validation_accuracy=accuracy(model, state, splits.validation),
        test_accuracy=accuracy(model, state, splits.test),
        recipe={"recovered_from": {"file": path.name, "sha256": sha256(path), "checkpoint": source["sha256"]}},
        qcfs_levels=levels,
    )


def _state(model: nn.Module, network: QuantizedNetwork) -> dict[str, Tensor]:
    """Return parameters with which ``model`` computes the function of ``network``'s integers."""
    state = model.state_dict()
    thresholds = [name for name in state if name.endswith(".threshold")]
    synapses = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    amplitude: np.ndarray | None = None
    for index, (name, layer) in enumerate(zip(synapses, network.layers, strict=True)):
        channels = layer.synapse.channels
        unit = layer.scale * math.prod(layer.synapse.pool) * layer.largest_input
        weight = layer.weight.reshape(channels, -1) * unit[:, None]
        if amplitude is not None:
            # A weight includes the amplitude of its input spikes.
            inverse = np.divide(1.0, amplitude, out=np.zeros_like(amplitude), where=amplitude > 0)
            weight = weight * np.repeat(inverse, weight.shape[1] // len(inverse))
        amplitude = layer.used_amplitude
        state[f"{name}.weight"] = torch.from_numpy(weight).float().reshape(state[f"{name}.weight"].shape)
        norm = name.replace("conv", "norm")
        bias = torch.zeros(channels) if layer.bias is None else torch.from_numpy(layer.bias * layer.scale).float()
        if f"{norm}.running_var" in state:
            # Batch norm divides by sqrt(variance + 1e-5).
            state[f"{norm}.running_var"] = torch.full((channels,), 1 - 1e-5)
            state[f"{norm}.bias"] = bias
        elif f"{name}.bias" in state:
            state[f"{name}.bias"] = bias
        if index < len(thresholds):
            assert layer.balanced is not None
            state[thresholds[index]] = torch.from_numpy(np.minimum(layer.balanced.threshold, _NEVER)).float()
    return state


if __name__ == "__main__":
    raise SystemExit(main())
