"""A CNN, its images, and all options of its conversion."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Final

from pydantic import Field

from loihi_convert.conversion.options import AUTO, BalanceOptions, ConversionOptions, QuantizeOptions, published_neurons
from loihi_convert.ground.choices import MAX_TIMESTEPS, SweepSplit
from loihi_convert.ground.options import declared


@dataclass(frozen=True)
class ImageChoice:
    """The images of a sweep.

    Parameters
    ----------
    split
        The images that each cell runs. ``validation``, the default, leaves the test images for the settings chosen in
        the end.
    image_count
        Number of images to run, the first of the split; None: all.
    calibration
        As in `DataSplits.calibration_images`.
    """

    split: SweepSplit = "validation"
    image_count: int | None = None
    calibration: str = "split"


@dataclass(frozen=True)
class Digests:
    """SHA-256 of what a cell reads: the checkpoint, the file of its code, the CNN made from both, the one that it is
    compared with (`Source.compared`), and both sets of images."""

    model: str
    network: str
    compared: str
    code: str | None
    calibration: str
    images: str


OPTIONS: Final = (
    *("timesteps", "method", "percentile", "alpha", "amplitude", "initial_potential", "reset", "readout"),
    *("input_coding", "poisson_seed", "bias_correction", "thresholds", "weight_bits", "pixel_bits", "target"),
    *("split_readout", "skip_copies"),
)
"""The options of a `ConversionSetting` that a grid may vary, in the order of columns."""


@declared()
class ConversionSetting(QuantizeOptions, BalanceOptions):
    """All options of a conversion; None: the default of the method.

    Parameters
    ----------
    timesteps
        T.
    skip_copies
        See `ConversionOptions`.
    """

    timesteps: Annotated[int, Field(ge=1, le=MAX_TIMESTEPS)] = 64
    skip_copies: int | None = None

    def __post_init__(self) -> None:
        # A grid may contain options that contradict each other: `options` refuses them, an error of their cells.
        pass

    @property
    def varied(self) -> dict[str, Any]:
        """The values of `OPTIONS`."""
        return {name: getattr(self, name) for name in OPTIONS}

    @property
    def normalized(self) -> ConversionSetting:
        """The same conversion, with defaults resolved and options without effect left out.

        A ``poisson_seed`` alone does not ask for Poisson input, so that a grid may have both.
        """
        coding = self.input_coding or published_neurons(self.method)[1]
        # A correction sets the initial potentials that are not given.
        may_correct = self.bias_correction or (self.method == AUTO and self.bias_correction is None)
        return replace(
            self,
            percentile=self.percent if self.method == "percentile" else None,
            initial_potential=self.initial_potential if may_correct else self.first_potential,
            reset=self.neuron_reset,
            readout=self.output,
            input_coding=coding,
            poisson_seed=(self.poisson_seed or 0) if coding == "poisson" else None,
            bias_correction=self.bias_correction if self.method == AUTO else bool(self.bias_correction),
        )

    def options(self) -> ConversionOptions:
        """Return the options of the conversion; a `UsageError` if they contradict each other."""
        own = self.normalized
        balance = BalanceOptions(**{one.name: getattr(own, one.name) for one in fields(BalanceOptions)})
        quantize = QuantizeOptions(**{one.name: getattr(own, one.name) for one in fields(QuantizeOptions)})
        quantize.require_neurons(balance.neuron_reset, balance.input_seed, balance.output)
        return ConversionOptions(balance, quantize, own.skip_copies)
