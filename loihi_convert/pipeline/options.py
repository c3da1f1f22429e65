"""Options of several verbs: a CNN, its images, and a run.

A declared option has the name of the library parameter that it sets, so that an error can name its flag.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, get_args

from pydantic import Field

from loihi_convert.errors import InputError, UsageError
from loihi_convert.ground.choices import TOLERANCE_POINTS, DatasetName, FileFormat, Target, Task
from loihi_convert.ground.files import asked
from loihi_convert.ground.normalization import Normalization, require_both
from loihi_convert.ground.options import BASICS, Flag, declared, parse_timesteps

if TYPE_CHECKING:
    from loihi_convert.data import DataSplits
    from loihi_convert.ground.arrays import Shape
    from loihi_convert.ir.provenance import ModelRecord

_LOG: Final = logging.getLogger(__name__)

OWN_CNN: Final = "Your own CNN"
DATA: Final = "Data"

FolderClasses: TypeAlias = Literal["sorted", "names"] | tuple[tuple[str, str], ...]
"""A `ClassMap` that can be hashed."""


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def _shape(text: str) -> tuple[int, int, int]:
    """Return (C, H, W); for signals, (C, 1, L)."""
    from loihi_convert.data.in_memory import as_input_shape

    try:
        return as_input_shape([int(part) for part in text.split(",")])
    except UsageError as error:
        raise ValueError from error


def _class_names(text: str) -> tuple[str, ...]:
    """Return the names of the classes; 0, 1, ... if only their number is given."""
    # A class count of more than five digits would fill the memory with names.
    is_number = text.isdecimal() and len(text) <= 5
    names = tuple(map(str, range(int(text)))) if is_number else tuple(text.split(","))
    if (is_number and len(names) < 2) or not all(names) or len(set(names)) < len(names):
        raise ValueError
    return names


def _folder_classes(text: str) -> FolderClasses:
    """Return the class of each folder, by name or number, or ``"sorted"`` or ``"names"``."""
    if text == "sorted":
        return "sorted"
    if text == "names":
        return "names"
    pairs = [part.rpartition("=")[::2] for part in text.split(",")]
    if not all(folder and name for folder, name in pairs) or len(dict(pairs)) < len(pairs):
        raise ValueError
    return tuple(sorted(pairs))


_NUMBERS: Final = Flag("A,B,C", parse=_numbers, expected="must be numbers, one per channel, such as 0.49,0.48,0.45")
_SHAPE: Final = Flag(
    "C,H,W",
    parse=_shape,
    expected="must be whole numbers >= 1: C,H,W of an image, such as 3,32,32, or C,L of a signal",
)
_CLASSES: Final = Flag(
    "NAMES",
    parse=_class_names,
    expected="must be their number, at least 2, or their names without repeats, such as cat,dog,bird",
)
_CLASS_MAP: Final = Flag(
    "FOLDER=CLASS,...",
    parse=_folder_classes,
    expected="must be sorted, names, or folder=class pairs with each folder once, such as zero=0,one=1",
)


@declared(OWN_CNN)
class CnnOptions:
    """What a file does not say about the user's own CNN.

    Parameters
    ----------
    arch
        For your own checkpoint: your class or function that builds the CNN, as package.module:factory or
        package.module:factory(classes=10). It is imported from the current folder and executed.
    mean
        Normalization of the input, (pixel/255 - mean) / std: one number, or one per channel. Default: pixel/255 as it
        is.
    std
        Like `mean`; give both or none.
    input_shape
        Shape of an image, or C,L of a signal, with `arch`. Default: the shape of the images in `data`.
    classes
        With `arch`: number of classes, or their names a,b,c, or names of a regression's outputs. Default: those of the
        data.
    task
        Meaning of the outputs: class scores (a single output: a logit, class 1 above 0), or numbers, with targets in an
        .npz file.
    """

    arch: Annotated[str | None, Flag("MODULE:FACTORY")] = None
    mean: Annotated[tuple[float, ...] | None, _NUMBERS] = None
    std: Annotated[tuple[float, ...] | None, _NUMBERS] = None
    input_shape: Annotated[tuple[int, int, int] | None, _SHAPE] = None
    classes: Annotated[tuple[str, ...] | None, _CLASSES] = None
    task: Task = "classification"

    def __post_init__(self) -> None:
        require_both(self.mean, self.std)

    @property
    def normalization(self) -> Normalization | None:
        """`mean` and `std`, if they are given."""
        return None if self.mean is None or self.std is None else Normalization(self.mean, self.std)


@declared(DATA)
class DataRequest:
    """The images of a verb.

    Parameters
    ----------
    data
        Data set (a name of `loihi-convert data`, such as mnist), a folder of images, or an .npz file. Default: the data
        recorded in the file.
    data_root
        Folder of the data sets. Default: LOIHI_CONVERT_DATA, or ~/.cache/loihi-convert.
    class_map
        Class of each class folder, by name or number: zero=0,one=1. sorted: the sorted folders are 0, 1, ..., as in
        torchvision's ImageFolder. names, the default if the classes have names: folders are named after the classes, or
        by their numbers.
    """

    data: Annotated[str | None, Flag("DATA")] = None
    data_root: Annotated[Path | None, Flag("FOLDER")] = None
    class_map: Annotated[FolderClasses | None, _CLASS_MAP] = None

    def load(
        self, classes: Sequence[str], input_shape: Shape | None, *, at_once: bool = True, prefix: str = ""
    ) -> DataSplits:
        """Return the images, as `load_data`, and log how they were read, after ``prefix``."""
        from loihi_convert.data import load_data

        assert self.data is not None
        class_map = dict(self.class_map) if isinstance(self.class_map, tuple) else self.class_map
        splits = load_data(
            self.data,
            self.data_root,
            classes=classes,
            class_map=class_map,
            input_shape=input_shape,
            at_once=at_once,
        )
        for note in splits.notes:
            _LOG.info("%s%s", prefix, note)
        return splits

    def load_for(self, path: Path, recorded: ModelRecord, input_shape: Shape, *, at_once: bool = True) -> DataSplits:
        """Return the images for the network in the file at ``path``, with the record ``recorded`` of its CNN.

        Raises
        ------
        UsageError
            If neither the options nor the file name a data set.
        InputError
            If the images that the file names are not here, or cannot be used.
        """
        named = self.data or _recorded_data(path, recorded)
        splits = replace(self, data=named).load(recorded.names, input_shape, at_once=at_once)
        if self.data is None and recorded.data_fingerprint not in (None, splits.test.fingerprint):
            _LOG.info(
                "%s no longer contains the images that %s was exported with; to run other images, pass their path as "
                "--data",
                named,
                path.name,
            )
        return splits


def _recorded_data(path: Path, recorded: ModelRecord) -> str:
    """Return the data set, or the path of the images, that the file at ``path`` was made with.

    The images are looked for in the current folder, then beside the file.
    """
    if recorded.data is None:
        raise UsageError("does not record its data set", where=path, expected="needs `data`")
    named = str(recorded.data)
    if named in get_args(DatasetName):
        return named
    found = next((each for each in (Path(named), path.parent / named) if asked(each, Path.exists)), None)
    if found is None:
        reason = f"was exported with {named}, which is neither in the current folder nor beside the file"
        raise InputError(reason, where=path, expected="needs `data`")
    return str(found)


@dataclass(frozen=True)
class NetworkFile:
    """A trained CNN and its data: only places, no content.

    Shape and classes are by default those of the data for a CNN that is not described by its file, and the data are by
    default the benchmark set named by the checkpoint.
    """

    model: Path
    cnn: CnnOptions = field(default_factory=CnnOptions)
    images: DataRequest = field(default_factory=DataRequest)


@declared(BASICS)
class WriteOptions:
    """How an exported network is written.

    Parameters
    ----------
    file_format
        netx: for Lava and Loihi (.net). nir: for other spiking-network libraries (.nir); MODEL may then be a .net file.
    allow_hard_reset
        With `file_format='nir'`: write soft-reset neurons as NIR's IF, which resets to 0. Spikes differ.
    verify
        Read the file back and compare.

        A netx file by its spikes and potentials, a NIR file by its numbers.
    overwrite
        Replace existing files.
    """

    file_format: Annotated[FileFormat, Flag(name="--format")] = "netx"
    allow_hard_reset: bool = False
    verify: bool = True
    overwrite: bool = False


@declared(BASICS)
class CheckOptions:
    """What a network is checked for.

    Parameters
    ----------
    target
        Target platform: lava (CPU simulator) or loihi2 (chip). Default: the one that the file was exported for, or
        lava.
    timesteps
        Time steps. Default: the T that the file was balanced for.
    chips
        Number of Loihi 2 chips on the board (Kapoho Point has 8).
    compare
        Also show the neurocores needed with each kind of neuron, and so the cost of soft reset on a chip.
    """

    target: Target | None = None
    timesteps: Annotated[int | None, Field(ge=1), Flag("T", "-T,--timesteps")] = None
    chips: Annotated[int, Field(ge=1)] = 1
    compare: bool = False


@declared(BASICS)
class RunOptions:
    """Options for running and evaluating a file.

    Parameters
    ----------
    timesteps
        Time steps. Default: the T that the file was balanced for. A list such as 1,4 gives one run to the largest T,
        with results at each.
    exit_tolerance
        Accuracy that early exit may lose on these images, in percentage points.

        None: early exit is not evaluated.
    trace
        Record and compare every layer.
    device
        Where to simulate `ref` and the float SNN: ``"cpu"`` or another torch device, such as ``"cuda"``.
    float_snn
        Also run the same network in floating point (float SNN) for comparison; takes as long as the run itself.

        Only if the CNN is known.
    stream
        For graded spikes: treat the images as frames of one sequence, and send only the change from the frame before.
        Default: send each image as the change from a blank image.

    Raises
    ------
    UsageError
        If a number is out of range.
    """

    timesteps: Annotated[tuple[int, ...], Flag("T", "-T,--timesteps", parse=parse_timesteps)] = ()
    exit_tolerance: Annotated[float | None, Field(ge=0, le=100), Flag("POINTS", panel="Early exit")] = TOLERANCE_POINTS
    trace: bool = False
    device: Annotated[str, Flag(name="")] = "cpu"
    float_snn: Annotated[bool, Flag(name="--float")] = False
    stream: bool = False

    def __post_init__(self) -> None:
        if self.timesteps and min(self.timesteps) < 1:
            raise UsageError(f"found {min(self.timesteps)}", where="timesteps", expected="must be at least 1")

    def last_timestep(self, balanced: int | None) -> int:
        """Return the last T of a run, for a file balanced for ``balanced`` steps; None: it does not say."""
        steps = max(self.timesteps, default=balanced)
        if steps is None:
            expected = "is needed for a file that does not record its time steps per sample"
            raise UsageError("not given", where="timesteps", expected=expected)
        return steps
