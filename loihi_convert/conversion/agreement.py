"""Calibration images: how many each stage uses; and the agreement with the CNN on them, one measure per task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.errors import RangeError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Task
from loihi_convert.ground.statistics import Z_SCORE, wilson_interval
from loihi_convert.ir.network import ReluNetwork, SpikingNetwork, classes_of, require_images
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.simulator import last_outputs

# Fraction of an output's variance: an error of 3 % of its standard deviation.
_NEGLIGIBLE: Final = 0.001


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of a quantized network with the CNN on some calibration images.

    Parameters
    ----------
    agreement
        0..1: the share of images with the CNN's class; for a regression, `explained_share` of the CNN's outputs.
    error
        Mean squared difference between the output / T, in the CNN's units, and the CNN's scores. The output is the
        potential or, if the last layer has neurons, spike counts x threshold.
    image_count
        Number of images simulated.
    """

    agreement: float
    error: float
    image_count: int


class Measure(NamedTuple):
    """The comparison of networks for one task.

    Parameters
    ----------
    share
        Function: agreement 0..1 of outputs with the expected outputs, both ``(N, outputs)``.
    falls_short
        Function: whether the first agreement is worse than the second by more than chance.
    sentence
        Template with the fields ``{percent}`` (the agreement), ``{whose}`` (the reference) and ``{images}``.
    least_share
        If rounding to integers leaves less agreement than this, a warning is given.
    decimals
        Decimals of an agreement in percent.
    is_diagnosed
        Whether `diagnose` and fine-tuning for few steps can help: they are for classifications.
    """

    share: Callable[[Array, Array], float]
    falls_short: Callable[[Agreement, Agreement], bool]
    sentence: str
    least_share: float
    decimals: int
    is_diagnosed: bool

    def percent(self, share: float) -> str:
        """Return a share in percent: "98.00 %"."""
        return f"{100 * share:.{self.decimals}f} %"

    def words(self, share: float, whose: str, images: str) -> str:
        """Return a share in words: "agrees with the CNN on 98.00 % of 200 calibration images"."""
        return self.sentence.format(percent=self.percent(share), whose=whose, images=images)


def equal_share(found: Array, expected: Array) -> float:
    """Return the share of rows for which ``found`` and ``expected`` predict the same class."""
    return float((classes_of(found) == classes_of(expected)).mean())


def explained_share(found: Array, expected: Array) -> float:
    """Return the share of the variance of ``expected`` over images that ``found`` explains, averaged over outputs.

    For one output it is 1 - sum (found - expected)^2 / sum (expected - its mean)^2, and 0 where that is negative (the
    mean is then a better predictor). Constant outputs are left out. If all are constant, as for one image: the share of
    the sum of squares.
    """
    wanted = expected.astype(np.float64)
    lost = np.square(found - wanted).sum(axis=0)
    spread = np.square(wanted - wanted.mean(axis=0)).sum(axis=0)
    # The variance of a constant is 0 up to rounding errors.
    varies = spread > 1e-12 * np.square(wanted).sum(axis=0)
    if not varies.any():
        size = np.square(wanted).sum()
        return float(not lost.any()) if size == 0 else float(np.clip(1 - lost.sum() / size, 0, 1))
    return float(np.clip(1 - lost[varies] / spread[varies], 0, 1).mean())


def _lies_below_interval(written: Agreement, trial: Agreement) -> bool:
    """Whether ``written`` lies below the 95 % interval of the agreement measured in ``trial``."""
    low, _ = wilson_interval(round(trial.agreement * trial.image_count), trial.image_count)
    return written.agreement < low


def _is_less_exact(written: Agreement, trial: Agreement) -> bool:
    """Whether the unexplained variance exceeds the upper end of a 95 % interval by more than a negligible amount."""
    # The mean of n squared normal errors has a relative standard error of sqrt(2 / n).
    left = 1 - trial.agreement
    return 1 - written.agreement > left + max(_NEGLIGIBLE, left * Z_SCORE * math.sqrt(2 / trial.image_count))


