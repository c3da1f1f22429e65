"""The networks of Lava Processes for an exported network. Used only in the process that runs Lava.

One Lava network per run. With **custom neurons** (`build`) in one of two layouts: `processes`, one image at a time,
with Lava's own Conv and Dense::

    ImageSource -> Conv -> SoftResetIF -> Conv -> SoftResetIF -> Dense -> SoftResetIF

`layers`, in batches of B images, with custom Processes only::

    ImageSource -> SpikingLayer -> SpikingLayer -> SpikingLayer

For **graded spikes** (`build_graded`), Lava's own Processes and its own models with recording::

    ImageSource -> Delta -> Conv -> SigmaDelta -> Dense -> SigmaDelta -> Dense -> Sigma

Images are then one step apart. Before the first one the input is 0 until the network has settled (`ir.graded`); the
models write the settled state back before each image, unless the images are the frames of one sequence.

For a file of **target loihi2** (`build_circuit`), soft reset by the circuit of `ir.neuron_model`. Every layer is::

                        Sparse, weight -theta
                            ^   |
                            |   v
    ... -> Conv or Dense -> LIFReset -> Conv or Dense -> ...
                               ^
             a LIF -> Dense ---+         the layer's bias, if it has one

A last layer without neurons is a LIFReset with an unconnected output; its u is the output of the network. One bit, 1 in
the T steps in which an image is shown, is passed from layer to layer by LIFs that repeat it, and switches each layer's
bias::

    RingBuffer -> Dense -> LIF -> Dense -> LIF -> ...

Each Dense takes one step, like the layers' synapses, so that each layer receives the bit in its own T steps.

Lava's axes are W, H, C. `exchange.py` defines when each layer processes each image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from loihi_convert.backends.lava.exchange import LavaRun, first_step, reset_interval, stock_interval
from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ir.graded import GradedLayer, GradedNetwork
from loihi_convert.ir.neuron_model import Circuit, circuit
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense, PixelBias, pooled_shape

if TYPE_CHECKING:
    from loihi_convert.backends.lava.processes.gemm import ConvGemm, DenseGemm

Process: TypeAlias = Any
"""A Process of Lava, which has no types."""

Port: TypeAlias = Any
"""An input or output of a Process."""


def connect(out: Port, into: Port) -> None:
    """Connect two ports with the same number of neurons, reshaping if their axes differ."""
    (out if out.shape == into.shape else out.reshape(into.shape)).connect(into)


def _source(run: LavaRun, shape: Shape) -> Process:
    from loihi_convert.backends.lava.processes.custom import ImageSource

    return ImageSource(
        shape=shape,
        batch_size=run.batch_size,
        images=run.file("images"),
        timesteps=run.timesteps,
        interval=run.timing.interval,
        settling=run.timing.settling,
        poisson_seed=run.network.poisson_seed,
        first_image=run.first_image,
        steps=run.file("steps"),
    )


def _guarded(processes: list[Process], run: LavaRun) -> None:
    for process in processes:
        process.proc_params["failure"] = str(run.failure)


def build(run: LavaRun) -> Process:
    """Connect the Lava Processes of a network with custom neurons; return the first one."""
    network = run.network
    assert isinstance(network, QuantizedNetwork)
    input_shapes = (network.input_shape, *network.shapes[:-1])
    build_layout = _layers if run.layout == "layers" else _processes
    processes = build_layout(run, network, list(zip(network.layers, input_shapes, strict=True)))
    _guarded(processes, run)
    return processes[0]


def _neuron_parameters(run: LavaRun, layer: QuantizedLayer, index: int) -> dict[str, Any]:
    """Parameters of a layer's neurons, in Lava's axes, and their recording."""
    zero = np.zeros(1, np.int32)
    return {
        "shape": run.network.shapes[index][::-1],
        "bias": zero if layer.bias is None else layer.bias.transpose(),
        "initial_potential": zero if layer.initial_potential is None else layer.initial_potential,
        "threshold": zero if layer.threshold is None else layer.threshold,
        "neuron": run.neuron,
        "recording": run.recording(index),
    }


def _processes(run: LavaRun, network: QuantizedNetwork, layers: list[tuple[QuantizedLayer, Shape]]) -> list[Process]:
    """Two Processes per layer, for one image at a time."""
    from loihi_convert.backends.lava.processes.custom import SoftResetIF

    synapses = [synapse_process(layer.synapse, shape, message_bits(layer)) for layer, shape in layers]
    output_shapes = [*(synapse.s_in.shape for synapse in synapses[1:]), network.shapes[-1]]
    processes = [_source(run, synapses[0].s_in.shape)]
    for index, (synapse, output_shape) in enumerate(zip(synapses, output_shapes, strict=True)):
        neuron = SoftResetIF(output_shape=output_shape, **_neuron_parameters(run, layers[index][0], index))
        processes[-1].s_out.connect(synapse.s_in)
        synapse.a_out.connect(neuron.a_in)
        processes += [synapse, neuron]
    return processes


def _layers(run: LavaRun, network: QuantizedNetwork, layers: list[tuple[QuantizedLayer, Shape]]) -> list[Process]:
    """One Process per layer, for batches of images."""
    from loihi_convert.backends.lava.processes.custom import SpikingLayer

    processes = [_source(run, (run.batch_size, *network.input_shape[::-1]))]
    for index, (layer, input_shape) in enumerate(layers):
        process = SpikingLayer(
            input_shape=input_shape[::-1],
            synapse=batch_synapse(layer, input_shape, run.batch_size),
            batch_size=run.batch_size,
            **_neuron_parameters(run, layer, index),
        )
        processes[-1].s_out.connect(process.s_in)
        processes.append(process)
    return processes


def message_bits(layer: QuantizedLayer) -> int:
    """Return the bits of a message to ``layer``: 0 for spikes, more for pixels."""
    return 0 if layer.largest_input == 1 else limits.MAX_PIXEL_BITS


def synapse_process(synapse: Conv | Dense, input_shape: Shape, bits: int, *, even: bool = False) -> Process:
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
        return DenseProcess(
            weights=factor * _dense_weights(synapse, input_shape),
            weight_exp=weight_exp,
            sign_mode=SignMode.MIXED,
            num_message_bits=bits,
        )
    return ConvProcess(
        # Lava's convolution flips the kernel where PyTorch's does not.
        weight=factor * _conv_weight(synapse)[:, ::-1, ::-1],
        weight_exp=weight_exp,
        input_shape=input_shape[::-1],
        num_message_bits=bits,
        **_geometry(synapse),
    )


def models(run: LavaRun) -> dict[Any, Any]:
    """Return the model of each Process: Lava's own, or, of Conv and Dense with binary spikes, faster ones; also, Lava's
    CPU model of Conv ignores weight_exp."""
    from lava.proc.conv.process import Conv as ConvProcess
    from lava.proc.dense.process import Dense as DenseProcess
    from lava.proc.io.source import PySendModelFixed, RingBuffer
    from lava.proc.lif.models import PyLifModelBitAcc
    from lava.proc.lif.process import LIF, LIFReset
    from lava.proc.sdn.process import Delta, Sigma, SigmaDelta
    from lava.proc.sparse.process import Sparse

    from loihi_convert.backends.lava.processes import lava_models as ours

    is_graded = run.network.is_graded
    return {
        ConvProcess: ours.GuardedConvModel if is_graded else ours.PyConvModelGemm,
        DenseProcess: ours.GuardedDenseModel if is_graded else ours.PyDenseModelGemv,
        Delta: ours.RecordingDeltaModel,
        SigmaDelta: ours.RecordingSigmaDeltaModel,
        Sigma: ours.RecordingSigmaModel,
        LIF: PyLifModelBitAcc,
        LIFReset: ours.RecordingLifResetModel,
        RingBuffer: PySendModelFixed,
        Sparse: ours.GuardedSparseModel,
    }


def batch_synapse(layer: QuantizedLayer, input_shape: Shape, batch_size: int) -> ConvGemm | DenseGemm:
    """Return one synapse for a batch: sum-pool, then convolve or multiply, with k^2 times fewer products."""
    from loihi_convert.backends.lava.processes.gemm import ConvGemm, DenseGemm

    synapse = layer.synapse
    if isinstance(synapse, Dense):
        return DenseGemm(_dense_weights(synapse, pooled_shape(input_shape, synapse.pool)), pool=synapse.pool[::-1])
    return ConvGemm(
        _conv_weight(synapse),
        input_shape[::-1],
        pool=synapse.pool[::-1],
        batch_size=batch_size,
        **_geometry(synapse),
    )


def _geometry(synapse: Conv) -> dict[str, Any]:
    axes = {name: getattr(synapse, name)[::-1] for name in ("padding", "stride", "dilation")}
    return {**axes, "groups": synapse.groups}


def _conv_weight(synapse: Conv) -> Array:
    """(C_out, C_in / groups, K_h, K_w) in Lava's order (C_out, K_w, K_h, C_in / groups), not yet flipped."""
    return synapse.weight.transpose(0, 3, 2, 1)


