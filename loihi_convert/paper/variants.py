"""What is requested of the paper, and the ways in which a cell of it is measured here.

The paper does not state all of its settings, so a cell is measured in several variants. Each changes one setting: the
spike amplitude, the initial potential, the readout, the input coding, the number of calibration images, or when
thresholds are multiplied by alpha.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, cast

from pydantic import Field

from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.errors import UsageError
from loihi_convert.ground.choices import MAX_SEED, Amplitude, InitialPotential, Method, Readout, Reset, Width
from loihi_convert.ground.options import BASICS, Flag, WeightBits, declared, parse_timesteps
from loihi_convert.report import paper

_DATA: Final = "Data"
_OUTPUT: Final = "Output"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


@declared("Measuring")
class PaperOptions:
    """A request for tables and figures.

    Parameters
    ----------
    models
        A ready-made model of the repository (mnist, fashion-mnist, cifar10), or a checkpoint of `train`. Repeat it for
        tables of several data sets. Default for all: the ready-made ones.
    variants
        Measurement variants, one column each, such as literal,spikes; `variants='help'` explains them. Default:
        literal,spikes,compensated for tables, literal for figures.
    timesteps
        Only these time steps, as in 4,8. Default: the paper's.
    methods
        Only these methods. Default: the paper's.
    image_count
        Use the first N test images. Default: all.
    output
        Folder to write; results in it are reused.
    weight_bits
        Bits of a weight, sign included.
    calibration
        Calibration images: all (training and validation images), split, or a number (first N of the split).
    long_images
        For T > 64, use the first N test images and balance on the calibration split. Default: as for smaller T.
    long_calibration
        Use N calibration images for T > 64.
    rate_images
        Test images of figure 7. Default: at most 1,000.
    data_root
        Folder of the data sets. Default: LOIHI_CONVERT_DATA, or ~/.cache/loihi-convert.
    poisson_seed
        Seed of the Poisson input.
    with_best
        Also measure this package's best.
    tuned
        Fine-tuned checkpoint that may be the best for some T. Ready-made models bring their own.
    cache
        Folder of computed results, which several commands may share. Default: OUTPUT.
    computed_only
        Show computed results; compute nothing.
    width
        Width of a figure: a column (85 mm) or a page (178 mm) of a paper, or a screen.
    """

    models: Annotated[list[str] | None, Flag("MODEL", "--model", BASICS)] = None
    variants: Annotated[tuple[str, ...] | None, Flag("A,B", panel=BASICS, parse=_words)] = None
    timesteps: Annotated[tuple[int, ...] | None, Flag("T", "-T,--timesteps", BASICS, parse=parse_timesteps)] = None
    methods: Annotated[tuple[str, ...] | None, Flag("A,B", panel=BASICS, parse=_words)] = None
    image_count: Annotated[int | None, Flag(name="--images", panel=BASICS)] = None
    output: Annotated[Path, Flag(name="-o,--output", panel=BASICS)] = Path("reproduced")
    weight_bits: Annotated[WeightBits, Flag("BITS", panel=BASICS)] = 8
    calibration: Annotated[str, Flag("IMAGES", panel=_DATA)] = "all"
    long_images: Annotated[int | None, Flag(panel=_DATA)] = None
    long_calibration: Annotated[int | None, Flag(panel=_DATA)] = None
    rate_images: Annotated[int | None, Flag(panel=_DATA)] = None
    data_root: Annotated[Path | None, Flag("FOLDER", panel=_DATA)] = None
    poisson_seed: Annotated[int, Field(ge=0, le=MAX_SEED), Flag(name="--seed")] = 0
    with_best: Annotated[bool, Flag(name="--best")] = True
    tuned: Annotated[list[Path] | None, Flag("MODEL")] = None
    cache: Annotated[Path | None, Flag("FOLDER")] = None
    computed_only: bool = False
    width: Annotated[Width, Flag(panel=_OUTPUT)] = "screen"

    def __post_init__(self) -> None:
        if self.tuned and not self.with_best:
            raise UsageError("given without the best", where="tuned", expected="needs `best`")


_POISSON: Final = ("spike-norm", "rmp")


@dataclass(frozen=True)
class Variant:
    """One way to measure a cell.

    Parameters
    ----------
    name, description
        The heading of its column, and its description in `--variants help`.
    amplitude, initial_potential, readout
        See `balancing.balance`; ``half`` is not for neurons that reset to 0.
    compared
        Amplitude and readout of the methods that ngu-lee is compared with; None: as for ngu-lee.
    is_poisson
        Whether pixels enter as Poisson spikes with every method, not only with those that specify Poisson input.
    is_subset
        Whether thresholds are always balanced on the 10,000 images of the calibration split.
    is_alpha_last
        Whether thresholds are multiplied by alpha after all layers are balanced, not each before the next.
    """

    name: str
    description: str
    amplitude: Amplitude = "literal"
    initial_potential: InitialPotential = "zero"
    readout: Readout = "potential"
    compared: tuple[Amplitude, Readout] | None = None
    is_poisson: bool = False
    is_subset: bool = False
    is_alpha_last: bool = False


_ALL_VARIANTS: Final = (
    Variant(
        "literal", "as the paper prints it: a spike adds 1, potentials start at 0, the class is the largest potential"
    ),
    Variant("spikes", "as literal, but the class is the output neuron that fired most often", readout="spikes"),
    Variant(
        "published",
        "ngu-lee as literal; the other methods as in their own papers: a spike adds its neuron's threshold, the class "
        "is the output neuron that fired most often",
        compared=("compensated", "spikes"),
    ),
    Variant("compensated", "as literal, but a spike adds its neuron's threshold", amplitude="compensated"),
    Variant(
        "half",
        "as compensated, but potentials start at half the threshold (soft reset only)",
        amplitude="compensated",
        initial_potential="half",
    ),
    Variant(
        "compensated-spikes",
        "as compensated, but the class is the output neuron that fired most often",
        amplitude="compensated",
        readout="spikes",
    ),
    Variant("poisson", "as literal, but pixels enter as Poisson spikes with every method", is_poisson=True),
    Variant("subset", "as literal, but balanced on the 10,000 images of the calibration split", is_subset=True),
    Variant(
        "alpha-afterwards",
        "as literal, but thresholds are multiplied by alpha after all layers are balanced, not each before the next",
        is_alpha_last=True,
    ),
)
VARIANTS: Final = {variant.name: variant for variant in _ALL_VARIANTS}
"""By name; the first is the one that the others differ from."""

BEST: Final = Variant("best", "the best of our methods for each T")
"""Not a way to measure a cell: stands beside the cell with the paper's best for a T."""


