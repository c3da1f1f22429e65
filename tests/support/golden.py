"""Creates a golden folder like the one in the package: ``python tests/support/golden.py FOLDER``.

A small CNN with biases and a pooling layer is trained on `digits` and exported for target loihi2 and a T that is not a
power of two, so that the folder exercises every part of the circuit of stock Processes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from loihi_convert import netx
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.data import Dataset, load_data
from loihi_convert.frontend.lower import to_relu_network
from loihi_convert.pipeline.golden_check import Golden, write_golden


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
