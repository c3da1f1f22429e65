"""The computations of the paper's tables and figures, and what they give: thresholds, accuracies, rates, files.

Each depends on a checkpoint, images and settings alone, and on the results of the cells that it needs. Thresholds of
all T of a row are one cell, because the T share simulations.
"""

from __future__ import annotations

import base64
import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from loihi_convert import netx
from loihi_convert.backends.reference import run_network
from loihi_convert.batch.computation import Computation, R, opened_before, require_unchanged
from loihi_convert.conversion.methods import balance_by_method
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Readout
from loihi_convert.ground.devices import torch_threads
from loihi_convert.ground.files import sha256
from loihi_convert.ground.options import Record
from loihi_convert.ir.network import IntegrateAndFire, ReluNetwork, SpikingLayer, SpikingNetwork, is_relay
from loihi_convert.ir.provenance import Provenance
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.paper.images import Selection
from loihi_convert.paper.variants import PaperSetting, balancing_words
from loihi_convert.pipeline import exporting
from loihi_convert.reading.source import Source, open_source
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.relu import cnn_scores


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
    layers: tuple[StoredNeurons, ...]
    provenance: dict[str, Any]

    @classmethod
    def of(cls, network: SpikingNetwork) -> BalancedNetwork:
        """Return the record of ``network``."""
        neurons = tuple(StoredNeurons.of(layer.neuron) for layer in network.layers if layer.neuron is not None)
        return cls(timesteps=network.timesteps, layers=neurons, provenance=dict(network.provenance))

    def for_readout(self, readout: Readout | None) -> BalancedNetwork:
        """Return the network, balanced for spike counts, with or without neurons in its last layer."""
        if readout == "spikes":
            return self
        made = {**self.provenance, "balance": {**self.provenance["balance"], "readout": readout}}
        return BalancedNetwork(timesteps=self.timesteps, layers=self.layers[:-1], provenance=made)


class BalancedRow(Record):
    """One network for each T."""

    networks: tuple[BalancedNetwork, ...]

    def network(self, setting: PaperSetting) -> BalancedNetwork:
        """Return the network of a setting."""
        (found,) = (one for one in self.networks if one.timesteps == setting.timesteps)
        return found.for_readout(setting.balancing.readout)


class Correct(Record):
    """Number of correctly classified images."""

    correct: int


class Rates(Record):
    """The average firing rate of each channel, by layer name."""

    rates: dict[str, tuple[float, ...]]


class ExportedFile(Record):
    """A netx file in Base64, and its number of correctly classified validation images; None if they were not run."""

    content: str
    validated: int | None

    def network(self) -> QuantizedNetwork:
        """Return the network in the file."""
        with tempfile.TemporaryDirectory(prefix="loihi-convert-") as folder:
            path = Path(folder, f"cell{netx.SUFFIX}")
            path.write_bytes(base64.b64decode(self.content))
            return netx.read(path)


class Best(Record):
    """The best of several exported files: its checkpoint's file name, its method, and correct test images."""

    network: str
    method: str
    correct: int