@dataclass(frozen=True)
class PaperSetting:
    """All settings of a measurement except the network and the images.

    Parameters
    ----------
    balancing, timesteps, weight_bits
        See `balancing.balance` and `quantization.quantize`.
    late_alpha
        Factor on the thresholds after all layers are balanced.
    is_subset
        See `Variant`.
    is_exported
        Whether the network is exported to a netx file and run from that file.
    """

    balancing: BalanceOptions
    timesteps: int
    weight_bits: int
    late_alpha: float = 1.0
    is_subset: bool = False
    is_exported: bool = False

    def __str__(self) -> str:
        afterwards = [f"alpha {self.late_alpha:g} afterwards"] if self.late_alpha != 1 else []
        counts = ["spike counts"] if self.balancing.readout == "spikes" else []
        poisson = ["Poisson"] if self.balancing.poisson_seed is not None else []
        return balancing_words(self.balancing, *afterwards, *counts, *poisson)


def balancing_words(options: BalanceOptions, *more: str) -> str:
    """Return how thresholds are balanced, in a few words."""
    alpha = [] if options.alpha == 1 else [f"alpha {options.alpha:g}"]
    return f"{options.method} ({', '.join([options.neuron_reset, options.amplitude, *alpha, *more])})"


def setting(
    cell: paper.Cell, variant: Variant, *, seed: int = 0, weight_bits: int = 8, is_exported: bool = False
) -> PaperSetting | None:
    """Return how ``cell`` is measured in ``variant``; None for the CNN, or if its neurons do not support the variant.

    Spike-norm with soft reset is the same as ``rmp``, so it is measured once. ``seed`` is the seed of Poisson input.
    """
    if cell.timesteps is None or cell.alpha is None or (variant.initial_potential == "half" and cell.reset == "hard"):
        return None
    method = cell.method
    if method in _POISSON:
        method = "rmp" if cell.reset == "soft" else "spike-norm"
    amplitude, readout = variant.amplitude, variant.readout
    if variant.compared is not None and method != "ngu-lee":
        amplitude, readout = variant.compared
    is_poisson = variant.is_poisson or method in _POISSON
    balancing = BalanceOptions(
        method=cast("Method", method),
        amplitude=amplitude,
        alpha=1.0 if variant.is_alpha_last else cell.alpha,
        initial_potential=variant.initial_potential,
        reset=cast("Reset", cell.reset),
        readout=readout,
        input_coding="poisson" if is_poisson else "constant",
        poisson_seed=seed if is_poisson else None,
    )
    late_alpha = cell.alpha if variant.is_alpha_last else 1.0
    return PaperSetting(balancing, cell.timesteps, weight_bits, late_alpha, variant.is_subset, is_exported)


def chosen_variants(names: Sequence[str]) -> tuple[Variant, ...]:
    """Return the variants with these names.

    Raises
    ------
    UsageError
        If a name is unknown, or ``names`` is empty.
    """
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or not names or len(set(names)) < len(names):
        raise UsageError(
            f"found {','.join(names)}",
            where="variants",
            expected=f"must be one or more of {', '.join(VARIANTS)}, each once",
        )
    return tuple(VARIANTS[name] for name in names)


