"""Make the golden folder of the package: ``python tools/golden.py [FOLDER]``.

A tiny CNN with biases and a pooling is trained on `digits`, and exported for target loihi2 and a T that is no power of
two, so that the folder holds all that the circuit of stock Processes has: `loihi-convert run --golden` checks it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Final

import torch
from torch import nn

from loihi_convert import netx
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.quantization import quantize
from loihi_convert.data import load_data
from loihi_convert.data.dataset import Dataset
from loihi_convert.frontend.lowering import convert
from loihi_convert.pipeline.golden_check import folder, write_golden

TIMESTEPS: Final = 6
IMAGES: Final = 8
EPOCHS: Final = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=folder())
    parser.add_argument("--overwrite", action="store_true")
    arguments = parser.parse_args()
    splits = load_data("digits", None)
    model = trained(splits.train)
    spiking = balance(convert(model, (1, 8, 8)), splits.train.images, TIMESTEPS, method="percentile", percentile=99.9)
    network = quantize(spiking, splits.train.images, target="loihi2")
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "model.net"
        netx.write(network, file)
        golden = write_golden(
            arguments.folder, file, splits.test.images[:IMAGES], TIMESTEPS, overwrite=arguments.overwrite
        )
    assert splits.test.labels is not None
    right = int((golden.potentials[:, -1].argmax(axis=1) == splits.test.labels[:IMAGES]).sum())
    size = sum(path.stat().st_size for path in golden.path.iterdir())
    print(f"wrote {golden.path}: {size:,} bytes; {right} of {IMAGES} images classified right at T = {TIMESTEPS}")


def trained(digits: Dataset) -> nn.Module:
    """Return a CNN of 4 and 6 channels; the same on the same processor and torch."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    modules = {
        "conv1": nn.Conv2d(1, 4, 3, padding=1),
        "relu1": nn.ReLU(),
        "pool": nn.AvgPool2d(2),
        "conv2": nn.Conv2d(4, 6, 3),
        "relu2": nn.ReLU(),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(24, 10),
    }
    model = nn.Sequential(OrderedDict(modules))
    images = torch.tensor(digits.images / 255, dtype=torch.float32)
    labels = torch.tensor(digits.labels, dtype=torch.int64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for start in range(0, len(images), 64):
            batch = order[start : start + 64]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
    return model.eval()


if __name__ == "__main__":
    main()
