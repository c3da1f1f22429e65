"""The network that a benchmark runs: an exported file, or one with random weights that is exported for it."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from simulators.graph import built
from simulators.worker import Request
from torch import nn

from loihi_convert import netx
from loihi_convert.cnn.models import build_model
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.data import load_data
from loihi_convert.data.dataset import Dataset, DataSplits
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.lowering import to_relu_network

# Networks with random weights, and the data set of each.
NETWORKS: Final = {
    "digits-cnn": "digits",
    "mnist-cnn": "mnist",
    "fashion-mnist-cnn": "fashion-mnist",
    "vgg-small": "cifar10",
    "vgg16": "cifar10",
}
NOISE: Final = "noise"
"""Images of noise, of any shape and number; the speed does not depend on their contents."""

_CLASSES: Final = 10
# Number of images on which thresholds of untrained networks are balanced.
_CALIBRATION_IMAGES: Final = 100
_CALIBRATION_IMAGES_OF_NOISE: Final = 8


@dataclass(frozen=True, eq=False)
class Subject:
    """The exported file to run, its name in tables, and the images."""

    path: Path
    name: str
    network: QuantizedNetwork
    images: Array


@contextlib.contextmanager
def subject(options: argparse.Namespace, timesteps: int | None) -> Iterator[Subject]:
    """Read or create the network chosen on the command line; a created one is in a temporary folder."""
    if sum(each is not None for each in (options.model, options.network, options.arch)) != 1:
        raise UsageError("found none, or more than one", expected="give one: an exported file, --network or --arch")
    with tempfile.TemporaryDirectory() as temporary:
        if options.arch is not None:
            splits = _noise(options.input_shape, options.images)
            path, name = Path(temporary, "cnn.net"), f"{options.arch} with random weights"
            export_untrained(built(options.arch), splits, timesteps or 8, path)
        elif options.model is None:
            if options.data == NOISE:
                splits = _noise(options.input_shape, options.images)
            else:
                splits = load_data(options.data or NETWORKS[options.network], options.data_root)
            torch.manual_seed(0)
            model = build_model(options.network, splits.input_shape, len(splits.classes) or _CLASSES)
            path, name = Path(temporary, f"{options.network}.net"), f"{options.network} with random weights"
            export_untrained(model, splits, timesteps or 8, path)
        else:
            path, name = options.model.resolve(), options.model.name
            recorded = netx.read(path).provenance.get("model", {})
            if options.data is None and "data" not in recorded:
                raise UsageError("does not record its data set", where=path.name, hint="Pass --data.")
            splits = load_data(options.data or str(recorded["data"]), options.data_root)
        network = netx.read(path)
        if network.readout != "potential" or network.reset != "soft" or len(network.layers) < 2:
            raise UsageError(
                "hard reset, a spiking readout or a single layer",
                where=name,
                expected="must be a soft-reset network of two layers or more whose last layer only integrates",
            )
        yield Subject(path, f"{name}, {splits.name}", network, splits.test.images)


def export_untrained(model: nn.Module, splits: DataSplits, timesteps: int, path: Path) -> None:
    """Write the CNN ``model`` as a file, with thresholds balanced for ``timesteps`` on a few images."""
    images = splits.calibration_images()[:_CALIBRATION_IMAGES]
    spiking = balance(
        to_relu_network(model.eval(), splits.input_shape), images, timesteps, BalanceOptions(method="ngu-lee")
    )
    netx.write(quantize(spiking, images), path)


def _noise(shape: Shape, count: int) -> DataSplits:
    """Return ``count`` images of `NOISE`."""
    images = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)
    data = Dataset(images, np.zeros(count, np.int64))
    return DataSplits(NOISE, (), data, data, data[:_CALIBRATION_IMAGES_OF_NOISE], data)


def request_for(
    options: argparse.Namespace, peer: int, path: Path, folder: Path, images: Array, timesteps: int, **settings: Any
) -> Request:
    """Save ``images`` in ``folder``; return what the process of ``PEERS[peer]`` is to run with them."""
    saved = folder / f"images-{peer}.npy"
    np.save(saved, images)
    return Request(
        peer=peer,
        network=str(path),
        images=str(saved),
        potentials=str(folder / f"potentials-{peer}.npy"),
        timesteps=timesteps,
        **{"batch_sizes": (), "threads": options.threads, **settings},
    )
