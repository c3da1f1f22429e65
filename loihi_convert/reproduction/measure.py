"""Results of a trained network: accuracies of the integer network, thresholds, firing rates; computed once and cached.

A cell takes `balance_each`, `quantize`, and a run of the test images on `ref`. Thresholds and accuracies are stored.
A run also stores its counts after every 1,000 images, so that a killed run continues from there.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from loihi_convert import netx
from loihi_convert.arrays import Array
from loihi_convert.backends.reference import run_network
from loihi_convert.conversion.calibration import calibration_subset
from loihi_convert.conversion.methods import balance_each
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.data import Dataset
from loihi_convert.errors import RangeError
from loihi_convert.frontend.source import open_source
from loihi_convert.ir.network import IntegrateAndFire, SpikingLayer, SpikingNetwork
from loihi_convert.ir.provenance import Provenance
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.progress import Progress
from loihi_convert.reproduction.images import Images, images_digest
from loihi_convert.reproduction.meter import Meter
from loihi_convert.reproduction.paper_cells import Setting
from loihi_convert.reproduction.records import Records
from loihi_convert.simulation.layer_spec import Recording
from loihi_convert.simulation.relu import cnn_scores
from loihi_convert.simulation.simulator import Block, Simulator

# Number of images after which intermediate counts are stored.
_PART: Final = 1_000
# Methods that compute thresholds from the CNN's activations, in two passes.
_FROM_ACTIVATIONS: Final = ("act-norm", "robust-norm", "act-norm-channelwise", "percentile")
# Methods with one threshold per layer, found by simulation. Without biases, the spike amplitude scales all currents and
# thresholds of the next layer by the same factor, so it does not change any spike.
_PER_LAYER: Final = ("spike-norm", "rmp")


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Parameters
    ----------
    correct
        Number of correctly classified images; None if the network does not fit Loihi's integer ranges.
    images
        Number of test images.
    calibration_images
        Number of images used to balance the thresholds; 0 for the CNN.
    seconds
        Duration of quantization and run.
    refusal
        Why the network does not fit.
    """

    correct: int | None
    images: int
    calibration_images: int
    seconds: float
    refusal: str | None = None

    @property
    def accuracy(self) -> float | None:
        """Accuracy in %."""
        return None if self.correct is None else 100 * self.correct / self.images


