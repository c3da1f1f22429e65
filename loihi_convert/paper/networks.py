"""Trained networks: how each of their results is measured, as computations, and how much work that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from loihi_convert.cnn import checkpoint
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.errors import CheckpointError, UsageError
from loihi_convert.ground import ready_made
from loihi_convert.ground.files import sha256
from loihi_convert.metrics.work import cnn_multiplications
from loihi_convert.paper.images import LONG, PaperImages, Selection
from loihi_convert.paper.measurements import (
    Accuracy,
    Balancing,
    Choosing,
    CnnAccuracy,
    Exporting,
    FiringRates,
    TrainedCheckpoint,
    open_checkpoint,
)
from loihi_convert.paper.variants import PaperOptions, PaperSetting

# Work of what a computation does once, such as reading the checkpoint, as multiplications.
_FIXED_WORK: Final = 3e10
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
        self._balanced: dict[PaperSetting, tuple[Balancing, PaperSetting]] = {}

    @property
    def name(self) -> str:
        """The checkpoint's file name."""
        return self.checkpoint.path.name

    def cnn(self, timesteps: int | None) -> CnnAccuracy:
        """Return the CNN's accuracy on the test images for this T."""
        test = self.images.test(timesteps)
        return CnnAccuracy(self.checkpoint, test, work=self._work(test.count))

    def balance_together(self, settings: Iterable[PaperSetting]) -> None:
        """Decide how the thresholds of each setting are made: those that differ only in T or readout share a row.

        A readout of spike counts needs thresholds for one more layer; the other layers' thresholds are the same.
        """
        rows: dict[tuple[Selection, BalanceOptions], list[tuple[PaperSetting, PaperSetting]]] = {}
        for one in settings:
            # The amplitude is literal where it has no effect.
            has_effect = one.balancing.method not in _PER_LAYER or self._has_biases
            own = one if has_effect else replace(one, balancing=replace(one.balancing, amplitude="literal"))
            calibration = self.images.calibration(own.timesteps, is_subset=own.is_subset)
            rows.setdefault((calibration, replace(own.balancing, readout="spikes")), []).append((one, own))
        for (calibration, options), row in rows.items():
            steps = tuple(sorted({own.timesteps for _, own in row}))
            work = self._work(calibration.count * (2 if options.method in _FROM_ACTIVATIONS else sum(steps)))
            made = Balancing(self.checkpoint, calibration, options, steps, work=work)
            self._balanced |= {one: (made, own) for one, own in row}

    def thresholds(self, setting: PaperSetting) -> Balancing:
        """Return the thresholds of one of the settings that are balanced together."""
        return self._balanced[setting][0]

    def accuracy(self, setting: PaperSetting) -> Accuracy:
        """Return the accuracy of its integers on the test images."""
        test = self.images.test(setting.timesteps)
        return Accuracy(*self._balanced[setting], test, work=self._work(setting.timesteps * test.count))

    def rates(self, setting: PaperSetting) -> FiringRates:
        """Return the firing rates of its integers on the images of `PaperImages.rates`."""
        test = self.images.rates(setting.timesteps)
        return FiringRates(*self._balanced[setting], test, work=self._work(setting.timesteps * test.count))

    def best(self, others: Sequence[Network], timesteps: int, weight_bits: int) -> Choosing:
        """Return the best for T of this network and ``others``; above `LONG`, with the method chosen for `LONG`."""
        candidates = tuple(one._exporting(timesteps, weight_bits, is_validated=bool(others)) for one in (self, *others))
        test = self.images.test(timesteps)
        return Choosing(candidates, test, work=self._work(timesteps * test.count))

    def _exporting(self, timesteps: int, weight_bits: int, *, is_validated: bool) -> Exporting:
        calibration = self.images.export_calibration(timesteps)
        return Exporting(
            self.checkpoint,
            calibration,
            timesteps,
            weight_bits,
            self.images.validation(timesteps) if is_validated else None,
            self._exporting(LONG, weight_bits, is_validated=is_validated) if timesteps > LONG else None,
            work=self._work(timesteps * calibration.count),
        )

    def _work(self, steps: int) -> float:
        """The work of ``steps`` steps of an image."""
        return _FIXED_WORK + self._per_step * steps


def opened_networks(options: PaperOptions, device: str) -> dict[str, Network]:
    """Return the networks by the name of their training data.

    Raises
    ------
    UsageError
        If two networks were trained on the same data.
    InputError
        If a network cannot be used.
    """
    found: dict[str, Network] = {}
    for model in options.models or ready_made_data():
        path, *_ = _checkpoints(model)
        data = _trained_on(path)
        if data in found:
            raise UsageError(
                f"{found[data].name} is also trained on {data}",
                where=path,
                expected="pass one `models` for each data set",
                hint="Pass fine-tuned networks by `tuned`.",
            )
        found[data] = Network(path, PaperImages(data, options), device)
    return found


def tuned_networks(options: PaperOptions, networks: Mapping[str, Network]) -> dict[str, list[Network]]:
    """Return the fine-tuned versions of each of ``networks``, candidates for the best at each T."""
    found: dict[str, list[Network]] = {data: [] for data in networks}
    named = [path for model in options.models or ready_made_data() for path in _checkpoints(model)[1:]]
    for path in (*(options.tuned or ()), *named):
        data = _trained_on(path)
        if data not in found:
            raise UsageError(
                f"is trained on {data}, and no `models` is",
                where=path,
                hint="Pass the network it was fine-tuned from.",
            )
        own = networks[data]
        found[data].append(Network(path, own.images, own.checkpoint.device))
    return found


def ready_made_data() -> list[str]:
    """Return the names of the data sets with ready-made models."""
    return ["mnist", "fashion-mnist", "cifar10"]


def _checkpoints(model: str) -> tuple[Path, ...]:
    """Return the path ``model``, or the checkpoints of the ready-made model of that name, the CNN first."""
    return ready_made.cnns_of(model) if model in ready_made_data() else (Path(model),)


def _trained_on(path: Path) -> str:
    """The name of the data set on which `train` trained the built-in CNN in ``path``."""
    found = checkpoint.load_if_ours(path)
    if found is None or found.is_own:
        raise CheckpointError(
            "was not written by `loihi-convert train`" if found is None else "holds your own CNN",
            where=path,
            expected="must be a built-in CNN that `loihi-convert train` wrote",
            hint="Train one, such as `loihi-convert train --data mnist`, or name a ready-made model: mnist.",
        )
    return found.data