def _dense_weights(synapse: Dense, input_shape: Shape) -> Array:
    """Columns from C, H, W order to Lava's W, H, C order; ``input_shape`` is that of the weights."""
    by_axis = synapse.weight.reshape(-1, *input_shape)
    return by_axis.transpose(0, *range(len(input_shape), 0, -1)).reshape(synapse.weight.shape)


Connect = Callable[[Port, Port, int], None]
"""Connects an output port on the host to the port of a synapse, given the bits of a message (0: spikes)."""

Switch = Callable[[Port], None]
"""Connects the bit that switches the biases of a layer to a port."""


@dataclass(frozen=True)
class StockNetwork:
    """A network of connected Processes: the ``source`` of images, and the LIFReset ``neurons`` of each layer."""

    source: Process
    neurons: tuple[Process, ...]


def build_circuit(run: LavaRun, from_host: Connect = lambda out, into, _: connect(out, into)) -> StockNetwork:
    """Connect the stock Processes of a network for target loihi2.

    ``from_host`` connects the images and the bias bit to the chip; by default they are connected directly.
    """
    network = run.network
    assert isinstance(network, QuantizedNetwork)
    circuits = [circuit(layer) for layer in network.layers]
    input_shapes = (network.input_shape, *network.shapes[:-1])
    synapses = [
        synapse_process(layer.synapse, shape, message_bits(layer), even=True)
        for layer, shape in zip(network.layers, input_shapes, strict=True)
    ]
    source = _source(run, synapses[0].s_in.shape)
    relays, switches = _bias_switches(circuits, run.timesteps, from_host)
    processes = [source, *relays]
    neurons: list[Process] = []
    for index, (layer, synapse, numbers) in enumerate(zip(network.layers, synapses, circuits, strict=True)):
        if index == 0:
            from_host(source.s_out, synapse.s_in, message_bits(layer))
        else:
            connect(neurons[-1].s_out, synapse.s_in)
        neurons.append(_stock_neurons(run, layer, index, numbers))
        synapse.a_out.connect(neurons[-1].a_in)
        processes += [synapse, neurons[-1]]
        if layer.neuron is not None:
            processes.append(_self_synapse(neurons[-1], numbers))
        if numbers.source_mant is not None:
            processes.append(_bias_synapse(switches[index], neurons[-1], numbers))
    _guarded(processes, run)
    return StockNetwork(source, tuple(neurons))


