"""The network of Lava Processes for a file of graded spikes: Lava's own Processes, and its own models with recording.

Used only in the process that runs Lava::

    ImageSource -> Delta -> Conv -> SigmaDelta -> Dense -> SigmaDelta -> Dense -> Sigma

Images are one step apart. Before the first one the input is 0 until the network has settled (`ir.graded`); the models
then write the settled state back before each image, unless the images are the frames of one sequence.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from loihi_convert.backends.lava.exchange import LavaFiles
from loihi_convert.backends.lava.lava_types import GradedProcess, Process, SourceProcess, connect
from loihi_convert.backends.lava.synapse_processes import synapse_process
from loihi_convert.backends.lava.timing import settling_steps
from loihi_convert.chip import limits
from loihi_convert.ir.graded import GradedLayer, GradedNetwork
from loihi_convert.ir.synapse import Dense, PixelBias

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
    from loihi_convert.backends.lava.processes.image_source import ImageSource

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
