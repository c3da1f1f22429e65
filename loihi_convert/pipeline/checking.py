"""A netx file or a checkpoint -> what is wrong with it for a target, before anyone runs it there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loihi_convert import external, netx
from loihi_convert.arrays import Array, Shape
from loihi_convert.checks.activity import (
    ACTIVITY_RULES,
    CNN_ACTIVITY_RULES,
    NETWORK_ACTIVITY_RULES,
    cnn_activity,
    network_activity,
)
from loihi_convert.checks.finding import SEVERITIES, Finding, findings
from loihi_convert.checks.integer_rules import CIRCUIT_RULES, LAYER_RULES, NETWORK_RULES, NetworkRun, layer_runs
from loihi_convert.checks.resource_rules import MEMORY_RULES, NEUROCORE_RULES
from loihi_convert.checks.stock_rules import FILE_RULES, LIF_RULES, STOCK_RULES
from loihi_convert.chip.resources import Chips, LayerResources, resources
from loihi_convert.cnn.checkpoint import SUFFIXES
from loihi_convert.errors import DataError, InputError, NetxError, UsageError
from loihi_convert.external.cuba import CubaNetwork
from loihi_convert.frontend.source import open_source
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.quantized import QuantizedNetwork, Target
from loihi_convert.ir.synapse import Dense, Synapse
from loihi_convert.netx.stock import StockFile
from loihi_convert.progress import ProgressFactory, no_progress_bar


@dataclass(frozen=True, eq=False)
class LoadedFile:
    """A file, and what could be read of it.

    Parameters
    ----------
    path
        The file.
    network
        None where this package refuses it, or where it is from other hands.
    stock
        What lava-dl sees; None for a checkpoint, and for a file that is damaged.
    recorded
        What the file says of its CNN: its ``data`` and ``classes``, perhaps.
    refusal
        Why this package refuses it; empty where it does not.
    is_external
        Whether what is refused is a netx file that another program wrote, for a program that may run it.
    """

    path: Path
    network: QuantizedNetwork | ReluNetwork | None
    stock: StockFile | None
    recorded: Mapping[str, Any]
    refusal: str = ""
    is_external: bool = False


@dataclass(frozen=True, eq=False)
class CheckReport:
    """What was found, the worst first, and what each layer takes.

    Parameters
    ----------
    path, target
        As they were asked for.
    timesteps
        T of the run; None where thresholds are not known: for a checkpoint, or a file that was refused.
    image_count
        Images on which channels were looked at.
    findings
        One for each broken claim.
    chips
        The layers, and the chips there are for them; None where they could not be read.
    """

    path: Path
    target: Target
    timesteps: int | None
    image_count: int
    findings: tuple[Finding, ...]
    chips: Chips | None

    @property
    def is_usable(self) -> bool:
        """Whether nothing was found that makes the file unusable on the target."""
        return all(finding.severity != "error" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """That in a sentence, with the number of findings."""
        found = Counter(finding.severity for finding in self.findings)
        counts = ", ".join(f"{found[severity]} {severity}{'s' * (found[severity] != 1)}" for severity in SEVERITIES)
        outcome = "nothing found that is in the way of" if self.is_usable else "cannot be used on"
        place = {"lava": "Lava on a CPU", "loihi2": "Loihi 2"}[self.target]
        return f"{self.path.name}: {outcome} {place}: {counts}"


def load_file(
    path: Path,
    *,
    arch: str | None = None,
    input_shape: Shape | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> LoadedFile:
    """Return what can be read of a ``.net`` file, or of a checkpoint: ``.pt`` or ``.safetensors``.

    ``arch``, ``input_shape``, ``mean`` and ``std`` are for a checkpoint, as in `source.open_source`.

    Raises
    ------
    InputError
        If there is no such file.
    UsageError
        As `source.open_source`.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .net file, or the checkpoint of a CNN.")
    if path.suffix in SUFFIXES:
        try:
            source = open_source(path, arch=arch, input_shape=input_shape, mean=mean, std=std)
        except InputError as error:
            return LoadedFile(path, None, None, {}, str(error))
        return LoadedFile(path, source.network, None, source.provenance)
    if any(option is not None for option in (arch, input_shape, mean, std)):
        raise UsageError(f"{path}: --arch, --input-shape, --mean and --std are for a checkpoint, before export.")
    try:
        stock = netx.read_stock(path)
    except NetxError as error:
        return LoadedFile(path, None, None, {}, str(error))
    try:
        network = external.read_any(path)
    except NetxError as error:
        return LoadedFile(path, None, stock, {}, str(error), is_external=not netx.is_native(path))
    if isinstance(network, CubaNetwork):
        return LoadedFile(path, None, stock, {})
    stock = stock.with_names([layer.name for layer in network.layers])
    return LoadedFile(path, network, stock, network.provenance.get("model", {}))


