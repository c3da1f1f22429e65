"""The network of stock Processes for a file of target loihi2: soft reset by the circuit of `ir.neuron_model`.

Used only in the process that runs Lava. Every layer is::

                        Sparse, weight -theta
                            ^   |
                            |   v
    ... -> Conv or Dense -> LIFReset -> Conv or Dense -> ...
                               ^
             a LIF -> Dense ---+         the layer's bias, if it has one

A last layer without neurons is a LIFReset with an unconnected output; its u is the output of the network.

**Biases.** One bit, 1 in the T steps in which an image is shown, is passed from layer to layer by LIFs that repeat it,
and switches each layer's bias::

    RingBuffer -> Dense -> LIF -> Dense -> LIF -> ...

Each Dense takes one step, like the layers' synapses, so that each layer receives the bit in its own T steps.

Lava's axes are W, H, C. `timing.py` says why images are 2P steps apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from loihi_convert.backends.lava import timing
from loihi_convert.backends.lava.exchange import LavaFiles
from loihi_convert.backends.lava.lava_types import NeuronProcess, Port, Process, SourceProcess, SynapseProcess, connect
from loihi_convert.backends.lava.own_network import message_bits, synapse_models, synapse_process
from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Shape
from loihi_convert.ir.neuron_model import Circuit, NeuronModel, circuit
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork

Connect = Callable[[Port, Port, int], None]
"""Connects an output port on the host to the port of a synapse, given the bits of a message (0: spikes)."""

Switch = Callable[[Port], None]
"""Connects the bit that switches the biases of a layer to a port."""


@dataclass(frozen=True)
class StockNetwork:
    """A network of connected Processes: the ``source`` of images, and the LIFReset ``neurons`` of each layer."""

    source: SourceProcess
    neurons: tuple[NeuronProcess, ...]


def build_circuit(
    network: QuantizedNetwork,
    folder: LavaFiles,
    timesteps: int,
    *,
    trace: bool,
    neuron: NeuronModel,
    from_host: Connect | None = None,
    first_image: int = 0,
) -> StockNetwork:
    """Connect the stock Processes of ``network``.

    Parameters
    ----------
    network
        The network, for target loihi2.
    folder, timesteps, trace
        As in `own_network.build`.
    neuron
        The circuit, with or without leak; gives ``du`` of every LIFReset.
    from_host
        Connects the images and the bias bit to the chip; by default they are connected directly.
    first_image
        Index of the first image in the whole run, for Poisson input.
    """
    from loihi_convert.backends.lava.processes.custom import ImageSource

    circuits = [circuit(layer) for layer in network.layers]
    input_shapes = (network.input_shape, *network.shapes[:-1])
    synapses = [
        synapse_process(layer.synapse, shape, message_bits(layer), even=True)
        for layer, shape in zip(network.layers, input_shapes, strict=True)
    ]
    source: SourceProcess = ImageSource(
        shape=synapses[0].s_in.shape,
        batch_size=1,
        images=str(folder.images),
        timesteps=timesteps,
        interval=timing.stock_interval(timesteps),
        poisson_seed=network.poisson_seed,
        first_image=first_image,
        steps=str(folder.steps),
    )
    from_host = from_host or (lambda out, into, _: connect(out, into))
    relays, switches = _bias_switches(circuits, timesteps, from_host)
    processes: list[Process] = [source, *relays]
    neurons: list[NeuronProcess] = []
    for index, (layer, synapse) in enumerate(zip(network.layers, synapses, strict=True)):
        if index == 0:
            from_host(source.s_out, synapse.s_in, message_bits(layer))
        else:
            connect(neurons[-1].s_out, synapse.s_in)
        neurons.append(_neurons(layer, network.shapes[index], circuits[index], timesteps, index, neuron))
        neurons[-1].proc_params["recording"] = folder.recording(
            network, index, timesteps, trace, interval=timing.stock_interval(timesteps)
        )
        synapse.a_out.connect(neurons[-1].a_in)
        processes += [synapse, neurons[-1]]
        if layer.neuron is not None:
            processes.append(_self_synapse(neurons[-1], circuits[index]))
        if circuits[index].source_mant is not None:
            processes.append(_bias_synapse(switches[index], neurons[-1], circuits[index]))
    for process in processes:
        process.proc_params["failure"] = str(folder.failure)
    return StockNetwork(source, tuple(neurons))


def _neurons(
    layer: QuantizedLayer, shape: Shape, numbers: Circuit, timesteps: int, index: int, neuron: NeuronModel
) -> NeuronProcess:
    from lava.proc.lif.process import LIFReset

    neurons: NeuronProcess = LIFReset(
        shape=shape[::-1],
        du=neuron.du,
        dv=limits.NO_MEMORY,
        vth=numbers.vth,
        bias_mant=np.broadcast_to(numbers.bias_mant, shape[::-1]),
        bias_exp=numbers.bias_exp,
        reset_interval=timing.reset_interval(timesteps),
        reset_offset=timing.first_step(index),
    )
    neurons.proc_params["initial_potential"] = 0 if layer.initial_potential is None else layer.initial_potential
    neurons.proc_params["threshold"] = 0 if layer.threshold is None else layer.threshold
    return neurons


def _self_synapse(neurons: NeuronProcess, numbers: Circuit) -> SynapseProcess:
    """-theta from every neuron to itself."""
    from lava.proc.sparse.process import Sparse
    from lava.utils.weightutils import SignMode
    from scipy.sparse import diags

    weights = -np.broadcast_to(numbers.self_weight_mant, neurons.s_out.shape).ravel()
    synapse: SynapseProcess = Sparse(
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
    bit = np.arange(timing.stock_interval(timesteps)) < timesteps
    source = RingBuffer(data=bit.astype(np.int32)[np.newaxis])
    processes: list[Process] = [source]
    switches: list[Switch] = [lambda port: from_host(source.s_out, port, 0)]
    for _ in range(last):
        relay = Dense(weights=np.ones((1, 1), np.int32))
        repeats = LIF(shape=(1,), du=limits.NO_MEMORY - 1, dv=limits.NO_MEMORY, vth=0)
        switches[-1](relay.s_in)
        relay.a_out.connect(repeats.a_in)
        processes += [relay, repeats]
        switches.append(repeats.s_out.connect)
    return processes, switches


def _bias_synapse(switch: Switch, neurons: NeuronProcess, numbers: Circuit) -> SynapseProcess:
    """The synapse for the layer's bias, active in each step after the bit connected by ``switch``."""
    from lava.proc.dense.process import Dense
    from lava.utils.weightutils import SignMode

    assert numbers.source_mant is not None
    weights = np.broadcast_to(numbers.source_mant.transpose(), neurons.a_in.shape).reshape(-1, 1)
    # On Loihi, weights with both signs are even: twice the mantissa.
    synapse: SynapseProcess = Dense(weights=2 * weights, weight_exp=numbers.source_exp - 1, sign_mode=SignMode.MIXED)
    switch(synapse.s_in)
    connect(synapse.a_out, neurons.a_in)
    return synapse


def models() -> dict[Any, Any]:
    """Return the model of each Process: Lava's bit-accurate models, except for Conv and Dense."""
    from lava.proc.io.source import PySendModelFixed, RingBuffer
    from lava.proc.lif.models import PyLifModelBitAcc
    from lava.proc.lif.process import LIF, LIFReset
    from lava.proc.sparse.process import Sparse

    from loihi_convert.backends.lava.processes.lava_models import GuardedSparseModel, RecordingLifResetModel

    return {
        **synapse_models(),
        LIF: PyLifModelBitAcc,
        LIFReset: RecordingLifResetModel,
        RingBuffer: PySendModelFixed,
        Sparse: GuardedSparseModel,
    }
