"""The computations of the paper's tables and figures, and what they give: thresholds, accuracies, rates, files.

Each depends on a checkpoint, images and settings alone, and on the results of the cells that it needs. Thresholds of
all T of a row are one cell, because the T share simulations.
"""

from __future__ import annotations

import base64
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np

from loihi_convert import netx
from loihi_convert.backends.reference import run_network
from loihi_convert.batch.computation import Computation, R, opened_before, require_unchanged
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.methods import balance_by_method
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.data import Dataset, DataSplits, load_data
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array, arrays_digest
from loihi_convert.ground.choices import Readout
from loihi_convert.ground.devices import torch_threads
from loihi_convert.ground.files import sha256
from loihi_convert.ground.options import Record
from loihi_convert.ir.network import IntegrateAndFire, ReluLayer, ReluNetwork, SpikingLayer, SpikingNetwork, is_relay
from loihi_convert.ir.provenance import Provenance
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.paper.variants import VARIANTS, PaperOptions, PaperSetting, setting
from loihi_convert.pipeline import exporting
from loihi_convert.reading.source import Source, open_source
from loihi_convert.report.paper import Cell
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


@dataclass(frozen=True)
class Balancing(Computation[BalancedRow]):
    """The thresholds of a row: one network balanced for several T."""

    result_type: ClassVar[type[Record]] = BalancedRow

    checkpoint: TrainedCheckpoint
    calibration: Selection
    options: BalanceOptions
    timesteps: tuple[int, ...]

    def __str__(self) -> str:
        options, steps = self.options, ",".join(map(str, self.timesteps))
        alpha = "" if options.alpha == 1 else f", alpha {options.alpha:g}"
        made = f"{options.method} ({options.neuron_reset}, {options.amplitude}{alpha})"
        return f"{self.calibration.data}, thresholds of {made}, T = {steps}"

    def compute(self, needed: Sequence[Any]) -> BalancedRow:
        """See `Computation.compute`."""
        network, images = self.checkpoint.source().network, self.calibration.read().images
        networks = [
            balance_by_method(network, images, steps, self.options, device=self.checkpoint.device)
            for steps in self.timesteps
        ]
        return BalancedRow(networks=tuple(map(BalancedNetwork.of, networks)))


@dataclass(frozen=True)
class PaperConversion:
    """Makes Loihi's integers of a balanced network.

    Parameters
    ----------
    balancing
        The thresholds; those of a readout of spike counts also serve for one of potentials.
    setting
        All settings, T among them.
    """

    balancing: Balancing
    setting: PaperSetting

    def __str__(self) -> str:
        return f"{self.balancing.calibration.data}, {self.setting.name}, T = {self.setting.timesteps}"

    @property
    def key(self) -> dict[str, Any]:
        """What determines the integers."""
        # So that stored results are found: a percentile, which no method of the paper has, and no new name if false.
        setting = {**asdict(self.setting), "percentile": 99.9}
        for name in ("is_subset", *(() if self.setting.is_alpha_last else ("is_alpha_last",))):
            del setting[name]
        balancing = self.balancing
        return {"checkpoint": balancing.checkpoint.key, "calibration": balancing.calibration.key, "setting": setting}

    def quantized(self, row: BalancedRow) -> QuantizedNetwork:
        """Return the network; a file if the setting says so."""
        balancing, setting = self.balancing, self.setting
        source, images = balancing.checkpoint.source(), balancing.calibration.read().images
        made = {"model": dict(source.provenance)}
        with torch_threads(1), tempfile.TemporaryDirectory(prefix="loihi-convert-") as folder:
            network = to_integers(
                source.network, row.network(setting), setting, images, made, device=balancing.checkpoint.device
            )
            if not setting.is_exported:
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
    """Return a balanced network in Loihi's integers; thresholds with output neurons also serve for potentials."""
    balanced = balanced.for_readout(setting.readout)
    factor = setting.alpha / setting.balancing.alpha
    layers = tuple(
        SpikingLayer(layer.name, layer.synapse, None)
        if stored is None
        else SpikingLayer(
            layer.name, layer.synapse, _scaled(stored.neuron, layer.relay_of, factor), relay_of=layer.relay_of
        )
        for layer, stored in zip(network.layers, balanced.layers, strict=True)
    )
    spiking = SpikingNetwork(
        network.input_shape,
        layers,
        setting.timesteps,
        setting.reset,
        provenance=Provenance({**balanced.provenance, **(provenance or {})}),
        poisson_seed=setting.poisson_seed,
        task=network.task,
    )
    return quantize(spiking, images, QuantizeOptions(weight_bits=setting.weight_bits), device=device)