def check(
    candidate: LoadedFile,
    images: Array | None = None,
    timesteps: int | None = None,
    *,
    target: Target = "lava",
    chips: int = 1,
    device: str = "cpu",
    bars: ProgressFactory = no_progress_bar,
) -> CheckReport:
    """Return what is wrong with ``candidate`` for ``target``, the worst first.

    Parameters
    ----------
    candidate
        From `load_file`.
    images
        uint8 ``(N, C, H, W)`` on which to look for channels that stay silent or fire at every step; None: do not look.
    timesteps
        T; by default the one the file was balanced for.
    target
        What shall run it.
    chips
        How many Loihi 2 chips there are for it.
    device
        Where to simulate: ``"cpu"``, or another one of torch's.

    Raises
    ------
    UsageError
        If ``timesteps`` or ``chips`` are less than 1, or T is asked of a checkpoint.
    DataError
        If ``images`` are not such as the network takes.
    """
    network = candidate.network
    if timesteps is not None and (timesteps < 1 or isinstance(network, ReluNetwork)):
        raise UsageError(f"--timesteps {timesteps}: allowed are whole numbers from 1, for a .net file.")
    if chips < 1:
        raise UsageError(f"--chips {chips}: allowed are whole numbers from 1.")
    if images is not None and network is not None and images.shape[1:] != network.input_shape:
        expected = f"{candidate.path} takes {network.input_shape}"
        raise DataError(f"shape {images.shape[1:]}", where="images", expected=expected)
    steps = None
    found: list[Finding] = list(_refusal(candidate))
    if candidate.stock is not None:
        found += findings(FILE_RULES, [(None, candidate.stock)], target)
        found += findings(STOCK_RULES, candidate.stock.layers, target)
    if isinstance(network, QuantizedNetwork):
        steps = network.timesteps if timesteps is None else timesteps
        run = NetworkRun(network, steps)
        found += findings(NETWORK_RULES, [(None, run)], target)
        found += findings(LAYER_RULES, layer_runs(run), target)
        if network.reset == "soft":
            found += findings(CIRCUIT_RULES, layer_runs(run), target)
    if candidate.stock is not None and not (isinstance(network, QuantizedNetwork) and network.reset == "soft"):
        found += findings(LIF_RULES, candidate.stock.layers, target)
    image_count = 0
    if images is not None and network is not None and _runs(network, steps):
        image_count = len(images)
        with bars(f"{candidate.path.name}: looking at channels") as progress:
            if isinstance(network, ReluNetwork):
                found += findings(CNN_ACTIVITY_RULES, cnn_activity(network, images), target)
            else:
                assert steps is not None
                activity = network_activity(network, images, steps, device=device, progress=progress)
                found += findings(NETWORK_ACTIVITY_RULES, [(None, activity)], target)
                found += findings(ACTIVITY_RULES, activity.layers, target)
    layers = _resources(candidate)
    on_chips = None if layers is None else Chips(layers, chips)
    if on_chips is not None:
        found += findings(MEMORY_RULES, ((layer.name, layer) for layer in on_chips.layers), target)
        found += findings(NEUROCORE_RULES, [(None, on_chips)], target)
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return CheckReport(candidate.path, target, steps, image_count, tuple(found), on_chips)


def _runs(network: QuantizedNetwork | ReluNetwork, timesteps: int | None) -> bool:
    """Whether its channels can be looked at: nothing is simulated beyond the T that a file was proven for."""
    return timesteps is None or not isinstance(network, QuantizedNetwork) or timesteps <= network.max_timesteps


def _refusal(candidate: LoadedFile) -> Iterator[Finding]:
    if not candidate.refusal:
        return
    reason = candidate.refusal.removeprefix(f"{candidate.path}: ").rstrip(".")
    yield Finding(
        severity="note" if candidate.is_external else "error",
        rule="this package can read the file",
        layer=None,
        found=reason,
        limit="",
        source="",
        fix="",
    )


def _resources(candidate: LoadedFile) -> tuple[LayerResources, ...] | None:
    """What the layers take, of any file whose synapses are all known and fit each other: a part is no total."""
    if candidate.network is not None:
        network = candidate.network
        return resources(network.input_shape, [(layer.name, layer.synapse) for layer in network.layers])
    if candidate.stock is None:
        return None
    synapses: list[tuple[str, Synapse]] = []
    recurrent: dict[str, Dense] = {}
    input_shape: Shape | None = None
    try:
        for name, layer in candidate.stock.layers:
            if layer.kind in ("input", "flatten"):
                continue
            if (synapse := layer.synapse) is None or layer.output_shape is None:
                return None
            input_shape = layer.input_shape if input_shape is None else input_shape
            synapses.append((name, synapse))
            if (own := layer.recurrent) is not None:
                recurrent[name] = own
        return None if input_shape is None else resources(input_shape, synapses, recurrent)
    except InputError:
        # A rule of `netx.stock` has said so.
        return None
