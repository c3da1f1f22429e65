"""Simulation of a network that grows layer by layer, as in balancing, without simulating anything twice.

Once the thresholds of layers 0..l-1 are known, the largest currents of layer l are computed; then layer l gets its
thresholds. Each pass over the images simulates one more layer, from the spikes of the layer before it, which the
previous pass stored: one bit each, or one byte per window of a pooling. So a network of L layers takes the work of 2 L
synapses instead of L (L + 1) / 2. The first layer's spikes are not stored: a constant current reproduces them at almost
no cost. The maxima for smaller T come from the same pass.
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
from loihi_convert.simulation.device import DeviceLayer
from loihi_convert.simulation.inputs import Inputs
from loihi_convert.simulation.largest_currents import LargestCurrents
from loihi_convert.simulation.layer_spec import LayerSpec, Recording
from loihi_convert.simulation.neurons import RateErrors, rate_errors
from loihi_convert.simulation.relu import ReluChain
from loihi_convert.simulation.simulator import block_size, float_specs, layers_on, on_cores

MEMORY: Final = 2**31
"""Most bytes of spikes stored; the rest is simulated again from the images."""

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
        self._images_at_once, self._steps_at_once = block_size(device, largest, len(images), timesteps)
        if whole:
            self._steps_at_once = timesteps
        self._lock = threading.Lock()
        self._store = _SpikeStore(memory if device == "cpu" else 0)

    def largest_currents(
        self, fixed: Sequence[SpikingLayer], after: Sequence[int], *, progress: Progress = no_progress
    ) -> Array:
        """Return the largest current of each channel of the layer after ``fixed``: float64 ``(len(after), C_out)``.

        The maxima are over the steps up to each of ``after``, ascending, at most T. ``fixed`` are the layers with known
        thresholds: none at the first call, then one more at each call.
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
        sums = RateErrors(np.zeros(thresholds.shape), np.zeros(thresholds.shape), np.zeros(thresholds.shape[1]))

        def take(images: Array, _: int, inputs: Tensor) -> None:
            nonlocal sums
            activations = np.maximum(chain(images)[-1].reshape(len(images), -1), 0)
            on_cpu = layers[-1].currents_of(inputs).cpu().numpy()
            found = rate_errors(specs[-1], on_cpu, activations, thresholds, initial_potentials, self._timesteps)
            with self._lock:
                sums += found

        assert self._steps_at_once == self._timesteps, "a rate needs all steps"
        # Compile here, in one thread, as in `Neurons`.
        no_currents = np.empty((0, 1, specs[-1].size), np.float32)
        rate_errors(specs[-1], no_currents, no_currents[:, 0], thresholds, initial_potentials, self._timesteps)
        self._pass(layers, take, progress)
        return sums

    def mean_excess(self, fixed: Sequence[SpikingLayer], *, progress: Progress = no_progress) -> Array:
        """Return the mean excess of the current of the layer after ``fixed`` over the CNN's: float64 ``(C_out,)``.

        The mean is over images, positions and steps; ``fixed`` has at least one layer and may stay the same in the next
        call.
        """
        specs = self._specs(fixed)
        layers = layers_on(self._device, specs)
        chain = ReluChain(self._network, depth=len(specs), is_open=True)
        channels = specs[-1].synapse.channels
        excess = np.zeros(channels)

        def take(images: Array, _: int, inputs: Tensor) -> None:
            currents = layers[-1].currents_of(inputs)
            found = currents.reshape(-1, channels).double().sum(0).cpu().numpy()
            wanted = chain(images)[-1].reshape(-1, channels).sum(axis=0, dtype=np.float64) * currents.shape[1]
            with self._lock:
                np.add(excess, found - wanted, out=excess)

        self._pass(layers, take, progress, keep=False)
        mean = excess / (len(self._images) * self._timesteps * (specs[-1].size // channels))
        # These currents do not include the bias; the CNN's do.
        return np.asarray(mean + specs[-1].biases.reshape(-1, channels).mean(axis=0, dtype=np.float64))

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
        self,
        layers: Sequence[DeviceLayer],
        take: Callable[[Array, int, Tensor], None],
        progress: Progress,
        *,
        keep: bool = True,
    ) -> None:
        """Call ``take`` with some images, a step, and the inputs of the last of ``layers`` from that step on.

        With ``keep`` off, stored spikes are left unchanged, for another pass of the same layers.
        """
        images_at_once, done = self._images_at_once, 0

        def simulate(start: int) -> None:
            nonlocal done
            images = self._images[start : start + images_at_once]
            for first, inputs in self._received(layers, images, start, keep):
                take(images, first, inputs)
            with self._lock:
                done += len(images)
                progress(done, len(self._images))

        on_cores(self._device, simulate, range(0, len(self._images), images_at_once))

    def _received(
        self, layers: Sequence[DeviceLayer], images: Array, start: int, keep: bool
    ) -> Iterator[tuple[int, Tensor]]:
        """Inputs of the last of ``layers`` for the images at ``start``: a block's first step, and its inputs.

        With constant pixels there is one step.
        """
        blocks = -(-self._timesteps // self._steps_at_once)
        steps = [
            range(self._timesteps)[block * self._steps_at_once :][: self._steps_at_once] for block in range(blocks)
        ]
        if len(layers) == 1:
            for part in steps[:1] if self._inputs.is_constant else steps:
                yield part[0], torch.from_numpy(self._inputs(images, start, part[0], len(part)))
            return
        # The layers to simulate: the last one with thresholds, or all of them if nothing was stored.
        kept = self._store.take(start) if keep else self._store.look(start)
        firing = layers[:-1] if kept is None else layers[-2:-1]
        states = [layer.initial_states(len(images)) for layer in firing]
        entering: Tensor | None = None
        keeping: list[_Packed] | None = None
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
            if keep and len(layers) > 2 and self._device == "cpu":
                packed = _Packed(spikes.numpy())
                if block == 0 and self._store.has_room(blocks * packed.size):
                    keeping = []
                if keeping is not None:
                    keeping.append(packed)
            yield part[0], spikes
        if keeping is not None:
            self._store.put(start, keeping)


class _Packed:
    """The spikes of a block, ``(B, T, H, W, C)``: one bit each unless summed over windows."""

    def __init__(self, spikes: Array) -> None:
        self._shape = spikes.shape
        self._is_bits = spikes.dtype == np.uint8 and int(spikes.max(initial=0)) <= 1
        self._data = np.packbits(spikes) if self._is_bits else spikes

    @property
    def size(self) -> int:
        """Size in bytes."""
        return int(self._data.nbytes)

    def unpacked(self) -> Tensor:
        if not self._is_bits:
            return torch.from_numpy(self._data)
        return torch.from_numpy(np.unpackbits(self._data, count=math.prod(self._shape)).reshape(self._shape))


class _SpikeStore:
    """Stored spikes of one layer, by the first image of each block, for as many images as fit ``memory`` bytes."""

    def __init__(self, memory: int) -> None:
        self._free = memory
        self._blocks: dict[int, list[_Packed]] = {}
        self._lock = threading.Lock()

    def take(self, start: int) -> list[_Packed] | None:
        with self._lock:
            blocks = self._blocks.pop(start, None)
            self._free += sum(block.size for block in blocks or ())
            return blocks

    def look(self, start: int) -> list[_Packed] | None:
        return self._blocks.get(start)

    def has_room(self, size: int) -> bool:
        return size <= self._free

    def put(self, start: int, blocks: list[_Packed]) -> None:
        with self._lock:
            size = sum(block.size for block in blocks)
            if size <= self._free:
                self._free -= size
                self._blocks[start] = blocks
