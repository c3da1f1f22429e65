"""A CNN, its images, and all options of its conversion."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

from loihi_convert.conversion.options import PERCENTILE, BalanceOptions, QuantizeOptions, published_neurons
from loihi_convert.ground.choices import (
    Amplitude,
    AnyMethod,
    Granularity,
    InitialPotential,
    InputCoding,
    Readout,
    Reset,
    SweepSplit,
    Target,
)


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


@dataclass(frozen=True)
class ConversionSetting:
    """All options of a conversion, see `BalanceOptions` and `QuantizeOptions`; None: the default of the method.

    Parameters
    ----------
    input_coding
        How pixels enter.
    poisson_seed
        Seed of Poisson input; without effect on constant input, so that a grid may have both. In `BalanceOptions` it
        asks for Poisson input.
    skip_copies
        See `converting.converted`.
    """

    timesteps: int = 64
    method: AnyMethod = "auto"
    percentile: float | None = None
    alpha: float = 1.0
    amplitude: Amplitude = "compensated"
    initial_potential: InitialPotential | None = None
    reset: Reset | None = None
    readout: Readout = "potential"
    input_coding: InputCoding | None = None
    poisson_seed: int | None = None
    bias_correction: bool | None = None
    thresholds: Granularity = "channel"
    weight_bits: int = 8
    pixel_bits: int | None = None
    target: Target = "lava"
    split_readout: bool = False
    skip_copies: int | None = None

    @property
    def normalized(self) -> ConversionSetting:
        """The same conversion, with defaults resolved and options without effect left out."""
        reset, coding = published_neurons(self.method)
        reset, coding = self.reset or reset, self.input_coding or coding
        # A correction sets the initial potentials that are not given.
        may_correct = self.bias_correction or (self.method == "auto" and self.bias_correction is None)
        initial = self.initial_potential or (None if may_correct else "half" if reset == "soft" else "zero")
        return replace(
            self,
            percentile=(
                None if self.method != "percentile" else PERCENTILE if self.percentile is None else self.percentile
            ),
            initial_potential=initial,
            reset=reset,
            input_coding=coding,
            poisson_seed=(self.poisson_seed or 0) if coding == "poisson" else None,
            bias_correction=self.bias_correction if self.method == "auto" else bool(self.bias_correction),
        )

    def options(self) -> tuple[BalanceOptions, QuantizeOptions]:
        """Return the options of the conversion; a `UsageError` if they contradict each other."""
        own = self.normalized
        balance = BalanceOptions(**{one.name: getattr(own, one.name) for one in fields(BalanceOptions)})
        quantize = QuantizeOptions(own.weight_bits, own.pixel_bits, own.target, own.thresholds, own.split_readout)
        quantize.require_neurons(balance.neuron_reset, balance.input_seed, balance.output)
        return balance, quantize


OPTIONS: Final = tuple(field.name for field in fields(ConversionSetting))
"""The names of all options of a `ConversionSetting`."""
