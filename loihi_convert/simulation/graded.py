"""Networks of graded spikes, step by step, in the integers of Lava's CPU models (equations: see `ir.graded`).

Like those models this file computes in NumPy's int32; each line of `layer_step` corresponds to a line of
``lava/proc/sdn/models.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ir.graded import GradedLayer, GradedNetwork
from loihi_convert.ir.synapse import Conv, Dense, PixelBias
from loihi_convert.simulation.currents import Geometry, convolved_by_product, exact_products, onednn_errs


class GradedStep(NamedTuple):
    """One layer after one step, int32 ``(B, *shape)`` each.

    Parameters
    ----------
    sigma
        The sum of all weighted messages so far; in input neurons 0.
    activation
        a; in a layer that sends no messages equal to sigma.
    residue
        r, the part of the change that was below the threshold.
    messages
        m; 0 where nothing is sent.
    leaves_range
        Whether a value of the image, before it wraps, does not fit 24 bits of a current or state or 16 bits of a
        message: bool ``(B,)``.
    """

    sigma: Array
    activation: Array
    residue: Array
    messages: Array
    leaves_range: Array


GradedState = tuple[GradedStep, ...]
"""Every layer after one step."""


def blank_step(shape: Shape) -> GradedStep:
    """Return a layer of ``shape`` before the first step, all 0, for B = 1."""
    return GradedStep(*(np.zeros((1, *shape), np.int32),) * 4, np.zeros(1, np.bool_))


def global_steps(
    network: GradedNetwork, frames: Iterable[Array], start: GradedState | None = None
) -> Iterator[GradedState]:
    """Yield every layer after each global step of Lava, in which a layer receives the messages of the step before.

    ``frames``: the input x of each step, integers ``(B, *input_shape)``; ``start``: the state before, default 0, B = 1.
    """
    state = tuple(map(blank_step, network.shapes)) if start is None else start
    for frame in frames:
        received = (frame, *(layer.messages for layer in state[:-1]))
        state = tuple(
            layer_step(layer, last, messages, network.spike_exp)
            for layer, last, messages in zip(network.layers, state, received, strict=True)
        )
        yield state


def settled_state(network: GradedNetwork) -> GradedState:
    """Return the state, B = 1, in which no message is sent: after an input of 0 for as many steps as there are layers.

    Until then the biases of each layer still change the layers after it. ``leaves_range`` is of all these steps.
    """
    blank = np.zeros((1, *network.input_shape), np.int32)
    steps = list(global_steps(network, [blank] * (len(network.layers) + 1)))
    left = np.any([[layer.leaves_range for layer in step] for step in steps], axis=0)
    return tuple(layer._replace(leaves_range=found) for layer, found in zip(steps[-1], left, strict=True))


def frame_steps(network: GradedNetwork, frames: Iterable[Array], start: GradedState) -> Iterator[GradedState]:
    """Yield every layer after its own step for each frame: on Lava layer l does it l global steps after the input.

    The parameters are those of `global_steps`; ``start`` must be a state in which no message is sent. No state is reset
    between frames.
    """
    state = start
    for frame in frames:
        after: list[GradedStep] = []
        received = frame
        for layer, last in zip(network.layers, state, strict=True):
            after.append(layer_step(layer, last, received, network.spike_exp))
            received = after[-1].messages
        state = tuple(after)
        yield state


def layer_step(layer: GradedLayer, last: GradedStep, received: Array, spike_exp: int) -> GradedStep:
    """Return one layer after the step in which it has ``received`` messages, or inputs, int ``(B, *input_shape)``."""
    unit = spike_exp + limits.SIGMA_DELTA_STATE_EXP
    if isinstance(layer.synapse, PixelBias):
        activation = np.left_shift(received.astype(np.int32), unit)
        sigma = np.zeros_like(activation)
        states = [np.left_shift(received.astype(np.int64), unit)]
    else:
        sums = exact_sums(layer.synapse, received)
        sigma = last.sigma + wrapped(layer.synapse, sums)
        bias = bias_of(layer.synapse, sigma.ndim)
        activation = np.asarray(np.maximum(sigma + np.left_shift(bias, unit), np.int32(0)))
        exact = last.sigma + sums
        states = [sums, exact, np.maximum(exact + np.left_shift(bias.astype(np.int64), unit), 0)]
    leaves_range = np.any([_any_beyond(limits.CURRENT_LIMIT, state) for state in states], axis=0)
    if not layer.sends:
        nothing = np.zeros_like(sigma)
        return GradedStep(sigma, sigma, nothing, nothing, leaves_range)
    delta = activation - last.activation + last.residue
    sent = np.where(np.abs(delta) >= layer.threshold << unit, delta, np.int32(0))
    messages = np.right_shift(sent, limits.SIGMA_DELTA_STATE_EXP)
    leaves_range |= _any_beyond(limits.MESSAGE_LIMIT, messages)
    return GradedStep(sigma, activation, delta - sent, messages, leaves_range)


def _any_beyond(limit: int, values: Array) -> Array:
    """Whether a value of each image is beyond +-``limit``: bool ``(B,)``."""
    return np.asarray(((values < -limit) | (values > limit)).reshape(len(values), -1).any(axis=1))


_EXACT_IN_FLOAT32: Final = 2 ** (np.finfo(np.float32).nmant + 1)


def weighted(synapse: Conv | Dense, inputs: Array) -> Array:
    """Return the current of the synapse for spikes, pixels or messages ``(B, ...)``: int32 ``(B, *shape)``."""
    return wrapped(synapse, exact_sums(synapse, inputs))


def exact_sums(synapse: Conv | Dense, inputs: Array) -> Array:
    """Return the weighted sums before they wrap: int64 ``(B, *shape)``."""
    values = inputs.astype(np.int64)
    if synapse.pool != (1, 1):
        pooled = functional.avg_pool2d(torch.from_numpy(values).double(), synapse.pool, divisor_override=1)
        values = pooled.numpy().astype(np.int64)
    weight = np.abs(synapse.weight.astype(np.int64))
    # Bits of a digit: no sum of weighted digits reaches 2^24, up to which float32 is exact, in any order.
    bits = int(max(1, _EXACT_IN_FLOAT32 // max(1, weight.reshape(len(weight), -1).sum(axis=1).max()))).bit_length() - 1
    if bits < 1:
        return _sums(synapse, values, torch.float64)
    found: Array = np.zeros((), np.int64)
    shift = 0
    while True:
        is_last = bool((np.abs(values) < 1 << bits).all())
        digit = values if is_last else values & ((1 << bits) - 1)
        found = np.asarray(found + (_sums(synapse, digit, torch.float32) << shift))
        if is_last:
            return found
        values, shift = values >> bits, shift + bits


def wrapped(synapse: Conv | Dense, sums: Array) -> Array:
    """Return the current that Lava makes of exact sums: int32."""
    if isinstance(synapse, Conv):
        # signed_clamp in lava/proc/conv/utils.py wraps at 24 bits.
        half = limits.CURRENT_LIMIT + 1
        sums = (sums + half) % (2 * half) - half
    return np.asarray(sums, np.int32)


def bias_of(synapse: Conv | Dense, axes: int) -> Array:
    """Return the bias, int32, in a shape that broadcasts to values of ``axes`` axes, ``(B, *shape)``; 0 if none."""
    bias = np.zeros((), np.int32) if synapse.bias is None else synapse.bias.astype(np.int32)
    # One per channel of maps (B, C, H, W), else one per neuron.
    return bias.reshape(-1, 1, 1) if bias.ndim == 1 and axes == 4 else bias


def _sums(synapse: Conv | Dense, values: Array, dtype: torch.dtype) -> Array:
    """Weighted sums of integers after the pooling: int64."""
    weight, inputs = torch.from_numpy(synapse.weight.astype(np.int64)).to(dtype), torch.from_numpy(values).to(dtype)
    with exact_products():
        if not isinstance(synapse, Conv):
            return functional.linear(inputs.flatten(1), weight).numpy().astype(np.int64)
        geometry = Geometry(synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
        if onednn_errs(geometry, weight.shape[2:], inputs.shape[2:]):
            return convolved_by_product(inputs, weight, geometry).numpy().astype(np.int64)
        return functional.conv2d(inputs, weight, None, *geometry).numpy().astype(np.int64)
