"""Simulation of a network that grows layer by layer, as in balancing, without simulating anything twice.

Once the thresholds of layers 0..l-1 are known, the currents of layer l are computed; then layer l gets its thresholds.
Each pass over the images simulates one more layer, from the spikes of the layer before it, which the previous pass
stored: one bit each, or one byte per window of a pooling. So a network of L layers takes the work of 2 L synapses
instead of L (L + 1) / 2. The first layer's spikes are not stored: a constant current reproduces them at almost no cost.
The CNN's activations are stored likewise, and the currents from which thresholds or initial potentials were fitted.

Results depend neither on the number of cores nor on the shards of images, if workers compute them: images are divided
into blocks in the same way everywhere, and sums of blocks are added in their order.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Final, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Reset
from loihi_convert.ground.progress import quiet
from loihi_convert.ir.network import ReluNetwork, SpikingLayer, SpikingNetwork
from loihi_convert.simulation.currents import Inputs, pooled_maps, sum_pool, summed_currents
from loihi_convert.simulation.image_shards import (
    SHARDS_PER_WORKER,
    DividedImages,
    ImageArray,
    Shard,
    block_multiple,
    float_block_size,
    on_cores,
)
from loihi_convert.simulation.layers import (
    DeviceLayer,
    LayerSpec,
    RateErrors,
    Recording,
    float_specs,
    layers_on,
    rate_errors,
)
from loihi_convert.simulation.relu import ReluChain, on_blocks

MEMORY: Final = 2**31
"""Most bytes of spikes, currents and activations stored; the rest is computed again from the images."""

_Found = TypeVar("_Found")


@dataclass(eq=False)
class GrowingSimulation:
    """The layers of ``network`` with known thresholds, on ``images``, for ``timesteps`` steps.

    ``fixed`` are the layers with known thresholds: none at the first call, then the same or more at each call.

    Parameters
    ----------
    network
        The CNN.
    images
        uint8 ``(N, C, H, W)``; `DividedImages` are simulated by their workers.
    timesteps
        T.
    reset
        Reset of the neurons.
    poisson_seed
        As in `SpikingNetwork`.
    device
        As in `simulator.Simulator`; spikes and currents are stored only on a CPU.
    whole
        Whether a block contains all steps, as `rate_errors` requires.
    most_images
        Number of images, for each layer, that `rate_errors` and `mean_excess` use: the first ones, rounded up to whole
        blocks. Default: all.
    memory
        See `MEMORY`.
    name
        Differs from that of any other simulation.
    """

    network: ReluNetwork
    images: ImageArray
    timesteps: int
    reset: Reset
    _: KW_ONLY
    poisson_seed: int | None = None
    device: str = "cpu"
    whole: bool = False
    most_images: Sequence[int] | None = None
    memory: int = MEMORY
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self._part: LayerwisePart | None = None
        self._activation_sums: list[Array] = []

    def largest_currents(self, fixed: Sequence[SpikingLayer]) -> Array:
        """Return the largest current of each channel of the layer after ``fixed``: float64 ``(C_out,)``."""
        return np.asarray(np.maximum.reduce(self._of_parts(LayerwisePart.largest_currents, fixed)))

    def rate_errors(
        self,
        fixed: Sequence[SpikingLayer],
        thresholds: Array,
        initial_potentials: Array,
        *,
        correction: Array | None = None,
    ) -> RateErrors:
        """Return `layers.rate_errors` of the layer after ``fixed``, ``correction``, ``(C_out,)``, added to its bias,
        against the CNN's activations."""
        assert self.whole, "a rate needs all steps"
        parts = self._of_parts(LayerwisePart.rate_errors, fixed, thresholds, initial_potentials, correction)
        return total(itertools.chain.from_iterable(parts))

    def mean_excess(self, fixed: Sequence[SpikingLayer]) -> Array:
        """Return the mean excess of the current of the layer after ``fixed`` over the CNN's: float64 ``(C_out,)``.

        The mean is over images, positions and steps; ``fixed`` has at least one layer. Currents are linear in the
        spikes, so that those of the summed spikes are enough, and likewise for the CNN.
        """
        image_count = self.used(len(fixed), 0, len(self.images))
        # Sums of whole numbers, exact in any order.
        spikes = total(self._of_parts(LayerwisePart.summed_spikes, fixed))
        if not self._activation_sums:
            with quiet():
                parts = self._of_parts(LayerwisePart.summed_activations)
            self._activation_sums = [total(itertools.chain.from_iterable(sums)) for sums in zip(*parts, strict=True)]
        last = self.specs(fixed)[-1]
        own = self.network.layers[len(fixed)].synapse
        found = summed_currents(last.synapse, last.input_shape, spikes / self.timesteps)
        wanted = summed_currents(own, last.input_shape, self._activation_sums[len(fixed) - 1])
        return np.asarray((found - wanted) / (image_count * (last.size // own.channels)))

    def used(self, index: int, first: int, count: int) -> int:
        """Return how many of ``count`` images from ``first`` on are among the ``most_images`` of layer ``index``."""
        if self.most_images is None:
            return count
        unit = block_multiple(self.device)
        return min(count, max(0, -(-self.most_images[index] // unit) * unit - first))

    def specs(self, fixed: Sequence[SpikingLayer], correction: Array | None = None) -> list[LayerSpec]:
        """Return the layers ``fixed`` and the one after it."""
        layer = self.network.layers[len(fixed)]
        synapse = layer.synapse if correction is None else layer.synapse.with_added_bias(correction)
        layers = (*fixed, SpikingLayer(layer.name, synapse, None))
        shape, seed = self.network.input_shape, self.poisson_seed
        return float_specs(SpikingNetwork(shape, layers, self.timesteps, self.reset, poisson_seed=seed))

    def place(self, shard: Shard) -> tuple[str, int]:
        """Return where a worker keeps the part of ``shard``."""
        return self.name, shard.first

    def _of_parts(self, method: Callable[..., _Found], *arguments: object) -> list[_Found]:
        """What ``method`` of `LayerwisePart` gives for each part of the images, in order."""
        plan = replace(self, images=np.empty(0))
        if isinstance(self.images, DividedImages):
            return self.images.map(_called, (plan, method, arguments), place=self.place)
        if self._part is None:
            self._part = LayerwisePart(plan, Shard(0, np.asarray(self.images)))
        return [method(self._part, *arguments)]


def _called(
    call: tuple[GrowingSimulation, Callable[..., _Found], tuple[object, ...]],
    shard: Shard,
) -> _Found:
    """Call a method of the part of ``shard``, which this process keeps for the next call, together with few others."""
    plan, method, arguments = call
    place = plan.place(shard)
    with _KEPT_LOCK:
        part = _KEPT.pop(place, None)
        if part is None:
            part = LayerwisePart(replace(plan, memory=plan.memory // _MOST_KEPT), shard)
        _KEPT[place] = part
        while len(_KEPT) > _MOST_KEPT:
            _KEPT.pop(next(iter(_KEPT)))
    return method(part, *arguments)


# In a worker: parts by their place, the one used last at the end. Any may be lost: it is then simulated again.
_MOST_KEPT: Final = 2 * SHARDS_PER_WORKER
_KEPT: Final[dict[tuple[str, int], LayerwisePart]] = {}
_KEPT_LOCK: Final = threading.Lock()


class LayerwisePart:
    """The simulation of consecutive images, and what is kept of them from one pass to the next."""

    def __init__(self, plan: GrowingSimulation, shard: Shard) -> None:
        self._plan, self._images, self._first_image = plan, np.asarray(shard.images), shard.first
        self._inputs = Inputs(plan.network.layers[0].synapse.pool, plan.poisson_seed)
        largest = max(math.prod(shape) for shape in (plan.network.input_shape, *plan.network.shapes))
        self._images_at_once, self._steps_at_once = float_block_size(plan.device, largest, plan.timesteps)
        if plan.whole:
            self._steps_at_once = plan.timesteps
        self._lock = threading.Lock()
        self._spikes = BlockStore[list[Packed]](plan.memory // 2)
        # Of `rate_errors`: once the layer has its thresholds, the same currents make it fire.
        self._currents = BlockStore[Tensor](plan.memory // 4 if plan.device == "cpu" else 0)
        self._activations = BlockStore[Array](plan.memory // 4)

    def largest_currents(self, fixed: Sequence[SpikingLayer]) -> Array:
        """See `GrowingSimulation.largest_currents`."""
        specs = self._plan.specs(fixed)
        layers, last = layers_on(self._plan.device, specs), specs[-1]
        largest = np.full(last.size, -np.inf, np.float32)

        def take(_: int, inputs: Tensor) -> None:
            highest = layers[-1].currents_of(inputs).reshape(-1, last.size).amax(0).cpu().numpy()
            with self._lock:
                np.maximum(largest, highest, out=largest)

        self._pass(layers, take)
        return np.asarray((largest + last.neurons.bias).reshape(-1, last.synapse.channels).max(axis=0), np.float64)

    def rate_errors(
        self,
        fixed: Sequence[SpikingLayer],
        thresholds: Array,
        initial_potentials: Array,
        correction: Array | None,
    ) -> list[RateErrors]:
        """See `GrowingSimulation.rate_errors`; for each group of images."""
        specs, timesteps = self._plan.specs(fixed, correction), self._plan.timesteps
        layers = layers_on(self._plan.device, specs)
        chain = ReluChain(self._plan.network, depth=len(specs))
        sums = GroupSums[RateErrors](block_multiple(self._plan.device) // self._images_at_once)

        def take(start: int, inputs: Tensor) -> None:
            activations = self._activations_of(chain, start, len(inputs))
            wanted = np.maximum(activations.reshape(len(inputs), -1), 0)
            currents = layers[-1].currents_of(inputs)
            self._currents.put(start, len(specs) - 1, currents, currents.nbytes)
            found = rate_errors(specs[-1], currents.cpu().numpy(), wanted, thresholds, initial_potentials, timesteps)
            sums.add(start // self._images_at_once, found)

        # Compile here, in one thread, as in `Neurons`.
        no_currents = np.empty((0, 1, specs[-1].size), np.float32)
        rate_errors(specs[-1], no_currents, no_currents[:, 0], thresholds, initial_potentials, timesteps)
        self._pass(layers, take, self._used(len(fixed)))
        return sums.groups

    def summed_spikes(self, fixed: Sequence[SpikingLayer]) -> Array:
        """The inputs of the layer after ``fixed``, summed over images and steps: float64 ``(H', W', C)``, exact.

        The images are the ``most_images`` of the layer, as in `summed_activations`.
        """
        specs = self._plan.specs(fixed)
        height, width, channels = pooled_maps(specs[-1].input_shape, specs[-1].synapse.pool)
        found = np.zeros((height, width, channels))

        def take(_: int, inputs: Tensor) -> None:
            counted = inputs.sum((0, 1), dtype=torch.float64).cpu().numpy()
            with self._lock:
                np.add(found, counted, out=found)

        self._pass(layers_on(self._plan.device, specs), take, self._used(len(fixed)))
        return found

    def summed_activations(self) -> list[list[Array]]:
        """Each layer's activations, but the last's, as inputs of the next layer, summed over each group of images.

        float64 ``(H', W', C)``, summed over the windows of the next layer's pooling, too.
        """
        layers, chain = self._plan.network.layers, ReluChain(self._plan.network, len(self._plan.network.layers) - 1)
        blocks = block_multiple("cpu") // chain.images_at_once
        sums = [GroupSums[Array](blocks) for _ in layers[1:]]
        used = [self._used(index) for index in range(1, len(layers))]

        def add(start: int, outputs: list[Array]) -> None:
            for groups, maps, after, count in zip(sums, outputs, layers[1:], used, strict=True):
                if start < count:
                    summed = sum_pool(maps, after.synapse.pool).sum(axis=0, dtype=np.float64)
                    groups.add(start // chain.images_at_once, summed)

        on_blocks(chain, self._images[: max(used, default=0)], add)
        return [groups.groups for groups in sums]

    def _used(self, index: int) -> int:
        return self._plan.used(index, self._first_image, len(self._images))

    def _activations_of(self, chain: ReluChain, start: int, count: int) -> Array:
        """The activations of the last layer of ``chain`` for ``count`` images from ``start``, which are kept."""
        layer, kept = chain.depth - 1, self._activations.look(start)
        images = self._images[start : start + count]
        found = chain(images)[-1] if kept is None else [kept[1], *chain.after(*kept)][-1]
        self._activations.put(start, layer, found, found.nbytes)
        return found

    def _pass(
        self,
        layers: Sequence[DeviceLayer],
        take: Callable[[int, Tensor], None],
        count: int | None = None,
    ) -> None:
        """Call ``take`` with the first of some images, and the inputs of the last of ``layers`` in some steps.

        ``count``: number of images; default: all.
        """

        def simulate(rows: slice) -> None:
            for inputs in self._received(layers, self._images[rows], rows.start):
                take(rows.start, inputs)

        total = len(self._images) if count is None else count
        on_cores(self._plan.device, simulate, total, self._images_at_once)

    def _received(self, layers: Sequence[DeviceLayer], images: Array, start: int) -> Iterator[Tensor]:
        """Inputs of the last of ``layers`` for the images at ``start``, some steps at a time; of one step if they are
        constant pixels."""
        last, timesteps, at_once = len(layers) - 1, self._plan.timesteps, self._steps_at_once
        # What was kept are the inputs of layer ``known``, or its currents in all steps.
        known, kept = self._spikes.look(start) or (0, [])
        fitted, currents = self._currents.look(start) or (-1, torch.empty(0))
        if has_currents := known <= fitted < last:
            known, kept = fitted, []
        is_constant = not kept and self._inputs.is_constant
        states = [layer.initial_states(len(images)) for layer in layers[known:last]]
        keeping: list[Packed] = []
        for block, first in enumerate(range(0, timesteps, at_once)):
            count = min(at_once, timesteps - first)
            if not has_currents and not (block and is_constant):
                if kept:
                    spikes = kept[block].unpacked()
                else:
                    spikes = torch.from_numpy(self._inputs(images, self._first_image + start, first, count))
                if known < last:
                    currents = layers[known].currents_of(spikes)
            elif last == 0:
                return
            for index, (layer, state) in enumerate(zip(layers[known:last], states, strict=True)):
                spikes, _ = layer.fire(state, layer.currents_of(spikes) if index else currents, count, Recording())
            if known < last > 1 and self._plan.device == "cpu":
                keeping.append(Packed(spikes.numpy()))
            yield spikes
        if keeping:
            self._spikes.put(start, last, keeping, sum(packed.size for packed in keeping))


_Kept = TypeVar("_Kept")


class BlockStore(Generic[_Kept]):
    """Values of one layer, by the first image of each block, for as many blocks as fit ``memory`` bytes."""

    def __init__(self, memory: int) -> None:
        self._free = memory
        self._blocks: dict[int, tuple[int, _Kept, int]] = {}
        self._lock = threading.Lock()

    def look(self, start: int) -> tuple[int, _Kept] | None:
        """Return the layer and its values for the block at ``start``; None if they are not kept."""
        found = self._blocks.get(start)
        return None if found is None else found[:2]

    def put(self, start: int, layer: int, value: _Kept, size: int) -> None:
        """Keep ``value``, of ``size`` bytes, in place of the one kept before; if it does not fit, keep neither."""
        with self._lock:
            _, _, before = self._blocks.pop(start, (0, None, 0))
            self._free += before
            if size <= self._free:
                self._free -= size
                self._blocks[start] = layer, value, size


class Packed:
    """Spikes ``(B, T, H, W, C)``: one bit each unless summed over windows."""

    def __init__(self, spikes: Array) -> None:
        self._shape = spikes.shape
        self._is_bits = spikes.dtype == np.uint8 and int(spikes.max(initial=0)) <= 1
        self._data = np.packbits(spikes) if self._is_bits else spikes

    @property
    def size(self) -> int:
        """Size in bytes."""
        return int(self._data.nbytes)

    def unpacked(self) -> Tensor:
        """Return the spikes."""
        if not self._is_bits:
            return torch.from_numpy(self._data)
        return torch.from_numpy(np.unpackbits(self._data, count=math.prod(self._shape)).reshape(self._shape))


_Sum = TypeVar("_Sum")


class GroupSums(Generic[_Sum]):
    """Sums of the values of consecutive blocks, one sum for each group of blocks, in whatever order the values arrive.

    Values are added in the order of their blocks, so that a sum of floating-point numbers has the same bits on any
    number of cores; and groups are the same in any shards of images, so that `total` of all groups has, too.

    Parameters
    ----------
    blocks
        Number of blocks in a group.
    """

    def __init__(self, blocks: int) -> None:
        self._blocks, self._next = blocks, 0
        self._groups: list[_Sum] = []
        self._waiting: dict[int, _Sum] = {}
        self._lock = threading.Lock()

    def add(self, block: int, value: _Sum) -> None:
        """Add the value of ``block``, counted from 0, once those before it have been added."""
        with self._lock:
            self._waiting[block] = value
            while self._next in self._waiting:
                value = self._waiting.pop(self._next)
                if self._next % self._blocks:
                    self._groups[-1] = self._groups[-1] + value  # type: ignore[operator]
                else:
                    self._groups.append(value)
                self._next += 1

    @property
    def groups(self) -> list[_Sum]:
        """The sums, in order."""
        assert not self._waiting, "a value is missing"
        return self._groups


def total(groups: Iterable[_Sum]) -> _Sum:
    """Return the sum of ``groups``, added in their order."""
    return functools.reduce(operator.add, groups)
