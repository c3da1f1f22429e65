"""Integrate-and-fire neurons with soft reset, and neurons that only integrate; both record their state.

Their state has a leading axis of B images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from loihi_convert.backends.lava.processes.guarded import GuardedModel
from loihi_convert.backends.lava.recording import LavaRecording, Recorder
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.neuron_model import NeuronModel


class IntegratingNeurons(AbstractProcess):
    """Neurons that integrate: ``v = clip(v + current + bias, -131071, 131071)``.

    Parameters
    ----------
    shape
        ``(W, H, C)`` or ``(N,)``. The arrays below broadcast over it, so that ``(C,)`` is per channel.
    batch_size
        B.
    bias, initial_potential
        Integers, in weight units.
    neuron
        Soft or hard reset; see `ir.neuron_model`.
    recording
        The values to record, and their files. Each presentation starts in its first recorded step.
    further
        Process parameters of a subclass.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        batch_size: int,
        bias: Array,
        initial_potential: Array,
        neuron: NeuronModel,
        recording: LavaRecording,
        **further: Any,
    ) -> None:
        super().__init__(neuron=neuron, recording=recording, **further)
        self.v = Var(shape=(batch_size, *shape), init=0)
        self.bias = Var(shape=bias.shape, init=bias)
        self.initial_potential = Var(shape=initial_potential.shape, init=initial_potential)


class SpikingNeurons(IntegratingNeurons):
    """Integrate-and-fire neurons; after a spike the potential keeps the excess over the threshold.

    At each step::

        v = initial_potential      in the first step of each presentation
        v = clip(v + current + bias, -131071, 131071)
        s_out = v >= threshold
        v = v - threshold * s_out

    With hard reset the neurons compute the same as Lava's LIF without leak; see `ir.neuron_model`.

    Parameters
    ----------
    output_shape
        Shape of ``s_out``: ``(B, *shape)``, or the same number of neurons in other axes.
    threshold
        Integers, in weight units, that broadcast over ``shape``.
    neurons
        As in `IntegratingNeurons`.
    """

    def __init__(self, *, output_shape: tuple[int, ...], threshold: Array, **neurons: Any) -> None:
        super().__init__(**neurons)
        self.s_out = OutPort(shape=output_shape)
        self.threshold = Var(shape=threshold.shape, init=threshold)


class SoftResetIF(SpikingNeurons):
    """`SpikingNeurons` that receive their current, of one image, from a synapse such as Lava's Conv or Dense.

    Parameters
    ----------
    shape
        As in `IntegratingNeurons`.
    output_shape
        ``shape``, or the same number of neurons in one axis, for a Dense.
    """

    def __init__(self, *, shape: tuple[int, ...], output_shape: tuple[int, ...], **neurons: Any) -> None:
        super().__init__(shape=shape, output_shape=output_shape, batch_size=1, **neurons)
        self.a_in = InPort(shape=shape)


class Integrator(IntegratingNeurons):
    """`IntegratingNeurons` that receive their current, of one image, from a synapse such as Lava's Conv or Dense."""

    def __init__(self, *, shape: tuple[int, ...], **neurons: Any) -> None:
        super().__init__(shape=shape, batch_size=1, **neurons)
        self.a_in = InPort(shape=shape)


class IntegratingModel(GuardedModel):
    """The integration step of all neurons, in exact 32-bit integers."""

    # In units of 2^-shift weight units.
    v: Array = LavaPyType(np.ndarray, np.int32, precision=24)
    initial_potential: Array = LavaPyType(np.ndarray, np.int32, precision=17)
    bias: Array = LavaPyType(np.ndarray, np.int32, precision=18)

    def prepare(self) -> None:
        self._recording: LavaRecording = self.proc_params["recording"]
        self.recorder = Recorder(self._recording)
        neuron: NeuronModel = self.proc_params["neuron"]
        self.soft, self.shift = neuron.reset == "soft", neuron.fraction_bits
        self._limit = int(neuron.limit * 2**self.shift)

    def advance(self, current: Array) -> None:
        """Do one step with ``current``, int32 that broadcasts over ``v``."""
        if (self.time_step - self._recording.first_step) % self._recording.interval == 0:
            self.v[...] = self.initial_potential << self.shift
        # int32 cannot overflow: a current is below 2^23 (after a shift, if there is one), and so are all other terms.
        self.v += current << self.shift
        self.v += self.bias << self.shift
        np.clip(self.v, -self._limit, self._limit, out=self.v)


class SpikingModel(IntegratingModel):
    """The model of `SpikingNeurons`, for any source of current."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.bool_, precision=1)
    threshold: Array = LavaPyType(np.ndarray, np.int32, precision=18)

    def advance(self, current: Array) -> None:
        super().advance(current)
        spikes = self.v > (self.threshold - 1) << self.shift
        if self.soft:
            self.v -= spikes * self.threshold
        else:
            self.v[spikes] = 0
        self.s_out.send(spikes.reshape(self.s_out.shape))
        self.recorder.record_spikes(self.time_step, spikes)
        self.recorder.record_potentials(self.time_step, self.v >> self.shift)


class ReadoutModel(IntegratingModel):
    """The model of `IntegratingNeurons` that do not fire, for any source of current."""

    def advance(self, current: Array) -> None:
        super().advance(current)
        self.recorder.record_potentials(self.time_step, self.v >> self.shift)


class ReceivedCurrent(IntegratingModel):
    """Neurons whose current comes from another Process in the same step."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)

    def step(self) -> None:
        self.advance(self.a_in.recv())


@implements(proc=SoftResetIF, protocol=LoihiProtocol)
@requires(CPU)
class PySoftResetIFModel(ReceivedCurrent, SpikingModel):
    """Soft reset (or Lava's LIF) in NumPy."""


@implements(proc=Integrator, protocol=LoihiProtocol)
@requires(CPU)
class PyIntegratorModel(ReceivedCurrent, ReadoutModel):
    """Integration in NumPy."""
