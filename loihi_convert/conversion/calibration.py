"""Calibration images: check that they fit the network, and limit how many each stage of the conversion uses."""

from __future__ import annotations

import math
from typing import Final

from loihi_convert.errors import RangeError
from loihi_convert.ir.network import ReluNetwork, SpikingNetwork
from loihi_convert.simulation.currents import require_images
from loihi_convert.simulation.image_shards import ImageArray

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
