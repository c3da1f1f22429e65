"""A CNN and the images it was trained on, named by its checkpoint or by options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loihi_convert import external
from loihi_convert.cnn.checkpoint import Checkpoint, digest, load, load_if_ours
from loihi_convert.data import DATASETS, DataSplits
from loihi_convert.errors import DataError, InputError, UsageError
from loihi_convert.external import AnyNetwork
from loihi_convert.external.readers import CubaNetwork
from loihi_convert.external.simulation import DEFAULT_NORMALIZATION
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.choices import Task
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.network import ReluNetwork, SpikingLayer, SpikingNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import PixelBias
from loihi_convert.pipeline.options import NetworkFile
from loihi_convert.reading.own_cnn import recorded_normalization
from loihi_convert.reading.source import (
    Source,
    checkpoint_sha256,
    is_described,
    is_self_contained,
    open_source,
    reopen_source,
)

if TYPE_CHECKING:
    from torch import nn


def source_model(path: Path, network: QuantizedNetwork | GradedNetwork) -> Path | None:
    """Return the checkpoint that ``network``'s file was made from, if it is next to the file and unchanged."""
    recorded = network.provenance.model
    candidate = path.parent / Path(recorded.file or "").name
    return candidate if candidate.is_file() and checkpoint_sha256(candidate) == recorded.sha256 else None


def source_of(
    path: Path, network: QuantizedNetwork | GradedNetwork, model: nn.Module | str | Path | None, arch: str | None
) -> Source | None:
    """Return the CNN that the file at ``path`` was made from, if available.

    ``model`` is the CNN itself or its checkpoint; None: look next to the file. ``arch`` is as in `source.open_source`.
    Code that is named only in the file is not imported.
    """
    recorded = network.provenance.model
    if model is not None and not isinstance(model, str | Path):
        if arch is not None:
            raise UsageError("given with a module", where="arch", expected="must come with the path of a state dict")
        return reopen_source(model, recorded, network.input_shape)
    if model is None and arch is None and recorded.arch is not None:
        return None
    found = source_model(path, network) if model is None else Path(model)
    return None if found is None else reopen_source(found, recorded, network.input_shape, arch)


def notes_on_images(network: AnyNetwork, fingerprint: str) -> tuple[str, ...]:
    """Return a note if the images with this `DataSplits` or `Dataset` fingerprint were its calibration images."""
    if network.provenance.model.calibration_fingerprint != fingerprint:
        return ()
    worse = "a lower accuracy" if network.task == "classification" else "a larger error"
    return (f"the file was calibrated on these images: other images may have {worse}",)


def is_made_from(network: QuantizedNetwork | GradedNetwork, source: Source) -> bool | None:
    """Return whether ``network`` was made from ``source``; None if that is not recorded.

    The checkpoints are compared or, for a network made from a CNN in memory, the tensors.
    """
    recorded = network.provenance.model
    if recorded.sha256 is not None and source.path is not None:
        return source.recorded.sha256 == recorded.sha256
    if recorded.state_sha256 is not None:
        return digest(source.model.state_dict()) == recorded.state_sha256
    return None


def doubt(
    network: QuantizedNetwork | GradedNetwork, source: Source, file: str = "The file", cnn: str = "this CNN"
) -> str:
    """Return the reason to doubt that ``network`` was made from ``source``, without a full stop; empty if it was.

    ``file`` and ``cnn`` are the names of the two in the sentence.
    """
    is_same = is_made_from(network, source)
    if is_same is not None:
        return "" if is_same else f"{file} was not made from {cnn} as it is now"
    recorded = network.provenance.model
    if recorded.sha256 is not None:
        return f"{file} records only its checkpoint, so pass the path of {recorded.file} as `model` to check {cnn}"
    return f"{file} does not record the weights of its CNN, so it cannot be checked whether it was made from {cnn}"


def _layers(network: ReluNetwork | QuantizedNetwork | GradedNetwork) -> list[str]:
    """The name and output shape of each layer."""
    names = [layer.name for layer in network.layers]
    return [f"{name} {shape}" for name, shape in zip(names, network.shapes, strict=True)]


def require_layers_of(network: QuantizedNetwork | GradedNetwork, cnn: ReluNetwork) -> None:
    """Raise an `InputError` if ``cnn`` does not have the layers of ``network``."""
    found, expected = _layers(cnn), _layers(network)
    if isinstance(network, GradedNetwork):
        # The input neurons are not in the CNN, nor is a constant channel that the last layer may need before it.
        found, expected = ([*layers[:-2], *layers[-1:]] for layers in (found, expected[1:]))
    if found != expected or cnn.input_shape != network.input_shape:
        raise InputError(
            f"input shape {cnn.input_shape}, layers {', '.join(found)}",
            where="checkpoint",
            expected=f"must be {network.input_shape} and {', '.join(expected)}, as in the file",
        )


def float_network(network: QuantizedNetwork, cnn: ReluNetwork) -> SpikingNetwork:
    """Return the float SNN that ``network`` was rounded from.

    Raises
    ------
    InputError
        If ``cnn`` does not have the layers of ``network``.
    """
    require_layers_of(network, cnn)
    layers = tuple(
        SpikingLayer(
            source.name,
            source.synapse if layer.correction is None else source.synapse.with_added_bias(layer.correction),
            layer.balanced,
            layer.correction,
            source.relay_of,
        )
        for source, layer in zip(cnn.layers, network.layers, strict=True)
    )
    return SpikingNetwork(
        network.input_shape,
        layers,
        network.timesteps,
        network.reset,
        poisson_seed=network.poisson_seed,
        task=network.task,
    )


