"""Lists of options -> the cells of a sweep, and an estimate of the work of each."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from loihi_convert.batch.conversion import ConversionCell, Opened, open_network
from loihi_convert.batch.setting import OPTIONS, ConversionSetting, ImageChoice
from loihi_convert.conversion.options import AUTO, require_timesteps
from loihi_convert.errors import UsageError, one_of
from loihi_convert.metrics.own_accuracy import own_accuracy
from loihi_convert.metrics.work import cnn_multiplications
from loihi_convert.pipeline.converting import require_skip_copies
from loihi_convert.pipeline.options import NetworkFile

# Simulated images per calibration image, for `auto` and for one method; fitted to MNIST at T = 2, 4 and 16.
_AUTO_PASSES: Final = 6.5
_PASSES: Final = 1.5
# What a cell does once for each image, such as the CNN's activations, in steps of a simulation; fitted as well.
_STEPS_PER_IMAGE: Final = 16

SECONDS_PER_WORK: Final = 1.1e-11
"""Seconds of one core for a multiplication by a weight in one step; measured on MNIST."""

_FIXED_WORK: Final = 3e10
"""Work of writing and reading the file, as multiplications."""


@dataclass(frozen=True)
class Grid:
    """What to compute: every network with every combination of options.

    Parameters
    ----------
    networks
        At least one.
    values
        One or more values of options of a `ConversionSetting`, by name; the others have their default.
    images
        The images of every cell.

    Raises
    ------
    UsageError
        If an option is unknown, or has no value or an impossible one. Values that contradict each other are allowed:
        their cells fail.
    """

    networks: tuple[NetworkFile, ...]
    values: Mapping[str, Sequence[Any]]
    images: ImageChoice = field(default_factory=ImageChoice)

    def __post_init__(self) -> None:
        if not self.networks:
            raise UsageError("found none", where="models", expected="must name at least one network")
        for name, values in self.values.items():
            if name not in OPTIONS:
                raise UsageError(f"found {name}", where="grid", expected=one_of(OPTIONS))
            if not values:
                raise UsageError("found no value", where=name, expected="must have at least one value")
            for value in values:
                _require_possible(name, value)
        settings = self.settings
        for name, values in self.values.items():
            if any(value is not None for value in values) and all(getattr(one, name) is None for one in settings):
                raise UsageError(
                    f"found {', '.join(map(str, values))}, without effect in any cell",
                    where=name,
                    expected="must apply to at least one cell",
                    hint="Leave it out, or choose other options with it.",
                )

    @property
    def settings(self) -> tuple[ConversionSetting, ...]:
        """Every combination once, `ConversionSetting.normalized`; T changes last."""
        names = sorted(self.values, key=lambda name: (name == "timesteps", OPTIONS.index(name)))
        every = (
            ConversionSetting(**dict(zip(names, values, strict=True))).normalized
            for values in itertools.product(*(self.values[name] for name in names))
        )
        return tuple(dict.fromkeys(every))


@dataclass(frozen=True)
class PlannedCell:
    """A cell, and what is known before it is computed.

    Parameters
    ----------
    network_name
        Name of the network, different for each network of the grid.
    data
        Name of the data set, different for different images.
    kind
        The images it runs: "validation images", "test images" or "own images".
    """

    cell: ConversionCell
    network_name: str
    data: str
    kind: str

    @property
    def images(self) -> str:
        """The images in words."""
        return f"{self.kind} of {self.data}"


def varied(grid: Grid, cells: Sequence[PlannedCell]) -> tuple[str, ...]:
    """Return what differs between ``cells``: ``network``, ``data`` (the images they run), and options."""
    networks = ["network"] if len(grid.networks) > 1 else []
    data = ["data"] if len({planned.cell.digests.images for planned in cells}) > 1 else []
    return (*networks, *data, *(name for name in OPTIONS if len(grid.values.get(name, ())) > 1))


def planned_cells(grid: Grid, *, tell: Callable[[str], None] = lambda sentence: None) -> tuple[PlannedCell, ...]:
    """Return the cells of ``grid``, each once, after reading every network and its images.

    ``tell`` is called with notes for the user.

    Raises
    ------
    UsageError, InputError
        As in `open_network`.
    """
    settings = grid.settings
    found: dict[str, PlannedCell] = {}
    for network, name in zip(grid.networks, _names(grid.networks), strict=True):
        opened = open_network(network, grid.images, tell=tell)
        kind = f"{grid.images.split if opened.is_split else 'own'} images"
        # Not on test images, as its advice would be chosen on them.
        is_test = opened.is_split and grid.images.split == "test"
        own = None if is_test else own_accuracy(opened.source, opened.images, kind, data=opened.data)
        if own is not None and own.warning:
            tell(f"warning: {name}: {own.warning}")
        if not opened.is_split:
            tell(
                f"{opened.data} has no validation images, so cells run its own images: keep other images to measure "
                "the settings chosen in the end"
            )
        for setting in settings:
            cell = ConversionCell(network, grid.images, opened.digests, setting, work=_work(opened, setting))
            found.setdefault(cell.name, PlannedCell(cell, name, opened.data, kind))
    data = data_names(found.values())
    return tuple(replace(planned, data=data[planned.cell.digests.images]) for planned in found.values())


def data_names(cells: Iterable[PlannedCell]) -> dict[str, str]:
    """Return the name of the data set by digest of the images, with its first digits where names are the same."""
    names = {planned.cell.digests.images: planned.data for planned in cells}
    counts = Counter(names.values())
    return {digest: name if counts[name] == 1 else f"{name} ({digest[:8]})" for digest, name in names.items()}


def part_of(cells: Sequence[PlannedCell], index: int, count: int) -> tuple[PlannedCell, ...]:
    """Return part ``index``, 1..``count``, of ``cells``, whatever their order; each cell is in exactly one part."""
    return tuple(sorted(cells, key=lambda planned: planned.cell.name)[index - 1 :: count])


def _require_possible(name: str, value: Any) -> None:
    """Raise the `UsageError` of an option's ``value`` that no other option can make possible."""
    if name == "timesteps":
        require_timesteps((value,))
    elif name == "skip_copies":
        require_skip_copies(value)
    else:
        # Without these the option would have no effect and would not be looked at.
        beside: dict[str, Any] = {"poisson_seed": {"input_coding": "poisson"}, "percentile": {"method": "percentile"}}
        ConversionSetting(**{**beside.get(name, {}), name: value}).options()


def _names(networks: Sequence[NetworkFile]) -> Iterator[str]:
    """The file name of each network, with its folder or a number where file names are the same."""
    stems = [network.model.name for network in networks]
    longer = [f"{network.model.parent.name}/{network.model.name}" for network in networks]
    for index, (stem, long) in enumerate(zip(stems, longer, strict=True)):
        if stems.count(stem) == 1:
            yield stem
        else:
            yield long if longer.count(long) == 1 else f"{long}#{1 + longer[:index].count(long)}"


def _work(opened: Opened, setting: ConversionSetting) -> float:
    per_step = cnn_multiplications(opened.source.network)
    passes = _AUTO_PASSES if setting.method == AUTO else _PASSES
    images = len(opened.images) + passes * len(opened.calibration)
    return _FIXED_WORK + per_step * (setting.timesteps + _STEPS_PER_IMAGE) * images
