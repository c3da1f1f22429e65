"""A netx file or a checkpoint -> its problems on a target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loihi_convert import external, netx
from loihi_convert.checks.finding import SEVERITIES, Finding, findings
from loihi_convert.checks.lava_dl import FILE_RULES, STOCK_LIF_RULES, STOCK_RULES, LavaDl, lava_dl, lava_dl_findings
from loihi_convert.checks.network_rules import (
    ACTIVITY_RULES,
    CIRCUIT_RULES,
    CNN_ACTIVITY_RULES,
    LAYER_RULES,
    MEMORY_RULES,
    NETWORK_ACTIVITY_RULES,
    NETWORK_RULES,
    NEUROCORE_RULES,
    NetworkRun,
    cnn_activity,
    layer_runs,
    network_activity,
)
from loihi_convert.chip.limits import TARGETS
from loihi_convert.chip.resources import Chips, NeuronCost, Populated, network_resources, neuron_costs, resources
from loihi_convert.errors import DataError, InputError, NetxError, UnsupportedModelError, UsageError
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import Target
from loihi_convert.ground.files import is_nir, kind_of, require_no_pipe, require_there
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ground.progress import progress_bar
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.provenance import ModelRecord
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.netx.stock import StockFile
from loihi_convert.pipeline.options import CheckOptions
from loihi_convert.report.conversion_tables import resource_table
from loihi_convert.report.table import notebook_html

CAN_SPIKE: Final = "every operation has a spiking equivalent"
"""The rule of the findings if several parts of a CNN have no spiking equivalent."""

WITH_THRESHOLDS: Final = "files with thresholds that `export` wrote"
"""The files to which images and T apply, in errors."""


@dataclass(frozen=True, eq=False)
class LoadedFile:
    """A netx file or a checkpoint, as far as it was readable.

    Parameters
    ----------
    path
        The file.
    cnn
        Of a checkpoint: the CNN before export.
    exported
        Of a file that `export` wrote, with thresholds: its network.
    stock
        Of a netx file that is not damaged: its layers as lava-dl sees them.
    refusal
        The reason why this package cannot use it.
    is_external
        Whether it is only checked as lava-dl sees it: another tool wrote it, or `export` with graded spikes.
    relays
        Of graded spikes: ``relay_of`` of each layer with a synapse.
    recorded
        The record of its CNN.
    notes
        Of a checkpoint: those of `Source`.
    """

    path: Path
    cnn: ReluNetwork | None = None
    exported: QuantizedNetwork | None = None
    stock: StockFile | None = None
    refusal: UnsupportedModelError | NetxError | None = None
    is_external: bool = False
    relays: tuple[Array | None, ...] = ()
    recorded: ModelRecord = field(default_factory=ModelRecord)
    notes: tuple[str, ...] = ()

    @property
    def network(self) -> ReluNetwork | QuantizedNetwork | None:
        """The network whose channels can be measured."""
        return self.cnn or self.exported


def load_file(
    path: str | Path,
    *,
    arch: str | None = None,
    input_shape: Shape | None = None,
    normalization: Normalization | None = None,
) -> LoadedFile:
    """Return the readable part of a ``.net`` file, checkpoint or ONNX file; the type is detected from its content.

    ``arch``, ``input_shape`` and ``normalization`` are for a checkpoint, as in `source.open_source`.
    """
    path = Path(path)
    require_there(path, "Give a .net file, or the checkpoint of a CNN.")
    require_no_pipe(path)
    if path.is_dir():
        raise InputError("is a folder", where=path, expected="must be a .net file, or the file of a CNN")
    is_netx = (kind_of(path) == "hdf5" and not is_nir(path)) or path.suffix == netx.SUFFIX
    if not is_netx:
        # Loads torch, which a netx file does not need.
        from loihi_convert.pipeline.converting import require_same_outputs
        from loihi_convert.reading.source import open_source

        try:
            source = open_source(path, arch=arch, input_shape=input_shape, normalization=normalization)
            require_same_outputs(source)
        except UnsupportedModelError as error:
            return LoadedFile(path, refusal=error)
        return LoadedFile(path, source.network, recorded=source.recorded, notes=source.notes)
    if any(option is not None for option in (arch, input_shape, normalization)):
        raise UsageError(
            "`arch`, `input_shape`, `mean` and `std` given for a netx file",
            where=path,
            expected="these are for a checkpoint, before export",
        )
    stock = None
    try:
        stock = netx.read_stock(path)
        network = netx.read_stored(path).network
    except NetxError as error:
        return LoadedFile(path, stock=stock, refusal=error)
    if isinstance(network, QuantizedNetwork):
        stock = stock.with_names([layer.name for layer in network.layers])
        return LoadedFile(path, exported=network, stock=stock, recorded=network.provenance.model)
    if network is not None:
        layers = network.layers[1:]
        stock = stock.with_names([layer.name for layer in layers]).with_spike_exp(network.spike_exp)
        return LoadedFile(path, stock=stock, is_external=True, relays=tuple(layer.relay_of for layer in layers))
    refusal = None
    try:
        with netx.errors_that_name(path):
            external.decode_external(stock)
    except NetxError as error:
        refusal = error
    return LoadedFile(path, stock=stock, refusal=refusal, is_external=True)


@dataclass(frozen=True, eq=False, repr=False)
class CheckReport:
    """All findings, the most severe first, and the resources of each layer.

    Parameters
    ----------
    path, target
        As requested.
    timesteps
        T of the run; None if thresholds are unknown: for a checkpoint, an external or a refused file.
    image_count
        Number of images on which channel activity was measured.
    findings
        One finding per violated rule.
    chips
        The layers and the chips available for them; None if the layers are not readable.
    compared
        Resources with each kind of neuron, if requested and the network is this package's or a CNN.
    lava_dl
        Unmodified lava-dl beside `ref` on the images, for a file with thresholds that `export` wrote.
    """

    path: Path
    target: Target
    timesteps: int | None
    image_count: int
    findings: tuple[Finding, ...]
    chips: Chips | None
    compared: tuple[NeuronCost, ...] = ()
    lava_dl: LavaDl | None = None

    @property
    def is_usable(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One sentence: whether the file can be used on the target, and the number of findings."""
        found = Counter(finding.severity for finding in self.findings)
        counts = ", ".join(f"{found[severity]} {severity}{'s' * (found[severity] != 1)}" for severity in SEVERITIES)
        outcome = "can be used on" if self.is_usable else "cannot be used on"
        place = TARGETS[self.target].place
        return f"{self.path.name}: {outcome} {place}: {counts}"

    def __repr__(self) -> str:
        return "\n".join((self.verdict, *(finding.line for finding in self.findings)))

    def _repr_html_(self) -> str:
        return notebook_html(repr(self), *([] if self.chips is None else [resource_table(self.chips)]))


