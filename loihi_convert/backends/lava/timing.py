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

**Graded spikes** take one step for an image, so presentations follow each other directly. Before the first one come
some settling steps with an input of 0 (`ir.graded`). The input neurons have no synapse: they process image k in global
step ``settling`` + k + 1, one step before the first layer with a synapse.
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
    settling
        Steps before the first presentation: 0, or, for graded spikes, `settling_steps`.
    """

    images: int
    batch_size: int
    timesteps: int
    layers: int
    interval: int
    settling: int = 0

    @property
    def total(self) -> int:
        """Global steps until the last layer has done T steps of the last image."""
        presentations = math.ceil(self.images / self.batch_size)
        return self.settling + (presentations - 1) * self.interval + self.timesteps + self.layers

    def images_done(self, step: int) -> int:
        """Return the number of images that the last layer has finished after a global step."""
        steps = step - self.settling - self.layers
        presentations = max(0, steps + self.interval - self.timesteps) // self.interval
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


def settling_steps(layers: int) -> int:
    """Return the steps with an input of 0 after which graded spikes of a network with this number of ``layers`` end."""
    return layers + 1
