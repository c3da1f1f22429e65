"""Checks of a request before a run: images, time steps, size of the result."""

from __future__ import annotations

import math
from typing import Any, Final

from loihi_convert.errors import RangeError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import MAX_TIMESTEPS
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.network import Spiking
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.simulation.currents import require_images

MAX_TRACE: Final = 2**32
"""Most bytes of the result of a run, including spikes and potentials of a traced run."""


def check_run(network: QuantizedNetwork, images: Array, timesteps: int, *, trace: bool = False) -> None:
    """Raise unless ``network`` can run ``images`` for ``timesteps`` steps and, with ``trace``, record them."""
    require_safe_timesteps(network, timesteps)
    require_images(network.input_shape, images)
    require_result_size(network, len(images), timesteps, trace=trace)


def require_safe_timesteps(network: QuantizedNetwork, timesteps: int) -> None:
    """Raise unless ``network`` can run for ``timesteps`` steps, as `check_run` does."""
    if not 1 <= timesteps <= MAX_TIMESTEPS:
        raise UsageError(f"found {timesteps}", where="timesteps", expected=f"must be in 1..{MAX_TIMESTEPS:,}")
    if timesteps > network.max_timesteps:
        reason = (
            "the output potentials of this file fit Loihi's range with a margin"
            if network.target == "lava"
            else "the potentials of this file's circuit were scaled so that none wraps on the calibration images"
        )
        raise RangeError(
            f"found {timesteps}",
            where="timesteps",
            expected=f"must be in 1..{network.max_timesteps:,}, for which {reason}",
            hint=f"Export the file with `timesteps={timesteps}`.",
        )


def result_size(network: Spiking[Any], images: int, timesteps: int, *, trace: bool = False) -> int:
    """Return the size in bytes of the result of a run."""
    sizes, spiking = [math.prod(shape) for shape in network.shapes], len(network.spiking_layers)
    # A potential or a message takes four bytes, a spike one byte, a count eight.
    per_step = (4 + (network.readout == "spikes")) * sizes[-1] + 16 * spiking
    if trace:
        per_step += 4 * sum(sizes) + (4 * sum(sizes) if isinstance(network, GradedNetwork) else sum(sizes[:spiking]))
    channels = sum(shape[0] for shape in network.shapes[:spiking])
    return timesteps * (images * per_step + 8 * channels)


def require_result_size(network: Spiking[Any], images: int, timesteps: int, *, trace: bool = False) -> None:
    """Raise a `UsageError` if the result of a run exceeds `MAX_TRACE`."""
    size = result_size(network, images, timesteps, trace=trace)
    if size > MAX_TRACE:
        raise UsageError(
            f"the result of {images} images x {timesteps} steps takes {size / 2**20:.1f} MiB",
            where="trace" if trace else "images",
            expected=f"must be at most {MAX_TRACE / 2**20:.0f} MiB",
            hint=f"{'Trace' if trace else 'Run'} fewer images.",
        )