def _stock_neurons(run: LavaRun, layer: QuantizedLayer, index: int, numbers: Circuit) -> Process:
    from lava.proc.lif.process import LIFReset

    assert run.neuron is not None
    shape = run.network.shapes[index][::-1]
    neurons = LIFReset(
        shape=shape,
        du=run.neuron.du,
        dv=limits.NO_MEMORY,
        vth=numbers.vth,
        bias_mant=np.broadcast_to(numbers.bias_mant, shape),
        bias_exp=numbers.bias_exp,
        reset_interval=reset_interval(run.timesteps),
        reset_offset=first_step(index),
    )
    neurons.proc_params["recording"] = run.recording(index)
    neurons.proc_params["initial_potential"] = 0 if layer.initial_potential is None else layer.initial_potential
    neurons.proc_params["threshold"] = 0 if layer.threshold is None else layer.threshold
    return neurons


def _self_synapse(neurons: Process, numbers: Circuit) -> Process:
    """-theta from every neuron to itself."""
    from lava.proc.sparse.process import Sparse
    from lava.utils.weightutils import SignMode
    from scipy.sparse import diags

    weights = -np.broadcast_to(numbers.self_weight_mant, neurons.s_out.shape).ravel()
    synapse = Sparse(
        weights=diags(weights, dtype=np.int32), weight_exp=numbers.self_weight_exp, sign_mode=SignMode.INHIBITORY
    )
    connect(neurons.s_out, synapse.s_in)
    connect(synapse.a_out, neurons.a_in)
    return synapse


