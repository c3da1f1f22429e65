"""What a trained network gives: accuracies in Loihi's integers, thresholds, firing rates; computed once, then read.

A cell is `balance_each`, `quantize`, and a run of test images by `ref`. Thresholds are kept as well as accuracies, and
of a run what every 1,000 images gave: a killed run goes on there.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from loihi_convert import netx, pipeline
from loihi_convert.backends.reference import run_network
from loihi_convert.conversion.balance import balance_each
from loihi_convert.conversion.quantize import quantize
from loihi_convert.conversion.sample import sample
from loihi_convert.data import Dataset, DataSplits
from loihi_convert.errors import RangeError, UsageError
from loihi_convert.network import IntegrateAndFire, SpikingLayer, SpikingNetwork
from loihi_convert.progress import Progress
from loihi_convert.quantized import QuantizedNetwork
from loihi_convert.simulation.relu import cnn_scores
from loihi_convert.simulation.simulate import Block, Simulator
from loihi_convert.simulation.stage import Recording
from loihi_convert.source import open_source
from loihi_convert.synapse import Array
from reproduction.cells import Setting
from reproduction.records import Records

LONG: Final = 64
"""The largest T whose cells take all images they can where `Counts.long_images` asks for fewer."""

# Images after which what has been counted is stored.
_PART: Final = 1_000
# Methods whose thresholds come from the CNN's activations, in two passes.
_FROM_ACTIVATIONS: Final = ("act-norm", "robust-norm", "act-norm-channelwise", "percentile")
# Methods with one threshold for a layer, found in a simulation: where there are no biases, what a spike is worth scales
# all currents and thresholds of the next layer alike, and changes no spike.
_PER_LAYER: Final = ("spike-norm", "rmp")
# What `--balance auto` costs, in runs of the images that it tries a method on: about eight trials, each on two thousand
# images, and the balancing by the best.
_TRIALS: Final = 10


@dataclass(frozen=True)
class Counts:
    """How many images are taken.

    Parameters
    ----------
    calibration
        To balance on: so many of the calibration split; None: training and validation images, all that are no test
        images, as the paper does.
    images
        Test images, the first ones; None: all.
    long_images
        The same for T > `LONG`, where thresholds are then balanced on the calibration split, too; None: no difference.
    long_calibration
        To balance on for T > `LONG`: so many of the calibration split; None: as said above.
    """

    calibration: int | None = None
    images: int | None = None
    long_images: int | None = None
    long_calibration: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Parameters
    ----------
    correct
        Images whose class is right; None where the network does not fit Loihi's integers.
    images
        Test images.
    calibration_images
        Images that the thresholds were balanced on; 0 for the CNN.
    seconds
        Of quantization and run.
    refusal
        Why it does not fit.
    """

    correct: int | None
    images: int
    calibration_images: int
    seconds: float
    refusal: str | None = None

    @property
    def accuracy(self) -> float | None:
        """In %."""
        return None if self.correct is None else 100 * self.correct / self.images


@dataclass(frozen=True)
class Best:
    """The best of our methods for one T.

    Parameters
    ----------
    method
        What `--balance auto` chose.
    network
        The checkpoint, by its file name, that is best on validation images.
    outcome
        Of its exported file.
    """

    method: str
    network: str
    outcome: Outcome


