"""The network of Lava Processes for an exported network: with custom neurons, or of graded spikes.

Used only in the process that runs Lava.

One Lava network per run, in one of two layouts. `processes`, one image at a time, with Lava's own Conv and Dense::

    ImageSource -> Conv -> SoftResetIF -> Conv -> SoftResetIF -> Dense -> Integrator or SoftResetIF

`layers`, in batches of B images, with custom Processes only::

    ImageSource -> SpikingLayer -> SpikingLayer -> IntegratingLayer or SpikingLayer

For graded spikes (`build_graded`), Lava's own Processes and its own models with recording::

    ImageSource -> Delta -> Conv -> SigmaDelta -> Dense -> SigmaDelta -> Dense -> Sigma

Images are then one step apart. Before the first one the input is 0 until the network has settled (`ir.graded`); the
models write the settled state back before each image, unless the images are the frames of one sequence.

`timing.py` defines when each layer processes each image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from loihi_convert.backends.lava.exchange import LavaFiles
from loihi_convert.backends.lava.lava_types import GradedProcess, Process, SourceProcess, SynapseProcess, connect
from loihi_convert.backends.lava.timing import settling_steps
from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import LavaLayout
from loihi_convert.ir.graded import GradedLayer, GradedNetwork
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense, PixelBias, pooled_shape

if TYPE_CHECKING:
    from loihi_convert.backends.lava.processes.gemm import ConvGemm, DenseGemm


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
    from loihi_convert.backends.lava.processes.custom import ImageSource, Integrator, SoftResetIF

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
    from loihi_convert.backends.lava.processes.custom import ImageSource, IntegratingLayer, SpikingLayer

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


def message_bits(layer: QuantizedLayer) -> int:
    """Return the bits of a message to ``layer``: 0 for spikes, more for pixels."""
    return 0 if layer.largest_input == 1 else limits.MAX_PIXEL_BITS


def synapse_process(synapse: Conv | Dense, input_shape: Shape, bits: int, *, even: bool = False) -> SynapseProcess:
    """Return Lava's Process for one synapse, with pooling written out as in the file.

    ``bits`` are those of a message: 0 for spikes, more for integers. With ``even`` the weights are those of a synapse
    with both signs on Loihi: even 8-bit numbers -256..254 (``truncate_weights`` in ``lava/utils/weightutils.py``), here
    twice our weights, with ``weight_exp`` -1.
    """
    from lava.proc.conv.process import Conv as ConvProcess
    from lava.proc.dense.process import Dense as DenseProcess
    from lava.utils.weightutils import SignMode

    synapse = synapse.without_pooling(input_shape)
    factor, weight_exp = (2, -1) if even else (1, 0)
    if isinstance(synapse, Dense):
        dense: SynapseProcess = DenseProcess(
            weights=factor * _dense_weights(synapse, input_shape),
            weight_exp=weight_exp,
            sign_mode=SignMode.MIXED,
            num_message_bits=bits,
        )
        return dense
    conv: SynapseProcess = ConvProcess(
        # Lava's convolution flips the kernel where PyTorch's does not.
        weight=factor * _conv_weight(synapse)[:, ::-1, ::-1],
        weight_exp=weight_exp,
        input_shape=input_shape[::-1],
        padding=synapse.padding[::-1],
        stride=synapse.stride[::-1],
        dilation=synapse.dilation[::-1],
        groups=synapse.groups,
        num_message_bits=bits,
    )
    return conv


def synapse_models() -> dict[Any, Any]:
    """Return the models of both: custom ones, which are faster; also, Lava's CPU model of Conv ignores weight_exp."""
    from lava.proc.conv.process import Conv as ConvProcess
    from lava.proc.dense.process import Dense as DenseProcess

    from loihi_convert.backends.lava.processes.lava_models import PyConvModelGemm, PyDenseModelGemv

    return {ConvProcess: PyConvModelGemm, DenseProcess: PyDenseModelGemv}