def check(
    loaded: LoadedFile,
    images: Array | None = None,
    options: CheckOptions = CheckOptions(),
    *,
    labels: Array | None = None,
    device: str = "cpu",
) -> CheckReport:
    """Return all findings on ``loaded`` for a target platform, the most severe first.

    Parameters
    ----------
    loaded
        From `load_file`.
    images
        uint8 ``(N, C, H, W)``, to find channels that stay silent or fire at every step; None: skip this.
    labels
        The class of each image, if known.
    device
        Where to simulate: ``"cpu"`` or another torch device.
    """
    exported = loaded.exported
    target = options.target or (exported.target if exported else "lava")
    if options.timesteps is not None and exported is None:
        raise UsageError(f"given for {loaded.path}", where="timesteps", expected=f"is only for {WITH_THRESHOLDS}")
    if options.compare and loaded.is_external:
        expected = f"is only for CNNs, and for {WITH_THRESHOLDS}"
        raise UsageError(f"given for {loaded.path}", where="compare", expected=expected)
    steps = None if exported is None else options.timesteps or exported.timesteps
    found = [*_refusal(loaded), *_file_findings(loaded, steps, target)]
    image_count, by_lava_dl = 0, None
    if images is not None and loaded.network is not None:
        if images.shape[1:] != loaded.network.input_shape:
            expected = f"{loaded.path} takes {loaded.network.input_shape}"
            raise DataError(f"shape {images.shape[1:]}", where="images", expected=expected)
        # Do not simulate beyond the largest safe T of a file.
        if exported is None or steps is None or steps <= exported.max_timesteps:
            image_count = len(images)
            with progress_bar(f"{loaded.path.name}: measuring channel activity"):
                found += _activity_findings(loaded, images, steps, target, device)
            if exported is not None and steps is not None:
                by_lava_dl = lava_dl(exported, images, steps, labels=labels, device=device)
    if exported is not None:
        found += lava_dl_findings(exported, by_lava_dl, target)
    on_chips = _resources(loaded, target, options.chips)
    if on_chips is not None:
        found += findings(MEMORY_RULES, ((layer.name, layer) for layer in on_chips.layers), target)
        found += findings(NEUROCORE_RULES, [(None, on_chips)], target)
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    compared = _compared(loaded) if options.compare else ()
    return CheckReport(loaded.path, target, steps, image_count, tuple(found), on_chips, compared, by_lava_dl)


