"""Backend `ref` for networks of CUBA neurons: images -> potentials and spikes of lava-dl's network."""

from __future__ import annotations

import math
import time
from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.backends.request import require_result_size
from loihi_convert.backends.result import RunResult
from loihi_convert.chip import limits
from loihi_convert.errors import UsageError
from loihi_convert.external.cuba import CubaNetwork
from loihi_convert.external.cuba_simulation import simulate
from loihi_convert.external.pixels import DEFAULT_NORMALIZATION, pixel_inputs, require_images
from loihi_convert.ir.synapse import PixelBias
from loihi_convert.normalization import Normalization
from loihi_convert.progress import Progress, no_progress

# Largest number of images x neurons of the largest layer simulated at once.
_BLOCK: Final = 2**21


def run_cuba(
    network: CubaNetwork,
    images: Array,
    timesteps: int,
    *,
    normalization: Normalization | None = None,
    progress: Progress = no_progress,
) -> RunResult:
    """Run uint8 ``images``, ``(N, C, H, W)``, for ``timesteps`` steps each.

    ``normalization`` is by default `DEFAULT_NORMALIZATION`. The result has the same form as from other backends;
    ``potentials`` are in whole weight units, rounded down.

    Raises
    ------
    InputError
        If the images do not fit the network, pixels give biases beyond int16, or the last layer has maps, which give no
        class.
    UsageError
        If ``timesteps`` is less than 1, the result would be too large, or ``normalization`` is invalid or given for a
        network without input neurons.
    """
    has_input_neurons = isinstance(network.layers[0].synapse, PixelBias)
    if not has_input_neurons and normalization is not None:
        raise UsageError(
            "`mean` and `std` given for a network without input neurons", expected="its pixels enter as 0..255"
        )
    normalization = normalization or DEFAULT_NORMALIZATION
    if timesteps < 1:
        raise UsageError(f"found {timesteps}", where="timesteps", expected="must be at least 1")
    require_images(network, images, normalization)
    require_result_size(network, len(images), timesteps)
    started = time.perf_counter()
    count, outputs, spiking = len(images), math.prod(network.shapes[-1]), len(network.spiking_layers)
    potentials = np.empty((count, timesteps, outputs), np.int32)
    output_spikes = np.empty(potentials.shape, np.bool_) if network.readout == "spikes" else None
    spike_counts = np.empty((count, timesteps, spiking), np.int64)
    operations = np.empty_like(spike_counts)
    channel_spikes = tuple(np.zeros((timesteps, shape[0]), np.int64) for shape in network.shapes[:spiking])
    fan_outs = [fan_out.reshape(-1) for fan_out in network.fan_outs]
    images_at_once = max(1, _BLOCK // max(math.prod(shape) for shape in network.shapes))
    ready = time.perf_counter()
    for first in range(0, count, images_at_once):
        rows = slice(first, min(first + images_at_once, count))
        inputs = pixel_inputs(network, images[rows], normalization)
        for step, layers in enumerate(simulate(network, inputs, timesteps)):
            potentials[rows, step] = (layers[-1].v >> limits.UNIT_EXP).reshape(len(inputs), -1)
            if output_spikes is not None:
                output_spikes[rows, step] = layers[-1].spikes.reshape(len(inputs), -1)
            for index, fan_out in enumerate(fan_outs):
                fired = layers[index].spikes.reshape(len(inputs), -1)
                spike_counts[rows, step, index] = fired.sum(axis=1)
                operations[rows, step, index] = fired @ fan_out
                channels = len(channel_spikes[index][step])
                channel_spikes[index][step] += fired.reshape(len(inputs), channels, -1).sum(axis=(0, 2))
        progress(rows.stop, count)
    return RunResult(
        potentials=potentials,
        spike_counts=spike_counts,
        synaptic_operations=operations,
        seconds=time.perf_counter() - ready,
        startup_seconds=ready - started,
        output_spikes=output_spikes,
        channel_spikes=channel_spikes,
    )
