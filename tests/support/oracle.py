"""The definition of a `QuantizedNetwork`'s results in int64 and plain loops: slow, but short enough to verify."""

from __future__ import annotations

import itertools

import numpy as np

from loihi_convert.backends.result import RunResult
from loihi_convert.ground.arrays import Array, Pair
from loihi_convert.ground.choices import Reset
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedNetwork, poisson_spikes
from loihi_convert.ir.synapse import Conv, Synapse

# Soft reset counts in weight units; hard reset is Lava's LIF, which counts in 1/64 of them: 24 bits of state.
UNIT = {"soft": 1, "hard": 64}
LIMIT = {"soft": 2**17 - 1, "hard": 2**23 - 1}


def run(network: QuantizedNetwork, images: Array, timesteps: int) -> tuple[list[Array], list[Array]]:
    """Return every layer's potentials, int64 ``(N, T, *shape)``, and every spiking layer's spikes, bool likewise."""
    moments, unit = (len(images), timesteps), UNIT[network.reset]
    potentials = [np.zeros(moments + shape, np.int64) for shape in network.shapes]
    spiking = [shape for layer, shape in zip(network.layers, network.shapes, strict=True) if layer.neuron is not None]
    spikes = [np.zeros(moments + shape, np.bool_) for shape in spiking]
    for image_index, image in enumerate(images):
        membrane = [np.zeros(shape, np.int64) for shape in network.shapes]
        for layer, v in zip(network.layers[: len(spiking)], membrane, strict=False):
            assert layer.neuron is not None
            v += per_channel(layer.neuron.initial_potential, v.ndim) * unit
        for step in range(timesteps):
            signal = first_signal(network, image, image_index, step)
            for layer_index, layer in enumerate(network.layers):
                v, fires = integrated(
                    membrane[layer_index], current(layer.synapse, signal), layer.neuron, network.reset
                )
                if fires is not None:
                    spikes[layer_index][image_index, step] = fires
                    signal = fires.astype(np.int64)
                membrane[layer_index] = v
                potentials[layer_index][image_index, step] = v // unit
    return potentials, spikes


def run_circuit(
    network: QuantizedNetwork, images: Array, timesteps: int, *, leaks: bool
) -> tuple[list[Array], list[Array], Array]:
    """`run` on stock neurons as in lava/proc/lif/models.py, in units of 1/64; also which images wrapped, bool ``(N,)``.

    With ``leaks``, du = 0 and u loses 1/4096 in each step; otherwise du = -1 and u does not decay.
    """
    moments = (len(images), timesteps)
    potentials = [np.zeros(moments + shape, np.int64) for shape in network.shapes]
    spikes = [np.zeros(moments + shape, np.bool_) for shape in network.shapes[: len(network.spiking_layers)]]
    has_wrapped = np.zeros(len(images), np.bool_)
    for image_index, image in enumerate(images):
        us = [np.zeros(shape, np.int64) for shape in network.shapes]
        fired = [np.zeros(shape, np.int64) for shape in network.shapes]
        for step in range(timesteps):
            signal = first_signal(network, image, image_index, step)
            for index, layer in enumerate(network.layers):
                us[index], fires, potential, wraps = integrated_by_circuit(
                    us[index], fired[index], current(layer.synapse, signal), layer.neuron, leaks=leaks
                )
                has_wrapped[image_index] |= wraps
                if layer.neuron is not None:
                    signal = fired[index] = fires
                    spikes[index][image_index, step] = fires
                potentials[index][image_index, step] = potential
    return potentials, spikes, has_wrapped


def integrated(v: Array, arrived: Array, neuron: IntegerNeuron | None, reset: Reset) -> tuple[Array, Array | None]:
    """A step of neurons with soft or hard reset: V in `UNIT`, and who fires, ``None`` without neurons."""
    unit, limit = UNIT[reset], LIMIT[reset]
    v = np.clip(v + arrived * unit, -limit, limit)
    if neuron is None:
        return v, None
    threshold = per_channel(neuron.threshold, v.ndim)
    fires = v > (threshold - 1) * unit
    return np.where(fires, v - threshold if reset == "soft" else 0, v), fires


