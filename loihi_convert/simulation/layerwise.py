"""Simulation of a network that grows layer by layer, as in balancing, without simulating anything twice.

Once the thresholds of layers 0..l-1 are known, the currents of layer l are computed; then layer l gets its thresholds.
Each pass over the images simulates one more layer, from the spikes of the layer before it, which the previous pass
stored: one bit each, or one byte per window of a pooling. So a network of L layers takes the work of 2 L synapses
instead of L (L + 1) / 2. The first layer's spikes are not stored: a constant current reproduces them at almost no cost.
The maxima for smaller T come from the same pass. The CNN's activations are stored likewise, and the currents from which
thresholds or initial potentials were fitted.

Results depend neither on the number of cores nor on the shards of images, if workers compute them: images are divided
into blocks in the same way everywhere, and sums of blocks are added in their order.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar

import numpy as np

from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Reset
from loihi_convert.ground.progress import Progress, no_progress
from loihi_convert.ir.network import ReluNetwork, SpikingLayer
from loihi_convert.simulation.currents import summed_currents
from loihi_convert.simulation.image_shards import SHARDS_PER_WORKER, DividedImages, ImageArray, Shard, on_shards
from loihi_convert.simulation.layerwise_part import LayerwisePart, LayerwisePlan, total
from loihi_convert.simulation.neurons import RateErrors

MEMORY: Final = 2**31
"""Most bytes of spikes, currents and activations stored; the rest is computed again from the images."""

_Arguments = ParamSpec("_Arguments")
_Found = TypeVar("_Found")


class GrowingSimulation:
    """The layers of ``network`` with known thresholds, on ``images``, for ``timesteps`` steps.

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
    """

    def __init__(
        self,
        network: ReluNetwork,
        images: ImageArray,
        timesteps: int,
        reset: Reset,
        *,
        poisson_seed: int | None = None,
        device: str = "cpu",
        whole: bool = False,
        most_images: Sequence[int] | None = None,
        memory: int = MEMORY,
    ) -> None:
        self._network, self._images, self._timesteps = network, images, timesteps
        most = (len(images),) * len(network.layers) if most_images is None else tuple(most_images)
        self._plan = LayerwisePlan(
            uuid.uuid4().hex, network, timesteps, reset, poisson_seed, device, whole, most, memory
        )
        self._part: LayerwisePart | None = None
        self._activation_sums: list[Array] = []

    def largest_currents(
        self, fixed: Sequence[SpikingLayer], after: Sequence[int], *, progress: Progress = no_progress
    ) -> Array:
        """Return the largest current of each channel of the layer after ``fixed``: float64 ``(len(after), C_out)``.

        The maxima are over the steps up to each of ``after``, ascending, at most T. ``fixed`` are the layers with known
        thresholds: none at the first call, then the same or one more at each call.
        """
        return np.asarray(
            np.maximum.reduce(self._of_parts(progress, LayerwisePart.largest_currents, fixed, tuple(after)))
        )

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
        assert self._plan.whole, "a rate needs all steps"
        parts = self._of_parts(progress, LayerwisePart.rate_errors, fixed, thresholds, initial_potentials, correction)
        return total(itertools.chain.from_iterable(parts))

    def mean_excess(self, fixed: Sequence[SpikingLayer], *, progress: Progress = no_progress) -> Array:
        """Return the mean excess of the current of the layer after ``fixed`` over the CNN's: float64 ``(C_out,)``.

        The mean is over images, positions and steps; ``fixed`` has at least one layer. Currents are linear in the
        spikes, so that those of the summed spikes are enough, and likewise for the CNN.
        """
        image_count = self._plan.used(len(fixed), 0, len(self._images))
        # Sums of whole numbers, exact in any order.
        spikes = total(self._of_parts(progress, LayerwisePart.summed_spikes, fixed))
        if not self._activation_sums:
            parts = self._of_parts(no_progress, LayerwisePart.summed_activations)
            self._activation_sums = [total(itertools.chain.from_iterable(sums)) for sums in zip(*parts, strict=True)]
        last = self._plan.specs(fixed)[-1]
        own = self._network.layers[len(fixed)].synapse
        found = summed_currents(last.synapse, last.input_shape, spikes / self._timesteps)
        wanted = summed_currents(own, last.input_shape, self._activation_sums[len(fixed) - 1])
        return np.asarray((found - wanted) / (image_count * (last.size // own.channels)))

    def _of_parts(
        self, progress: Progress, method: Callable[Concatenate[LayerwisePart, Progress, _Arguments], _Found],
        *arguments: _Arguments.args, **named: _Arguments.kwargs,
    ) -> list[_Found]:  # fmt: skip
        """What ``method`` gives for each part of the images, in order."""
        assert not named
        if isinstance(self._images, DividedImages):
            shared = _Call(self._plan, method, arguments)
            return on_shards(_called, shared, self._images, place=self._plan.place, progress=progress)
        if self._part is None:
            self._part = LayerwisePart(self._plan, Shard(0, np.asarray(self._images)))
        return [method(self._part, progress, *arguments, **named)]


@dataclass(frozen=True, eq=False)
class _Call(Generic[_Found]):
    """A call of a method of `LayerwisePart`, without ``progress``."""

    plan: LayerwisePlan
    method: Callable[..., _Found]
    arguments: tuple[Any, ...]


def _called(call: _Call[_Found], shard: Shard, *, progress: Progress = no_progress) -> _Found:
    """Call a method of the part of ``shard``, which this process keeps for the next call, together with few others."""
    place = call.plan.place(shard)
    with _KEPT_LOCK:
        part = _KEPT.pop(place, None)
        if part is None:
            part = LayerwisePart(replace(call.plan, memory=call.plan.memory // _MOST_KEPT), shard)
        _KEPT[place] = part
        while len(_KEPT) > _MOST_KEPT:
            _KEPT.pop(next(iter(_KEPT)))
    return call.method(part, progress, *call.arguments)


# In a worker: parts by their place, the one used last at the end. Any may be lost: it is then simulated again.
_MOST_KEPT: Final = 2 * SHARDS_PER_WORKER
_KEPT: Final[dict[tuple[str, int], LayerwisePart]] = {}
_KEPT_LOCK: Final = threading.Lock()
