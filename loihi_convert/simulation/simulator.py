"""Integrate-and-fire simulation: the same code for floating point and Loihi's integers.

For layer l with synapse W and step t = 1..T (paper, eq. 1 and 2, algorithm 3)::

    I[l](t) = W[l] x                        first layer: the constant current of the image, or its Poisson spikes
    I[l](t) = W[l] (amplitude * s[l-1](t))  later layers
    V[l](t) = clip(V[l](t-1) + I[l](t))     clipping at +-131071 for integers only
    s[l](t) = [V[l](t) >= threshold[l]]     no spikes in a last layer that only integrates
    V[l](t) = V - threshold * s  (soft)     or  0 where s  (hard)

Networks of target loihi2 are simulated as the circuit of stock processes, unless asked otherwise.

A block of images passes through all its steps layer by layer: first the currents of all steps (`currents.py`), then the
neurons (`layers.py`). Each core works on its own blocks, of limited size (`image_shards.py`), so that memory does not
grow with the number of images.

Integers are held exactly in float32: the exactness rules of `chip.rules` limit every partial sum of a current to 2^23
and a potential to 2^17, so all intermediate values are integers below 2^24, in any order of summation. Lava's LIF (hard
reset) has 6 bits below 1, which only its clipping uses; its currents are below 2^17: 24 bits again. The same holds for
the circuit: u is within 2^17 before it adds a current below 2^17, and only a leak uses the 6 bits below 1.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.network import SpikingNetwork
from loihi_convert.ir.neuron_model import NeuronModel, neuron_model
from loihi_convert.ir.quantized import QuantizedNetwork, joined_digits
from loihi_convert.simulation.currents import Inputs
from loihi_convert.simulation.image_shards import (
    DividedImages,
    ImageArray,
    Shard,
    block_size,
    float_block_size,
    joined_parts,
    on_cores,
)
from loihi_convert.simulation.layers import LayerBlock, Recording, float_specs, integer_specs, layers_on


@dataclass(frozen=True, eq=False)
class Block:
    """Some images over some consecutive steps, and the values recorded from them, layer by layer.

    ``digits``, float64 ``(B, T, 1, 1, 2 C)``, are the potentials of a readout in two digits; None for other readouts.
    """

    images: slice
    steps: slice
    layers: tuple[LayerBlock, ...]
    digits: Array | None = None


class Simulator:
    """Runs a `SpikingNetwork` or a `QuantizedNetwork`.

    Parameters
    ----------
    network
        The network; its arrays are copied once.
    recording
        Values to record from every layer; the output's potentials and spikes are always recorded.
    device
        ``"cpu"``, or another torch device, such as ``"cuda"``.
    saturates
        Whether integer potentials have Loihi's range; if not, they are exact up to 2^24.
    neuron
        Neuron model of a `QuantizedNetwork`; by default that of its target or, if it does not saturate, that of its
        reset.
    """

    def __init__(
        self,
        network: SpikingNetwork | QuantizedNetwork,
        recording: Recording | None = None,
        *,
        device: str = "cpu",
        saturates: bool = True,
        neuron: NeuronModel | None = None,
    ) -> None:
        recording = recording or Recording()
        output = replace(recording, potentials=True, spikes=network.readout == "spikes" or recording.spikes)
        self._recordings = [recording] * (len(network.layers) - 1) + [output]
        self._low_bits = 0
        if isinstance(network, QuantizedNetwork):
            default = neuron_model(network) if saturates else NeuronModel(network.reset)
            specs = integer_specs(network.stored, neuron or default, saturates=saturates)
            self._low_bits = network.low_bits
        else:
            specs = float_specs(network)
        pixel_bits = network.pixel_bits if isinstance(network, QuantizedNetwork) else None
        self._inputs = Inputs(network.layers[0].synapse.pool, network.poisson_seed, pixel_bits)
        self._wraps = [spec.neuron is NeuronModel.STOCK_LIF for spec in specs]
        self._layers = layers_on(device, specs)
        self._device = device
        self._largest = max(math.prod(network.input_shape), *(spec.size for spec in specs))
        self._is_integer = isinstance(network, QuantizedNetwork)

    def run(
        self,
        images: Array | Shard,
        timesteps: int,
        take: Callable[[Block], None],
        *,
        first_image: int = 0,
    ) -> None:
        """Simulate uint8 ``images``, ``(N, C, H, W)``, for ``timesteps`` steps each, on the cores that torch uses.

        ``take`` is called with one block at a time: images in any order, the steps of an image in ascending order.
        ``first_image`` is the index of the first of ``images`` in the whole run, if they are a part of it: a multiple
        of `block_multiple`, if the network is in floating point and the result is to be that of the whole run, bit for
        bit.
        """
        if isinstance(images, Shard):
            first_image += images.first
        images = np.asarray(images)
        if self._is_integer:
            images_at_once, steps_at_once = block_size(self._device, self._largest, len(images), timesteps)
        else:
            images_at_once, steps_at_once = float_block_size(self._device, self._largest, timesteps)
        lock = threading.Lock()

        def simulate(rows: slice) -> None:
            for block in self._blocks(images[rows], rows, first_image, timesteps, steps_at_once):
                with lock:
                    take(block)

        on_cores(self._device, simulate, len(images), images_at_once)

    def _blocks(
        self, images: Array, rows: slice, first_image: int, timesteps: int, steps_at_once: int
    ) -> Iterator[Block]:
        current: Tensor | None = None
        has_more = steps_at_once < timesteps
        states = [layer.initial_states(len(images)) if has_more else None for layer in self._layers]
        for first in range(0, timesteps, steps_at_once):
            count = min(steps_at_once, timesteps - first)
            if current is None or not self._inputs.is_constant:
                inputs = torch.from_numpy(self._inputs(images, first_image + rows.start, first, count))
                current = self._currents_of(0, inputs)
            received, done = current, list[LayerBlock]()
            for index, (layer, state) in enumerate(zip(self._layers, states, strict=True)):
                pooled, block = layer.fire(state, received, count, self._recordings[index])
                done.append(block)
                if index + 1 < len(self._layers):
                    received = self._currents_of(index + 1, pooled)
            digits = None
            if self._low_bits:
                # As recorded on Lava: each digit is rounded down before they are joined.
                digits = np.floor(done[-1].potentials.astype(np.float64))
                done[-1] = replace(done[-1], potentials=joined_digits(digits, self._low_bits))
            yield Block(rows, slice(first, first + count), tuple(done), digits)

    def _currents_of(self, index: int, inputs: Tensor) -> Tensor:
        """The currents of a layer, wrapped once as the u of Lava's LIF, where that is the neuron model."""
        currents = self._layers[index].currents_of(inputs)
        if self._wraps[index]:
            currents[currents > limits.WRAPS_ABOVE] -= 2 * limits.WRAPS_ABOVE
            currents[currents <= -limits.WRAPS_ABOVE] += 2 * limits.WRAPS_ABOVE
        return currents