_MEASURES: Final[Mapping[Task, Measure]] = {
    "classification": Measure(
        equal_share,
        _lies_below_interval,
        "agrees with {whose} on {percent} of {images}",
        least_share=0.9,
        decimals=2,
        is_diagnosed=True,
    ),
    "regression": Measure(
        explained_share,
        _is_less_exact,
        "explains {percent} of the variance of the outputs of {whose} on {images}",
        # A root mean square error of a tenth of an output's standard deviation.
        least_share=0.99,
        decimals=3,
        is_diagnosed=False,
    ),
}


def measure_of(task: Task) -> Measure:
    """Return the measure for ``task``."""
    return _MEASURES[task]


def rounding_notes(measure: Measure, share: float, whose: str, image_count: int) -> tuple[str, ...]:
    """Return a warning if rounding changes many classes or outputs; a single huge weight or bias can cause it."""
    if share >= measure.least_share:
        return ()
    agrees = measure.words(share, whose, f"{image_count} calibration images")
    return (
        f"the quantized network only {agrees}; look for layers with few weight bits, and for single weights or biases "
        "far larger than the others.",
    )


def real_outputs(network: SpikingNetwork | QuantizedNetwork, images: ImageArray, *, device: str = "cpu") -> Array:
    """Return the outputs after the T steps of ``network``, divided by T, in the CNN's units: float64 ``(N, outputs)``.

    Of a float SNN with output neurons they are spike counts / T.
    """
    found = last_outputs(network, images, network.timesteps, device=device)
    if isinstance(network, SpikingNetwork):
        return np.asarray(found.astype(np.float64) / network.timesteps)
    return network.real_outputs(found, network.timesteps)


def agreement_of(found: Array, scores: Array, measure: Measure) -> Agreement:
    """Return the agreement of outputs ``found`` with those of the CNN, ``scores``, both ``(N, outputs)``."""
    error = float(np.square(found - scores).mean())
    return Agreement(agreement=measure.share(found, scores), error=error, image_count=len(scores))


MOST: Final = 2_000
"""Most images used: with five times as many, fitted values do not change, and percentiles of activations little, far
less than neighbouring candidates of least-squares differ."""

FEWEST: Final = 500
"""Fewest images used at any T, if available."""

STEPS: Final = 4_000
"""Images x steps: the cost per step is the same at any T, and with more steps each image gives more data."""

SAMPLES: Final = 32_768
"""Images x positions on which a mean, or a fit, per channel rests: maps with many positions need fewer images."""

FEWEST_FITTED: Final = 128
"""Fewest images of `fitted_images`: positions of one image are alike."""

_TOO_FEW: Final = 100
"""Fewer calibration images than these give a note."""


def calibration_subset(images: ImageArray, timesteps: int) -> ImageArray:
    """Return the first of ``images``: the more ``timesteps``, the fewer images, see `STEPS`."""
    return images[: max(FEWEST, min(MOST, STEPS // timesteps))]


def fitted_images(network: ReluNetwork) -> tuple[int, ...]:
    """Return, for each layer, the most images on which rates are fitted and means taken, see `SAMPLES`."""
    return tuple(max(FEWEST_FITTED, SAMPLES // math.prod(shape[1:])) for shape in network.shapes)


def count_notes(images: ImageArray) -> tuple[str, ...]:
    """Return a note if there are so few calibration ``images`` that the loss on others may be far larger."""
    if len(images) >= _TOO_FEW:
        return ()
    found = "1 calibration image" if len(images) == 1 else f"{len(images)} calibration images"
    return (
        f"only {found}: the results on other images may be worse than on these. Give at least {_TOO_FEW}, better "
        "thousands.",
    )


def overflow(found: str, layer: str) -> RangeError:
    """Return the error about numbers of ``layer``, ``found`` on calibration images, that float32 does not hold."""
    hint = "The weights up to this layer are too large; retrain the CNN."
    return RangeError(f"{found} 3.4e38, the largest float32", where=layer, hint=hint)


def require_calibration(network: ReluNetwork | SpikingNetwork, images: ImageArray) -> None:
    """Raise a `DataError` unless ``images`` are calibration images for ``network``."""
    require_images(network.input_shape, images, "calibration images")
