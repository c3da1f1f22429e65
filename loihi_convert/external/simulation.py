"""Backend `ref` for networks of other tools: images -> potentials, or outputs, and spikes of lava-dl's network.

Uint8 images become the integers that enter, normalized as in lava-dl. CUBA networks are simulated here, step by step,
in the integers of Lava's CPU models (equations: see `readers`), sigma-delta networks by `backends.reference`.

Like Lava's CPU models, this file computes in NumPy's int32: each line of `lif_step` corresponds to a line in
``AbstractPyLifModelFixed.subthr_dynamics`` of ``lava/proc/lif/models.py``. Weighted sums fit int32:
`readers` refuses a layer in which one could reach 2^31.

Time is local to a layer: on Lava, layer l performs its step t at the global step t + l, and starts from 0 there if
lava-dl's ``reset_interval`` is T.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.backends.result import RunResult, require_result_size
from loihi_convert.chip import limits
from loihi_convert.errors import DataError, InputError, RangeError, UsageError
from loihi_convert.external.readers import CubaNetwork, CubaNeuron
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ground.progress import current_progress
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.synapse import PixelBias
from loihi_convert.simulation.graded import bias_of, weighted

# Largest number of images x neurons of the largest layer simulated at once.
_BLOCK: Final = 2**21


def run_cuba(
    network: CubaNetwork,
    images: Array,
    timesteps: int,
    *,
    normalization: Normalization | None = None,
) -> RunResult:
    """Run uint8 ``images``, ``(N, C, H, W)``, for ``timesteps`` steps each.

    ``normalization`` is by default `DEFAULT_NORMALIZATION`. The result has the same form as from other backends;
    ``potentials`` are in whole weight units, rounded down.
    """
    has_input_neurons = isinstance(network.layers[0].synapse, PixelBias)
    if not has_input_neurons and normalization is not None:
        raise UsageError(
            "`mean` and `std` given for a network without input neurons", expected="its pixels enter as 0..255"
        )
    normalization = normalization or DEFAULT_NORMALIZATION
    if timesteps < 1:
        raise UsageError(f"found {timesteps}", where="timesteps", expected="must be at least 1")
    require_images(network, images, normalization)
    require_result_size(network, len(images), timesteps)
    started, progress = time.perf_counter(), current_progress()
    result, fan_outs = RunResult.unfilled(network, len(images), timesteps), network.fan_outs
    images_at_once = max(1, _BLOCK // max(math.prod(shape) for shape in network.shapes))
    ready = time.perf_counter()
    for first in range(0, len(images), images_at_once):
        rows = slice(first, min(first + images_at_once, len(images)))
        inputs = pixel_inputs(network, images[rows], normalization)
        for step, layers in enumerate(simulate(network, inputs, timesteps)):
            result.potentials[rows, step] = (layers[-1].v >> limits.UNIT_EXP).reshape(len(inputs), -1)
            if result.output_spikes is not None:
                result.output_spikes[rows, step] = layers[-1].spikes.reshape(len(inputs), -1)
            for index, fan_out in enumerate(fan_outs):
                result.count(rows, step, index, layers[index].spikes, fan_out)
        progress(rows.stop, len(images))
    return replace(result, seconds=time.perf_counter() - ready, startup_seconds=ready - started)


_LIMIT: Final = limits.LIF_STATE_LIMIT


class LayerStep(NamedTuple):
    """One layer after one step: int32 ``(B, *shape)`` in units of 1/64 weight, and its spikes, bool."""

    u: Array
    v: Array
    spikes: Array


def simulate(network: CubaNetwork, inputs: Array, timesteps: int) -> Iterator[tuple[LayerStep, ...]]:
    """Yield every layer after each of ``timesteps`` steps.

    Parameters
    ----------
    network
        The network.
    inputs
        Integers ``(B, *input_shape)``, the same at every step: the biases of input neurons or, if the network begins
        with a synapse, graded spikes.
    timesteps
        T.
    """
    states = [
        LayerStep(*(np.zeros((len(inputs), *shape), dtype) for dtype in (np.int32, np.int32, np.bool_)))
        for shape in network.shapes
    ]
    for _ in range(timesteps):
        received = inputs
        for index, layer in enumerate(network.layers):
            if isinstance(layer.synapse, PixelBias):
                current, bias = np.zeros(inputs.shape, np.int32), inputs.astype(np.int32)
            else:
                current = np.right_shift(weighted(layer.synapse, received), layer.weight_shift)
                bias = bias_of(layer.synapse, states[index].u.ndim)
            states[index] = lif_step(layer.neuron, states[index].u, states[index].v, current, bias)
            received = states[index].spikes
        yield tuple(states)


def lif_step(neuron: CubaNeuron, u: Array, v: Array, current: Array, bias: Array) -> LayerStep:
    """Return the state one step after ``u`` and ``v``; ``current`` and ``bias`` are in weight units."""
    u = _decayed(u, neuron.i_decay) + np.left_shift(current, limits.UNIT_EXP)
    u = np.where(u > _LIMIT, u - 2 * _LIMIT, np.where(u <= -_LIMIT, u + 2 * _LIMIT, u))
    v = _decayed(v, neuron.v_decay) + u + np.left_shift(bias, limits.UNIT_EXP)
    v = np.clip(v, -_LIMIT + 1, _LIMIT - 1)
    spikes = v > np.left_shift(neuron.v_th_mant, limits.UNIT_EXP)
    return LayerStep(u, np.where(spikes, np.int32(0), v), spikes)


def _decayed(state: Array, decay: int) -> Array:
    """``state`` x (4096 - decay) / 4096, rounded towards 0: int32."""
    product = state.astype(np.int64) * (limits.MAX_DECAY - decay)
    return np.asarray(np.sign(product) * (np.abs(product) >> limits.DECAY_BITS), np.int32)


DEFAULT_NORMALIZATION: Final = Normalization((0.5,), (0.5,))
"""To -1..1, as in lava-dl's test networks."""


