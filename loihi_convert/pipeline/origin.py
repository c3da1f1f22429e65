"""The origin of a netx file: the checkpoint next to it, and the float SNN it was rounded from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loihi_convert import netx
from loihi_convert.cnn.checkpoint import digest
from loihi_convert.errors import InputError, UsageError
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.network import ReluNetwork, SpikingLayer, SpikingNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.reading.source import Source, checkpoint_sha256, reopen_source

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


def notes_on_images(network: QuantizedNetwork | GradedNetwork, fingerprint: str) -> tuple[str, ...]:
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


def notes_on(path: Path, network: QuantizedNetwork | GradedNetwork, source: Source) -> tuple[str, ...]:
    """Return what a user must know about ``source``, with which the file of ``network`` at ``path`` is compared."""
    reason = doubt(network, source, path.name, str(source.path))
    return (*((reason,) if reason else ()), *source.notes_on_compared)


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
            hint="Give the checkpoint that the file was exported from.",
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
    """

    path: Path
    network: QuantizedNetwork
    sha256: str
    cnn: ReluNetwork | None = None
    spiking: SpikingNetwork | None = None
    notes: tuple[str, ...] = ()


def open_file(
    path: str | Path,
    *,
    read: tuple[QuantizedNetwork, str] | None = None,
    model: str | Path | None = None,
    arch: str | None = None,
) -> OpenedFile:
    """Return the netx file at ``path``, and the CNN it was made from.

    Parameters
    ----------
    path
        The ``.net`` file.
    read
        The network in the file and the file's SHA-256, if already read.
    model
        The checkpoint the file was made from; by default the one next to the file, if unchanged.
    arch
        As in `source.open_source`, if the file was made with one. Without it such a CNN is not opened: code that is
        named only in a file is not imported.

    Raises
    ------
    InputError
        If the file or ``model`` cannot be used, or the layers of ``model`` differ.
    """
    path = Path(path)
    model = None if model is None else Path(model)
    network, sha256 = netx.read_with_digest(path) if read is None else read
    source = source_of(path, network, model, arch)
    if source is None:
        return OpenedFile(path, network, sha256)
    spiking = float_network(network, source.network)
    return OpenedFile(path, network, sha256, source.compared, spiking, notes_on(path, network, source))
