"""The network of Lava Processes for an exported network; used in the process in which Lava lives, and only there.

One Lava network per run, in one of two layouts. `processes`, one image at a time, Conv and Dense being Lava's own::

    ImageSource -> Conv -> SoftResetIF -> Conv -> SoftResetIF -> Dense -> Integrator or SoftResetIF

`layers`, B images side by side, every Process being ours::

    ImageSource -> SpikingLayer -> SpikingLayer -> IntegratingLayer or SpikingLayer

In both a synapse answers one step later, so layer i (from 0) does its local step t = 1..T of presentation k (one image,
or B) at global step kT + t + i + 1, and starts each presentation by a reset of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from loihi_convert import loihi
from loihi_convert.backends import Layout
from loihi_convert.backends.lava_files import LavaFiles
from loihi_convert.network import QuantizedLayer, QuantizedNetwork
from loihi_convert.synapse import Array, Conv, Dense, Shape, pooled_shape


def build(
    network: QuantizedNetwork, folder: LavaFiles, timesteps: int, *, trace: bool, layout: Layout, batch_size: int
) -> Any:
    """Connect the Lava Processes of ``network``; return the first of them."""
    neurons = [_neuron_parameters(network, index, folder, timesteps, trace) for index in range(len(network.layers))]
    images = {
        "images": str(folder.images),
        "timesteps": timesteps,
        "poisson_seed": network.poisson_seed,
        "steps": str(folder.steps),
    }
    if layout == "layers":
        processes = _layers(network, images, neurons, batch_size)
    else:
        processes = _processes(network, images, neurons)
    for process in processes:
        process.proc_params["failure"] = str(folder.failure)
    return processes[0]


def _neuron_parameters(
    network: QuantizedNetwork, index: int, folder: LavaFiles, timesteps: int, trace: bool
) -> dict[str, Any]:
    """What the neurons of a layer are, in Lava's axes, and where they write what they do."""
    layer, is_last = network.layers[index], index == len(network.layers) - 1
    zero = np.zeros(1, np.int32)
    parameters = {
        "shape": network.shapes[index][::-1],
        "bias": zero if layer.bias is None else layer.bias.transpose(),
        "initial_potential": zero if layer.neuron is None else layer.neuron.initial_potential,
        "reset": network.reset,
        "reset_interval": timesteps,
        "reset_offset": index + 2,
    }
    if layer.neuron is None:
        return {**parameters, "potentials": str(folder.potentials)}
    recorded = (folder.output_spikes, folder.potentials) if is_last else folder.layer_trace(index)
    return {
        **parameters,
        "threshold": layer.neuron.threshold,
        "fan_out": network.fan_outs[index].transpose(),
        "column": index,
        "spike_counts": str(folder.spike_counts),
        "synaptic_operations": str(folder.synaptic_operations),
        "trace": tuple(map(str, recorded)) if trace or is_last else (),
    }


def _processes(network: QuantizedNetwork, images: dict[str, Any], neurons: list[dict[str, Any]]) -> list[Any]:
    """Two Processes per layer, for one image at a time."""
    from loihi_convert.backends.lava_processes.neurons import Integrator, SoftResetIF
    from loihi_convert.backends.lava_processes.source import ImageSource

    input_shapes = (network.input_shape, *network.shapes[:-1])
    synapses = [_synapse_process(layer, shape) for layer, shape in zip(network.layers, input_shapes, strict=True)]
    output_shapes = [*(synapse.s_in.shape for synapse in synapses[1:]), network.shapes[-1]]
    processes: list[Any] = [ImageSource(shape=synapses[0].s_in.shape, batch_size=1, **images)]
    for synapse, output_shape, parameters in zip(synapses, output_shapes, neurons, strict=True):
        processes[-1].s_out.connect(synapse.s_in)
        if "threshold" in parameters:
            neuron = SoftResetIF(output_shape=output_shape, **parameters)
        else:
            neuron = Integrator(**parameters)
        synapse.a_out.connect(neuron.a_in)
        processes += [synapse, neuron]
    return processes


def _layers(
    network: QuantizedNetwork, images: dict[str, Any], neurons: list[dict[str, Any]], batch_size: int
) -> list[Any]:
    """One Process per layer, for ``batch_size`` images side by side."""
    from loihi_convert.backends.lava_processes.layers import IntegratingLayer, SpikingLayer
    from loihi_convert.backends.lava_processes.source import ImageSource

    input_shapes = (network.input_shape, *network.shapes[:-1])
    shape = (batch_size, *network.input_shape[::-1])
    processes: list[Any] = [ImageSource(shape=shape, batch_size=batch_size, **images)]
    for layer, input_shape, parameters in zip(network.layers, input_shapes, neurons, strict=True):
        process = (SpikingLayer if "threshold" in parameters else IntegratingLayer)(
            input_shape=input_shape[::-1],
            synapse=batch_synapse(layer, input_shape, batch_size),
            batch_size=batch_size,
            **parameters,
        )
        processes[-1].s_out.connect(process.s_in)
        processes.append(process)
    return processes


def _synapse_process(layer: QuantizedLayer, input_shape: Shape) -> Any:
    """Lava's Process of one synapse, pooling written out as in the file."""
    from lava.proc.conv.process import Conv as ConvProcess
    from lava.proc.dense.process import Dense as DenseProcess

    synapse = layer.synapse.without_pooling(input_shape)
    # 0 message bits: spikes; more: integers.
    message_bits = 0 if layer.largest_input == 1 else loihi.MAX_PIXEL_BITS
    if isinstance(synapse, Dense):
        return DenseProcess(weights=_dense_weights(synapse, input_shape), num_message_bits=message_bits)
    return ConvProcess(
        # Lava's convolution flips the kernel where PyTorch's does not.
        weight=_conv_weight(synapse)[:, ::-1, ::-1],
        input_shape=input_shape[::-1],
        padding=synapse.padding[::-1],
        stride=synapse.stride[::-1],
        dilation=synapse.dilation[::-1],
        groups=synapse.groups,
        num_message_bits=message_bits,
    )


def batch_synapse(layer: QuantizedLayer, input_shape: Shape, batch_size: int) -> Any:
    """One synapse for a batch: sum-pool, then convolve or multiply, which takes k^2 times fewer products."""
    from loihi_convert.backends.lava_processes.gemm import ConvGemm, DenseGemm

    synapse = layer.synapse
    if isinstance(synapse, Dense):
        return DenseGemm(_dense_weights(synapse, pooled_shape(input_shape, synapse.pool)), pool=synapse.pool[::-1])
    return ConvGemm(
        _conv_weight(synapse),
        input_shape[::-1],
        padding=synapse.padding[::-1],
        stride=synapse.stride[::-1],
        dilation=synapse.dilation[::-1],
        groups=synapse.groups,
        pool=synapse.pool[::-1],
        batch_size=batch_size,
    )


def _conv_weight(synapse: Conv) -> Array:
    """(C_out, C_in / groups, K_h, K_w) in Lava's order (C_out, K_w, K_h, C_in / groups), not yet flipped."""
    return synapse.weight.transpose(0, 3, 2, 1)


def _dense_weights(synapse: Dense, input_shape: Shape) -> Array:
    """Columns from C, H, W order to Lava's W, H, C order; ``input_shape`` as the weights count it."""
    by_axis = synapse.weight.reshape(-1, *input_shape)
    return by_axis.transpose(0, *range(len(input_shape), 0, -1)).reshape(synapse.weight.shape)
