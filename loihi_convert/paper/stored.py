"""Records stored by the cells of the paper: balanced networks, counts, firing rates, exported files."""

from __future__ import annotations

import base64
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from loihi_convert import netx
from loihi_convert.choices import Readout
from loihi_convert.ir.network import IntegrateAndFire, SpikingNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.paper.variants import PaperSetting
from loihi_convert.records import Record


class StoredNeurons(Record):
    """The neurons of a layer, one number per channel; infinity, which JSON lacks, is None."""

    threshold: tuple[float | None, ...]
    amplitude: tuple[float, ...]
    initial_potential: tuple[float, ...]

    @classmethod
    def of(cls, neuron: IntegrateAndFire) -> StoredNeurons:
        """Return the record of ``neuron``."""
        return cls(
            threshold=tuple(value if math.isfinite(value) else None for value in neuron.threshold.tolist()),
            amplitude=tuple(neuron.amplitude.tolist()),
            initial_potential=tuple(neuron.initial_potential.tolist()),
        )

    @property
    def neuron(self) -> IntegrateAndFire:
        """The neurons."""
        return IntegrateAndFire(
            threshold=np.array([math.inf if value is None else value for value in self.threshold]),
            amplitude=np.array(self.amplitude),
            initial_potential=np.array(self.initial_potential),
        )


class BalancedNetwork(Record):
    """The neurons of each layer of a network for ``timesteps`` steps, and how they were balanced."""

    timesteps: int
    layers: tuple[StoredNeurons | None, ...]
    provenance: dict[str, Any]

    @classmethod
    def of(cls, network: SpikingNetwork) -> BalancedNetwork:
        """Return the record of ``network``."""
        return cls(
            timesteps=network.timesteps,
            layers=tuple(None if layer.neuron is None else StoredNeurons.of(layer.neuron) for layer in network.layers),
            provenance=dict(network.provenance),
        )

    def for_readout(self, readout: Readout) -> BalancedNetwork:
        """Return the network with or without neurons in its last layer; with, it must have them."""
        if readout == "spikes":
            return self
        made = {**self.provenance, "balance": {**self.provenance["balance"], "readout": readout}}
        return BalancedNetwork(timesteps=self.timesteps, layers=(*self.layers[:-1], None), provenance=made)


class BalancedRow(Record):
    """One network for each T."""

    networks: tuple[BalancedNetwork, ...]

    def network(self, setting: PaperSetting) -> BalancedNetwork:
        """Return the network of a setting."""
        (found,) = (one for one in self.networks if one.timesteps == setting.timesteps)
        return found.for_readout(setting.readout)


class Correct(Record):
    """Number of correctly classified images."""

    correct: int


class Rates(Record):
    """The average firing rate of each channel, by layer name."""

    rates: dict[str, tuple[float, ...]]


class ExportedFile(Record):
    """A netx file.

    Attributes
    ----------
    content
        The file, in Base64.
    validated
        Number of correctly classified validation images; None if they were not run.
    """

    content: str
    validated: int | None

    def network(self) -> QuantizedNetwork:
        """Return the network in the file."""
        with tempfile.TemporaryDirectory(prefix="loihi-convert-") as folder:
            path = Path(folder, f"cell{netx.SUFFIX}")
            path.write_bytes(base64.b64decode(self.content))
            return netx.read(path)


class Best(Record):
    """The best of several exported files.

    Attributes
    ----------
    network
        File name of its checkpoint.
    method
        The method that was used for it.
    correct
        Number of correctly classified test images.
    """

    network: str
    method: str
    correct: int