def require_images(network: CubaNetwork | GradedNetwork, images: Array, normalization: Normalization) -> None:
    """Raise unless ``images`` can be run on ``network`` with this ``normalization``.

    Raises
    ------
    InputError
        If the images do not fit the network, or the last layer has maps, which give no class.
    UsageError
        As in `Normalization.per_channel`.
    """
    shape = network.input_shape
    found = images.shape[1:]
    # Pixels enter a network with flat inputs in C, H, W order.
    fits = found == shape or (len(shape) == 1 and math.prod(found) == shape[0])
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) < 1 or not fits:
        axes = ", ".join(map(str, shape))
        expected = f"must be uint8 of shape (N, {axes}){' or of as many pixels' if len(shape) == 1 else ''}, N >= 1"
        raise DataError(f"{images.dtype} of shape {images.shape}", where="images", expected=expected)
    if math.prod(network.shapes[-1]) != network.shapes[-1][0]:
        raise InputError(
            f"maps of shape {network.shapes[-1]} in the last layer",
            where=network.layers[-1].name,
            expected="must have one neuron per class",
        )
    normalization.per_channel(found[0], is_shape_known=True)


def pixel_inputs(network: CubaNetwork | GradedNetwork, images: Array, normalization: Normalization) -> Array:
    """Return what enters a network for uint8 images ``(N, C, H, W)``, checked by `require_images`: int32
    ``(N, *input_shape)``.

    Input neurons get ``trunc(weight x + bias)`` with x = (pixel / 255 - mean) / std. A synapse gets the pixels, 0..255,
    as 8-bit graded spikes.
    """
    require_images(network, images, normalization)
    synapse, values = network.layers[0].synapse, images.astype(np.float64)
    if isinstance(synapse, PixelBias):
        mean, std = (np.array(numbers).reshape(-1, 1, 1) for numbers in normalization)
        x = (values / 255 - mean) / std
        values = np.trunc(synapse.weight * x + synapse.bias)
        limit = limits.LIF_BIAS_LIMIT
        if isinstance(network, GradedNetwork):
            limit = limits.CURRENT_LIMIT >> (network.spike_exp + limits.SIGMA_DELTA_STATE_EXP)
        if (largest := np.abs(values).max(initial=0)) > limit:
            raise RangeError(
                f"a pixel bias of magnitude {largest:,.0f} (weight {synapse.weight:,}, bias {synapse.bias:,})",
                where=network.layers[0].name,
                expected=f"must be at most {limit:,}, or Lava wraps; a larger `std` makes it smaller",
            )
    return values.astype(np.int32).reshape(len(images), *network.input_shape)
