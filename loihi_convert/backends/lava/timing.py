"""Timing on Lava: when images enter a network, and when each layer processes them.

A synapse responds one step later, so layer i (from 0) does its local step t = 1, 2, ... of presentation k at global
step k x interval + t + i + 1, and starts each presentation with a reset.

**Custom neurons** reset themselves within a step: presentations follow each other directly, and the interval is T.

**Stock LIFReset** sets u = v = 0 every P steps, before it integrates the input of that step. So the -theta that a spike
in local step P sends to its own neuron arrives in step P + 1, after the reset. Therefore an image gets 2P steps, with
input and biases in the first T <= P of them, and no neuron fires in steps P + 1 .. 2P:

- The first layer receives nothing from step P + 1 on, but -theta from its own spikes of step P. So u <= 0 and
  V0 + u < theta: it does not fire, so nothing follows, and u does not rise above 0.
- A layer after one that does not fire in steps P + 1 .. 2P receives nothing in its own steps P + 1 .. 2P, so the same
  holds for it.

So no message is in flight when step 2P + 1 resets again, and the state is that of the start. P is a power of two
because the chip allows no other reset interval. An interval shorter than 2P would not work, nor would T blank steps
without a reset: the potential in excess of the threshold would keep a neuron firing.
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
        Images per presentation.
    timesteps
        T.
    layers
        Number of consecutive synapses.
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
        """Return the number of images that the last layer has finished after a global step."""
        presentations = max(0, step - self.layers + self.interval - self.timesteps) // self.interval
        return min(self.images, presentations * self.batch_size)


def first_step(layer: int) -> int:
    """Return the global step in which a layer does its first step of the first image."""
    return layer + 2


def reset_interval(timesteps: int) -> int:
    """Return P of a stock LIFReset: the smallest power of two >= T."""
    return 1 << (timesteps - 1).bit_length()


def stock_interval(timesteps: int) -> int:
    """Return the steps from one image to the next in a network of stock Processes: 2P."""
    return 2 * reset_interval(timesteps)
