"""Lists of options -> the cells of a sweep. A cell opens the CNN and its images, exports, runs on `ref`, evaluates."""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from pydantic import Field

from loihi_convert import netx
from loihi_convert.backends.reference import run_network
from loihi_convert.batch.computation import Computation, opened_before, require_unchanged
from loihi_convert.batch.setting import OPTIONS, ConversionSetting, Digests, ImageChoice
from loihi_convert.chip.resources import network_resources
from loihi_convert.conversion.options import AUTO
from loihi_convert.data import Dataset
from loihi_convert.errors import UsageError, one_of
from loihi_convert.ground.arrays import Array, arrays_digest
from loihi_convert.ground.files import sha256
from loihi_convert.ground.options import Record
from loihi_convert.ground.statistics import Interval
from loihi_convert.metrics.evaluation import evaluate, expected_of
from loihi_convert.metrics.own_accuracy import own_accuracy
from loihi_convert.metrics.regression import mean_errors
from loihi_convert.metrics.work import cnn_multiplications
from loihi_convert.pipeline import exporting
from loihi_convert.pipeline.converting import require_skip_copies
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
    accuracy, accuracy_interval, cnn_accuracy, agreement_with_cnn
        Fractions 0..1 of the integer network (with its 95 % interval) and of the CNN, None without labels; fraction of
        images with the CNN's class, None for a regression.
    rmse, rmse_to_cnn, cnn_rmse
        Root mean square errors of a regression: to the targets, to the CNN's outputs, and of the CNN to the targets.
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
    kind
        "validation images", "test images" or, if the data set has no splits, "own images".
    """

    source: Source
    data: str
    calibration: Array
    images: Dataset
    kind: str
    digests: Digests

    @cached_property
    def cnn_outputs(self) -> Array:
        """Outputs of the CNN for ``images``, ``(N, outputs)``."""
        return cnn_scores(self.source.compared, self.images.images)


def open_network(network: NetworkFile, choice: ImageChoice) -> Opened:
    """Return a CNN and its images, read now; as `open_cnn`, also an error if the images do not suffice."""
    source, splits = open_cnn(network)
    is_split = len(splits.validation) > 0
    kind = f"{choice.split if is_split else 'own'} images"
    images = splits.validation if choice.split == "validation" and is_split else splits.test
    count = len(images) if choice.image_count is None else choice.image_count
    if not 1 <= count <= len(images):
        expected = f"must be 1..{len(images)}, the {kind} of {splits.name}"
        raise UsageError(f"found {count}", where="image_count", expected=expected)
    images, calibration = images[:count], splits.calibration_images(choice.calibration)
    digests = Digests(
        model=checkpoint_sha256(network.model),
        network=source.network.digest,
        compared=source.compared.digest,
        code=None if network.cnn.arch is None else _code_digest(network.cnn.arch),
        calibration=arrays_digest((calibration,)),
        images=arrays_digest(array for array in (images.images, images.labels, images.targets) if array is not None),
    )
    return Opened(source, splits.name, calibration, images, kind, digests)


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
        # Not the places of the CNN and its images, of which the digests are known.
        return {
            "digests": asdict(self.digests),
            "split": self.images.split,
            "network": {**asdict(self.network.cnn), "class_map": self.network.images.class_map},
            "setting": self.setting.varied,
        }

    def compute(self, needed: Sequence[Any]) -> CellResult:
        """See `Computation.compute`."""
        options = self.setting.options()
        with opened_before():
            opened = _opened(self.network, self.images, self.digests)
        timesteps = self.setting.timesteps
        with tempfile.TemporaryDirectory(prefix="loihi-convert-") as folder:
            path = Path(folder, f"cell{netx.SUFFIX}")
            (exported,) = exporting.export(opened.source, path, [timesteps], opened.calibration, options)
            network = netx.read(path)
        run = run_network(network, opened.images.images, timesteps)
        expected = expected_of(run, network, opened.images, opened.cnn_outputs)
        evaluation = evaluate(run, network, expected, timesteps=(timesteps,))
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


# Simulated images per calibration image, for `auto` and for one method; fitted to MNIST at T = 2, 4 and 16.
_AUTO_PASSES: Final = 6.5
_PASSES: Final = 1.5
# What a cell does once for each image, such as the CNN's activations, in steps of a simulation; fitted as well.
_STEPS_PER_IMAGE: Final = 16

SECONDS_PER_WORK: Final = 1.1e-11
"""Seconds of one core for a multiplication by a weight in one step; measured on MNIST."""

_FIXED_WORK: Final = 3e10
"""Work of writing and reading the file, as multiplications."""

_MOST_CELLS: Final = 100_000


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
        if (count := math.prod(map(len, (self.networks, *self.values.values())))) > _MOST_CELLS:
            raise UsageError(f"found {count:,} cells", where="grid", expected=f"must be at most {_MOST_CELLS:,}")
        for copies in self.values.get("skip_copies", ()):
            require_skip_copies(copies)
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
        opened = open_network(network, grid.images)
        # Not on test images, as its advice would be chosen on them.
        is_test = opened.kind == "test images"
        own = None if is_test else own_accuracy(opened.source, opened.images, opened.kind, data=opened.data)
        if own is not None and own.warning:
            tell(f"warning: {name}: {own.warning}")
        if opened.kind == "own images":
            tell(
                f"{opened.data} has no validation images, so cells run its own images: keep other images to measure "
                "the settings chosen in the end"
            )
        for setting in settings:
            cell = ConversionCell(network, grid.images, opened.digests, setting, work=_work(opened, setting))
            found.setdefault(cell.name, PlannedCell(cell, name, opened.data, opened.kind))
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


def _names(networks: Sequence[NetworkFile]) -> Iterator[str]:
    """The file name of each network, with its folder or a number where file names are the same."""
    places = [network.model.parts[-2:] for network in networks]
    for index, place in enumerate(places):
        if [other[-1] for other in places].count(place[-1]) == 1:
            yield place[-1]
        else:
            yield "/".join(place) + (f"#{1 + places[:index].count(place)}" if places.count(place) > 1 else "")


def _work(opened: Opened, setting: ConversionSetting) -> float:
    per_step = cnn_multiplications(opened.source.network)
    passes = _AUTO_PASSES if setting.method == AUTO else _PASSES
    images = len(opened.images) + passes * len(opened.calibration)
    return _FIXED_WORK + per_step * (setting.timesteps + _STEPS_PER_IMAGE) * images
