"""Simulation of a network that grows layer by layer, as balancing needs it: nothing is simulated twice.

While the thresholds of layers 0..l-1 are known, the largest currents of layer l are found; then layer l gets its
thresholds. Each pass over the images fires one layer more, from the spikes of the layer before it, which the pass
before has kept: a bit each, or a byte for each window of a pooling. So a network of L layers takes 2 L synapses' work
instead of L (L + 1) / 2. The first layer's spikes are not kept: a constant current gives them again for almost nothing.
What a maximum over T steps is after fewer steps comes from the same pass.
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
"""Bytes of spikes that are kept; what does not fit is simulated anew from the images."""

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
        Of the neurons.
    poisson_seed
        As in `SpikingNetwork`.
    device
        As in `simulate.Simulator`; spikes are kept on a CPU only.
    whole
        Whether a block takes all steps, as `rate_errors` needs it, however many they are.
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

        Up to each of the steps ``after``, ascending, the last of them at most T. ``fixed`` are the layers with known
        thresholds, one more at each call, from none.
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
        """Return how far the rates of the layer after ``fixed`` are from the CNN's activations.

        For each of ``thresholds`` and ``initial_potentials``, float64 ``(G, C_out)``; see `neurons.rate_errors`.
        ``fixed`` as above; ``correction``, ``(C_out,)``, is added to the layer's bias.
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

        assert self._steps_at_once == self._timesteps, "a rate is one of all steps"
        # Compiled here, by one thread, as in `Neurons`.
        no_currents = np.empty((0, 1, specs[-1].size), np.float32)
        rate_errors(specs[-1], no_currents, no_currents[:, 0], thresholds, initial_potentials, self._timesteps)
        self._pass(layers, take, progress)
        return sums

    def mean_excess(self, fixed: Sequence[SpikingLayer], *, progress: Progress = no_progress) -> Array:
        """Return how much more current the layer after ``fixed`` gets than in the CNN: float64 ``(C_out,)``.

        The mean over images, positions and steps; ``fixed`` is at least one layer. The next call may have the same.
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
        # The currents are without the bias, which the CNN's have.
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
        """Give ``take`` some images, a step, and what the last of ``layers`` receives from that step on.

        With ``keep`` off, the spikes kept before stay what they are, for another pass of the same layers.
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
        """What the last of ``layers`` receives for the images at ``start``: a block's first step, and all its steps.

        Of constant pixels there is one step.
        """
        blocks = -(-self._timesteps // self._steps_at_once)
        steps = [
            range(self._timesteps)[block * self._steps_at_once :][: self._steps_at_once] for block in range(blocks)
        ]
        if len(layers) == 1:
            for part in steps[:1] if self._inputs.is_constant else steps:
                yield part[0], torch.from_numpy(self._inputs(images, start, part[0], len(part)))
            return
        # The layers that must fire: the last one with thresholds, or all of them where nothing was kept.
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
    """The spikes of a block, ``(B, T, H, W, C)``: a bit each where they are not summed over windows."""

    def __init__(self, spikes: Array) -> None:
        self._shape = spikes.shape
        self._is_bits = spikes.dtype == np.uint8 and int(spikes.max(initial=0)) <= 1
        self._data = np.packbits(spikes) if self._is_bits else spikes

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self._data.nbytes)

    def unpacked(self) -> Tensor:
        if not self._is_bits:
            return torch.from_numpy(self._data)
        return torch.from_numpy(np.unpackbits(self._data, count=math.prod(self._shape)).reshape(self._shape))


class _SpikeStore:
    """The spikes of one layer, of as many images as fit ``memory`` bytes, by the first image of a block."""

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
