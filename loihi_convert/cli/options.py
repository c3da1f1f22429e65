"""Options shared by several verbs, and parsers of their values.

A parameter of a verb has the same name as the library parameter that it sets. A library error names the parameter, so
it can be shown with the flag: ``method`` is ``--balance``. Numbers of images are ``image_count``.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from loihi_convert.errors import UsageError, did_you_mean, one_of
from loihi_convert.ground.choices import BackendName, ClassMap, DatasetName, Device, Generation, Task
from loihi_convert.ground.files import asked
from loihi_convert.ground.normalization import Normalization, require_both
from loihi_convert.ground.options import BOARD, Flag, declared

if TYPE_CHECKING:
    from loihi_convert.backends.loihi2.board import Board

OWN_CNN = "Your own CNN"
OUTPUT = "Output"
DATA = "Data"


def is_given(ctx: typer.Context, name: str) -> bool:
    """Return whether the option of the parameter ``name`` is on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_others(ctx: typer.Context, known: Container[str], found: str, *, expected: str = "", hint: str = "") -> None:
    """Raise a `UsageError` if an option on the command line sets a parameter that is not one of ``known``."""
    for name in ctx.params:
        if name not in known and is_given(ctx, name):
            raise UsageError(found, where=name, expected=expected, hint=hint)


def refuse_given(given: Mapping[str, object], found: str, expected: str) -> None:
    """Raise a `UsageError` if the user gave one of the options ``given``."""
    for name, value in given.items():
        if value:
            raise UsageError(found, where=name, expected=expected)


def require_data(data: str | None) -> None:
    """Raise a `UsageError` for a name that is neither a data set nor a path, before anything is imported."""
    names = get_args(DatasetName)
    if data is None or data in names or Path(data).name != data or Path(data).suffix or asked(Path(data), Path.exists):
        return
    raise UsageError(
        f"found {data!r}",
        where="data",
        expected=f"{one_of(names)}, or the path of a folder of images or an .npz file",
        hint=did_you_mean(data, names),
    )


def parse_numbers(where: str, text: str) -> tuple[float, ...]:
    """Return the numbers, one per channel, in ``text``, the value of the parameter ``where``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"found {text!r}", where=where, expected="must be numbers, one per channel, such as 0.49,0.48,0.45"
        ) from None


def parse_shape(text: str) -> tuple[int, int, int]:
    """Return (C, H, W); for signals, (C, 1, L)."""
    from loihi_convert.data.in_memory import as_input_shape

    try:
        return as_input_shape([int(part) for part in text.split(",")])
    except (ValueError, UsageError):
        raise UsageError(
            f"found {text!r}",
            where="input_shape",
            expected="must be whole numbers >= 1: C,H,W of an image, such as 3,32,32, or C,L of a signal",
        ) from None


def parse_class_names(text: str) -> tuple[str, ...]:
    """Return the names of the classes; 0, 1, ... if only their number is given."""
    # A class count of more than five digits would fill the memory with names.
    is_number = text.isdecimal() and len(text) <= 5
    names = tuple(map(str, range(int(text)))) if is_number else tuple(text.split(","))
    if (is_number and len(names) < 2) or not all(names) or len(set(names)) < len(names):
        raise UsageError(
            f"found {text!r}",
            where="classes",
            expected="must be their number, at least 2, or their names without repeats, such as cat,dog,bird",
        )
    return names


def parse_class_map(text: str) -> ClassMap:
    """Return the class of each folder, by name or number, or ``"sorted"`` or ``"names"``."""
    if text == "sorted":
        return "sorted"
    if text == "names":
        return "names"
    pairs = [part.rpartition("=")[::2] for part in text.split(",")]
    if not all(folder and name for folder, name in pairs) or len(dict(pairs)) < len(pairs):
        raise UsageError(
            f"found {text!r}",
            where="class_map",
            expected="must be sorted, names, or folder=class pairs with each folder once, such as zero=0,one=1",
        )
    return dict(pairs)


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
    mean: Annotated[tuple[float, ...] | None, Flag("A,B,C", parse=partial(parse_numbers, "mean"))] = None
    std: Annotated[tuple[float, ...] | None, Flag("A,B,C", parse=partial(parse_numbers, "std"))] = None
    input_shape: Annotated[tuple[int, int, int] | None, Flag("C,H,W", parse=parse_shape)] = None
    classes: Annotated[tuple[str, ...] | None, Flag("NAMES", parse=parse_class_names)] = None
    task: Task = "classification"

    def __post_init__(self) -> None:
        require_both(self.mean, self.std)

    @property
    def normalization(self) -> Normalization | None:
        """`mean` and `std`, if they are given."""
        return None if self.mean is None or self.std is None else Normalization(self.mean, self.std)


@declared(BOARD)
class BoardOptions:
    """The board of a run on ``loihi2``.

    Parameters
    ----------
    partition
        SLURM partition, unless one board is named. Default: PARTITION.
    board
        SLURM name of one board. Default: BOARD. Without partition and board: NXSDKHOST, the address of a board.
    loihi_gen
        Chip generation. Default: LOIHI_GEN, or N3B3.
    dry_run
        Run nothing: show what would run, and write a batch script, NAME.sbatch, or NAME.sh without SLURM.
    overwrite
        Replace an existing script.
    """

    partition: Annotated[str | None, Flag("NAME")] = None
    board: Annotated[str | None, Flag("NAME")] = None
    loihi_gen: Generation | None = None
    dry_run: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.overwrite and not self.dry_run:
            hint = "It replaces only that script: choose another `output`."
            raise UsageError("given without a batch script", where="overwrite", expected="needs `dry_run`", hint=hint)

    def chosen(self, backend: BackendName) -> Board | None:
        """Return the board for a run on ``loihi2``; other backends have none."""
        if backend == "loihi2":
            from loihi_convert.backends.loihi2.board import chosen_board

            return chosen_board(partition=self.partition, name=self.board, generation=self.loihi_gen)
        given = {"partition": self.partition, "board": self.board, "loihi_gen": self.loihi_gen, "dry_run": self.dry_run}
        refuse_given(given, f"given, but the backend is {backend}", "is an option of loihi2")
        return None


# Options of several verbs.
AsJson = Annotated[
    bool,
    Flag(
        name="--json",
        help="Print one JSON object to stdout, and nothing else; empty if the command fails before it has a result.",
    ),
]
OnDevice = Annotated[Device, Flag(help="Where to simulate: cpu, cuda (a GPU), or auto (a GPU if there is one).")]
Output = Annotated[Path, Flag(name="-o,--output")]
ImageCount = Annotated[int | None, Flag(name="--images")]
Timesteps = Annotated[
    int | None, Flag("T", "-T,--timesteps", help="Time steps. Default: the T that the file was balanced for.")
]
Overwrite = Annotated[bool, Flag(help="Replace existing files.")]