@dataclass(frozen=True, eq=False)
class OpenedFile:
    """A netx file in memory, with the float networks it is compared with.

    Parameters
    ----------
    path
        The ``.net`` file.
    network
        Its network.
    sha256
        SHA-256 of the file when ``network`` was read.
    cnn
        The CNN it is compared with, `Source.compared`; None if the CNN it was made from is not available.
    spiking
        The float SNN it was rounded from; None without ``cnn``.
    notes
        Notes for the user.
    normalization
        How pixels enter a network of another tool.
    """

    path: Path
    network: AnyNetwork
    sha256: str
    cnn: ReluNetwork | None = None
    spiking: SpikingNetwork | None = None
    notes: tuple[str, ...] = ()
    normalization: Normalization | None = None

    @property
    def has_early_exit(self) -> bool:
        """Whether its outputs after each step have a scale, so that a margin can be chosen."""
        return isinstance(self.network, QuantizedNetwork)


def open_file(
    path: str | Path,
    *,
    read: tuple[AnyNetwork, str] | None = None,
    model: str | Path | None = None,
    arch: str | None = None,
    normalization: Normalization | None = None,
) -> OpenedFile:
    """Return the netx file at ``path``, and the CNN it was made from.

    Parameters
    ----------
    path
        The ``.net`` file.
    read
        Its network and SHA-256, if already read.
    model
        The checkpoint it was made from; by default the one next to it, if unchanged.
    arch
        As in `source.open_source`, if it was made with one. Without it such a CNN is not opened: code that is named
        only in a file is not imported.
    normalization
        For a file of another tool; by default `external.simulation.DEFAULT_NORMALIZATION` if it has input neurons.
    """
    path = Path(path)
    network, sha256 = external.read_any(path) if read is None else read
    if isinstance(network, CubaNetwork) or external.is_external(network):
        if isinstance(network.layers[0].synapse, PixelBias):
            normalization = normalization or DEFAULT_NORMALIZATION
        return OpenedFile(path, network, sha256, normalization=normalization)
    if normalization is not None:
        found = f"given, but {path} already has its normalization"
        raise UsageError(found, where="mean", expected="is only for netx files written by other tools")
    source = source_of(path, network, None if model is None else Path(model), arch)
    if source is None:
        return OpenedFile(path, network, sha256)
    require_layers_of(network, source.network)
    spiking = float_network(network, source.network) if isinstance(network, QuantizedNetwork) else None
    reason = doubt(network, source, path.name, str(source.path))
    notes = (*((reason,) if reason else ()), *source.notes_on_compared)
    return OpenedFile(path, network, sha256, source.compared, spiking, notes)


def open_cnn(file: NetworkFile) -> tuple[Source, DataSplits]:
    """Return the CNN in ``file`` and its training data."""
    model, cnn, images = file.model, file.cnn, file.images
    trained = load(model) if is_described(model, cnn.arch) else None
    # A checkpoint of the user's own code, too, names its classes.
    ours = trained or (None if cnn.arch is None or is_self_contained(model) else load_if_ours(model))
    if trained is not None:
        recorded_normalization(trained, cnn.normalization)
    known = cnn.classes or (ours.classes if ours else ())
    data = images.data or benchmark_of(model, ours)
    splits = replace(images, data=data).load(known, trained.input_shape if trained else cnn.input_shape)
    source = open_source(
        model,
        arch=cnn.arch,
        input_shape=cnn.input_shape if trained else splits.input_shape,
        classes=cnn.classes if trained else known or splits.classes or None,
        # Only the name is recorded, because the path of a user's own images is private.
        data=data if data in DATASETS else splits.name,
        normalization=cnn.normalization,
        task=cnn.task,
    )
    if splits.name not in DATASETS:
        of_test, of_calibration = splits.test.fingerprint, splits.calibration.fingerprint
        digests = {"data_fingerprint": of_test, "calibration_fingerprint": of_calibration}
        source = replace(source, provenance={**source.provenance, **digests})
    splits.test.require_fit(cnn.task, source.network.shapes[-1][0], "data")
    return source, splits


def benchmark_of(file: Path, trained: Checkpoint | None) -> str:
    """Return the benchmark set that the CNN in ``file`` was trained on; ``trained`` is its record, if it has one."""
    if trained is not None and trained.is_benchmark:
        return trained.data
    found = "does not record its training data" if trained is None else "was trained on your own images"
    raise UsageError("not given", where="data", expected=f"is needed: {file.name} {found}")


def open_model(
    model: nn.Module | str | Path,
    shape: Shape,
    *,
    arch: str | None,
    classes: Sequence[str] | None,
    normalization: Normalization | None,
    task: Task,
) -> Source:
    """Return a CNN in memory, or the one in a file, for images of ``shape``, ``(C, H, W)``.

    Raises
    ------
    UsageError
        If ``arch`` is given for a CNN in memory, or as in `source.open_source`.
    DataError
        If the CNN in the file takes images of another shape.
    InputError
        If it cannot be used.
    """
    if not isinstance(model, str | Path):
        if arch is not None:
            raise UsageError("given with a module", where="arch", expected="must come with the path of a state dict")
        return Source.from_module(model, shape, classes=classes, normalization=normalization, task=task)
    path, given = Path(model), None if is_described(Path(model), arch) else shape
    if given is None:
        recorded_normalization(load(path), normalization)
    source = open_source(path, arch=arch, input_shape=given, classes=classes, normalization=normalization, task=task)
    if shape != source.network.input_shape:
        raise DataError(f"found images of {shape}", where="images", expected=f"must be {source.network.input_shape}")
    return source