def _bias_switches(circuits: list[Circuit], timesteps: int, from_host: Connect) -> tuple[list[Process], list[Switch]]:
    """The Processes that pass on the bit, and its connection to a port for each layer up to the last with a bias."""
    from lava.proc.dense.process import Dense
    from lava.proc.io.source import RingBuffer
    from lava.proc.lif.process import LIF

    last = max((index for index, numbers in enumerate(circuits) if numbers.source_mant is not None), default=-1)
    if last < 0:
        return [], []
    bit = np.arange(stock_interval(timesteps)) < timesteps
    source = RingBuffer(data=bit.astype(np.int32)[np.newaxis])
    processes = [source]
    switches: list[Switch] = [lambda port: from_host(source.s_out, port, 0)]
    for _ in range(last):
        relay = Dense(weights=np.ones((1, 1), np.int32))
        repeats = LIF(shape=(1,), du=limits.NO_MEMORY - 1, dv=limits.NO_MEMORY, vth=0)
        switches[-1](relay.s_in)
        relay.a_out.connect(repeats.a_in)
        processes += [relay, repeats]
        switches.append(repeats.s_out.connect)
    return processes, switches


def _bias_synapse(switch: Switch, neurons: Process, numbers: Circuit) -> Process:
    """The synapse for the layer's bias, active in each step after the bit connected by ``switch``."""
    from lava.proc.dense.process import Dense
    from lava.utils.weightutils import SignMode

    assert numbers.source_mant is not None
    weights = np.broadcast_to(numbers.source_mant.transpose(), neurons.a_in.shape).reshape(-1, 1)
    # On Loihi, weights with both signs are even: twice the mantissa.
    synapse = Dense(weights=2 * weights, weight_exp=numbers.source_exp - 1, sign_mode=SignMode.MIXED)
    switch(synapse.s_in)
    connect(synapse.a_out, neurons.a_in)
    return synapse


def build_graded(run: LavaRun) -> Process:
    """Connect the Lava Processes of a network of graded spikes; return the first one."""
    network = run.network
    assert isinstance(network, GradedNetwork)
    processes = [_source(run, network.input_shape[::-1])]
    sent = processes[0].s_out
    input_shapes, bits = (network.input_shape, *network.shapes[:-1]), 1 + limits.MESSAGE_LIMIT.bit_length()
    for index, (layer, input_shape) in enumerate(zip(network.layers, input_shapes, strict=True)):
        neurons = _graded_neurons(layer, network.shapes[index][::-1], network.spike_exp)
        neurons.proc_params["recording"] = run.recording(index)
        neurons.proc_params["is_stream"] = run.is_stream
        if not isinstance(layer.synapse, PixelBias):
            # On Loihi a Dense with weights of both signs has even ones; Lava's Conv on the CPU ignores weight_exp.
            is_even = isinstance(layer.synapse, Dense)
            synapse = synapse_process(layer.synapse, input_shape, bits, even=is_even)
            connect(sent, synapse.s_in)
            processes.append(synapse)
            sent = synapse.a_out
        connect(sent, neurons.a_in)
        processes.append(neurons)
        sent = neurons.s_out
    _guarded(processes, run)
    return processes[0]


def _graded_neurons(layer: GradedLayer, shape: Shape, spike_exp: int) -> Process:
    """The neurons of a layer, of a ``shape`` in Lava's axes."""
    from lava.proc.sdn.process import ActivationMode, Delta, Sigma, SigmaDelta

    exponents = {"spike_exp": spike_exp, "state_exp": limits.SIGMA_DELTA_STATE_EXP}
    if not layer.sends:
        return Sigma(shape=shape)
    if isinstance(layer.synapse, PixelBias):
        return Delta(shape=shape, vth=layer.threshold, **exponents)
    bias = np.zeros(1, np.int32) if layer.synapse.bias is None else layer.synapse.bias.astype(np.int32)
    # One per channel, or one per neuron, C, H, W.
    bias = np.broadcast_to(bias.transpose(), shape)
    return SigmaDelta(shape=shape, vth=layer.threshold, bias=bias, act_mode=ActivationMode.RELU, **exponents)
