"""A netx file in memory, with the CNN it was made from and the float SNN it was rounded from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loihi_convert import netx
from loihi_convert.ir.network import ReluNetwork, SpikingNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.pipeline.origin import float_network, notes_on, source_of


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
