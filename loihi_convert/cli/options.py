"""Options that several commands share, and what the texts given to options mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loihi_convert.errors import UsageError

if TYPE_CHECKING:
    from loihi_convert.data import ClassMap

DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Data set (digits, mnist, fashion-mnist, cifar10), folder of images, or .npz file; default: the model's.",
        show_default=False,
    ),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root", help="Folder that holds the data sets; default: LOIHI_CONVERT_DATA, or ~/.cache/loihi-convert."
    ),
]
ClassMapOption = Annotated[
    str | None,
    typer.Option(
        "--class-map",
        metavar="FOLDER=CLASS,...",
        help="Class of each class folder, by name or number: zero=0,one=1. sorted: the sorted folders are 0, 1, ..., "
        "as in torchvision's ImageFolder. Default: folders are named after the classes.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
ArchOption = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="For a plain state dict: package.module:factory, your class or function that builds the CNN. It is "
        "imported from the current folder, and its code runs.",
        show_default=False,
    ),
]
MeanOption = Annotated[
    str | None,
    typer.Option("--mean", help="Per channel a,b,c if the CNN expects (pixel/255 - mean) / std.", show_default=False),
]
StdOption = Annotated[str | None, typer.Option("--std", help="Per channel, see --mean.", show_default=False)]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything that is random.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Where to simulate: cpu, cuda (a GPU), or auto: a GPU where torch sees one.")
]
LavaPythonOption = Annotated[
    str | None,
    typer.Option(
        "--lava-python",
        metavar="PATH",
        help="Python that has Lava, if not this one; or set LOIHI_CONVERT_LAVA_PYTHON.",
        show_default=False,
    ),
]
LavaLayoutOption = Annotated[
    str | None,
    typer.Option(
        "--lava-layout",
        metavar="LAYOUT",
        help="For Lava's simulator. processes (default): Lava's own Conv and Dense, one image at a time. layers: one "
        "Process of ours per layer, images side by side; faster.",
        show_default=False,
    ),
]
PartitionOption = Annotated[
    str | None,
    typer.Option("--partition", help="For loihi2: SLURM's partition; default: PARTITION.", show_default=False),
]
BoardOption = Annotated[
    str | None, typer.Option("--board", help="For loihi2: one board of SLURM's; default: BOARD.", show_default=False)
]
LoihiGenOption = Annotated[
    str | None,
    typer.Option("--loihi-gen", help="For loihi2: N3B2, N3B3, N3C1 or N3D1; default: LOIHI_GEN, or N3B3."),
]


def parse_timesteps(text: str) -> tuple[int, ...]:
    """Return the latencies in ``text``, as in 1,2,4."""
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = ()
    if not steps or min(steps) < 1 or len(set(steps)) < len(steps):
        raise UsageError(f"--timesteps {text}: allowed are whole numbers from 1, each once, as in 1,2,4.")
    return steps


def parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Return the numbers, one per channel, in what ``option`` was given."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: allowed are numbers, one per channel, as in 0.49,0.48,0.45.") from None


def parse_shape(text: str | None) -> tuple[int, int, int] | None:
    """Return (C, H, W)."""
    if text is None:
        return None
    try:
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError:
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise UsageError(f"--input-shape {text}: allowed are three whole numbers from 1, C,H,W, as in 3,32,32.")
    return channels, height, width


def parse_class_names(text: str | None) -> tuple[str, ...] | None:
    """Return the names of the classes, which are 0, 1, ... where only their number is given."""
    if text is None:
        return None
    # More than five digits are no number of classes but a claim on all memory.
    is_number = text.isdecimal() and len(text) <= 5
    names = tuple(map(str, range(int(text)))) if is_number else tuple(text.split(","))
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise UsageError(f"--classes {text}: allowed is their number from 2, or their names, each once: cat,dog,bird.")
    return names


def parse_class_map(text: str | None) -> ClassMap | None:
    """Return the class of each folder, by name or number, or ``"sorted"``."""
    if text is None:
        return None
    if text == "sorted":
        return "sorted"
    pairs = [part.rpartition("=")[::2] for part in text.split(",")]
    if not all(folder and name for folder, name in pairs) or len(dict(pairs)) < len(pairs):
        raise UsageError(
            f"found {text!r}",
            where="class_map",
            expected="must be sorted, or folder=class pairs with each folder once, as in zero=0,one=1",
        )
    return dict(pairs)