class Measurements:
    """Measures one trained network on its data.

    Parameters
    ----------
    path
        A checkpoint written by loihi-convert.
    images
        Images of the data set that it was trained on.
    records
        Stored results.
    device
        Device of the simulation: ``"cpu"``, or another torch device.
    tell
        Called with a sentence for each accuracy that has been computed.

    Raises
    ------
    InputError
        If the checkpoint cannot be used.
    """

    def __init__(
        self,
        path: Path,
        images: Images,
        records: Records,
        *,
        device: str = "cpu",
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.source = open_source(path)
        self.images = images
        self._records, self._device, self._tell = records, device, tell
        self._has_biases = any(layer.synapse.bias is not None for layer in self.source.network.layers)

    @property
    def name(self) -> str:
        """The checkpoint's file name."""
        return str(self.source.provenance["file"])

    @property
    def digest(self) -> str:
        """SHA-256 of the checkpoint."""
        return str(self.source.provenance["sha256"])

    def work(self, settings: Sequence[Setting]) -> int:
        """Return the approximate remaining work of `accuracies`, in images times steps."""
        missing = [one for one in dict.fromkeys(settings) if self.stored(one) is None]
        return sum(map(self._balance_work, self._unbalanced(missing))) + sum(map(self._run_work, missing))

    def accuracies(self, settings: Sequence[Setting], meter: Meter) -> None:
        """Compute the results that are not in `stored`; all T of a row are balanced together."""
        rows: dict[Setting, list[Setting]] = {}
        for one in dict.fromkeys(settings):
            if self.stored(one) is None:
                rows.setdefault(replace(one, timesteps=0), []).append(one)
        # A spike-count readout needs thresholds for one more layer; the other layers' thresholds are the same.
        for row in sorted(rows.values(), key=lambda row: row[0].readout != "spikes"):
            try:
                networks = self._balanced(row, meter)
            except RangeError as error:
                for one in row:
                    self._store(one, self._refused(one, error))
                continue
            for one, network in zip(row, networks, strict=True):
                with meter.step(self._run_work(one)) as progress:
                    outcome = self._run(one, network, progress)
                self._store(one, outcome)
                found = outcome.refusal if outcome.accuracy is None else f"{outcome.accuracy:.2f} %"
                self._tell(f"{one.name}, T = {one.timesteps}: {found} ({meter.state})")

    def stored(self, setting: Setting) -> Outcome | None:
        """Return the stored result of a cell, or None."""
        found = self._records.get("cell", self._cell_key(setting))
        return None if found is None else Outcome(**found)

    def cnn(self, timesteps: int | None) -> Outcome:
        """Return the CNN's result on the test images for this T."""
        images = self.images.test(timesteps)
        key = {"network": self.digest, "test": self.images.digest(images)}
        found = self._records.get("cnn", key)
        if found is None:
            started = time.monotonic()
            classes = cnn_scores(self.source.network, images.images).argmax(axis=1)
            correct = int((classes == images.known_labels).sum())
            found = asdict(Outcome(correct, len(images), 0, time.monotonic() - started))
            self._records.put("cnn", key, found)
        return Outcome(**found)

    def thresholds(self, settings: Sequence[Setting], meter: Meter) -> list[SpikingNetwork]:
        """Return the balanced networks of one row, which differ only in T."""
        return self._balanced(settings, meter)

    def firing_rates(self, setting: Setting, meter: Meter) -> dict[str, list[float]]:
        """Return the average firing rate of each channel, by layer name (paper, eq. 3).

        The mean of spikes / T over the images of `Images.rates` and the channel's neurons, in the integer network.
        """
        images = self.images.rates(setting.timesteps)
        key = {**self._balance_key(setting), "weight_bits": setting.weight_bits, "test": images_digest(images)}
        found = self._records.get("rates", key)
        if found is None:
            (spiking,) = self._balanced([setting], meter)
            network = self._quantized(setting, spiking)
            with meter.step(len(images) * setting.timesteps) as progress:
                found = _firing_rates(network, images.images, setting.timesteps, self._device, progress)
            self._records.put("rates", key, found)
        return dict(found)

    def right(
        self,
        network: QuantizedNetwork,
        images: Dataset,
        timesteps: int,
        progress: Progress | None = None,
        key: dict[str, Any] | None = None,
    ) -> int:
        """Return how many images the integer network classifies correctly; partial counts are stored under ``key``."""
        # Poisson spikes depend on the image's index in its run.
        size = _PART if network.poisson_seed is None else len(images)
        part = (None if key is None else self._records.get("part", key)) or {"images": 0, "correct": 0}
        first, correct = int(part["images"]), int(part["correct"])
        for start in range(first, len(images), size):
            some = images[start : start + size]

            def report(done: int, total: int, start: int = start) -> None:
                if progress is not None:
                    progress(start + done - first, len(images) - first)

            found = run_network(network, some.images, timesteps, device=self._device, progress=report)
            correct += int((found.predictions[:, timesteps - 1] == some.known_labels).sum())
            if key is not None and start + size < len(images):
                self._records.put("part", key, {"images": start + size, "correct": correct})
        return correct

    def _balanced(self, row: Sequence[Setting], meter: Meter) -> list[SpikingNetwork]:
        """Return the networks of settings that differ only in T, from stored thresholds or by balancing now."""
        for together in self._unbalanced(row):
            first = together[0]
            with meter.step(self._balance_work(together)) as progress:
                networks = balance_each(
                    self.source.network,
                    self.images.calibration(first.timesteps, is_subset=first.is_subset),
                    [one.timesteps for one in together],
                    BalanceOptions(
                        method=first.method,
                        amplitude=first.amplitude,
                        alpha=first.alpha,
                        percentile=first.percentile,
                        initial_potential=first.initial_potential,
                        reset=first.reset,
                        readout=first.readout,
                        poisson_seed=first.poisson_seed,
                    ),
                    device=self._device,
                    progress=progress,
                )
            for one, network in zip(together, networks, strict=True):
                self._records.put("thresholds", self._balance_key(one), _neurons(network))
        return [self._with_neurons(one, self._stored_thresholds(one)) for one in row]

    def _stored_thresholds(self, setting: Setting) -> Any | None:
        """Return the stored `_neurons` of this network, or of the one that differs only in its last layer's neurons."""
        found = self._records.get("thresholds", self._balance_key(setting))
        if found is None and setting.readout == "potential":
            found = self._records.get("thresholds", self._balance_key(replace(setting, readout="spikes")))
            if found is not None:
                made = {**found["provenance"]["balance"], "readout": "potential"}
                found = {"layers": [*found["layers"][:-1], None], "provenance": {"balance": made}}
        return found

    def _unbalanced(self, settings: Sequence[Setting]) -> list[list[Setting]]:
        """Return the settings that one call must balance: thresholds neither stored nor shared with another setting."""
        found: dict[str, dict[int, Setting]] = {}
        counting = {one for one in settings if one.readout == "spikes"}
        for one in settings:
            if replace(one, readout="spikes") in counting - {one}:
                continue
            if self._stored_thresholds(one) is None:
                same = json.dumps({**self._balance_key(one), "timesteps": None}, sort_keys=True)
                found.setdefault(same, {}).setdefault(one.timesteps, one)
        return [list(together.values()) for together in found.values()]

    def _with_neurons(self, setting: Setting, stored: Any) -> SpikingNetwork:
        layers = tuple(
            SpikingLayer(layer.name, layer.synapse, None if neuron is None else _neuron(neuron))
            for layer, neuron in zip(self.source.network.layers, stored["layers"], strict=True)
        )
        return SpikingNetwork(
            self.source.network.input_shape,
            layers,
            setting.timesteps,
            setting.reset,
            provenance=Provenance({**stored["provenance"], "model": dict(self.source.provenance)}),
            poisson_seed=setting.poisson_seed,
        )

    def _run(self, setting: Setting, spiking: SpikingNetwork, progress: Progress) -> Outcome:
        started = time.monotonic()
        images = self.images.test(setting.timesteps)
        try:
            network = self._quantized(setting, spiking)
            if setting.is_exported:
                path = self._records.path("cell", self._cell_key(setting)).with_suffix(netx.SUFFIX)
                netx.write(network, path, overwrite=True)
                network = netx.read(path)
            part = {"cell": self._cell_key(setting)}
            correct = self.right(network, images, setting.timesteps, progress, part)
        except RangeError as error:
            return self._refused(setting, error)
        calibration = len(self.images.calibration(setting.timesteps, is_subset=setting.is_subset))
        return Outcome(correct, len(images), calibration, time.monotonic() - started)

    def _quantized(self, setting: Setting, spiking: SpikingNetwork) -> QuantizedNetwork:
        images = self.images.calibration(setting.timesteps, is_subset=setting.is_subset)
        return quantize(spiking, images, QuantizeOptions(weight_bits=setting.weight_bits), device=self._device)

    def _store(self, setting: Setting, outcome: Outcome) -> None:
        self._records.put("cell", self._cell_key(setting), asdict(outcome))
        self._records.path("part", {"cell": self._cell_key(setting)}).unlink(missing_ok=True)

    def _refused(self, setting: Setting, error: RangeError) -> Outcome:
        calibration = len(self.images.calibration(setting.timesteps, is_subset=setting.is_subset))
        return Outcome(None, len(self.images.test(setting.timesteps)), calibration, 0.0, str(error))

    def _balance_key(self, setting: Setting) -> dict[str, Any]:
        measured = asdict(setting)
        for later in ("weight_bits", "is_exported", "is_subset"):
            del measured[later]
        if setting.method in _PER_LAYER and not self._has_biases:
            measured["amplitude"] = "literal"
        calibration = self.images.calibration(setting.timesteps, is_subset=setting.is_subset)
        return {"network": self.digest, "calibration": self.images.digest(calibration), **measured}

    def _cell_key(self, setting: Setting) -> dict[str, Any]:
        return {
            **self._balance_key(setting),
            "weight_bits": setting.weight_bits,
            "is_exported": setting.is_exported,
            "test": self.images.digest(self.images.test(setting.timesteps)),
        }

    def _balance_work(self, together: Sequence[Setting]) -> int:
        first, steps = together[0], [one.timesteps for one in together]
        images = len(self.images.calibration(first.timesteps, is_subset=first.is_subset))
        if first.method in _FROM_ACTIVATIONS:
            return 2 * images
        # While only the first layer's thresholds are needed, which are the same for all T, one pass covers all T.
        depth = len(self.source.network.layers) - (first.readout == "potential")
        return images * (max(steps) if depth <= 2 else sum(steps))

    def _run_work(self, setting: Setting) -> int:
        quantizing = len(
            calibration_subset(
                self.images.calibration(setting.timesteps, is_subset=setting.is_subset), setting.timesteps
            )
        )
        return setting.timesteps * (quantizing + len(self.images.test(setting.timesteps)))


def _neurons(network: SpikingNetwork) -> dict[str, Any]:
    """Return a network's neurons and how it was balanced as JSON values; infinity, which JSON lacks, becomes null."""
    return {
        "layers": [
            None
            if layer.neuron is None
            else {
                "threshold": [value if math.isfinite(value) else None for value in layer.neuron.threshold.tolist()],
                "amplitude": layer.neuron.amplitude.tolist(),
                "initial_potential": layer.neuron.initial_potential.tolist(),
            }
            for layer in network.layers
        ],
        "provenance": dict(network.provenance),
    }


def _neuron(stored: dict[str, Any]) -> IntegrateAndFire:
    return IntegrateAndFire(
        threshold=np.array([math.inf if value is None else value for value in stored["threshold"]]),
        amplitude=np.array(stored["amplitude"]),
        initial_potential=np.array(stored["initial_potential"]),
    )


def _firing_rates(
    network: QuantizedNetwork, images: Array, timesteps: int, device: str, progress: Progress
) -> dict[str, list[float]]:
    spikes = [np.zeros(layer.synapse.channels, np.int64) for layer in network.spiking_layers]

    def take(block: Block) -> None:
        for counted, layer in zip(spikes, block.layers, strict=False):
            counted += layer.spikes.sum(axis=(0, 1, 2, 3), dtype=np.int64)

    Simulator(network, Recording(spikes=True), device=device).run(images, timesteps, take, progress=progress)
    return {
        layer.name: (counted / (len(images) * timesteps * (math.prod(shape) // len(counted)))).tolist()
        for layer, counted, shape in zip(network.spiking_layers, spikes, network.shapes, strict=False)
    }