class Meter:
    """How far work of several kinds is, in images times steps, for one progress bar.

    Parameters
    ----------
    progress
        Told whenever something is done.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started = time.monotonic()
        self.total = 0
        self.done = 0

    @contextmanager
    def step(self, units: int) -> Iterator[Progress]:
        """Count ``units``, in proportion to what is reported to the function that is yielded."""
        before = self.done

        def report(done: int, total: int) -> None:
            self.done = before + int(units * done / max(1, total))
            self._progress(min(self.done, self.total), self.total)

        yield report
        report(1, 1)

    @property
    def state(self) -> str:
        """How much is done, and how long the rest will take at that rate."""
        if not self.done or not self.total:
            return "0 %"
        share = min(1.0, self.done / self.total)
        left = (time.monotonic() - self._started) * (1 / share - 1)
        return f"{100 * share:.0f} %, about {left / 60:.0f} min left"


class Measurements:
    """One trained network on its data.

    Parameters
    ----------
    path
        A checkpoint of ours.
    splits
        The data set that it was trained on.
    counts
        How many images are taken.
    records
        What has been computed.
    weight_bits
        Of `best`; a `Setting` has its own.
    device
        Where it is simulated: ``"cpu"``, or another one of torch's.
    tell
        Told of each accuracy that has been computed, in a sentence.

    Raises
    ------
    UsageError
        If there are not so many images.
    InputError
        If the checkpoint cannot be used.
    """

    def __init__(
        self,
        path: Path,
        splits: DataSplits,
        counts: Counts,
        records: Records,
        *,
        weight_bits: int = 8,
        device: str = "cpu",
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.source = open_source(path)
        self.splits = splits
        self.counts = counts
        self._records, self._weight_bits, self._device, self._tell = records, weight_bits, device, tell
        self._digests: dict[int, str] = {}
        self._has_biases = any(layer.synapse.bias is not None for layer in self.source.network.layers)
        for option, count, most in (
            ("--calibration", counts.calibration, len(splits.calibration)),
            ("--images", counts.images, len(splits.test)),
            ("--long-images", counts.long_images, len(splits.test)),
            ("--long-calibration", counts.long_calibration, len(splits.calibration)),
        ):
            if count is not None and not 1 <= count <= most:
                also = ", or all" if option == "--calibration" else ""
                raise UsageError(f"{option} {count}: {splits.name} has 1..{most:,}{also}.")
        everything = np.concatenate([splits.train.images, splits.validation.images])
        self._calibration = (
            everything if counts.calibration is None else splits.calibration.images[: counts.calibration]
        )
        self._test = splits.test[: counts.images]
        self._long_test = self._test if counts.long_images is None else self._test[: counts.long_images]
        # What compares networks is never what they were balanced on.
        self._long_calibration = splits.calibration.images[: counts.long_calibration]
        self._best_calibration = splits.calibration.images[: counts.calibration]
        self._validation = splits.validation
        self._long_validation = splits.validation[: counts.long_images]

    @property
    def name(self) -> str:
        """The checkpoint's file name."""
        return self.source.path.name

    @property
    def digest(self) -> str:
        """SHA-256 of the checkpoint."""
        return str(self.source.provenance["sha256"])

    def test(self, timesteps: int | None) -> Dataset:
        """Return the test images at this T; None: those of the CNN alone."""
        return self._long_test if timesteps is not None and timesteps > LONG else self._test

    def calibration(self, timesteps: int, *, is_subset: bool = False) -> Array:
        """Return the images to balance on for this T."""
        counts = self.counts
        if timesteps > LONG and counts.long_calibration is not None:
            return self._long_calibration
        if is_subset or (timesteps > LONG and counts.long_images is not None and counts.calibration is None):
            return self.splits.calibration.images
        return self._calibration

    def work(self, settings: Sequence[Setting]) -> int:
        """Return the images times steps that `accuracies` still has to simulate, roughly."""
        missing = [one for one in dict.fromkeys(settings) if self.stored(one) is None]
        return sum(map(self._balance_work, self._unbalanced(missing))) + sum(map(self._run_work, missing))

    def accuracies(self, settings: Sequence[Setting], meter: Meter) -> None:
        """Compute what `stored` does not return yet; all T of a row are balanced together."""
        rows: dict[Setting, list[Setting]] = {}
        for one in dict.fromkeys(settings):
            if self.stored(one) is None:
                rows.setdefault(replace(one, timesteps=0), []).append(one)
        # Spike counts need one more layer's thresholds; those of all others are those for potentials.
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
        """Return what a cell gave, if it has been computed."""
        found = self._records.get("cell", self._cell_key(setting))
        return None if found is None else Outcome(**found)

    def cnn(self, timesteps: int | None) -> Outcome:
        """Return what the CNN makes of the test images at this T."""
        images = self.test(timesteps)
        key = {"network": self.digest, "test": self._digest(images)}
        found = self._records.get("cnn", key)
        if found is None:
            started = time.monotonic()
            classes = cnn_scores(self.source.network, images.images).argmax(axis=1)
            correct = int((classes == images.known_labels).sum())
            found = asdict(Outcome(correct, len(images), 0, time.monotonic() - started))
            self._records.put("cnn", key, found)
        return Outcome(**found)

    def thresholds(self, settings: Sequence[Setting], meter: Meter) -> list[SpikingNetwork]:
        """Return the balanced networks of one row, which differ in T only."""
        return self._balanced(settings, meter)

    def firing_rates(self, setting: Setting, count: int, meter: Meter) -> dict[str, list[float]]:
        """Return the average firing rate of each channel of each layer, by its name (paper, eq. 3).

        The mean of spikes / T over the first ``count`` test images and the channel's neurons, in Loihi's integers.
        """
        images = self.test(setting.timesteps)[:count]
        key = {**self._balance_key(setting), "weight_bits": setting.weight_bits, "test": images_digest(images)}
        found = self._records.get("rates", key)
        if found is None:
            (spiking,) = self._balanced([setting], meter)
            network = self._quantized(setting, spiking)
            with meter.step(len(images) * setting.timesteps) as progress:
                found = _firing_rates(network, images.images, setting.timesteps, self._device, progress)
            self._records.put("rates", key, found)
        return dict(found)

    def best_work(self, timesteps: int, others: Sequence[Measurements]) -> int:
        """Return the images times steps that `best` has to simulate, roughly."""
        networks = [self, *others]
        if self._records.get("best", self._best_key(timesteps, others)) is not None:
            return 0
        exports = len(networks) * (
            _TRIALS * len(sample(self._calibration, timesteps)) + len(self._export_calibration(timesteps))
        )
        validated = len(self._held_out(timesteps)) * len(networks) if others else 0
        return timesteps * (exports + validated + len(self.test(timesteps)))

    def stored_best(self, timesteps: int, others: Sequence[Measurements]) -> Best | None:
        """Return what `best` has found before, if it has."""
        found = self._records.get("best", self._best_key(timesteps, others))
        return None if found is None else Best(found["method"], found["network"], Outcome(**found["outcome"]))

    def best(self, timesteps: int, others: Sequence[Measurements], meter: Meter) -> Best:
        """Return the best of our methods for T, none of it chosen on test images.

        Each network is exported with `--balance auto`, which chooses the method on images of the calibration split. Of
        the files that get most validation images right the first is run on the test images.

        Parameters
        ----------
        others
            Networks on the same data that may take this one's place: it, fine-tuned for few steps.
        """
        if (found := self.stored_best(timesteps, others)) is not None:
            return found
        with meter.step(self.best_work(timesteps, others)) as progress:
            networks = [self, *others]
            files = [network._export(timesteps) for network in networks]
            chosen = 0
            if others:
                right = [self._right(netx.read(path), self._held_out(timesteps), timesteps) for path in files]
                chosen = right.index(max(right))
            started = time.monotonic()
            network = netx.read(files[chosen])
            test = self.test(timesteps)
            correct = self._right(network, test, timesteps, progress)
        outcome = Outcome(correct, len(test), len(self._export_calibration(timesteps)), time.monotonic() - started)
        best = Best(_method(network), networks[chosen].name, outcome)
        self._records.put("best", self._best_key(timesteps, others), asdict(best))
        self._tell(f"best for T = {timesteps}, {best.method}, {best.network}: {outcome.accuracy:.2f} % ({meter.state})")
        return best

    def _export_calibration(self, timesteps: int) -> Array:
        is_long = timesteps > LONG and self.counts.long_calibration is not None
        return self._long_calibration if is_long else self._best_calibration

    def _held_out(self, timesteps: int) -> Dataset:
        return self._long_validation if timesteps > LONG else self._validation

    def _best_key(self, timesteps: int, others: Sequence[Measurements]) -> dict[str, Any]:
        return {
            "networks": [self.digest, *(other.digest for other in others)],
            "timesteps": timesteps,
            "weight_bits": self._weight_bits,
            "calibration": self._digest(self._export_calibration(timesteps)),
            "validation": self._digest(self._held_out(timesteps)) if others else None,
            "test": self._digest(self.test(timesteps)),
        }

    def _export(self, timesteps: int) -> Path:
        key = {
            "network": self.digest,
            "timesteps": timesteps,
            "weight_bits": self._weight_bits,
            "calibration": self._digest(self._export_calibration(timesteps)),
        }
        path = self._records.path("export", key).with_suffix(netx.SUFFIX)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            options = pipeline.ExportOptions(weight_bits=self._weight_bits)
            pipeline.export(
                self.source,
                path,
                (timesteps,),
                self._export_calibration(timesteps),
                options=options,
                device=self._device,
            )
        return path

    def _balanced(self, row: Sequence[Setting], meter: Meter) -> list[SpikingNetwork]:
        """The networks of settings that differ in T only, from their stored thresholds or balanced now."""
        for together in self._unbalanced(row):
            first = together[0]
            with meter.step(self._balance_work(together)) as progress:
                networks = balance_each(
                    self.source.network,
                    self.calibration(first.timesteps, is_subset=first.is_subset),
                    [one.timesteps for one in together],
                    method=first.method,
                    amplitude=first.amplitude,
                    alpha=first.alpha,
                    percentile=first.percentile,
                    initial_potential=first.initial_potential,
                    reset=first.reset,
                    readout=first.readout,
                    poisson_seed=first.poisson_seed,
                    device=self._device,
                    progress=progress,
                )
            for one, network in zip(together, networks, strict=True):
                self._records.put("thresholds", self._balance_key(one), _neurons(network))
        return [self._with_neurons(one, self._stored_thresholds(one)) for one in row]

    def _stored_thresholds(self, setting: Setting) -> Any | None:
        """What `_neurons` made of the balanced network, or of the one that differs in its last layer's neurons."""
        found = self._records.get("thresholds", self._balance_key(setting))
        if found is None and setting.readout == "potential":
            found = self._records.get("thresholds", self._balance_key(replace(setting, readout="spikes")))
            if found is not None:
                made = {**found["provenance"]["balance"], "readout": "potential"}
                found = {"layers": [*found["layers"][:-1], None], "provenance": {"balance": made}}
        return found

    def _unbalanced(self, settings: Sequence[Setting]) -> list[list[Setting]]:
        """Those whose thresholds are not stored and do not come with others; together what one call balances."""
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
            provenance={**stored["provenance"], "model": dict(self.source.provenance)},
            poisson_seed=setting.poisson_seed,
        )

    def _run(self, setting: Setting, spiking: SpikingNetwork, progress: Progress) -> Outcome:
        started = time.monotonic()
        images = self.test(setting.timesteps)
        try:
            network = self._quantized(setting, spiking)
            if setting.is_exported:
                path = self._records.path("cell", self._cell_key(setting)).with_suffix(netx.SUFFIX)
                netx.write(network, path, overwrite=True)
                network = netx.read(path)
            part = {"cell": self._cell_key(setting)}
            correct = self._right(network, images, setting.timesteps, progress, part)
        except RangeError as error:
            return self._refused(setting, error)
        calibration = len(self.calibration(setting.timesteps, is_subset=setting.is_subset))
        return Outcome(correct, len(images), calibration, time.monotonic() - started)

    def _quantized(self, setting: Setting, spiking: SpikingNetwork) -> QuantizedNetwork:
        images = self.calibration(setting.timesteps, is_subset=setting.is_subset)
        return quantize(spiking, images, weight_bits=setting.weight_bits, device=self._device)

    def _right(
        self,
        network: QuantizedNetwork,
        images: Dataset,
        timesteps: int,
        progress: Progress | None = None,
        key: dict[str, Any] | None = None,
    ) -> int:
        """How many images the integers get right after ``timesteps`` steps; under ``key`` parts of it are stored."""
        # Poisson spikes are numbered by the image's place in its run.
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

    def _store(self, setting: Setting, outcome: Outcome) -> None:
        self._records.put("cell", self._cell_key(setting), asdict(outcome))
        self._records.path("part", {"cell": self._cell_key(setting)}).unlink(missing_ok=True)

    def _refused(self, setting: Setting, error: RangeError) -> Outcome:
        calibration = len(self.calibration(setting.timesteps, is_subset=setting.is_subset))
        return Outcome(None, len(self.test(setting.timesteps)), calibration, 0.0, str(error))

    def _balance_key(self, setting: Setting) -> dict[str, Any]:
        measured = asdict(setting)
        for later in ("weight_bits", "is_exported", "is_subset"):
            del measured[later]
        if setting.method in _PER_LAYER and not self._has_biases:
            measured["amplitude"] = "literal"
        calibration = self.calibration(setting.timesteps, is_subset=setting.is_subset)
        return {"network": self.digest, "calibration": self._digest(calibration), **measured}

    def _cell_key(self, setting: Setting) -> dict[str, Any]:
        return {
            **self._balance_key(setting),
            "weight_bits": setting.weight_bits,
            "is_exported": setting.is_exported,
            "test": self._digest(self.test(setting.timesteps)),
        }

    def _balance_work(self, together: Sequence[Setting]) -> int:
        first, steps = together[0], [one.timesteps for one in together]
        images = len(self.calibration(first.timesteps, is_subset=first.is_subset))
        if first.method in _FROM_ACTIVATIONS:
            return 2 * images
        # As long as only the first layer's thresholds are needed, which are the same for all T, one pass sees all T.
        depth = len(self.source.network.layers) - (first.readout == "potential")
        return images * (max(steps) if depth <= 2 else sum(steps))

    def _run_work(self, setting: Setting) -> int:
        quantizing = len(sample(self.calibration(setting.timesteps, is_subset=setting.is_subset), setting.timesteps))
        return setting.timesteps * (quantizing + len(self.test(setting.timesteps)))

    def _digest(self, images: Array | Dataset) -> str:
        """`images_digest` of what lives as long as this object, computed once."""
        if id(images) not in self._digests:
            self._digests[id(images)] = images_digest(images)
        return self._digests[id(images)]


def images_digest(images: Array | Dataset) -> str:
    """Return the number of images and a digest of them, and of their labels where they are a `Dataset`."""
    arrays: list[Array] = [images.images, images.known_labels] if isinstance(images, Dataset) else [images]
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return f"{len(images)}-{digest.hexdigest()[:16]}"


def _neurons(network: SpikingNetwork) -> dict[str, Any]:
    """The neurons of a network, and how it was balanced, as JSON values; infinity, which JSON has not, as null."""
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
            assert layer.spikes is not None
            counted += layer.spikes.sum(axis=(0, 1, 2, 3), dtype=np.int64)

    Simulator(network, Recording(spikes=True), device=device).run(images, timesteps, take, progress=progress)
    return {
        layer.name: (counted / (len(images) * timesteps * (math.prod(shape) // len(counted)))).tolist()
        for layer, counted, shape in zip(network.spiking_layers, spikes, network.shapes, strict=False)
    }


def _method(network: QuantizedNetwork) -> str:
    made = network.provenance["balance"]
    percentile = f" {made['percentile']:g}" if made["method"] == "percentile" else ""
    return f"{made['method']}{percentile}" + (", corrected" if "calibration" in network.provenance else "")
