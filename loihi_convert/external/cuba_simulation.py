"""CUBA networks, step by step, in the integers of Lava's CPU models (equations: see `cuba`).

Like Lava's CPU models, this file computes in NumPy's int32: each line of `lif_step` corresponds to a line in
``AbstractPyLifModelFixed.subthr_dynamics`` of ``lava/proc/lif/models.py``. Weighted sums fit int32:
`cuba_reader` refuses a layer in which one could reach 2^31.

Time is local to a layer: on Lava, layer l performs its step t at the global step t + l, and starts from 0 there if
lava-dl's ``reset_interval`` is T.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.chip import limits
from loihi_convert.external.cuba import CubaNetwork, CubaNeuron
from loihi_convert.ir.synapse import PixelBias
from loihi_convert.simulation.integer_sums import bias_of, weighted

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
