"""Options shared by several verbs, and parsers of their values.

A parameter of a verb has the same name as the library parameter that it sets. A library error names the parameter, so
it can be shown with the flag: ``method`` is ``--balance``. Numbers of images are ``image_count``.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from loihi_convert.choices import BackendName, DatasetName, Device, Generation, LavaLayout, Neuron
from loihi_convert.errors import UsageError, did_you_mean, one_of
from loihi_convert.files import asked
from loihi_convert.normalization import Normalization, require_both

if TYPE_CHECKING:
    from loihi_convert.backends.loihi2.board import Board
    from loihi_convert.data import ClassMap

BASICS = "Basics"
OWN_CNN = "Your own CNN"
DATA = "Data"
DATA_AND_CNN = "Data and CNN"
BALANCING = "Balancing"
NEURONS = "Neurons and input"
OUTPUT = "Output"
TRAINING = "Training"
EARLY_EXIT = "Early exit"
LAVA = "Lava"
BOARD = "Loihi 2 board"
EXTERNAL = "Files of other tools"

# `typer.Option` returns the metadata of a parameter, declared as Any.
Option = Any


def choice(choices: object, flag: str, panel: str, help: str, *, metavar: str | None = None) -> Option:
    """Return an option whose values are the names in the ``Literal`` type ``choices``."""
    known: tuple[str, ...] = get_args(choices)
    return typer.Option(
        flag,
        parser=lambda text: one_choice(known, flag, text),
        metavar=metavar or f"[{'|'.join(known)}]",
        autocompletion=lambda incomplete: [name for name in known if name.startswith(incomplete)],
        help=help,
        rich_help_panel=panel,
    )


def one_choice(known: Sequence[str], where: str, value: object) -> str:
    """Return ``value``, one of the names ``known``; raise the `UsageError` of ``where`` for any other."""
    if isinstance(value, str) and value in known:
        return value
    hint = did_you_mean(str(value), known)
    raise UsageError(f"found {value!r}", where=where, expected=one_of(known), hint=hint)


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


def switch(flag: str, panel: str, help: str) -> Option:
    """Return a boolean option."""
    return typer.Option(flag, help=help, rich_help_panel=panel)


def named(flag: str, panel: str, help: str, *, metavar: str) -> Option:
    """Return an option without a default value; ``help`` describes the behaviour without it."""
    return typer.Option(flag, metavar=metavar, help=help, rich_help_panel=panel, show_default=False)


def number(flag: str, panel: str, help: str, *, metavar: str) -> Option:
    """Return an option with a default value, such as a number."""
    return typer.Option(flag, metavar=metavar, help=help, rich_help_panel=panel)


def data(panel: str, default: str = "the data recorded in the file") -> Option:
    names = ", ".join(get_args(DatasetName))
    help = f"Data set ({names}), a folder of images, or an .npz file; default: {default}."
    return named("--data", panel, help, metavar="DATA")


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


def data_root(panel: str) -> Option:
    return named(
        "--data-root",
        panel,
        "Folder of the data sets; default: LOIHI_CONVERT_DATA, or ~/.cache/loihi-convert.",
        metavar="FOLDER",
    )


def class_map(panel: str) -> Option:
    help = (
        "Class of each class folder, by name or number: zero=0,one=1. sorted: the sorted folders are 0, 1, ..., as in "
        "torchvision's ImageFolder. names, the default if the classes have names: folders are named after the classes, "
        "or by their numbers."
    )
    return named("--class-map", panel, help, metavar="FOLDER=CLASS,...")


def arch(panel: str) -> Option:
    help = (
        "For your own checkpoint: your class or function that builds the CNN, as package.module:factory or "
        "package.module:factory(classes=10). It is imported from the current folder and executed."
    )
    return named("--arch", panel, help, metavar="MODULE:FACTORY")


def mean(panel: str, default: str) -> Option:
    help = f"Normalization of the input, (pixel/255 - mean) / std: one number, or one per channel; default: {default}."
    return named("--mean", panel, help, metavar="A,B,C")


def std(panel: str) -> Option:
    return named("--std", panel, "Like --mean; give both or none.", metavar="A,B,C")


def timesteps(help: str = "Time steps; default: the T that the file was balanced for.") -> Option:
    return typer.Option("-T", "--timesteps", metavar="T", help=help, rich_help_panel=BASICS, show_default=False)


def images(help: str) -> Option:
    return named("--images", BASICS, f"Use the first N {help}", metavar="N")


def output(help: str) -> Option:
    """Return ``-o``: for every verb, the file or folder to write, not its parent folder."""
    return typer.Option("-o", "--output", metavar="PATH", help=help, rich_help_panel=BASICS)


def details(help: str) -> Option:
    return switch("--details", BASICS, help)


def overwrite(help: str = "Replace existing files.", panel: str = BASICS) -> Option:
    return switch("--overwrite", panel, help)


def seed(panel: str, help: str = "Seed of all random numbers.") -> Option:
    return typer.Option("--seed", metavar="N", help=help, rich_help_panel=panel)


def weight_bits(panel: str) -> Option:
    return number("--weight-bits", panel, "Bits of a weight, 2..8, sign included.", metavar="BITS")


_AS_JSON = "Print one JSON object to stdout, and nothing else; empty if the command fails before it has a result."
_INPUT_SHAPE = "Shape of an image, or C,L of a signal, with --arch; default: the shape of the images in --data."
_DEVICE = "Where to simulate: cpu, cuda (a GPU), or auto (a GPU if there is one)."
_LAVA_PYTHON = "Python interpreter with Lava, if not this one; default: LOIHI_CONVERT_LAVA_PYTHON."
_LAVA_LAYOUT = (
    "Layout on Lava's simulator. processes (default): Lava's own Conv and Dense, one image at a time. layers: one "
    "custom Process per layer, images in batches; faster."
)
_NEURON = (
    "own: the file's neuron model. stock: emulate it with Lava's LIF, as on the chip; needs a file for target loihi2, "
    "where it is the default."
)
_LEAK = "Stock neurons with du = 0 instead of -1: u decays by 1/4096 in each step."
_PARTITION = "SLURM partition, unless one board is named; default: PARTITION."
_BOARD = "SLURM name of one board; default: BOARD. Without partition and board: NXSDKHOST, the address of a board."
_LOIHI_GEN = "Chip generation; default: LOIHI_GEN, or N3B3."

# The types of parameters that are the same in every verb.
AsJson = Annotated[bool, switch("--json", BASICS, _AS_JSON)]
InputShape = Annotated[str | None, named("--input-shape", OWN_CNN, _INPUT_SHAPE, metavar="C,H,W")]
OnDevice = Annotated[Device, choice(Device, "--device", BASICS, _DEVICE)]
LavaPython = Annotated[str | None, named("--lava-python", LAVA, _LAVA_PYTHON, metavar="PATH")]
LayoutOnLava = Annotated[LavaLayout | None, choice(LavaLayout, "--lava-layout", LAVA, _LAVA_LAYOUT)]
NeuronOnLava = Annotated[Neuron | None, choice(Neuron, "--neuron", LAVA, _NEURON)]
Leak = Annotated[bool, switch("--leak", LAVA, _LEAK)]
Partition = Annotated[str | None, named("--partition", BOARD, _PARTITION, metavar="NAME")]
BoardName = Annotated[str | None, named("--board", BOARD, _BOARD, metavar="NAME")]
LoihiGen = Annotated[Generation | None, choice(Generation, "--loihi-gen", BOARD, _LOIHI_GEN)]


def parse_timesteps(text: str) -> tuple[int, ...]:
    """Return the latencies in ``text``, for example 1,2,4."""
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = ()
    if not steps or min(steps) < 1 or len(set(steps)) < len(steps):
        raise UsageError(
            f"found {text!r}", where="timesteps", expected="must be whole numbers >= 1, without repeats, such as 1,2,4"
        )
    return steps


def parse_numbers(where: str, text: str | None) -> tuple[float, ...] | None:
    """Return the numbers, one per channel, in ``text``, the value of the parameter ``where``."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"found {text!r}", where=where, expected="must be numbers, one per channel, such as 0.49,0.48,0.45"
        ) from None


