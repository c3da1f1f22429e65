"""Netx files as written by slayer: numbers as float32, texts of any length, booleans."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np

LayerData = dict[str, Any]
NEURON: LayerData = {"type": "CUBA", "iDecay": 1024, "vDecay": 512, "vThMant": 40, "refDelay": 1, "gradedSpike": False}


def small_layers() -> list[LayerData]:
    """Return 2 x 5 x 4 input neurons, a convolution, a dense layer, a readout without neurons; axis lengths differ."""
    rng = np.random.default_rng(3)

    def even(*shape: int) -> np.ndarray:
        # slayer quantizes weights in steps of 2.
        return 2 * rng.integers(-20, 21, shape).astype(np.float32)

    return [
        {"type": "input", "shape": [2, 5, 4], "weight": [60.0], "bias": [12.0], "neuron": {**NEURON, "vThMant": 30}},
        {
            "type": "conv",
            "shape": [6, 3, 3],
            "weight": even(6, 1, 3, 2),
            "bias": rng.integers(-9, 10, 6).astype(np.float32),
            "stride": [2, 1],
            "padding": [1, 0],
            "dilation": [1, 1],
            "groups": 2,
            "neuron": NEURON,
            "inChannels": 2,
        },
        {"type": "flatten", "shape": [1, 1, 54]},
        {"type": "dense", "shape": [7], "weight": even(7, 54), "neuron": NEURON},
        {"type": "dense", "shape": [3], "weight": even(3, 7)},
    ]


def write_external(path: Path, layers: list[LayerData]) -> Path:
    """Write the file; a dict becomes a group, and None is omitted."""
    with h5py.File(path, "w") as file:
        file["simulation/tSample"] = 6
        for index, layer in enumerate(layers):
            _fill(file.create_group(f"layer/{index}"), layer)
    return path


def _fill(group: h5py.Group, values: LayerData) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            _fill(group.create_group(name), value)
        elif name == "type" and group.name.count("/") == 2:
            group.create_dataset(name, data=np.array([value], "S10"))
        elif value is not None:
            group.create_dataset(name, data=value)


def lava_dl_file(name: str) -> Path:
    """Return a file from lava-dl's tests, which are installed by its wheel."""
    (path,) = (file for file in metadata.files("lava-dl") or () if str(file) == f"tests/lava/lib/dl/netx/{name}")
    return Path(path.locate())