@dataclass(frozen=True)
class TrainedCheckpoint:
    """A checkpoint written by loihi-convert, and the torch device on which it is simulated.

    ``digest`` is the SHA-256 of the file, ``network`` that of what is read from it, see `ReluNetwork.digest`.
    """

    path: Path
    digest: str
    network: str
    device: str = "cpu"

    def source(self) -> Source:
        """Return the CNN; an `InputError` if the file has changed."""
        return open_checkpoint(self.path, self.digest)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What determines results; exported files contain the name of the checkpoint."""
        return self.path.name, self.digest, self.network, self.device


@lru_cache(maxsize=4)
def open_checkpoint(path: Path, digest: str) -> Source:
    """Return the CNN in a checkpoint; raise an `InputError` unless its SHA-256 is ``digest``."""
    require_unchanged(sha256(path), digest, path)
    with opened_before():
        return open_source(path)


@dataclass(frozen=True)
class Balancing(Computation[BalancedRow]):
    """The thresholds of a row: one network balanced for several T, with neurons in its last layer, too."""

    result_type: ClassVar[type[Record]] = BalancedRow

    checkpoint: TrainedCheckpoint
    calibration: Selection
    options: BalanceOptions
    timesteps: tuple[int, ...]

    def __str__(self) -> str:
        steps = ",".join(map(str, self.timesteps))
        return f"{self.calibration.data}, thresholds of {balancing_words(self.options)}, T = {steps}"

    def compute(self, needed: Sequence[Any]) -> BalancedRow:
        """See `Computation.compute`."""
        network, images = self.checkpoint.source().network, self.calibration.read().images
        networks = [
            balance_by_method(network, images, steps, self.options, device=self.checkpoint.device)
            for steps in self.timesteps
        ]
        return BalancedRow(networks=tuple(map(BalancedNetwork.of, networks)))


@dataclass(frozen=True)
class _OfIntegers(Computation[R]):
    """What Loihi's integers of a balanced network give on test images."""

    is_exact: ClassVar[bool] = True

    balancing: Balancing
    setting: PaperSetting
    test: Selection

    def __str__(self) -> str:
        return f"{self.test.data}, {self.setting}, T = {self.setting.timesteps}"

    @property
    def key(self) -> Mapping[str, Any]:
        """See `Computation.key`; that thresholds of other T are balanced together changes no integer."""
        made_of = {"checkpoint": self.balancing.checkpoint.key, "calibration": self.balancing.calibration.key}
        return {"kind": type(self).__name__, **made_of, "setting": asdict(self.setting), "test": self.test.key}

    def quantized(self, row: BalancedRow) -> QuantizedNetwork:
        """Return the integers; those of a file if the setting says so."""
        checkpoint, images = self.balancing.checkpoint, self.balancing.calibration.read().images
        source, balanced = checkpoint.source(), row.network(self.setting)
        made = {"model": dict(source.provenance)}
        with torch_threads(1), tempfile.TemporaryDirectory(prefix="loihi-convert-") as folder:
            network = to_integers(source.network, balanced, self.setting, images, made, device=checkpoint.device)
            if not self.setting.is_exported:
                return network
            path = Path(folder, f"cell{netx.SUFFIX}")
            netx.write(network, path)
            return netx.read(path)


def to_integers(
    network: ReluNetwork,
    balanced: BalancedNetwork,
    setting: PaperSetting,
    images: ImageArray,
    provenance: Mapping[str, Any] | None = None,
    *,
    device: str = "cpu",
) -> QuantizedNetwork:
    """Return a balanced network in Loihi's integers."""
    layers = tuple(
        SpikingLayer(layer.name, layer.synapse, None)
        if stored is None
        else SpikingLayer(
            layer.name,
            layer.synapse,
            _scaled(stored.neuron, layer.relay_of, setting.late_alpha),
            relay_of=layer.relay_of,
        )
        for layer, stored in itertools.zip_longest(network.layers, balanced.layers)
    )
    spiking = SpikingNetwork(
        network.input_shape,
        layers,
        setting.timesteps,
        setting.balancing.neuron_reset,
        provenance=Provenance({**balanced.provenance, **(provenance or {})}),
        poisson_seed=setting.balancing.poisson_seed,
        task=network.task,
    )
    return quantize(spiking, images, QuantizeOptions(weight_bits=setting.weight_bits), device=device)


def _scaled(neuron: IntegrateAndFire, relay_of: Array | None, factor: float) -> IntegrateAndFire:
    """Return neurons with thresholds x ``factor``, except relays, which repeat spikes."""
    relays = is_relay(relay_of, len(neuron.threshold))
    return replace(neuron, threshold=np.where(relays, 1.0, factor) * neuron.threshold)


@dataclass(frozen=True)
class Accuracy(_OfIntegers[Correct]):
    """The accuracy of the integers."""

    result_type: ClassVar[type[Record]] = Correct

    def compute(self, needed: Sequence[Any]) -> Correct:
        """See `Computation.compute`."""
        return Correct(correct=_correct(self.quantized(needed[0]), self.test, self.balancing.checkpoint.device))


