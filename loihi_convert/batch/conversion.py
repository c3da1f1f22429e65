"""A cell of a sweep: opens the CNN and its images, exports, runs the file on `ref`, and evaluates."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from loihi_convert import netx
from loihi_convert.backends.reference import run_network
from loihi_convert.batch.computation import Computation, opened_before, require_unchanged
from loihi_convert.batch.setting import ConversionSetting, Digests, ImageChoice
from loihi_convert.chip.resources import network_resources
from loihi_convert.data import Dataset
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array, arrays_digest
from loihi_convert.ground.files import sha256
from loihi_convert.ground.records import Record
from loihi_convert.ground.statistics import Interval
from loihi_convert.metrics.evaluation import evaluate_images, mean_errors
from loihi_convert.pipeline import exporting
from loihi_convert.pipeline.opening import open_cnn
from loihi_convert.pipeline.options import NetworkFile
from loihi_convert.reading.source import Source, checkpoint_sha256
from loihi_convert.simulation.relu import cnn_scores


class CellResult(Record):
    """Figures of one exported file after T steps; numbers per image are means over the images of the run.

    Attributes
    ----------
    image_count
        Number of images.
    accuracy, accuracy_interval, cnn_accuracy
        Fractions 0..1 of the integer network (with its 95 % interval) and of the CNN; None without labels.
    agreement_with_cnn
        Fraction of images with the CNN's class; None for a regression.
    rmse, rmse_to_cnn
        Root mean square error to the targets and to the CNN's outputs, of a regression.
    spikes, synaptic_operations
        Per image, see `evaluation.Point`.
    joules, seconds
        Energy and time of an inference on Loihi 1, low and high estimate, see `chip.energy`.
    cores
        Fewest and most Loihi 2 neurocores, an estimate, see `chip.resources`.
    balanced_by
        The method and corrections used, `Provenance.method`.
    saturated_images
        Images with an output potential at the limit of its range.
    cnn_rmse
        Root mean square error of the CNN to the targets, of a regression.
    correct
        Which images are classified correctly: a bit each, the first image in the highest bit of the first byte, in
        hexadecimal. None without labels.
    """

    image_count: int
    accuracy: float | None
    accuracy_interval: Interval | None
    cnn_accuracy: float | None
    agreement_with_cnn: float | None
    rmse: float | None
    rmse_to_cnn: float | None
    spikes: float
    synaptic_operations: float
    joules: Interval | None
    seconds: Interval | None
    cores: tuple[int, int]
    balanced_by: str
    saturated_images: int
    cnn_rmse: float | None
    correct: str | None = Field(pattern="^([0-9a-f]{2})+$")


@dataclass(frozen=True, eq=False)
class Opened:
    """A CNN, its images, and the digests of both.

    Parameters
    ----------
    data
        Name of the data set.
    calibration
        uint8 ``(N, C, H, W)``.
    images
        The images to run.
    is_split
        Whether the data set has the requested split; False: these are all of a user's own images.
    """

    source: Source
    data: str
    calibration: Array
    images: Dataset
    is_split: bool
    digests: Digests

    @cached_property
    def cnn_outputs(self) -> Array:
        """Outputs of the CNN for ``images``, ``(N, outputs)``."""
        return cnn_scores(self.source.compared, self.images.images)


def open_network(
    network: NetworkFile, choice: ImageChoice, *, tell: Callable[[str], None] = lambda sentence: None
) -> Opened:
    """Return a CNN and its images, read now.

    Parameters
    ----------
    tell
        As in `open_cnn`.

    Raises
    ------
    UsageError, InputError
        As in `open_cnn`, or if the images do not suffice.
    """
    source, splits = open_cnn(network, tell=tell)
    is_split = len(splits.validation) > 0
    images = splits.validation if choice.split == "validation" and is_split else splits.test
    count = len(images) if choice.image_count is None else choice.image_count
    if not 1 <= count <= len(images):
        kind = f"{choice.split if is_split else 'own'} images of {splits.name}"
        raise UsageError(f"found {count}", where="image_count", expected=f"must be 1..{len(images)}, the {kind}")
    images, calibration = images[:count], splits.calibration_images(choice.calibration)
    digests = Digests(
        model=checkpoint_sha256(network.model),
        network=source.network.digest,
        compared=source.compared.digest,
        code=None if network.arch is None else _code_digest(network.arch),
        calibration=arrays_digest((calibration,)),
        images=arrays_digest(array for array in (images.images, images.labels, images.targets) if array is not None),
    )
    return Opened(source, splits.name, calibration, images, is_split, digests)


@dataclass(frozen=True)
class ConversionCell(Computation[CellResult]):
    """One export and run, which depends on nothing else.

    Parameters
    ----------
    network, images
        Where the CNN and its images are.
    digests
        Their content; a file that has changed is not used.
    setting
        The options, `ConversionSetting.normalized`.
    """

    result_type: ClassVar[type[Record]] = CellResult
    format: ClassVar[int] = 3

    network: NetworkFile
    images: ImageChoice
    digests: Digests
    setting: ConversionSetting

    @property
    def key(self) -> Mapping[str, Any]:
        """See `Computation.key`."""
        network = asdict(self.network)
        for name in ("model", "data", "data_root"):
            del network[name]
        # By these names, as earlier, so that finished cells are found.
        network["mean"], network["std"] = network.pop("normalization") or (None, None)
        return {
            "digests": asdict(self.digests),
            "split": self.images.split,
            "network": network,
            "setting": asdict(self.setting),
        }

    def compute(self, needed: Sequence[Any]) -> CellResult:
        """See `Computation.compute`."""
        balance_options, quantize_options = self.setting.options()
        with opened_before():
            opened = _opened(self.network, self.images, self.digests)
        timesteps = self.setting.timesteps
        with tempfile.TemporaryDirectory(prefix="loihi-convert-") as folder:
            path = Path(folder, f"cell{netx.SUFFIX}")
            (exported,) = exporting.export(
                opened.source,
                path,
                [timesteps],
                opened.calibration,
                balance_options=balance_options,
                quantize_options=quantize_options,
                skip_copies=self.setting.skip_copies,
            )
            network = netx.read(path)
        run = run_network(network, opened.images.images, timesteps)
        evaluation = evaluate_images(
            run, network, opened.images, cnn_outputs=opened.cnn_outputs, timesteps=(timesteps,)
        )
        point = evaluation.nominal_point
        estimates = () if evaluation.energy is None else evaluation.energy.estimates
        estimate = next((one for one in estimates if one.timesteps == timesteps), None)
        regression = evaluation.regression
        errors = {} if regression is None else mean_errors(regression.at(timesteps))
        labels = opened.images.labels
        return CellResult(
            image_count=evaluation.image_count,
            accuracy=point.accuracy,
            accuracy_interval=point.accuracy_interval,
            cnn_accuracy=evaluation.cnn_accuracy,
            agreement_with_cnn=point.agreement_with_cnn,
            rmse=errors.get("rmse"),
            rmse_to_cnn=errors.get("rmse_to_cnn"),
            spikes=point.spikes_per_image,
            synaptic_operations=point.synaptic_operations,
            joules=None if estimate is None else estimate.loihi1_joules,
            seconds=None if estimate is None else estimate.loihi1_seconds,
            cores=network_resources(exported.network, has_circuit=exported.network.is_circuit).cores,
            balanced_by=network.provenance.method,
            saturated_images=evaluation.saturated_images,
            cnn_rmse=evaluation.cnn_rmse,
            correct=None if labels is None else np.packbits(run.predictions[:, -1] == labels).tobytes().hex(),
        )


@lru_cache(maxsize=2)
def _opened(network: NetworkFile, choice: ImageChoice, digests: Digests) -> Opened:
    """As `open_network`, kept for the next cell."""
    opened = open_network(network, choice)
    require_unchanged(opened.digests, digests, f"{network.model}, its code or its images")
    return opened


def _code_digest(arch: str) -> str | None:
    """SHA-256 of the file of the module in ``arch``, which is imported already; None for a module without one."""
    file = getattr(sys.modules.get(arch.partition(":")[0]), "__file__", None)
    return None if file is None else sha256(Path(file))
