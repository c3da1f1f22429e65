"""On how many images potentials leave their range, and whether that may change spikes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.progress import Progress, no_progress
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


def harmful_clips(harmless_ends: tuple[bool, bool], clipped: Sequence[int]) -> int:
    """Return, of a row of `clipped_images`, the images on which clipping may have changed spikes or outputs."""
    is_low_harmless, is_high_harmless = harmless_ends
    _, high, either = clipped
    # Where the upper end is harmless, the lower end is so, too.
    return 0 if is_high_harmless else int(high if is_low_harmless else either)