def _refusal(loaded: LoadedFile) -> Iterator[Finding]:
    """Why this package cannot use the file: an error, or a note if another tool may run it.

    For a CNN, one finding for each part without a spiking equivalent.
    """
    if loaded.refusal is None:
        return
    others = loaded.refusal.others if isinstance(loaded.refusal, UnsupportedModelError) else ()
    for error in (loaded.refusal, *others):
        # The report already names the file.
        place = error.where.removeprefix(str(loaded.path)).removeprefix(": ")
        yield Finding(
            severity="note" if loaded.is_external else "error",
            rule=CAN_SPIKE if others else "this package can read the file",
            layer=place or None,
            found=error.found,
            limit=error.expected,
            source="",
            fix=error.hint,
        )


def _file_findings(loaded: LoadedFile, steps: int | None, target: Target) -> Iterator[Finding]:
    """Findings of the rules on layers and integers; for a CNN, the notes on how it was read."""
    for note in loaded.notes:
        rule, found = "the CNN can be read in only one way", note.removesuffix(".")
        yield Finding(severity="note", rule=rule, layer=None, found=found, limit="", source="", fix="")
    stock, is_soft = loaded.stock, False
    if stock is not None:
        yield from findings(FILE_RULES, [(None, stock)], target)
        yield from findings(STOCK_RULES, stock.layers, target)
    if loaded.exported is not None and steps is not None:
        run, is_soft = NetworkRun(loaded.exported, steps), loaded.exported.reset == "soft"
        yield from findings(NETWORK_RULES, [(None, run)], target)
        yield from findings(LAYER_RULES, layer_runs(run), target)
        yield from findings(CIRCUIT_RULES if is_soft else (), layer_runs(run), target)
    if stock is not None and not is_soft:
        yield from findings(STOCK_LIF_RULES, stock.layers, target)


def _activity_findings(
    loaded: LoadedFile, images: Array, steps: int | None, target: Target, device: str
) -> Iterator[Finding]:
    """Findings on channel activity on ``images``."""
    if loaded.cnn is not None:
        yield from findings(CNN_ACTIVITY_RULES, cnn_activity(loaded.cnn, images), target)
    elif loaded.exported is not None and steps is not None:
        activity = network_activity(loaded.exported, images, steps, device=device)
        yield from findings(NETWORK_ACTIVITY_RULES, [(None, activity)], target)
        yield from findings(ACTIVITY_RULES, activity.layers, target)


def _resources(loaded: LoadedFile, target: Target, chips: int) -> Chips | None:
    """Resources of the network; None if any layer is unknown, because a partial sum would mislead."""
    if loaded.network is not None:
        is_soft = loaded.exported is None or loaded.exported.reset == "soft"
        return network_resources(loaded.network, has_circuit=TARGETS[target].is_circuit and is_soft, chips=chips)
    return None if loaded.stock is None else _stock_resources(loaded.stock, loaded.relays, chips)


def _compared(loaded: LoadedFile) -> tuple[NeuronCost, ...]:
    """Resources with each kind of neuron that can compute the network."""
    costs = () if loaded.network is None else neuron_costs(loaded.network)
    return tuple(cost for cost in costs if cost.neurons != "graded" or _can_be_graded(loaded))


def _can_be_graded(loaded: LoadedFile) -> bool:
    if loaded.exported is not None:
        # A file does not record its activations, but thresholds that were trained with them.
        return len(loaded.exported.layers) > 1 and loaded.exported.provenance.balance.method != "qcfs"
    assert loaded.cnn is not None
    # Loads torch, which a netx file does not need.
    from loihi_convert.conversion.graded import require_relu

    try:
        require_relu(loaded.cnn)
    except UnsupportedModelError:
        return False
    return True


def _stock_resources(stock: StockFile, relays: Sequence[Array | None], chips: int) -> Chips | None:
    found: list[Populated] = []
    input_shape: Shape | None = None
    try:
        for name, layer in stock.layers:
            if layer.kind in ("input", "flatten"):
                continue
            if (synapse := layer.synapse) is None or layer.output_shape is None:
                return None
            input_shape = layer.input_shape if input_shape is None else input_shape
            relay_of = relays[len(found)] if relays else None
            found.append(Populated(name, synapse, layer.recurrent, relay_of))
        return None if input_shape is None else resources(input_shape, found, chips=chips)
    except InputError:
        # Already reported by `the_shape_follows_from_the_input`.
        return None
