"""The network of Lava Processes for an exported network; used in the process in which Lava lives, and only there.

One Lava network per run::

    ImageSource -> Conv -> SoftResetIF -> Conv -> SoftResetIF -> Dense -> Integrator or SoftResetIF

Conv and Dense answer one step later, so layer i (from 0) does its local step t = 1..T of image k at global step
kT + t + i + 1, and starts each image by a reset of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from loihi_convert import loihi
from loihi_convert.backends.run_folder import RunFolder
from loihi_convert.network import QuantizedLayer, QuantizedNetwork
from loihi_convert.synapse import Array, Conv, Dense, Shape


def build(network: QuantizedNetwork, folder: RunFolder, timesteps: int, trace: bool) -> Any:
    """Connect the Lava Processes of ``network``; return the first of them."""
    from loihi_convert.backends.lava_processes.neurons import Integrator, SoftResetIF
    from loihi_convert.backends.lava_processes.source import ImageSource

    shapes = (network.input_shape, *network.shapes)
    synapses = [_synapse_process(layer, shape) for layer, shape in zip(network.layers, shapes[:-1], strict=True)]
    source = ImageSource(
        shape=synapses[0].s_in.shape, images=str(folder.images), timesteps=timesteps, steps=str(folder.steps)
    )
    processes = [source]
    output, last, fan_outs = source.s_out, len(network.layers) - 1, network.fan_outs
    for index, (layer, synapse) in enumerate(zip(network.layers, synapses, strict=True)):
        shape = network.shapes[index]
        bias = np.zeros(1, np.int32) if layer.bias is None else layer.bias.transpose()
        timing: dict[str, Any] = {"reset": network.reset, "reset_interval": timesteps, "reset_offset": index + 2}
        output.connect(synapse.s_in)
        if layer.neuron is None:
            neuron = Integrator(shape=shape, bias=bias, potentials=str(folder.potentials), **timing)
        else:
            recorded = (folder.output_spikes, folder.potentials) if index == last else folder.layer_trace(index)
            neuron = SoftResetIF(
                shape=shape[::-1],
                output_shape=shape if index == last else synapses[index + 1].s_in.shape,
                threshold=layer.neuron.threshold,
                initial_potential=layer.neuron.initial_potential,
                bias=bias,
                fan_out=fan_outs[index].transpose(),
                column=index,
                spike_counts=str(folder.spike_counts),
                synaptic_operations=str(folder.synaptic_operations),
                trace=tuple(map(str, recorded)) if trace or index == last else (),
                **timing,
            )
            output = neuron.s_out
        synapse.a_out.connect(neuron.a_in)
        processes += [synapse, neuron]
    for process in processes:
        process.proc_params["failure"] = str(folder.failure)
    return source


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
        weight=_conv_weight(synapse),
        input_shape=input_shape[::-1],
        padding=synapse.padding[::-1],
        stride=synapse.stride[::-1],
        dilation=synapse.dilation[::-1],
        groups=synapse.groups,
        num_message_bits=message_bits,
    )


def _conv_weight(synapse: Conv) -> Array:
    """(C_out, C_in / groups, K_h, K_w) as Lava has it: (C_out, K_w, K_h, C_in / groups), both kernel axes flipped."""
    return synapse.weight.transpose(0, 3, 2, 1)[:, ::-1, ::-1]


def _dense_weights(synapse: Dense, input_shape: Shape) -> Array:
    """Columns from C, H, W order to Lava's W, H, C order."""
    by_axis = synapse.weight.reshape(-1, *input_shape)
    return by_axis.transpose(0, *range(len(input_shape), 0, -1)).reshape(synapse.weight.shape)
