"""Whether the network read from a CNN has the CNN's own outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from loihi_convert.errors import InputError, LoihiConvertError, UnsupportedModelError, first_line
from loihi_convert.ground.arrays import Array
from loihi_convert.reading.source import Source
from loihi_convert.reading.users_code import require_not_of_machine
from loihi_convert.simulation.relu import cnn_scores

COMPARED: Final = 8
"""Calibration images on which the network read from a CNN is compared with the CNN."""

_TOLERANCE: Final = 1e-3
# Least size of an output of a regression, relative to the largest output: that of its rounding errors.
_NOISE: Final = 1e-3
_QCFS_TOLERANCE: Final = 0.1


def require_same_outputs(
    source: Source, images: Array | None = None, *, qcfs_tolerance: float = _QCFS_TOLERANCE
) -> None:
    """Raise an error unless ``source.network`` has the CNN's own outputs for uint8 ``images``.

    Code that torch.fx reads as something else than what it computes would otherwise be converted into a different
    network. They are compared on ``images``, if there are any, and on black, white and random ones, except for
    QCFS, whose outputs may differ by ``qcfs_tolerance`` of the largest one. Outputs of a regression may have different
    units, so each is compared with its own largest value. A function at the end of the CNN that was left
    out, such as a softmax, is applied first.

    Raises
    ------
    UnsupportedModelError
        If the outputs differ, or the CNN does not take `COMPARED` images at once.
    InputError
        If those of the CNN are NaN or infinite.
    """
    name = type(source.model).__name__
    # A rounding error may move a QCFS activation by a whole level.
    has_levels = any(layer.levels is not None for layer in source.network.layers)
    given = [] if images is None else [images]
    for shown in given if has_levels else [*given, _probes(source.network.input_shape)]:
        expected = _outputs(source, shown, name)
        if not np.isfinite(expected).all():
            if shown is not images:
                continue
            raise InputError(
                f"its outputs are NaN or infinite on {len(images)} calibration images",
                where=name,
                hint="Check its weights, and `mean` and `std`.",
            )
        found = _ended(cnn_scores(source.network, shown).reshape(len(shown), -1), source.network.ending)
        size = np.abs(expected).max()
        if source.network.task == "regression" and not has_levels:
            # An output far smaller than the others may itself be the rest of larger terms.
            size = np.maximum(np.abs(expected).max(axis=0), _NOISE * size)
        share = _difference(found, expected, size)
        # Not "share > ...", which is false for NaN.
        if not share <= (qcfs_tolerance if has_levels else _TOLERANCE):
            raise UnsupportedModelError(
                f"the network read from its forward gives other outputs: on {len(shown)} images they differ by "
                f"{100 * share:.3g} % of the largest",
                where=name,
                expected="must compute the same in every call, in eval mode",
                hint="torch.autocast, random numbers, values kept between calls, hooks, or views of a tensor changed "
                "in place may be the cause. If it has none of these, loihi-convert reads it wrongly: please report it.",
            )


def _outputs(source: Source, images: Array, name: str) -> Array:
    """The CNN's own outputs for ``images``."""
    try:
        return source.module_outputs(images)
    except LoihiConvertError:
        raise
    except Exception as error:
        require_not_of_machine(error)
        raise UnsupportedModelError(
            f"its forward fails on {len(images)} images at once ({first_line(error)})",
            where=name,
            expected="must take any number of images",
            hint="Use the length of its input where it names a number of images.",
        ) from error


def _probes(shape: Sequence[int]) -> Array:
    """Images unlike any in a data set, which show differences that real images hide: uint8 ``(6, *shape)``."""
    noise = np.random.default_rng(0).random((4, *shape))
    sparse = [(noise[:2] < 0.05), (noise[2:] < 0.5)]
    probes = np.concatenate([np.zeros((1, *shape)), np.ones((1, *shape)), *sparse])
    return np.asarray(255 * probes, np.uint8)


def _difference(found: Array, expected: Array, size: Array) -> float:
    """The largest difference of two arrays as a share of ``size``; infinite if their shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    lost = np.abs(found - expected)
    # No difference from an output of 0 is allowed.
    return float(np.divide(lost, size, out=np.where(lost == 0, 0, np.inf), where=size > 0).max())


def _ended(scores: Array, ending: str) -> Array:
    """``scores`` after the function ``ending``, see `ReluNetwork`."""
    if not ending:
        return scores
    from scipy import special

    is_softmax = ending.endswith("softmax")
    function = {
        "softmax": special.softmax,
        "logsoftmax": special.log_softmax,
        "sigmoid": special.expit,
        "logsigmoid": special.log_expit,
        "tanh": np.tanh,
    }[ending]
    return np.asarray(function(scores, axis=1) if is_softmax else function(scores))
