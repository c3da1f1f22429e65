"""A netx file or a checkpoint, as far as it is readable, to be checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from loihi_convert import external, netx
from loihi_convert.errors import InputError, NetxError, UnsupportedModelError, UsageError
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.file_kinds import is_nir, kind_of
from loihi_convert.ground.files import require_no_pipe, require_there
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.provenance import ModelRecord
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.netx.stock import StockFile


@dataclass(frozen=True, eq=False)
class CheckpointFile:
    """A checkpoint: the CNN before export. ``recorded`` is its own record, ``notes`` are those of `Source`."""

    path: Path
    network: ReluNetwork
    recorded: ModelRecord = field(default_factory=ModelRecord)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class NativeFile:
    """A netx file written by `export`: its network, and its layers as lava-dl sees them."""

    path: Path
    network: QuantizedNetwork
    stock: StockFile

    @property
    def recorded(self) -> ModelRecord:
        """The file's record of its CNN."""
        return self.network.provenance.model


@dataclass(frozen=True, eq=False)
class ExternalFile:
    """A netx file checked as lava-dl sees it: written by another tool, or by `export` with graded spikes.

    ``refusal``: the reason if `run` cannot run it. ``relays``: ``relay_of`` of each layer with a synapse, if known.
    """

    path: Path
    stock: StockFile
    refusal: NetxError | None = None
    relays: tuple[Array | None, ...] = ()


@dataclass(frozen=True, eq=False)
class RefusedFile:
    """A CNN without a spiking equivalent, or a netx file that cannot be used.

    ``stock``: its layers as lava-dl sees them, if it is a netx file that is not damaged.
    """

    path: Path
    refusal: UnsupportedModelError | NetxError
    stock: StockFile | None = None


LoadedFile = CheckpointFile | NativeFile | ExternalFile | RefusedFile
"""A file, as far as it was readable."""


def load_file(
    path: str | Path,
    *,
    arch: str | None = None,
    input_shape: Shape | None = None,
    normalization: Normalization | None = None,
) -> LoadedFile:
    """Return the readable part of a ``.net`` file, checkpoint or ONNX file; the type is detected from its content.

    ``arch``, ``input_shape`` and ``normalization`` are for a checkpoint, as in `source.open_source`.

    Raises
    ------
    InputError
        If the file does not exist, or is not a file with a CNN, or the CNN cannot be read with these options.
    UsageError
        As in `source.open_source`.
    """
    path = Path(path)
    require_there(path, "Give a .net file, or the checkpoint of a CNN.")
    require_no_pipe(path)
    if path.is_dir():
        raise InputError("is a folder", where=path, hint="Name a .net file, or the file of a CNN.")
    is_netx = (kind_of(path) == "hdf5" and not is_nir(path)) or path.suffix == netx.SUFFIX
    if not is_netx:
        # Loads torch, which a netx file does not need.
        from loihi_convert.pipeline.same_outputs import require_same_outputs
        from loihi_convert.reading.source import open_source

        try:
            source = open_source(path, arch=arch, input_shape=input_shape, normalization=normalization)
            require_same_outputs(source)
        except UnsupportedModelError as error:
            return RefusedFile(path, error)
        return CheckpointFile(path, source.network, source.recorded, source.notes)
    if any(option is not None for option in (arch, input_shape, normalization)):
        raise UsageError(
            "`arch`, `input_shape`, `mean` and `std` given for a netx file",
            where=path,
            expected="these are for a checkpoint, before export",
        )
    try:
        stock = netx.read_stock(path)
    except NetxError as error:
        return RefusedFile(path, error)
    try:
        network = netx.read_stored(path).network
    except NetxError as error:
        return RefusedFile(path, error, stock)
    if isinstance(network, QuantizedNetwork):
        return NativeFile(path, network, stock.with_names([layer.name for layer in network.layers]))
    if network is not None:
        layers = network.layers[1:]
        stock = stock.with_names([layer.name for layer in layers]).with_spike_exp(network.spike_exp)
        return ExternalFile(path, stock, relays=tuple(layer.relay_of for layer in layers))
    try:
        with netx.errors_that_name(path):
            external.decode_external(stock)
    except NetxError as error:
        return ExternalFile(path, stock, error)
    return ExternalFile(path, stock)