def integrated_by_circuit(
    u: Array, fired: Array, arrived: Array, neuron: IntegerNeuron | None, *, leaks: bool
) -> tuple[Array, Array, Array, bool]:
    """A step of the circuit: u in 1/64, who fires (int64), the potential, and whether u has wrapped."""
    threshold = level = initial = np.zeros(1, np.int64)
    if neuron is not None:
        threshold, initial = (per_channel(each, u.ndim) for each in (neuron.threshold, neuron.initial_potential))
        level = threshold - 1 - initial
    # (|u| * 4095) >> 12, with u's sign, or all of u.
    left = np.sign(u) * (np.abs(u) * (4095 if leaks else 4096) // 4096)
    # The input: the synapse's current, and the self synapse's current from the spikes of the last step.
    total = left + 64 * (arrived - threshold * fired)
    wraps = bool(((total > 2**23) | (total <= -(2**23))).any())
    u = np.where(total > 2**23, total - 2**24, total)
    u = np.where(total <= -(2**23), total + 2**24, u)
    fires = np.zeros_like(fired) if neuron is None else (u > 64 * level).astype(np.int64)
    return u, fires, (u + 64 * (initial - threshold * fires)) // 64, wraps


def first_signal(network: QuantizedNetwork, image: Array, image_index: int, step: int) -> Array:
    """Return the input for an image at a step, int64 of its shape."""
    if network.poisson_seed is None:
        signal: Array = np.rint(image / 255 * (2**network.pixel_bits - 1))
    else:
        signal = poisson_spikes(image[None], network.poisson_seed, image_index, step, 1)[0, 0]
    return signal.astype(np.int64)


def assert_equal(
    network: QuantizedNetwork,
    images: Array,
    result: RunResult,
    timesteps: int,
    *,
    is_stock: bool = False,
    leaks: bool = False,
) -> None:
    """Check every integer of a traced or untraced run against the oracle: potentials, spikes and both counts."""
    if is_stock:
        potentials, spikes, has_wrapped = run_circuit(network, images, timesteps, leaks=leaks)
        assert result.wrapped_images in (None, has_wrapped.sum())
    else:
        potentials, spikes = run(network, images, timesteps)
        assert result.wrapped_images is None
    assert np.array_equal(result.potentials, potentials[-1])
    assert (result.output_spikes is not None) == (network.readout == "spikes") == (len(spikes) == len(network.layers))
    if result.output_spikes is not None:
        assert np.array_equal(result.output_spikes, spikes[-1])
        assert np.array_equal(result.outputs, spikes[-1].cumsum(axis=1))
    for index, trace in enumerate(result.traces):
        assert np.array_equal(trace.potentials, potentials[index]), index
        if trace.spikes is not None:
            assert np.array_equal(trace.spikes, spikes[index]), index
    for index, fired in enumerate(spikes):
        per_step = fired.reshape(len(images), timesteps, -1)
        assert np.array_equal(result.spike_counts[:, :, index], per_step.sum(axis=2))
        if result.channel_spikes:
            per_channel_spikes = fired.sum(axis=(0, *range(3, fired.ndim)))
            assert np.array_equal(result.channel_spikes[index], per_channel_spikes), index
        if index + 1 < len(network.layers):
            fan_out = network.layers[index + 1].synapse.fan_out(network.shapes[index]).ravel()
            assert np.array_equal(result.synaptic_operations[:, :, index], (per_step * fan_out).sum(axis=2))
        else:
            assert not result.synaptic_operations[:, :, index].any()


def current(synapse: Synapse, signal: Array) -> Array:
    """Return the int64 input current: sum-pool, then convolve or multiply, then add the bias."""
    if synapse.pool != (1, 1):
        signal = sum_pool(signal, synapse.pool)
    weight = synapse.weight.astype(np.int64)
    total = convolve(synapse, weight, signal) if isinstance(synapse, Conv) else weight @ signal.ravel()
    if synapse.bias is not None:
        bias = synapse.bias.astype(np.int64)
        total = total + (per_channel(bias, total.ndim) if bias.ndim == 1 else bias)
    return total


def sum_pool(signal: Array, pool: Pair) -> Array:
    channels, height, width = signal.shape
    pooled = np.zeros((channels, height // pool[0], width // pool[1]), np.int64)
    for y, x in itertools.product(range(pooled.shape[1]), range(pooled.shape[2])):
        window = signal[:, y * pool[0] : (y + 1) * pool[0], x * pool[1] : (x + 1) * pool[1]]
        pooled[:, y, x] = window.sum(axis=(1, 2))
    return pooled


def convolve(conv: Conv, weight: Array, signal: Array) -> Array:
    padded = np.pad(signal, ((0, 0), (conv.padding[0],) * 2, (conv.padding[1],) * 2))
    outputs, inputs_per_group, kernel_h, kernel_w = weight.shape
    dilation_h, dilation_w = conv.dilation
    height = (padded.shape[1] - dilation_h * (kernel_h - 1) - 1) // conv.stride[0] + 1
    width = (padded.shape[2] - dilation_w * (kernel_w - 1) - 1) // conv.stride[1] + 1
    total = np.zeros((outputs, height, width), np.int64)
    for out, y, x in itertools.product(range(outputs), range(height), range(width)):
        first = out // (outputs // conv.groups) * inputs_per_group
        top, left = y * conv.stride[0], x * conv.stride[1]
        window = padded[
            first : first + inputs_per_group,
            top : top + dilation_h * kernel_h : dilation_h,
            left : left + dilation_w * kernel_w : dilation_w,
        ]
        total[out, y, x] = (weight[out] * window[:, :kernel_h, :kernel_w]).sum()
    return total


def per_channel(values: Array, axes: int) -> Array:
    """Return ``(C,)`` as ``(C, 1, ...)`` with ``axes`` axes."""
    return values.astype(np.int64).reshape(-1, *(1,) * (axes - 1))
