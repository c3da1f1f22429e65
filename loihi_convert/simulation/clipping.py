"""On how many images potentials leave their range, and whether that may change spikes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.progress import Progress, no_progress
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.simulation.image_shards import ImageArray, Shard, on_shards
from loihi_convert.simulation.layer_spec import Recording
from loihi_convert.simulation.simulator import Block, Simulator


class _Run(NamedTuple):
    network: QuantizedNetwork
    timesteps: int
    device: str


def clipped_images(
    network: QuantizedNetwork,
    images: ImageArray,
    timesteps: int,
    *,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> Array:
    """Return the number of images on which a potential passed its lower limit, its upper, or either: int64 ``(layers,
    3)``."""
    return np.asarray(sum(on_shards(_clipped_images, _Run(network, timesteps, device), images, progress=progress)))


def _clipped_images(run: _Run, shard: Shard, *, progress: Progress = no_progress) -> Array:
    images = np.asarray(shard.images)
    seen = np.zeros((len(run.network.layers), len(images), 2), np.bool_)

    def take(block: Block) -> None:
        for index, layer in enumerate(block.layers):
            seen[index, block.images] |= layer.clipped

    simulator = Simulator(run.network, Recording(clipping=True), device=run.device)
    simulator.run(images, run.timesteps, take, first_image=shard.first, progress=progress)
    counted = [*np.moveaxis(seen, 2, 0), seen.any(axis=2)]
    return np.stack([images.sum(axis=1, dtype=np.int64) for images in counted], axis=1)


class HarmlessLimits(NamedTuple):
    """Limits at which clipping changes no spike of a layer; where the upper one is harmless, so is the lower."""

    is_low_harmless: bool = False
    is_high_harmless: bool = False

    def harmful(self, low: int, high: int, either: int) -> int:
        """Return the images, of a row of `clipped_images`, on which clipping may have changed spikes or outputs."""
        if self.is_low_harmless:
            return 0 if self.is_high_harmless else high
        return either


def harmless_limits(network: QuantizedNetwork, index: int) -> HarmlessLimits:
    """Return the harmless limits of layer ``index``.

    With a constant current I < 0 a neuron never fires, with I >= threshold it fires in every step, clipped or not; with
    I in between, its potential stays below threshold + I.
    """
    neuron = network.layers[index].neuron
    if neuron is None or network.target == "loihi2" or not network.has_constant_current(index):
        return HarmlessLimits()
    firing = neuron.threshold[neuron.threshold < limits.NEVER_FIRES]
    return HarmlessLimits(True, 2 * int(firing.max(initial=0)) <= limits.POTENTIAL_LIMIT)