def parse_normalization(mean: str | None, std: str | None) -> Normalization | None:
    """Return the numbers of ``--mean`` and ``--std``, which must be given together."""
    means, deviations = parse_numbers("mean", mean), parse_numbers("std", std)
    require_both(means, deviations)
    return None if means is None or deviations is None else Normalization(means, deviations)


def board_of(
    backend: BackendName,
    partition: str | None,
    board: str | None,
    loihi_gen: Generation | None,
    *,
    dry_run: bool,
) -> Board | None:
    """Return the board for a run on ``loihi2``; other backends have none."""
    if backend == "loihi2":
        from loihi_convert.backends.loihi2.board import chosen_board

        return chosen_board(partition=partition, name=board, generation=loihi_gen)
    given = {"partition": partition, "board": board, "loihi_gen": loihi_gen, "dry_run": dry_run}
    refuse_given(given, f"given, but the backend is {backend}", "is an option of loihi2")
    return None


def parse_shape(text: str | None) -> tuple[int, int, int] | None:
    """Return (C, H, W); for signals, (C, 1, L)."""
    if text is None:
        return None
    from loihi_convert.data.array_pixels import as_input_shape

    try:
        return as_input_shape([int(part) for part in text.split(",")])
    except (ValueError, UsageError):
        raise UsageError(
            f"found {text!r}",
            where="input_shape",
            expected="must be whole numbers >= 1: C,H,W of an image, such as 3,32,32, or C,L of a signal",
        ) from None


def parse_class_names(text: str | None) -> tuple[str, ...] | None:
    """Return the names of the classes; 0, 1, ... if only their number is given."""
    if text is None:
        return None
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


def parse_class_map(text: str | None) -> ClassMap | None:
    """Return the class of each folder, by name or number, or ``"sorted"`` or ``"names"``."""
    if text is None:
        return None
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