@dataclass(frozen=True)
class _OfIntegers(Computation[R]):
    """What the integers give on test images."""

    is_exact: ClassVar[bool] = True

    conversion: PaperConversion
    test: Selection

    def __str__(self) -> str:
        return str(self.conversion)

    @property
    def needs(self) -> tuple[Computation[Any], ...]:
        """The thresholds."""
        return (self.conversion.balancing,)


@dataclass(frozen=True)
class Accuracy(_OfIntegers[Correct]):
    """The accuracy of the integers."""

    result_type: ClassVar[type[Record]] = Correct

    def compute(self, needed: Sequence[Any]) -> Correct:
        """See `Computation.compute`."""
        network = self.conversion.quantized(needed[0])
        return _correct(network, self.test, self.conversion.balancing.checkpoint.device)


@dataclass(frozen=True)
class FiringRates(_OfIntegers[Rates]):
    """The firing rates of the integers: the mean of spikes / T over images and a channel's neurons (paper, eq. 3)."""

    result_type: ClassVar[type[Record]] = Rates

    def compute(self, needed: Sequence[Any]) -> Rates:
        """See `Computation.compute`."""
        network, images = self.conversion.quantized(needed[0]), self.test.read().images
        timesteps, device = self.conversion.setting.timesteps, self.conversion.balancing.checkpoint.device
        spikes = run_network(network, images, timesteps, device=device).channel_spikes
        moments = len(images) * timesteps
        return Rates(
            rates={
                layer.name: (counted.sum(axis=0) / (moments * (math.prod(shape) // counted.shape[1]))).tolist()
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
        options = BalanceOptions()
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
                balance_options=options,
                quantize_options=QuantizeOptions(weight_bits=self.weight_bits),
                device=self.checkpoint.device,
            )
            content, network = base64.b64encode(path.read_bytes()).decode(), netx.read(path)
        found = None if self.validation is None else _correct(network, self.validation, self.checkpoint.device)
        return ExportedFile(content=content, validated=None if found is None else found.correct)


@dataclass(frozen=True)
class Choosing(Computation[Best]):
    """The best of our methods for one T, on test images; they take no part in the choice.

    Parameters
    ----------
    candidates
        Exported files of several CNNs. The one with the most correct validation images is chosen (the first, if tied).
    test
        The test images.
    """

    result_type: ClassVar[type[Record]] = Best
    is_exact: ClassVar[bool] = True

    candidates: tuple[Exporting, ...]
    test: Selection

    def __str__(self) -> str:
        return f"{self.test.data}, best for T = {self.candidates[0].timesteps}"

    def compute(self, needed: Sequence[Any]) -> Best:
        """See `Computation.compute`."""
        right = [one.validated or 0 for one in needed]
        chosen = right.index(max(right))
        network, checkpoint = needed[chosen].network(), self.candidates[chosen].checkpoint
        found = _correct(network, self.test, checkpoint.device)
        return Best(network=checkpoint.path.name, method=network.provenance.method, correct=found.correct)


def _scaled(neuron: IntegrateAndFire, relay_of: Array | None, factor: float) -> IntegrateAndFire:
    """Return neurons with thresholds x ``factor``, except relays, which repeat spikes."""
    relays = is_relay(relay_of, len(neuron.threshold))
    return replace(neuron, threshold=np.where(relays, 1.0, factor) * neuron.threshold)


@lru_cache(maxsize=4)
def open_checkpoint(path: Path, digest: str) -> Source:
    """Return the CNN in a checkpoint; raise an `InputError` unless its SHA-256 is ``digest``."""
    require_unchanged(sha256(path), digest, path)
    with opened_before():
        return open_source(path)


def _correct(network: QuantizedNetwork, selection: Selection, device: str) -> Correct:
    """Run the network for its T."""
    images, steps = selection.read(), network.timesteps
    found = run_network(network, images.images, steps, device=device)
    return Correct(correct=int((found.predictions[:, steps - 1] == images.known_labels).sum()))


LONG: Final = 64
"""The largest T whose cells take all images they can where `PaperOptions.long_images` asks for fewer."""

MOST_RATE_IMAGES: Final = 1_000
"""Test images that firing rates are measured on where `PaperOptions.rate_images` says no number."""

Split = Literal["training", "calibration", "validation", "test"]
"""A split of a data set; ``training`` is all that is not tested, in the order training, validation."""


@dataclass(frozen=True)
class Selection:
    """The first ``count`` images of a split; ``key`` is the `arrays_digest` of images and labels."""

    data: str
    data_root: Path | None
    split: Split
    count: int
    key: str

    def read(self) -> Dataset:
        """Return the images; raise an `InputError` if they differ from those of the key."""
        return _read(self)


class PaperImages:
    """The images of a data set for each purpose, as many as ``options`` say.

    Balancing takes training and validation images, as in the paper, unless `PaperOptions.calibration` says ``split``,
    the calibration split, or a number, its first images. For T > `LONG` it takes the split if there is a number of
    long images, and so many of it as `PaperOptions.long_calibration` says.

    Raises
    ------
    UsageError
        If the data set has fewer images.
    """

    def __init__(self, data: str, options: PaperOptions) -> None:
        # Workers may run in another folder.
        data_root = None if options.data_root is None else options.data_root.absolute()
        self._data, self._data_root, self._options = data, data_root, options
        self._found: dict[tuple[Split, int | None], Selection] = {}
        splits, text = _splits(data, data_root), options.calibration
        if text not in ("all", "split") and not (text.isascii() and text.isdecimal()):
            raise UsageError(f"found {text}", where="calibration", expected="must be all, split, or a number of images")
        # None: all training and validation images.
        self._calibration_count = None if text == "all" else len(splits.calibration) if text == "split" else int(text)
        for option, of, also in (
            ("calibration", splits.calibration, ", split or all"),
            ("image_count", splits.test, ""),
            ("long_images", splits.test, ""),
            ("long_calibration", splits.calibration, ""),
            ("rate_images", splits.test, ""),
        ):
            count = self._calibration_count if option == "calibration" else getattr(options, option)
            if count is not None and not 1 <= count <= len(of):
                expected = f"must be in 1..{len(of):,}{also} ({splits.name})"
                raise UsageError(f"found {count}", where=option, expected=expected)

    def test(self, timesteps: int | None) -> Selection:
        """Return the test images at this T; None: the test images of the CNN."""
        long_images = self._options.long_images if timesteps is not None and timesteps > LONG else None
        return self._first("test", long_images or self._options.image_count)

    def rates(self, timesteps: int) -> Selection:
        """Return the test images for firing rates at this T."""
        return self._first("test", self._options.rate_images or min(MOST_RATE_IMAGES, self.test(timesteps).count))

    def calibration(self, timesteps: int, *, is_subset: bool = False) -> Selection:
        """Return the images for balancing a cell at this T."""
        options, is_long = self._options, timesteps > LONG
        if is_long and options.long_calibration is not None:
            return self._first("calibration", options.long_calibration)
        if is_subset or (is_long and options.long_images is not None and self._calibration_count is None):
            return self._first("calibration", None)
        return self._first("training" if self._calibration_count is None else "calibration", self._calibration_count)

    def export_calibration(self, timesteps: int) -> Selection:
        """Return the images for exporting a file at this T: never those on which networks are compared."""
        count = self._options.long_calibration if timesteps > LONG else None
        return self._first("calibration", count or self._calibration_count)

    def validation(self, timesteps: int) -> Selection:
        """Return the images for comparing networks at this T."""
        return self._first("validation", self._options.long_images if timesteps > LONG else None)

    def _first(self, split: Split, count: int | None) -> Selection:
        """Return the first ``count`` images of a split, at most all; None: all. A digest is computed once."""
        if (split, count) not in self._found:
            images = _split(self._data, self._data_root, split)[:count]
            self._found[split, count] = Selection(self._data, self._data_root, split, len(images), _digest(images))
        return self._found[split, count]


@lru_cache(maxsize=8)
def _read(selection: Selection) -> Dataset:
    images = _split(selection.data, selection.data_root, selection.split)[: selection.count]
    require_unchanged(_digest(images), selection.key, f"{selection.data}, {selection.split} images")
    return images


@lru_cache(maxsize=4)
def _splits(data: str, data_root: Path | None) -> DataSplits:
    return load_data(data, data_root)


@lru_cache(maxsize=4)
def _split(data: str, data_root: Path | None, split: Split) -> Dataset:
    splits = _splits(data, data_root)
    if split != "training":
        return {"calibration": splits.calibration, "validation": splits.validation, "test": splits.test}[split]
    both = splits.train, splits.validation
    return Dataset(np.concatenate([one.images for one in both]), np.concatenate([one.known_labels for one in both]))


def _digest(images: Dataset) -> str:
    return arrays_digest((images.images, images.known_labels))


_TIMESTEPS: Final = 4


def fingerprint(made: PaperSetting | None) -> str:
    """Return 12 hexadecimal digits; None: of what ``auto`` gives."""
    return _of(None if made is None else replace(made, timesteps=_TIMESTEPS, is_subset=False, is_exported=False))


def row_fingerprint(row: Mapping[str, str]) -> str:
    """Return today's `fingerprint` of a row of a CSV table; empty for the CNN."""
    if row["variant"] == "best":
        return fingerprint(None)
    steps = int(row["timesteps"]) if row["timesteps"] else None
    alpha = float(row["alpha"]) if row["alpha"] else None
    cell = Cell(row["table"], row["data"], row["method"], row["reset"] or None, alpha, steps, None)
    seed, bits = int(row["poisson_seed"] or 0), int(row["weight_bits"] or 8)
    made = setting(cell, VARIANTS[row["variant"]], seed=seed, weight_bits=bits)
    return "" if made is None else fingerprint(made)


@cache
def _of(made: PaperSetting | None) -> str:
    network, images = _probe()
    with torch_threads(1):
        if made is None:
            found = quantize(balance(network, images, _TIMESTEPS), images)
        else:
            spiking = balance(network, images, _TIMESTEPS, replace(made.balancing, readout="spikes"))
            found = to_integers(network, BalancedNetwork.of(spiking), made, images)
    return arrays_digest(_integers(found))[:12]


def _integers(network: QuantizedNetwork) -> list[Array]:
    neurons = [layer.neuron for layer in network.spiking_layers if layer.neuron is not None]
    values = [array for neuron in neurons for array in (neuron.threshold, neuron.initial_potential)]
    values += [array for layer in network.layers for array in (layer.weight, layer.bias) if array is not None]
    return [array.astype("<i8") for array in values]


def _probe() -> tuple[ReluNetwork, Array]:
    """The CNN, two convolutions with biases and pooling, and 48 images."""
    layers = (
        ReluLayer("conv1", Conv(_eighths(4, 1, 3, 3), padding=(1, 1))),
        ReluLayer("conv2", Conv(_eighths(6, 4, 3, 3), _eighths(6), padding=(1, 1), pool=(2, 2))),
        ReluLayer("fc", Dense(_eighths(5, 24), _eighths(5), pool=(2, 2))),
    )
    index = np.arange(48 * 64)
    return ReluNetwork((1, 8, 8), layers), (255 * (index * index % 31 < 12)).astype(np.uint8).reshape(48, 1, 8, 8)


def _eighths(*shape: int) -> Array:
    """Multiples of 1/8 in -1..1 that look random."""
    index = np.arange(np.prod(shape)) + 3
    found: Array = ((index * index * index % 101 % 17 - 8) / 8).reshape(shape)
    return found
