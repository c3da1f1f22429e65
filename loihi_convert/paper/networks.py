"""A trained network of a request: how each of its results is measured, as cells, and how much work that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from loihi_convert.batch.computation import Store
from loihi_convert.conversion.calibration import calibration_subset
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.files import sha256
from loihi_convert.metrics.layer_size import cnn_multiplications
from loihi_convert.paper.images import LONG, PaperImages, Selection
from loihi_convert.paper.measurements import (
    Accuracy,
    Balancing,
    Choosing,
    CnnAccuracy,
    Exporting,
    FiringRates,
    PaperConversion,
    TrainedCheckpoint,
    open_checkpoint,
)
from loihi_convert.paper.variants import PaperSetting

# Work of what a cell does once, such as reading the checkpoint, as multiplications.
_FIXED_WORK: Final = 3e10
# Cost of `--balance auto`, in runs of its trial images: about eight trials of 2,000 images each, plus balancing.
_TRIALS: Final = 10
# Methods that compute thresholds from the CNN's activations, in two passes.
_FROM_ACTIVATIONS: Final = ("act-norm", "robust-norm", "act-norm-channelwise")
# Methods with one threshold per layer, found by simulation. Without biases, the spike amplitude scales all currents and
# thresholds of the next layer by the same factor, so it does not change any spike.
_PER_LAYER: Final = ("spike-norm", "rmp")


class Network:
    """One trained network.

    Parameters
    ----------
    path
        A checkpoint written by loihi-convert.
    images
        Images of the data set that it was trained on.
    device
        Device of the simulation: ``"cpu"``, or another torch device.

    Raises
    ------
    InputError
        If the checkpoint cannot be used.
    """

    def __init__(self, path: Path, images: PaperImages, device: str) -> None:
        path, digest = path.absolute(), sha256(path)
        self.images = images
        self.source = open_checkpoint(path, digest)
        self.checkpoint = TrainedCheckpoint(path, digest, self.source.network.digest, device)
        self._has_biases = any(layer.synapse.bias is not None for layer in self.source.network.layers)
        self._per_step = float(cnn_multiplications(self.source.network))

    @property
    def name(self) -> str:
        """The checkpoint's file name."""
        return self.checkpoint.path.name

    def cnn(self, timesteps: int | None) -> CnnAccuracy:
        """Return the CNN's accuracy on the test images for this T."""
        test = self.images.test(timesteps)
        return CnnAccuracy(self.checkpoint, test, work=self._work(test.count))

    def conversions(self, settings: Iterable[PaperSetting], store: Store) -> dict[PaperSetting, PaperConversion]:
        """Return how the integers of each setting are made; settings that differ only in T are balanced together.

        A readout of spike counts needs thresholds for one more layer; the other layers' thresholds are the same. So
        those in ``store`` serve for both readouts.
        """
        rows: dict[tuple[Selection, BalanceOptions], list[tuple[PaperSetting, PaperSetting]]] = {}
        for one in settings:
            own = self._normalized(one)
            calibration = self.images.calibration(own.timesteps, is_subset=own.is_subset)
            rows.setdefault((calibration, own.balancing), []).append((one, own))
        found: dict[PaperSetting, PaperConversion] = {}
        for (calibration, options), row in rows.items():
            steps = tuple(sorted({own.timesteps for _, own in row}))
            counting = self._balancing(calibration, replace(options, readout="spikes"), steps)
            is_counted = any(own.readout == "spikes" for _, own in row) or store.get(counting) is not None
            balancing = counting if is_counted else self._balancing(calibration, options, steps)
            found |= {one: PaperConversion(balancing, own) for one, own in row}
        return found

    def accuracy(self, conversion: PaperConversion) -> Accuracy:
        """Return the accuracy of the integers on the test images."""
        test = self.images.test(conversion.setting.timesteps)
        return Accuracy(conversion, test, work=self._run_work(conversion, test))

    def rates(self, conversion: PaperConversion) -> FiringRates:
        """Return the firing rates of the integers on the images of `PaperImages.rates`."""
        test = self.images.rates(conversion.setting.timesteps)
        return FiringRates(conversion, test, work=self._run_work(conversion, test))

    def best(self, others: Sequence[Network], timesteps: int, weight_bits: int) -> Choosing:
        """Return the best of our methods for T, of this network and ``others``.

        Up to T = `LONG`, ``auto`` chooses each file's method for its T. For larger T, where trials take long and
        methods hardly differ, the method chosen for `LONG` is used.
        """
        validation, test = self.images.validation(timesteps) if others else None, self.images.test(timesteps)
        candidates = tuple(one._exporting(timesteps, weight_bits, validation) for one in (self, *others))
        return Choosing(candidates, test, work=self._work(test.count * timesteps))

    def _exporting(self, timesteps: int, weight_bits: int, validation: Selection | None) -> Exporting:
        calibration = self.images.export_calibration(timesteps)
        is_tried = timesteps <= LONG
        images = calibration.count + (0 if validation is None else validation.count)
        images += _TRIALS * _subset_size(calibration, timesteps) if is_tried else 0
        return Exporting(
            self.checkpoint,
            calibration,
            timesteps,
            weight_bits,
            validation,
            None if is_tried else self._exporting(LONG, weight_bits, validation and self.images.validation(LONG)),
            work=self._work(timesteps * images),
        )

    def _normalized(self, setting: PaperSetting) -> PaperSetting:
        """The setting with the amplitude ``literal`` where the amplitude has no effect."""
        has_effect = setting.method not in _PER_LAYER or self._has_biases
        return setting if has_effect else replace(setting, amplitude="literal")

    def _balancing(self, calibration: Selection, options: BalanceOptions, steps: tuple[int, ...]) -> Balancing:
        if options.method in _FROM_ACTIVATIONS:
            passes = 2
        else:
            # While only the first layer's thresholds are needed, which are the same for all T, one pass covers all T.
            depth = len(self.source.network.layers) - (options.output == "potential")
            passes = max(steps) if depth <= 2 else sum(steps)
        return Balancing(self.checkpoint, calibration, options, steps, work=self._work(calibration.count * passes))

    def _run_work(self, conversion: PaperConversion, test: Selection) -> float:
        timesteps = conversion.setting.timesteps
        quantizing = _subset_size(conversion.balancing.calibration, timesteps)
        return self._work(timesteps * (quantizing + test.count))

    def _work(self, steps: int) -> float:
        """The work of ``steps`` steps of an image."""
        return _FIXED_WORK + self._per_step * steps


def _subset_size(calibration: Selection, timesteps: int) -> int:
    """The number of images that `quantize` takes."""
    return len(calibration_subset(np.arange(calibration.count), timesteps))
