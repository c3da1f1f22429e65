"""Creates a golden folder like the one in the package: ``python tests/support/golden.py FOLDER``.

A small CNN with biases and a pooling layer is trained on `digits` and exported for target loihi2 and a T that is not a
power of two, so that the folder exercises every part of the circuit of stock Processes.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from loihi_convert import netx
from loihi_convert.backends.reference import run_network
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.data import Dataset, load_data
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.files import refuse_to_overwrite, sha256, write_atomically
from loihi_convert.lowering import to_relu_network
from loihi_convert.pipeline import golden_check
from loihi_convert.pipeline.golden_check import Golden


def make_golden(folder: Path, *, timesteps: int = 6, images: int = 8, epochs: int = 60) -> Golden:
    """Train, export and write; the result is the same for the same processor and torch version."""
    splits = load_data("digits")
    calibration = splits.train.images
    spiking = balance(
        to_relu_network(trained(splits.train, epochs), (1, 8, 8)),
        calibration,
        timesteps,
        BalanceOptions(method="percentile", percentile=99.9),
    )
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "model.net"
        netx.write(quantize(spiking, calibration, QuantizeOptions(target="loihi2")), file)
        return write_golden(folder, file, splits.test.images[:images], timesteps)


def write_golden(path: Path, model: Path, images: Array, timesteps: int, *, overwrite: bool = False) -> Golden:
    """Write a golden folder for the exported file ``model``; the expected results are those of `ref` on ``images``.

    Raises
    ------
    InputError
        If a file exists, without ``overwrite``, or cannot be written.
    """
    path.mkdir(parents=True, exist_ok=True)
    for name in (golden_check.NETWORK, golden_check.ARRAYS, golden_check.DIGESTS):
        refuse_to_overwrite(path / name, overwrite)
    network = netx.read(model)
    result = run_network(network, images, timesteps, trace=True)
    told: dict[str, Any] = {
        "timesteps": timesteps,
        "model": sha256(model),
        "layers": [
            {"name": layer.name, "spikes": spikes, "potentials": potentials}
            for layer, (spikes, potentials) in zip(
                network.layers, map(golden_check._digests, result.traces), strict=True
            )
        ],
    }
    arrays = io.BytesIO()
    np.savez_compressed(arrays, images=images, potentials=result.potentials)
    write_atomically(path / golden_check.NETWORK, model.read_bytes())
    write_atomically(path / golden_check.ARRAYS, arrays.getvalue())
    write_atomically(path / golden_check.DIGESTS, (json.dumps(told, indent=2) + "\n").encode())
    return golden_check.read_golden(path)


def trained(digits: Dataset, epochs: int) -> nn.Module:
    """Return a CNN of 4 and 6 channels."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 10)),
    )
    images, labels = torch.tensor(digits.images / 255, dtype=torch.float32), torch.tensor(digits.known_labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(images)), 64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


if __name__ == "__main__":
    print(f"wrote {make_golden(Path(sys.argv[1])).path}")