def distinct_variants(variants: Sequence[Variant], cells: Sequence[paper.Cell]) -> tuple[Variant, ...]:
    """Return ``variants`` without those that measure every cell in the same way as an earlier one."""
    found: dict[tuple[PaperSetting | None, ...], Variant] = {}
    for variant in variants:
        found.setdefault(tuple(setting(cell, variant) for cell in cells), variant)
    return tuple(found.values())


# Figure 11; the paper does not print its values.
_CIFAR10_TIMESTEPS: Final = (512, 256, 128, 64, 32, 16, 8, 4)
# The methods that tables 2 and 3 compare, and their neurons there.
_COMPARED: Final = (("spike-norm", "hard"), ("rmp", "soft"), ("act-norm-channelwise", "hard"), ("ngu-lee", "soft"))


@dataclass(frozen=True)
class Exhibit:
    """A table or figure of the paper.

    Parameters
    ----------
    kind, name
        Its name in the paper, as in ``table 2``; the names are those of `choices.PaperTable` and `choices.PaperFigure`.
    title
        Short title.
    cells
        Returns its cells; where the paper prints no value, the accuracy is None.
    shows
        Accuracies, or the firing rate or threshold of each channel.
    has_best
        Whether it also shows the best of our methods.
    curve
        What each curve stands for in a figure of accuracies.
    is_exported
        Whether the accuracies are those of exported files.
    """

    kind: Literal["table", "figure"]
    name: str
    title: str
    cells: Callable[[], tuple[paper.Cell, ...]]
    shows: Literal["accuracies", "rates", "thresholds"] = "accuracies"
    has_best: bool = False
    curve: Literal["method", "method and reset", "alpha"] = "method"
    is_exported: bool = False

    def __str__(self) -> str:
        """The name used in messages: ``table 2``."""
        return f"{self.kind} {self.name}"

    @property
    def stem(self) -> str:
        """The name of its files, without suffix."""
        return f"{self.kind}-{self.name}"

    @property
    def default_timesteps(self) -> tuple[int, ...] | None:
        """The T that are shown unless others are requested; None for those of all cells."""
        return (64,) if self.shows == "rates" else None

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants in which its cells are measured unless others are requested."""
        return ("literal", "spikes", "compensated") if self.kind == "table" else ("literal",)


def _rows(*tables: str) -> Callable[[], tuple[paper.Cell, ...]]:
    return lambda: tuple(cell for table in tables for cell in paper.table(table))


def _own_rows(*tables: str) -> Callable[[], tuple[paper.Cell, ...]]:
    return lambda: tuple(cell for cell in _rows(*tables)() if cell.method == "ngu-lee")


def _cifar10() -> tuple[paper.Cell, ...]:
    printed = {(one.method, one.timesteps): one.accuracy for one in paper.table("headline") if one.data == "cifar10"}
    return tuple(
        paper.Cell("11", "cifar10", method, reset, 1.0, timesteps, printed.get((method, timesteps)))
        for timesteps in _CIFAR10_TIMESTEPS
        for method, reset in _COMPARED
    )


EXHIBITS: Final = {
    (one.kind, one.name): one
    for one in (
        Exhibit("table", "2", "Table 2: methods on MNIST", _rows("2"), has_best=True),
        Exhibit("table", "3", "Table 3: methods on Fashion-MNIST", _rows("3"), has_best=True),
        Exhibit("table", "A2", "Table A2: factors alpha on MNIST", _rows("A2")),
        Exhibit("table", "A3", "Table A3: factors alpha on Fashion-MNIST", _rows("A3")),
        Exhibit("table", "A4", "Table A4: neurons and methods on MNIST", _rows("A4")),
        Exhibit("table", "headline", "The numbers of the abstract", _rows("headline"), is_exported=True),
        Exhibit("figure", "6", "Figure 6: accuracy against latency, MNIST", _rows("2"), has_best=True),
        Exhibit("figure", "7", "Figure 7: average firing rate of every channel, MNIST", _rows("2"), "rates"),
        Exhibit("figure", "8", "Figure 8: accuracy against latency, Fashion-MNIST", _rows("3"), has_best=True),
        Exhibit("figure", "9", "Figure 9: factors alpha", _own_rows("2", "3", "A2", "A3"), curve="alpha"),
        Exhibit("figure", "11", "Figure 11: accuracy against latency, CIFAR-10", _cifar10, has_best=True),
        Exhibit("figure", "12", "Figure 12: neurons and methods, MNIST", _rows("A4"), curve="method and reset"),
        Exhibit("figure", "A4", "Figure A4: thresholds of every channel, MNIST", _own_rows("2"), "thresholds"),
        Exhibit("figure", "A5", "Figure A5: thresholds of every channel, Fashion-MNIST", _own_rows("3"), "thresholds"),
    )
}
"""Every table and figure, by kind and name, in the order in which `reproduce all` writes them."""
