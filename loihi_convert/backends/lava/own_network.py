"""The network of Lava Processes for an exported network, with custom neurons.

Used only in the process that runs Lava.

One Lava network per run, in one of two layouts. `processes`, one image at a time, with Lava's own Conv and Dense::

    ImageSource -> Conv -> SoftResetIF -> Conv -> SoftResetIF -> Dense -> Integrator or SoftResetIF

`layers`, in batches of B images, with custom Processes only::

    ImageSource -> SpikingLayer -> SpikingLayer -> IntegratingLayer or SpikingLayer

`timing.py` defines when each layer processes each image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from loihi_convert.backends.lava.exchange import LavaFiles
from loihi_convert.backends.lava.lava_types import Process
from loihi_convert.backends.lava.synapse_processes import batch_synapse, message_bits, synapse_process
from loihi_convert.ground.choices import LavaLayout
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import QuantizedNetwork


def build(
    network: QuantizedNetwork,
    folder: LavaFiles,
    timesteps: int,
    *,
    trace: bool,
    neuron: NeuronModel,
    layout: LavaLayout,
    batch_size: int,
    first_image: int,
) -> Process:
    """Connect the Lava Processes of ``network``; return the first one."""
    neurons = [
        _neuron_parameters(network, index, folder, timesteps, trace, neuron) for index in range(len(network.layers))
    ]
    images = {
        "images": str(folder.images),
        "timesteps": timesteps,
        "interval": timesteps,
        "poisson_seed": network.poisson_seed,
        "first_image": first_image,
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
    network: QuantizedNetwork, index: int, folder: LavaFiles, timesteps: int, trace: bool, neuron: NeuronModel
) -> dict[str, Any]:
    """Parameters of a layer's neurons, in Lava's axes, and their recording."""
    layer = network.layers[index]
    zero = np.zeros(1, np.int32)
    parameters = {
        "shape": network.shapes[index][::-1],
        "bias": zero if layer.bias is None else layer.bias.transpose(),
        "initial_potential": zero if layer.neuron is None else layer.neuron.initial_potential,
        "neuron": neuron,
        "recording": folder.recording(network, index, timesteps, trace, interval=timesteps),
    }
    return parameters if layer.neuron is None else {**parameters, "threshold": layer.neuron.threshold}


def _processes(network: QuantizedNetwork, images: dict[str, Any], neurons: list[dict[str, Any]]) -> list[Process]:
    """Two Processes per layer, for one image at a time."""
    from loihi_convert.backends.lava.processes.image_source import ImageSource
    from loihi_convert.backends.lava.processes.neuron_processes import Integrator, SoftResetIF

    input_shapes = (network.input_shape, *network.shapes[:-1])
    synapses = [
        synapse_process(layer.synapse, shape, message_bits(layer))
        for layer, shape in zip(network.layers, input_shapes, strict=True)
    ]
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
) -> list[Process]:
    """One Process per layer, for batches of ``batch_size`` images."""
    from loihi_convert.backends.lava.processes.image_source import ImageSource
    from loihi_convert.backends.lava.processes.layer_processes import IntegratingLayer, SpikingLayer

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
