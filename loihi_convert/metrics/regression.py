"""The errors of a regression: of the integer network, the float SNN and the CNN, after each reported T."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from loihi_convert.errors import escape_control
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.options import Record
from loihi_convert.ground.statistics import POOR_CNN
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.quantized import QuantizedNetwork

_FLOAT32_NOISE: Final = 1e-6
"""Relative rounding errors of outputs that the CNN computes in float32."""


class Error(Record):
    """The error of one output, or the means over all.

    Attributes
    ----------
    rmse
        In the units of the output.
    r2
        R^2; None if the expected values are constant over the images.
    """

    rmse: float
    r2: float | None


class Errors(Record):
    """The errors of all outputs, at least one, and their means."""

    mean: Error
    outputs: tuple[Error, ...] = Field(min_length=1)

    @property
    def worst(self) -> int:
        """The output with the lowest R^2; if no R^2 is known, the one with the largest RMSE."""
        known = [index for index, error in enumerate(self.outputs) if error.r2 is not None]
        if known:
            return min(known, key=lambda index: self.outputs[index].r2 or 0.0)
        return max(range(len(self.outputs)), key=lambda index: self.outputs[index].rmse)


class RegressionPoint(Record):
    """Errors after T time steps; None without anything to compare with.

    Attributes
    ----------
    timesteps
        T.
    to_targets, to_cnn
        Errors of the integer network against the targets, and against the outputs of the CNN.
    float_to_targets
        Errors of the float SNN against the targets.
    """

    timesteps: int
    to_targets: Errors | None
    to_cnn: Errors | None
    float_to_targets: Errors | None


class Regression(Record):
    """The errors of one run.

    Attributes
    ----------
    output_names
        The name of each output.
    cnn
        Errors of the CNN against the targets.
    points
        At the T of `Evaluation.points`.
    """

    output_names: tuple[str, ...]
    cnn: Errors | None
    points: tuple[RegressionPoint, ...]

    @model_validator(mode="after")
    def _require_an_error_of_each_output(self) -> Regression:
        found = [self.cnn, *(e for p in self.points for e in (p.to_targets, p.to_cnn, p.float_to_targets))]
        if any(errors is not None and len(errors.outputs) != len(self.output_names) for errors in found):
            raise ValueError("not one error per output")
        return self

    def at(self, timesteps: int) -> RegressionPoint:
        """Return the point at a reported T."""
        return next(point for point in self.points if point.timesteps == timesteps)


class RegressionOutputs(NamedTuple):
    """The outputs of a regression and the values to compare with: float64, in the CNN's units; None if unknown.

    Attributes
    ----------
    names
        One name per output.
    outputs, float_outputs
        Outputs of the integer network and of the float SNN after each step: ``(N, T, outputs)``.
    cnn_outputs, targets
        ``(N, outputs)``.
    """

    names: tuple[str, ...]
    outputs: Array
    targets: Array | None = None
    cnn_outputs: Array | None = None
    float_outputs: Array | None = None

    def evaluated(self, timesteps: Sequence[int]) -> Regression:
        """Return the errors after each of ``timesteps``, all within the run."""

        def at(steps: int) -> RegressionPoint:
            found = self.outputs[:, steps - 1]
            floating = None if self.float_outputs is None else self.float_outputs[:, steps - 1]
            return RegressionPoint(
                timesteps=steps,
                to_targets=errors(found, self.targets),
                to_cnn=errors(found, self.cnn_outputs, relative_noise=_FLOAT32_NOISE),
                float_to_targets=errors(floating, self.targets),
            )

        own = errors(self.cnn_outputs, self.targets)
        return Regression(output_names=self.names, cnn=own, points=tuple(map(at, timesteps)))

    def notes(self) -> Iterator[str]:
        """Yield notes needed to interpret the errors."""
        for array, what in ((self.targets, "target"), (self.cnn_outputs, "output of the CNN")):
            if array is not None and len(array) > 1:
                same = np.flatnonzero((array == array[0]).all(axis=0))
                if len(same):
                    names = ", ".join(self.names[index] for index in same)
                    yield f"All {len(array):,} images have the same {what} ({names}), for which R^2 is undefined."
        own = errors(self.cnn_outputs, self.targets)
        if own is not None and own.mean.r2 is not None and own.mean.r2 <= 0:
            yield (
                f"{POOR_CNN}has an R^2 of {own.mean.r2:.4f} on these images: always predicting their mean "
                "is as good. Check the targets and the normalization."
            )


def errors(found: Array | None, expected: Array | None, *, relative_noise: float = 0.0) -> Errors | None:
    """Return the errors of ``found`` against ``expected``, both ``(N, outputs)``; None if either is unknown.

    An output is constant if ``expected`` deviates from its mean by at most ``relative_noise`` of its size.
    """
    if found is None or expected is None:
        return None
    wanted = expected.astype(np.float64)
    squares = np.square(found - wanted).mean(axis=0)
    spread = np.square(wanted - wanted.mean(axis=0)).mean(axis=0)
    # The mean of a constant is itself only up to rounding errors.
    varies = (wanted != wanted[0]).any(axis=0) & (spread > relative_noise**2 * np.square(wanted).mean(axis=0))
    outputs = tuple(
        Error(rmse=float(np.sqrt(square)), r2=float(1 - square / variance) if is_varied else None)
        for square, variance, is_varied in zip(squares, spread, varies, strict=True)
    )
    known = [one.r2 for one in outputs if one.r2 is not None]
    mean = Error(rmse=float(np.mean([one.rmse for one in outputs])), r2=float(np.mean(known)) if known else None)
    return Errors(mean=mean, outputs=outputs)


def means(found: Errors | None) -> tuple[float | None, float | None]:
    """Return RMSE and R^2, means over outputs; None if unknown."""
    return (None, None) if found is None else (found.mean.rmse, found.mean.r2)


def mean_errors(point: RegressionPoint) -> dict[str, float | None]:
    """Return the means over outputs by column name: ``rmse``, ``r2``, ``rmse_to_cnn``, ..., ``r2_float``."""
    columns: dict[str, float | None] = {}
    for suffix, found in (("", point.to_targets), ("_to_cnn", point.to_cnn), ("_float", point.float_to_targets)):
        columns[f"rmse{suffix}"], columns[f"r2{suffix}"] = means(found)
    return columns


def output_names(network: QuantizedNetwork | GradedNetwork) -> tuple[str, ...]:
    """Return the name of each output of a regression: the names in the file, if complete, else 0, 1, ..."""
    count, recorded = network.shapes[-1][0], network.provenance.model.names
    # Names are printed in tables; a terminal would interpret control characters.
    return tuple(map(escape_control, recorded)) if len(recorded) == count else tuple(map(str, range(count)))