@dataclass(frozen=True)
class FiringRates(_OfIntegers[Rates]):
    """The firing rates of the integers: the mean of spikes / T over images and a channel's neurons (paper, eq. 3)."""

    result_type: ClassVar[type[Record]] = Rates

    def compute(self, needed: Sequence[Any]) -> Rates:
        """See `Computation.compute`."""
        network, images, timesteps = self.quantized(needed[0]), self.test.read().images, self.setting.timesteps
        spikes = run_network(network, images, timesteps, device=self.balancing.checkpoint.device).channel_spikes
        moments = len(images) * timesteps
        return Rates(
            rates={
                layer.name: (counted.sum(axis=0) / (moments * math.prod(shape[1:]))).tolist()
                for layer, counted, shape in zip(network.spiking_layers, spikes, network.shapes, strict=False)
            }
        )


@dataclass(frozen=True)
class CnnAccuracy(Computation[Correct]):
    """The accuracy of the CNN on test images."""

    result_type: ClassVar[type[Record]] = Correct

    checkpoint: TrainedCheckpoint
    test: Selection

    def __str__(self) -> str:
        return f"{self.test.data}, CNN"

    def compute(self, needed: Sequence[Any]) -> Correct:
        """See `Computation.compute`."""
        images = self.test.read()
        classes = cnn_scores(self.checkpoint.source().network, images.images).argmax(axis=1)
        return Correct(correct=int((classes == images.known_labels).sum()))


@dataclass(frozen=True)
class Exporting(Computation[ExportedFile]):
    """A file of the method that ``auto`` chooses.

    Parameters
    ----------
    checkpoint, calibration, timesteps, weight_bits
        As in `exporting.export`.
    validation
        Images to run; None: none.
    chosen_by
        The file whose method is used; None: the method is chosen for this T.
    """

    result_type: ClassVar[type[Record]] = ExportedFile

    checkpoint: TrainedCheckpoint
    calibration: Selection
    timesteps: int
    weight_bits: int
    validation: Selection | None
    chosen_by: Exporting | None = None

    def __str__(self) -> str:
        return f"{self.calibration.data}, file of {self.checkpoint.path.name} for T = {self.timesteps}"

    def compute(self, needed: Sequence[Any]) -> ExportedFile:
        """See `Computation.compute`."""
        options, device = BalanceOptions(), self.checkpoint.device
        if needed:
            made = needed[0].network().provenance
            options = BalanceOptions(
                method=made.balance.method,
                percentile=made.balance.percentile,
                bias_correction=made.is_corrected,
            )
        with tempfile.TemporaryDirectory(prefix="loihi-convert-") as folder:
            path = Path(folder, f"cell{netx.SUFFIX}")
            exporting.export(
                self.checkpoint.source(),
                path,
                (self.timesteps,),
                self.calibration.read().images,
                ConversionOptions(options, QuantizeOptions(weight_bits=self.weight_bits), device=device),
            )
            validated = None if self.validation is None else _correct(netx.read(path), self.validation, device)
            return ExportedFile(content=base64.b64encode(path.read_bytes()).decode(), validated=validated)


@dataclass(frozen=True)
class Choosing(Computation[Best]):
    """The best of our methods for one T, on test images; they take no part in the choice.

    ``candidates`` are exported files of several CNNs. The one with the most correct validation images is chosen (the
    first, if tied).
    """

    result_type: ClassVar[type[Record]] = Best
    is_exact: ClassVar[bool] = True

    candidates: tuple[Exporting, ...]
    test: Selection

    def __str__(self) -> str:
        return f"{self.test.data}, best for T = {self.candidates[0].timesteps}"

    def compute(self, needed: Sequence[Any]) -> Best:
        """See `Computation.compute`."""
        file, candidate = max(zip(needed, self.candidates, strict=True), key=lambda pair: pair[0].validated or 0)
        network, checkpoint = file.network(), candidate.checkpoint
        found = _correct(network, self.test, checkpoint.device)
        return Best(network=checkpoint.path.name, method=network.provenance.method, correct=found)


def _correct(network: QuantizedNetwork, selection: Selection, device: str) -> int:
    """Run the network for its T, and return the number of correctly classified images."""
    images, steps = selection.read(), network.timesteps
    found = run_network(network, images.images, steps, device=device)
    return int((found.predictions[:, steps - 1] == images.known_labels).sum())
