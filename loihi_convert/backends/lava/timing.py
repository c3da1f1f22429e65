"""When images enter a network on Lava, and when each layer sees them.

A synapse answers one step later, so layer i (from 0) does its local step t = 1, 2, ... of presentation k at global step
k x interval + t + i + 1, and starts each presentation by a reset of its own.

**Custom neurons** reset themselves in one step: one presentation follows the other, the interval is T.

**Stock LIFReset** sets u = v = 0 every P steps, and only then integrates what arrives in that step. So the -theta that
a spike in local step P sends to its own neuron lands in step P + 1, after the reset. Therefore an image gets 2P steps,
input and biases in the first T <= P of them, and in the steps P + 1 .. 2P no neuron fires:

- The first layer receives nothing from step P + 1 on, but -theta from its own spikes of step P. So u <= 0 and
  V0 + u < theta: it does not fire, so nothing follows, and u does not rise above 0.
- A layer after one that does not fire in its steps P + 1 .. 2P receives nothing in its own steps P + 1 .. 2P: the same
  holds for it.

So nothing is on its way when step 2P + 1 resets once more, and it finds the state of the very start. P is a power of
two because the chip allows no other reset interval; shorter intervals than 2P would not do, and T blank steps without
a reset in between would not either: what a potential holds above the threshold keeps a neuron firing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """The global steps of a run.

    Parameters
    ----------
    images
        N.
    batch_size
        Images side by side in one presentation.
    timesteps
        T.
    layers
        Synapses in a row.
    interval
        Steps from one presentation to the next: T, or, for stock Processes, `stock_interval`.
    """

    images: int
    batch_size: int
    timesteps: int
    layers: int
    interval: int

    @property
    def total(self) -> int:
        """Global steps until the last layer has done T steps of the last image."""
        return (math.ceil(self.images / self.batch_size) - 1) * self.interval + self.timesteps + self.layers

    def images_done(self, step: int) -> int:
        """Return how many images the last layer has finished after a global step."""
        presentations = max(0, step - self.layers + self.interval - self.timesteps) // self.interval
        return min(self.images, presentations * self.batch_size)


def first_step(layer: int) -> int:
    """Return the global step in which a layer does its first step of the first image."""
    return layer + 2


def reset_interval(timesteps: int) -> int:
    """Return P of a stock LIFReset: the power of two from T up."""
    return 1 << (timesteps - 1).bit_length()


def stock_interval(timesteps: int) -> int:
    """Return the steps from one image to the next in a network of stock Processes: 2P."""
    return 2 * reset_interval(timesteps)
