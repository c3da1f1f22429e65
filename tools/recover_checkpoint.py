"""The CNN that a netx file was made from, as far as its integers tell: weights rounded to 8 bits, thresholds exact.

    python tools/recover_checkpoint.py model-T8.net -o cnn.safetensors            # with ReLU
    python tools/recover_checkpoint.py model-T8.net --qcfs 4 -o q4.safetensors    # with activations of 4 levels

For checkpoints that are too large to be kept: `train --from` and `export` go on with what comes out. Batch norm comes
back as what it was folded to, a bias. Files with corrected biases (`export --correct`) are not the CNN's, and refused.
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
from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.models import build_model
from loihi_convert.data import Dataset, load_data
from loihi_convert.files import sha256
from loihi_convert.network import QuantizedNetwork

_AT_ONCE: Final = 500


def main() -> int:
    """Write the checkpoint and print its accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--qcfs", type=int, help="levels of its activations; default: ReLU")
    parser.add_argument("--data-root", type=Path)
    arguments = parser.parse_args()
    found = recovered(arguments.file, arguments.qcfs, arguments.data_root)
    checkpoint.save(found, arguments.output)
    print(f"{arguments.output}: validation {found.validation_accuracy:.4f}, test {found.test_accuracy:.4f}")
    return 0


def recovered(path: Path, levels: int | None, data_root: Path | None = None) -> Checkpoint:
    """Return the checkpoint that the file at ``path`` holds, with ReLU or with activations of ``levels``."""
    network = netx.read(path)
    source = network.provenance["model"]
    if "calibration" in network.provenance:
        raise SystemExit(f"{path}: its biases are corrected, and not the CNN's; take a file without corrections.")
    splits = load_data(source["data"], data_root)
    model = build_model(source["architecture"], splits.input_shape, len(splits.classes), qcfs_levels=levels)
    model.load_state_dict(_state(model, network))
    model.eval()
    return Checkpoint(
        architecture=source["architecture"],
        state=model.state_dict(),
        data=splits.name,
        input_shape=splits.input_shape,
        classes=splits.classes,
        seed=source["seed"],
        validation_accuracy=_accuracy(model, splits.validation),
        test_accuracy=_accuracy(model, splits.test),
        recipe={"recovered_from": {"file": path.name, "sha256": sha256(path), "checkpoint": source["sha256"]}},
        qcfs_levels=levels,
    )


def _state(model: nn.Module, network: QuantizedNetwork) -> dict[str, Tensor]:
    """The parameters of ``model`` that compute what the integers of ``network`` stand for."""
    state = model.state_dict()
    thresholds = [name for name in state if name.endswith(".threshold")]
    synapses = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    amplitude: np.ndarray | None = None
    for index, (name, layer) in enumerate(zip(synapses, network.layers, strict=True)):
        channels = layer.synapse.channels
        unit = layer.scale * math.prod(layer.synapse.pool) * layer.largest_input
        weight = layer.weight.reshape(channels, -1) * unit[:, None]
        if amplitude is not None:
            # A weight holds the amplitude of the spikes that it receives.
            inverse = np.divide(1.0, amplitude, out=np.zeros_like(amplitude), where=amplitude > 0)
            weight = weight * np.repeat(inverse, weight.shape[1] // len(inverse))
        amplitude = layer.used_amplitude
        state[f"{name}.weight"] = torch.from_numpy(weight).float().reshape(state[f"{name}.weight"].shape)
        norm = name.replace("conv", "norm")
        bias = torch.zeros(channels) if layer.bias is None else torch.from_numpy(layer.bias * layer.scale).float()
        if f"{norm}.running_var" in state:
            # Batch norm divides by the root of its variance and 1e-5.
            state[f"{norm}.running_var"] = torch.full((channels,), 1 - 1e-5)
            state[f"{norm}.bias"] = bias
        elif f"{name}.bias" in state:
            state[f"{name}.bias"] = bias
        if index < len(thresholds):
            assert layer.balanced is not None
            state[thresholds[index]] = torch.from_numpy(np.minimum(layer.balanced.threshold, 1e4)).float()
    return state


@torch.no_grad()
def _accuracy(model: nn.Module, images: Dataset) -> float:
    correct = 0
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE]
        scores = model(torch.from_numpy(part.images.copy()).float() / 255)
        correct += int((scores.argmax(1).numpy() == part.known_labels).sum())
    return correct / len(images)


if __name__ == "__main__":
    raise SystemExit(main())
