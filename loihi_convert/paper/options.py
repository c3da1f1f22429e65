"""What to measure of the paper, on which networks and images, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from loihi_convert.errors import UsageError
from loihi_convert.ground.choices import MAX_SEED, Width
from loihi_convert.ground.options import BASICS, Flag, WeightBits, declared, parse_timesteps

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
