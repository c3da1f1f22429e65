"""What may be asked of a backend: of this network, so many images and steps, these neurons."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.backends import Neuron
from loihi_convert.errors import DataError, RangeError, UsageError
from loihi_convert.ir.quantized import MAX_TIMESTEPS, QuantizedNetwork

MAX_TRACE: Final = 2**32
"""Bytes that the result of a run may take, with the spikes and potentials of a traced one."""


def used_neuron(network: QuantizedNetwork, neuron: Neuron | None, *, leak: bool) -> Neuron:
    """Return what the neurons of ``network`` are in a run that asks for ``neuron``.

    Raises
    ------
    UsageError
        If stock processes cannot be these neurons, or neurons shall leak that cannot.
    """
    used: Neuron = neuron or ("stock" if network.target == "loihi2" else "own")
    if used == "stock" and network.target != "loihi2":
        raise UsageError(
            f"--neuron stock: the file is of target {network.target}, with thresholds or levels that Loihi 2's own "
            "neurons cannot have; export it with --target loihi2."
        )
    if leak and used != "stock":
        raise UsageError(f"--leak: only stock neurons can, and these are {used}; export with --target loihi2.")
    return used


def check_run(network: QuantizedNetwork, images: Array, timesteps: int, *, trace: bool = False) -> None:
    """Raise unless ``network`` can run ``images`` for ``timesteps`` steps, and, with ``trace``, be recorded.

    Raises
    ------
    UsageError
        If ``timesteps`` is less than 1 or more than `MAX_TIMESTEPS`, or the result would be larger than
        `MAX_TRACE`.
    DataError
        If the images are not uint8 of ``(N, *input_shape)`` with N >= 1.
    RangeError
        If ``timesteps`` is larger than the file is proven for.
    """
    require_proven(network, timesteps)
    if images.dtype != np.uint8 or images.shape[1:] != network.input_shape or len(images) < 1:
        expected = ", ".join(map(str, network.input_shape))
        raise DataError(
            f"images: found {images.dtype} of shape {images.shape}; the network takes uint8 of shape (N, {expected}), "
            "N >= 1."
        )
    size = result_size(network, len(images), timesteps, trace=trace)
    require_result_size(size, len(images), timesteps, trace=trace)


def require_proven(network: QuantizedNetwork, timesteps: int) -> None:
    """Raise unless ``network`` can run for ``timesteps`` steps, as `check_run` does."""
    if timesteps < 1:
        raise UsageError(f"--timesteps {timesteps}: a run needs at least 1 time step.")
    if timesteps > MAX_TIMESTEPS:
        raise UsageError(f"--timesteps {timesteps}: allowed are 1..{MAX_TIMESTEPS:,} time steps.")
    if timesteps > network.max_timesteps:
        raise RangeError(
            f"--timesteps {timesteps}: the output potentials of this file are proven to fit Loihi's range for T <= "
            f"{network.max_timesteps}; export it with -T {timesteps}."
        )


def result_size(network: QuantizedNetwork, images: int, timesteps: int, *, trace: bool = False) -> int:
    """Return the bytes that the result of such a run takes."""
    # A potential takes four bytes, a spike one, a count eight.
    per_step = (4 + (network.readout == "spikes")) * network.shapes[-1][0] + 16 * len(network.spiking_layers)
    if trace:
        per_step = 5 * sum(math.prod(shape) for shape in network.shapes)
    channels = sum(layer.synapse.channels for layer in network.spiking_layers)
    return timesteps * (images * per_step + 8 * channels)


def require_result_size(size: int, images: int, timesteps: int, *, trace: bool = False) -> None:
    """Raise a `UsageError` if the ``size`` bytes of the result of such a run are more than `MAX_TRACE`."""
    if size > MAX_TRACE:
        raise UsageError(
            f"{'--trace: ' if trace else ''}{images} images x {timesteps} steps need {size / 2**20:.1f} MiB; "
            f"allowed are {MAX_TRACE / 2**20:.0f} MiB. {'Trace' if trace else 'Run'} fewer images with --images."
        )
