"""Simulation of a network that grows layer by layer, as in balancing, without simulating anything twice.

Once the thresholds of layers 0..l-1 are known, the currents of layer l are computed; then layer l gets its thresholds.
Each pass over the images simulates one more layer, from the spikes of the layer before it, which the previous pass
stored: one bit each, or one byte per window of a pooling. So a network of L layers takes the work of 2 L synapses
instead of L (L + 1) / 2. The first layer's spikes are not stored: a constant current reproduces them at almost no cost.
The maxima for smaller T come from the same pass. The CNN's activations are stored likewise.

Results depend neither on the number of cores nor on that of images at hand: images are divided into blocks in the same
way on every machine, and the sums of blocks are added in their order.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from loihi_convert.arrays import Array
from loihi_convert.ir.network import ReluNetwork, Reset, SpikingLayer, SpikingNetwork
from loihi_convert.progress import Progress, no_progress
from loihi_convert.simulation.block_store import BlockStore, InOrder, Packed
from loihi_convert.simulation.blocks import float_block_size, on_cores
from loihi_convert.simulation.currents import sum_pool, summed_currents
from loihi_convert.simulation.device import DeviceLayer
from loihi_convert.simulation.inputs import Inputs
from loihi_convert.simulation.largest_currents import LargestCurrents
from loihi_convert.simulation.layer_spec import LayerSpec, Recording
from loihi_convert.simulation.neurons import RateErrors, rate_errors
from loihi_convert.simulation.relu import ReluChain, on_blocks
from loihi_convert.simulation.simulator import float_specs, layers_on

MEMORY: Final = 2**31
"""Most bytes of spikes and activations stored; the rest is computed again from the images."""

_NOTHING: Final = Recording()


class GrowingSimulation:
    """The layers of ``network`` with known thresholds, on ``images``, for ``timesteps`` steps.

    Parameters
    ----------
    network
        The CNN.
    images
        uint8 ``(N, C, H, W)``.
    timesteps
        T.
    reset
        Reset of the neurons.
    poisson_seed
        As in `SpikingNetwork`.
    device
        As in `simulator.Simulator`; spikes are stored only on a CPU.
    whole
        Whether a block contains all steps, as `rate_errors` requires.
    memory
        See `MEMORY`.
    """

    def __init__(
        self,
        network: ReluNetwork,
        images: Array,
        timesteps: int,
        reset: Reset,
        *,
        poisson_seed: int | None = None,
        device: str = "cpu",
        whole: bool = False,
        memory: int = MEMORY,
    ) -> None:
        self._network, self._images, self._timesteps, self._reset = network, images, timesteps, reset
        self._device, self._poisson_seed = device, poisson_seed
        self._inputs = Inputs(network.layers[0].synapse.pool, poisson_seed)
        largest = max(math.prod(shape) for shape in network.shapes)
        self._images_at_once, self._steps_at_once = float_block_size(device, largest, timesteps)
        if whole:
            self._steps_at_once = timesteps
        self._lock = threading.Lock()
        self._spikes = BlockStore[list[Packed]](memory // 2 if device == "cpu" else 0)
        self._activations = BlockStore[Array](memory - memory // 2)
        self._activation_sums: list[Array] = []

    def largest_currents(
        self, fixed: Sequence[SpikingLayer], after: Sequence[int], *, progress: Progress = no_progress
    ) -> Array:
        """Return the largest current of each channel of the layer after ``fixed``: float64 ``(len(after), C_out)``.

        The maxima are over the steps up to each of ``after``, ascending, at most T. ``fixed`` are the layers with known
        thresholds: none at the first call, then the same or one more at each call.
        """
        specs = self._specs(fixed)
        layers = layers_on(self._device, specs)
        largest = LargestCurrents(specs[-1], layers[-1], tuple(after))
        self._pass(layers, lambda _, first, inputs: largest.take(first, inputs), progress)
        return largest.found()

    def rate_errors(
        self,
        fixed: Sequence[SpikingLayer],
        thresholds: Array,
        initial_potentials: Array,
        *,
        correction: Array | None = None,
        progress: Progress = no_progress,
    ) -> RateErrors:
        """Return the errors of the rates of the layer after ``fixed`` against the CNN's activations.

        There is one result for each of ``thresholds`` and ``initial_potentials``, float64 ``(G, C_out)``; see
        `neurons.rate_errors`. ``fixed`` is as in `largest_currents`; ``correction``, ``(C_out,)``, is added to the
        layer's bias.
        """
        specs = self._specs(fixed, correction)
        layers = layers_on(self._device, specs)
        chain = ReluChain(self._network, depth=len(specs))
        sums = InOrder[RateErrors]()

        def take(start: int, _: int, inputs: Tensor) -> None:
            activations = self._activations_of(chain, start, len(inputs))
            wanted = np.maximum(activations.reshape(len(inputs), -1), 0)
            on_cpu = layers[-1].currents_of(inputs).cpu().numpy()
            found = rate_errors(specs[-1], on_cpu, wanted, thresholds, initial_potentials, self._timesteps)
            sums.add(start // self._images_at_once, found)

        assert self._steps_at_once == self._timesteps, "a rate needs all steps"
        # Compile here, in one thread, as in `Neurons`.
        no_currents = np.empty((0, 1, specs[-1].size), np.float32)
        rate_errors(specs[-1], no_currents, no_currents[:, 0], thresholds, initial_potentials, self._timesteps)
        self._pass(layers, take, progress)
        return sums.total

    def mean_excess(self, fixed: Sequence[SpikingLayer], *, progress: Progress = no_progress) -> Array:
        """Return the mean excess of the current of the layer after ``fixed`` over the CNN's: float64 ``(C_out,)``.

        The mean is over images, positions and steps; ``fixed`` has at least one layer. Currents are linear in the
        spikes, so that those of the summed spikes are enough, and likewise for the CNN.
        """
        specs = self._specs(fixed)
        layers = layers_on(self._device, specs)
        spikes = InOrder[Array]()
        blocks = -(-self._timesteps // self._steps_at_once)

        def take(start: int, first: int, inputs: Tensor) -> None:
            counted = inputs.sum((0, 1), dtype=torch.float64).cpu().numpy()
            spikes.add(start // self._images_at_once * blocks + first // self._steps_at_once, counted)

        self._pass(layers, take, progress)
        own, shape = self._network.layers[len(fixed)].synapse, specs[-1].input_shape
        found = summed_currents(specs[-1].synapse, shape, spikes.total / self._timesteps)
        wanted = summed_currents(own, shape, self._summed_activations()[len(fixed) - 1])
        return np.asarray((found - wanted) / (len(self._images) * (specs[-1].size // own.channels)))

    def _activations_of(self, chain: ReluChain, start: int, count: int) -> Array:
        """The activations of the last layer of ``chain`` for ``count`` images from ``start``, which are kept."""
        layer, kept = chain.depth - 1, self._activations.look(start)
        images = self._images[start : start + count]
        found = chain(images)[-1] if kept is None else [kept[1], *chain.behind(*kept)][-1]
        self._activations.put(start, layer, found, found.nbytes)
        return found

    def _summed_activations(self) -> list[Array]:
        """Each layer's activations, but the last's, as inputs of the next layer, summed over images.

        float64 ``(H', W', C)``, summed over the windows of the next layer's pooling, too.
        """
        if not self._activation_sums:
            layers, chain = self._network.layers, ReluChain(self._network, depth=len(self._network.layers) - 1)
            size = chain.images_at_once
            sums = [InOrder[Array]() for _ in layers[1:]]

            def add(start: int, outputs: list[Array]) -> None:
                for total, maps, after in zip(sums, outputs, layers[1:], strict=True):
                    total.add(start // size, sum_pool(maps, after.synapse.pool).sum(axis=0, dtype=np.float64))

            on_blocks(chain, self._images, add)
            self._activation_sums = [total.total for total in sums]
        return self._activation_sums

    def _specs(self, fixed: Sequence[SpikingLayer], correction: Array | None = None) -> list[LayerSpec]:
        layer = self._network.layers[len(fixed)]
        synapse = layer.synapse if correction is None else layer.synapse.with_added_bias(correction)
        open_layer = SpikingLayer(layer.name, synapse, None)
        partial = SpikingNetwork(
            self._network.input_shape,
            (*fixed, open_layer),
            self._timesteps,
            self._reset,
            poisson_seed=self._poisson_seed,
        )
        return float_specs(partial)

    def _pass(
        self, layers: Sequence[DeviceLayer], take: Callable[[int, int, Tensor], None], progress: Progress
    ) -> None:
        """Call ``take`` with the first of some images, a step, and the inputs of the last of ``layers`` from it on."""
        images_at_once, done = self._images_at_once, 0

        def simulate(start: int) -> None:
            nonlocal done
            images = self._images[start : start + images_at_once]
            for first, inputs in self._received(layers, images, start):
                take(start, first, inputs)
            with self._lock:
                done += len(images)
                progress(done, len(self._images))

        on_cores(self._device, simulate, range(0, len(self._images), images_at_once))

    def _received(self, layers: Sequence[DeviceLayer], images: Array, start: int) -> Iterator[tuple[int, Tensor]]:
        """Inputs of the last of ``layers`` for the images at ``start``: a block's first step, and its inputs.

        With constant pixels there is one step.
        """
        blocks, last = -(-self._timesteps // self._steps_at_once), len(layers) - 1
        steps = [
            range(self._timesteps)[block * self._steps_at_once :][: self._steps_at_once] for block in range(blocks)
        ]
        if last == 0:
            for part in steps[:1] if self._inputs.is_constant else steps:
                yield part[0], torch.from_numpy(self._inputs(images, start, part[0], len(part)))
            return
        # Spikes are stored as the inputs of layer ``known``.
        known, kept = self._spikes.look(start) or (0, None)
        if known == last and kept is not None:
            for part, packed in zip(steps, kept, strict=True):
                yield part[0], packed.unpacked()
            return
        firing = layers[known:last]
        states = [layer.initial_states(len(images)) for layer in firing]
        entering: Tensor | None = None
        keeping: list[Packed] = []
        for block, part in enumerate(steps):
            if kept is not None:
                currents = firing[0].currents_of(kept[block].unpacked())
            else:
                if entering is None or not self._inputs.is_constant:
                    inputs = torch.from_numpy(self._inputs(images, start, part[0], len(part)))
                    entering = layers[0].currents_of(inputs)
                currents = entering
            spikes, _ = firing[0].fire(states[0], currents, len(part), _NOTHING)
            for layer, state in zip(firing[1:], states[1:], strict=True):
                spikes, _ = layer.fire(state, layer.currents_of(spikes), len(part), _NOTHING)
            if last > 1 and self._device == "cpu":
                keeping.append(Packed(spikes.numpy()))
            yield part[0], spikes
        if keeping:
            self._spikes.put(start, last, keeping, sum(packed.size for packed in keeping))