def batch_synapse(layer: QuantizedLayer, input_shape: Shape, batch_size: int) -> ConvGemm | DenseGemm:
    """Return one synapse for a batch: sum-pool, then convolve or multiply, with k^2 times fewer products."""
    from loihi_convert.backends.lava.processes.gemm import ConvGemm, DenseGemm

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
    """Columns from C, H, W order to Lava's W, H, C order; ``input_shape`` is that of the weights."""
    by_axis = synapse.weight.reshape(-1, *input_shape)
    return by_axis.transpose(0, *range(len(input_shape), 0, -1)).reshape(synapse.weight.shape)


_MESSAGE_BITS: Final = 16


def build_graded(network: GradedNetwork, folder: LavaFiles, *, is_stream: bool, trace: bool) -> Process:
    """Connect the Lava Processes of ``network``; return the first one.

    Parameters
    ----------
    network
        The network.
    folder
        The files of the run.
    is_stream
        Whether the images are the frames of one sequence.
    trace
        Whether to record every layer.
    """
    from loihi_convert.backends.lava.processes.custom import ImageSource

    settling = settling_steps(len(network.layers))
    source: SourceProcess = ImageSource(
        shape=network.input_shape[::-1],
        batch_size=1,
        images=str(folder.images),
        timesteps=1,
        interval=1,
        settling=settling,
        poisson_seed=None,
        first_image=0,
        steps=str(folder.steps),
    )
    processes: list[Process] = [source]
    sent = source.s_out
    input_shapes = (network.input_shape, *network.shapes[:-1])
    for index, (layer, input_shape) in enumerate(zip(network.layers, input_shapes, strict=True)):
        neurons = _neurons(layer, network.shapes[index][::-1], network.spike_exp)
        neurons.proc_params["recording"] = folder.recording(network, index, 1, trace, interval=1, settling=settling)
        neurons.proc_params["is_stream"] = is_stream
        if not isinstance(layer.synapse, PixelBias):
            # On Loihi a Dense with weights of both signs has even ones; Lava's Conv on the CPU ignores weight_exp.
            is_even = isinstance(layer.synapse, Dense)
            synapse = synapse_process(layer.synapse, input_shape, _MESSAGE_BITS, even=is_even)
            connect(sent, synapse.s_in)
            processes.append(synapse)
            sent = synapse.a_out
        connect(sent, neurons.a_in)
        processes.append(neurons)
        sent = neurons.s_out
    for process in processes:
        process.proc_params["failure"] = str(folder.failure)
    return source


def _neurons(layer: GradedLayer, shape: tuple[int, ...], spike_exp: int) -> GradedProcess:
    """The neurons of a layer, of a ``shape`` in Lava's axes."""
    from lava.proc.sdn.process import ActivationMode, Delta, Sigma, SigmaDelta

    neurons: GradedProcess
    exponents = {"spike_exp": spike_exp, "state_exp": limits.SIGMA_DELTA_STATE_EXP}
    if not layer.sends:
        neurons = Sigma(shape=shape)
    elif isinstance(layer.synapse, PixelBias):
        neurons = Delta(shape=shape, vth=layer.threshold, **exponents)
    else:
        bias = np.zeros(1, np.int32) if layer.synapse.bias is None else layer.synapse.bias.astype(np.int32)
        # One per channel, or one per neuron, C, H, W.
        bias = np.broadcast_to(bias.transpose(), shape)
        neurons = SigmaDelta(shape=shape, vth=layer.threshold, bias=bias, act_mode=ActivationMode.RELU, **exponents)
    return neurons


def graded_models() -> dict[Any, Any]:
    """Return the model of each Process: Lava's own models in integers."""
    from lava.proc.conv.process import Conv
    from lava.proc.dense.process import Dense as DenseProcess
    from lava.proc.sdn.process import Delta, Sigma, SigmaDelta

    from loihi_convert.backends.lava.processes import graded_models as models

    return {
        Conv: models.GuardedConvModel,
        DenseProcess: models.GuardedDenseModel,
        Delta: models.RecordingDeltaModel,
        SigmaDelta: models.RecordingSigmaDeltaModel,
        Sigma: models.RecordingSigmaModel,
    }