def outputs(
    network: SpikingNetwork | QuantizedNetwork,
    images: ImageArray,
    timesteps: int,
    *,
    device: str = "cpu",
    first_image: int = 0,
) -> Array:
    """Return the outputs after each step: float32 ``(N, T, classes)`` for uint8 ``images``.

    The last layer's potentials (in weight units, for integers) or, if it has neurons, their spike counts since the
    first step. float64 if potentials have two digits. ``first_image`` is as in `Simulator.run`.
    """
    shown = images if isinstance(images, DividedImages) else Shard(first_image, images)
    return _outputs(network, shown, timesteps, {"device": device})


def last_outputs(
    network: SpikingNetwork | QuantizedNetwork,
    images: ImageArray,
    timesteps: int,
    *,
    device: str = "cpu",
    neuron: NeuronModel | None = None,
) -> Array:
    """Return `outputs` after the last step, ``(N, classes)``; ``neuron`` is as in `Simulator`."""
    found = _outputs(network, images, timesteps, {"device": device, "neuron": neuron}, only_last=True)
    return np.asarray(found[:, 0])


def _outputs(
    network: SpikingNetwork | QuantizedNetwork,
    images: ImageArray | Shard,
    timesteps: int,
    simulated: Mapping[str, Any],
    *,
    only_last: bool = False,
) -> Array:
    """As `outputs`; ``simulated`` are options of the `Simulator`."""
    if isinstance(images, DividedImages):
        own = {"network": network, "timesteps": timesteps, "simulated": simulated, "only_last": only_last}
        return joined_parts(images.parts(_outputs, **own))
    counts = network.readout == "spikes"
    has_digits = isinstance(network, QuantizedNetwork) and bool(network.low_bits)
    shape = (len(images), 1 if only_last else timesteps, *network.shapes[-1])
    found = np.zeros(shape, np.float64 if has_digits else np.float32)

    def take(block: Block) -> None:
        last = block.layers[-1]
        values = (last.spikes if counts else last.potentials)[:, :, 0, 0]
        if not only_last:
            found[block.images, block.steps] = values
        elif counts:
            found[block.images, 0] += values.sum(axis=1)
        else:
            # Blocks of the same images come in the order of their steps.
            found[block.images, 0] = values[:, -1]

    simulator = Simulator(network, **simulated)
    simulator.run(images, timesteps, take)
    return np.asarray(found.cumsum(axis=1, dtype=found.dtype)) if counts else found


