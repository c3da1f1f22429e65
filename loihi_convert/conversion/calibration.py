"""How many calibration images a step of the conversion looks at, where more would only take longer."""

from __future__ import annotations

from typing import Final

from loihi_convert.arrays import Array

MOST: Final = 2_000
"""Images, at most: what is fitted to them, channel by channel, does not change with five times as many."""

FEWEST: Final = 500
"""Images at any T, where there are so many."""

STEPS: Final = 16_000
"""Images times steps: a step costs the same at any T, and the more steps there are, the less depends on each."""


def calibration_subset(images: Array, timesteps: int) -> Array:
    """Return the first of ``images``: as many as are worth simulating for ``timesteps`` steps."""
    return images[: max(FEWEST, min(MOST, STEPS // timesteps))]
