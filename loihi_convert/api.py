"""The Python API: `convert` a CNN or `load` a file; `Converted` then runs, saves, checks or diagnoses the network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from loihi_convert import netx
from loihi_convert.conversion.agreement import measure_of
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions, require_options, require_timesteps
from loihi_convert.converted import Converted
from loihi_convert.data.in_memory import Images, Labels, Targets, as_calibration, as_input_shape
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.choices import Task
from loihi_convert.ground.devices import AnyDevice, chosen_device
from loihi_convert.ground.files import as_path
from loihi_convert.ground.normalization import channel_normalization
from loihi_convert.ground.progress import progress_bar
from loihi_convert.metrics.own_accuracy import own_accuracy, require_expectation, unjudged
from loihi_convert.pipeline.converting import converted, require_convertible
from loihi_convert.pipeline.opening import open_model
from loihi_convert.pipeline.origin import source_of
from loihi_convert.reading.users_code import named

if TYPE_CHECKING:
    from torch import nn

_LEAST_AGREEMENT: Final = 0.8
"""A conversion that agrees less with the CNN, by more than chance, gives a warning."""


def convert(
    model: nn.Module | str | Path,
    images: Images,
    labels: Labels | None = None,
    *,
    targets: Targets | None = None,
    timesteps: int = 64,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    arch: str | Callable[..., nn.Module] | None = None,
    input_shape: Shape | None = None,
    classes: Sequence[str] | None = None,
    task: Task = "classification",
    balancing: BalanceOptions | None = None,
    quantization: QuantizeOptions = QuantizeOptions(),
    skip_copies: int | None = None,
    device: AnyDevice = "auto",
    expect: float | None = None,
) -> Converted:
    """Return ``model`` as a spiking network in Loihi's integers, balanced for ``timesteps`` steps.

    Parameters
    ----------
    model
        The trained CNN: a `torch.nn.Module`, or the path of its checkpoint, ONNX or NIR file. A module is not changed;
        copies of it run, which call its forward hooks.
    images
        Calibration images from the training set, preferably thousands; never test images. NumPy, torch or a DataLoader;
        uint8, or floats in 0..1, not normalized; ``(N, H, W)`` or ``(N, C, H, W)``, with ``input_shape`` also
        ``(N, H, W, C)``.
    labels
        The class of each image, from 0; a DataLoader may supply them. With labels, the CNN's accuracy is reported in
        ``cnn_accuracy`` and in the notes, and a Python warning is given if it is too low.
    targets
        For a regression: the numbers of each image, ``(N, outputs)``; the CNN's error is then in the notes, with a
        warning if it explains nothing.
    timesteps
        The latency T.
    mean, std
        If the CNN was trained on ``(x - mean) / std`` with x in 0..1: one number, or one per channel; both or none.
    arch
        For the path of a plain state dict: ``package.module:factory``, a class or function that builds the CNN without
        arguments, or that class or function. Its code is executed.
    input_shape
        For signals: ``(C, L)``; ``images`` are then ``(N, C, L)``, or ``(N, L)`` for one channel. Default: ``(C, H,
        W)`` of ``images``.
    classes
        The name of each output (both class names for a single output); by default 0, 1, ...
    task
        Meaning of the outputs: class scores (a single output is a logit: class 1 if above 0), or, with
        ``"regression"``, numbers.
    balancing
        How firing thresholds are balanced; by default with the method that agrees best with the CNN on ``images``. A
        NIR file keeps its own thresholds, with hard reset.
    quantization
        Bits and target.
    skip_copies
        Relays that carry each value of a skip connection, 1..8; by default as few as the agreement with the CNN on
        ``images`` allows.
    device
        Where to simulate: ``"cpu"``, ``"cuda"``, ``"auto"`` (a GPU if torch finds one), or a `torch.device`.
    expect
        The known accuracy of the CNN, in (0, 1]; a lower one on ``images`` gives a warning. By default the CNN only has
        to be better than always predicting the most frequent class.

    Raises
    ------
    UsageError
        If parameters are out of range or contradict each other.
    UnsupportedModelError
        If a part of the CNN has no spiking equivalent.
    InputError
        If the checkpoint or the images cannot be used.
    """
    require_expectation(expect)
    require_options(balancing, quantization)
    timesteps = int(timesteps) if isinstance(timesteps, np.integer) else timesteps
    require_timesteps((timesteps,))
    image_shape = None if input_shape is None else as_input_shape(input_shape)
    dataset = as_calibration(images, labels, targets, task=task, input_shape=image_shape)
    shape = dataset.images.shape[1:]
    source = open_model(
        model,
        shape,
        arch=arch if arch is None else named(arch),
        classes=classes,
        normalization=channel_normalization(mean, std, shape[0]),
        task=task,
    )
    source = replace(source, provenance={**source.provenance, "calibration_fingerprint": dataset.fingerprint})
    dataset = dataset.mixed
    dataset.require_fit(task, source.network.shapes[-1][0], "images" if targets is None else "targets")
    balancing = BalanceOptions() if balancing is None else balancing
    skip_copies = int(skip_copies) if isinstance(skip_copies, np.integer) else skip_copies
    require_convertible(source, dataset.images, balancing, quantization, skip_copies)
    own = own_accuracy(source, dataset, "calibration images", expect)
    implausible = unjudged(source, dataset) if own is None else own.warning
    for warning in filter(None, (dataset.rounding_note, implausible)):
        warnings.warn(warning, stacklevel=2)
    done = converted(
        source,
        dataset.images,
        timesteps,
        balancing,
        quantization,
        skip_copies=skip_copies,
        device=chosen_device(device),
        bars=progress_bar,
    )
    measure, found = measure_of(source.network.task), done.agreement
    if measure.falls_short(found, replace(found, agreement=_LEAST_AGREEMENT)):
        agrees = measure.words(found.agreement, "the CNN", f"{found.image_count} calibration images")
        where = "`notes`, and `diagnose`" if measure.is_diagnosed else "`notes`"
        warnings.warn(f"the quantized network only {agrees}; see its {where}", stacklevel=2)
    used = source.with_skip_copies(done.quantized.provenance.model.skip_copies)
    return Converted(done.quantized, used, done, own, dataset.digests)


def load(
    path: str | Path, *, model: nn.Module | str | Path | None = None, arch: str | Callable[..., nn.Module] | None = None
) -> Converted:
    """Return the network in ``path``, a ``.net`` file written by loihi-convert.

    Parameters
    ----------
    path
        The file.
    model
        Its CNN: the `torch.nn.Module`, or the path of its checkpoint; by default the one in the folder of the file, if
        it is unchanged. Without a CNN, `Result.cnn_accuracy` is None and `Converted.diagnose` raises an error.
    arch
        As in `convert`.

    Raises
    ------
    UsageError
        If ``path`` is not a path, or ``arch`` is given with a module.
    InputError
        If a file cannot be used.
    """
    file = as_path(path, "path")
    network = netx.read(file)
    source = source_of(file, network, model, arch if arch is None else named(arch))
    found = Converted(network, source)
    for note in found.notes:
        warnings.warn(f"{file.name}: {note}", stacklevel=2)
    return found