@dataclass(frozen=True, eq=False)
class Extremes:
    """The largest values of a simulation.

    Parameters
    ----------
    currents
        Per layer, the largest input current of each channel over images, positions and steps: float64 ``(C_out,)``.
    outputs
        The largest magnitude of each output's potential in any step: float64 ``(C_out,)``.
    potentials
        Per layer, the lowest and highest potential of each channel in any step: float64 ``(2, C_out)``; empty unless
        requested.
    """

    currents: tuple[Array, ...]
    outputs: Array
    potentials: tuple[Array, ...] = ()


def extremes(
    network: SpikingNetwork | QuantizedNetwork,
    images: ImageArray | Shard,
    timesteps: int,
    *,
    potentials: bool = False,
    device: str = "cpu",
) -> Extremes:
    """Return the largest currents and output potentials for uint8 ``images`` in ``timesteps`` steps.

    With ``potentials``, also the lowest and highest potentials of every layer. Integers are in weight units, and not
    clipped.
    """
    if isinstance(images, DividedImages):
        own = {"network": network, "timesteps": timesteps, "potentials": potentials, "device": device}
        parts = images.parts(extremes, **own)
        ranges = zip(*(part.potentials for part in parts), strict=True)
        return Extremes(
            tuple(np.maximum.reduce(peaks) for peaks in zip(*(part.currents for part in parts), strict=True)),
            np.maximum.reduce([part.outputs for part in parts]),
            tuple(np.stack([np.min(found, axis=0)[0], np.max(found, axis=0)[1]]) for found in ranges),
        )
    channels = [layer.synapse.channels for layer in network.layers]
    largest, outputs = [np.full(count, -np.inf) for count in channels], np.zeros(channels[-1])
    bounds = [np.array([[np.inf], [-np.inf]]).repeat(count, axis=1) for count in channels if potentials]

    def take(block: Block) -> None:
        for peak, layer in zip(largest, block.layers, strict=True):
            np.maximum(peak, layer.largest_current, out=peak)
        for (low, high), layer in zip(bounds, block.layers, strict=False):
            np.minimum(low, layer.potentials.min(axis=(0, 1, 2, 3)), out=low)
            np.maximum(high, layer.potentials.max(axis=(0, 1, 2, 3)), out=high)
        np.maximum(outputs, np.abs(block.layers[-1].potentials).max(axis=(0, 1, 2, 3)), out=outputs)

    recording = Recording(currents=True, potentials=potentials)
    simulator = Simulator(network, recording, device=device, saturates=False)
    simulator.run(images, timesteps, take)
    return Extremes(tuple(largest), outputs, tuple(bounds))


def clipped_images(
    network: QuantizedNetwork,
    images: ImageArray | Shard,
    timesteps: int,
    *,
    device: str = "cpu",
) -> Array:
    """Return the number of images on which a potential passed its lower limit, its upper, or either: int64 ``(layers,
    3)``."""
    if isinstance(images, DividedImages):
        own = {"network": network, "timesteps": timesteps, "device": device}
        return np.asarray(sum(images.parts(clipped_images, **own)))
    seen = np.zeros((len(network.layers), len(images), 2), np.bool_)

    def take(block: Block) -> None:
        for index, layer in enumerate(block.layers):
            seen[index, block.images] |= layer.clipped

    simulator = Simulator(network, Recording(clipping=True), device=device)
    simulator.run(images, timesteps, take)
    counted = np.stack([*np.moveaxis(seen, 2, 0), seen.any(axis=2)], axis=2)
    return np.asarray(counted.sum(axis=1, dtype=np.int64))


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
    if neuron is None or network.is_circuit or not network.has_constant_current(index):
        return HarmlessLimits()
    firing = neuron.threshold[neuron.threshold < limits.NEVER_FIRES]
    return HarmlessLimits(True, 2 * int(firing.max(initial=0)) <= limits.POTENTIAL_LIMIT)
