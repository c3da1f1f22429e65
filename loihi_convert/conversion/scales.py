"""The real value s_k of one weight unit, for each channel of a layer on Lava.

s_k is the scale on which rounding to ``|w_q| <= 127``, or less with fewer weight bits, changes the weights least
(`rounding.nearest_scales`), or, where that is too small, the smallest for which

- hidden layers: ``theta_q + headroom x I_max <= 131071``, else a spike would lose charge (I_max: the channel's largest
  current on the calibration images),
- a last layer that only integrates: ``headroom x |V| <= 131071`` for the potentials of the calibration images up to
  step T.

The last layer has ONE scale for all outputs, else potentials and spike counts of classes could not be compared.

The 8 bits of a weight are a bound, not the choice: with 8-bit pixels a first layer of full int8 weights clips.

With hard reset the neurons are Lava's own LIF, and the LIF rules of `loihi.py` are conditions on s_k as well: whatever
the image, ``sum |w_q| x largest input <= 131071``, and ``|b_q| <= 32767``.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from loihi_convert import loihi
from loihi_convert.conversion.integers import Unrounded
from loihi_convert.errors import RangeError
from loihi_convert.network import Reset
from loihi_convert.rounding import nearest_scales
from loihi_convert.synapse import Array

HEADROOM: Final = 1.25
"""How much larger than on the calibration images a current or an output potential may be before it clips."""


def lava_scales(real: Unrounded, reach: Array, reset: Reset) -> Array:
    """Return the s_k of this module's docstring, float64 ``(C_out,)``.

    ``reach``, float64 ``(C_out,)``, must fit beside a threshold: the largest current or output, with headroom.
    """
    conditions = [nearest(real)]
    if real.layer.neuron is not None:
        # A hard reset forgets what a spike leaves: only the threshold itself must fit.
        reach = reach + real.threshold if reset == "soft" else real.threshold
    conditions.append(reach / real.unit / loihi.POTENTIAL_LIMIT)
    if reset == "hard":
        weights = real.magnitudes
        # Each rounded weight may be half a unit larger than the real one.
        room = loihi.POTENTIAL_LIMIT * real.unit - np.count_nonzero(weights, axis=1) / 2
        if room.min() <= 0:
            raise RangeError(
                f"{real.layer.name}: {weights.shape[1]} inputs of up to {round(1 / real.unit)} can exceed "
                f"{loihi.POTENTIAL_LIMIT}, where Lava's own LIF wraps, at any scale; use --reset soft, or "
                "fewer --pixel-bits in the first layer."
            )
        conditions.append(weights.sum(axis=1) / room)
    conditions.append(real.largest_bias / real.unit / (loihi.BIAS_LIMIT if reset == "soft" else loihi.LIF_BIAS_LIMIT))
    return largest_of(conditions, real)


def nearest(real: Unrounded) -> Array:
    """Return the scales on which rounding changes the weights least: float64 ``(C_out,)``."""
    if real.one_scale:
        return np.repeat(nearest_scales(real.magnitudes.reshape(1, -1), real.largest_weight), real.synapse.channels)
    return nearest_scales(real.magnitudes, real.largest_weight)


def largest_of(conditions: list[Array], real: Unrounded) -> Array:
    """Return the smallest scales that meet all ``conditions``, each a least s_k; one for all where they must be one."""
    scale = np.max(conditions, axis=0)
    if real.one_scale:
        scale = np.full_like(scale, scale.max())
    return np.where(scale > 0, scale, 1.0)
