"""Computes one cell: opens the CNN and its images, exports, runs the file on `ref`, and evaluates.

Runs in any process on any machine that finds the checkpoint and the images, and writes nothing but a temporary file.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from loihi_convert import netx, pipeline
from loihi_convert.arrays import Array
from loihi_convert.backends.reference import run_network
from loihi_convert.chip.resources import network_resources
from loihi_convert.data import Dataset
from loihi_convert.devices import one_thread
from loihi_convert.errors import InputError, LoihiConvertError, RangeError, UnsupportedModelError, UsageError, rendered
from loihi_convert.files import sha256
from loihi_convert.frontend.source import Source
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.evaluation_by_task import evaluate_images
from loihi_convert.pipeline.opening import open_cnn
from loihi_convert.simulation.relu import cnn_scores
from loihi_convert.sweep.cell import Cell, Digests, ImageChoice, NetworkFile, Setting, package_version
from loihi_convert.sweep.outcome import CellResult, Outcome

# Errors of the network and the options; all others may be the machine's.
_FINAL: Final = (RangeError, UnsupportedModelError, UsageError)


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
        return cnn_scores(self.source.network, self.images.images)


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
    class_map = network.class_map
    source, splits = open_cnn(
        network.model,
        arch=network.arch,
        input_shape=network.input_shape,
        classes=network.classes,
        mean=network.mean,
        std=network.std,
        data=network.data,
        data_root=network.data_root,
        class_map=dict(class_map) if isinstance(class_map, tuple) else class_map,
        task=network.task,
        tell=tell,
    )
    is_split = choice.split == "test" or len(splits.validation) > 0
    images = splits.validation if choice.split == "validation" and is_split else splits.test
    count = len(images) if choice.image_count is None else choice.image_count
    if not 1 <= count <= len(images):
        kind = f"{choice.split if is_split else 'own'} images of {splits.name}"
        raise UsageError(f"found {count}", where="image_count", expected=f"must be 1..{len(images)}, the {kind}")
    images, calibration = images[:count], splits.calibration_images(choice.calibration)
    digests = Digests(
        model=sha256(network.model),
        code=None if network.arch is None else _code_digest(network.arch),
        calibration=_digest((calibration,)),
        images=_digest(array for array in (images.images, images.labels, images.targets) if array is not None),
    )
    return Opened(source, splits.name, calibration, images, is_split, digests)


def compute(cell: Cell) -> Outcome:
    """Return what comes of ``cell``; an error becomes part of the outcome, except an interruption."""
    started = time.monotonic()
    try:
        with one_thread():
            found = Outcome(result=_result(cell))
    except LoihiConvertError as error:
        found = Outcome(error=rendered(error), is_final=isinstance(error, _FINAL))
    # A bug, or a full memory, must not end the sweep; the row names it.
    except Exception as error:
        found = Outcome(error=f"{type(error).__name__}: {error}", is_final=False)
    return Outcome(found.result, found.error, found.is_final, time.monotonic() - started)


@lru_cache(maxsize=2)
def _opened(network: NetworkFile, choice: ImageChoice, digests: Digests) -> Opened:
    """As `open_network`, kept for the next cell."""
    opened = open_network(network, choice)
    if opened.digests != digests:
        raise InputError(
            "the checkpoint, its code or its images have changed since the sweep began, or differ on this machine",
            where=network.model,
            hint="Start the sweep again.",
        )
    return opened


def _result(cell: Cell) -> CellResult:
    if cell.package != package_version():
        raise InputError(
            f"this machine has loihi-convert {package_version()}",
            where="package",
            expected=f"must be {cell.package}, as where the sweep began",
        )
    balance_options, quantize_options = cell.setting.options()
    opened = _opened(cell.network, cell.images, cell.digests)
    timesteps = cell.setting.timesteps
    with tempfile.TemporaryDirectory(prefix="loihi-convert-") as folder:
        path = Path(folder, f"cell{netx.SUFFIX}")
        (exported,) = pipeline.export(
            opened.source,
            path,
            [timesteps],
            opened.calibration,
            balance_options=balance_options,
            quantize_options=quantize_options,
            skip_copies=cell.setting.skip_copies,
        )
        network = netx.read(path)
    run = run_network(network, opened.images.images, timesteps)
    evaluation = evaluate_images(run, network, opened.images, cnn_outputs=opened.cnn_outputs, timesteps=(timesteps,))
    point = evaluation.nominal_point
    estimates = () if evaluation.energy is None else evaluation.energy.estimates
    estimate = next((one for one in estimates if one.timesteps == timesteps), None)
    here = None if evaluation.regression is None else evaluation.regression.at(timesteps)
    return CellResult(
        image_count=evaluation.image_count,
        accuracy=point.accuracy,
        accuracy_interval=point.accuracy_interval,
        cnn_accuracy=evaluation.cnn_accuracy,
        agreement_with_cnn=point.agreement_with_cnn,
        rmse=None if here is None or here.to_targets is None else here.to_targets.mean.rmse,
        rmse_to_cnn=None if here is None or here.to_cnn is None else here.to_cnn.mean.rmse,
        spikes=point.spikes_per_image,
        synaptic_operations=point.synaptic_operations,
        joules=None if estimate is None else estimate.loihi1_joules,
        seconds=None if estimate is None else estimate.loihi1_seconds,
        cores=network_resources(exported.network, has_circuit=cell.setting.target == "loihi2").cores,
        balanced_by=_balanced_by(cell.setting, network),
        saturated_images=evaluation.saturated_images,
    )


def _balanced_by(setting: Setting, network: QuantizedNetwork) -> str:
    """The method that was used, with its percentile, and corrections."""
    recorded = network.provenance.balance
    method = recorded.method or setting.method
    percentile = f" {recorded.percentile:g}" if method == "percentile" and recorded.percentile is not None else ""
    return f"{method}{percentile}{', corrected' if network.provenance.is_corrected else ''}"


def _code_digest(arch: str) -> str | None:
    """SHA-256 of the file of the module in ``arch``, which is imported already; None for a module without one."""
    file = getattr(sys.modules.get(arch.partition(":")[0]), "__file__", None)
    return None if file is None else sha256(Path(file))


def _digest(arrays: Iterable[Array]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
