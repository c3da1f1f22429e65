"""Integrate-and-fire neurons with soft reset, and neurons that only integrate; both record what they do.

Their state has a leading axis of B images side by side. Lava's own ways out of a running network (``Var.get``, Monitor)
cost about 1 ms a step; these write to memory maps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from loihi_convert import loihi
from loihi_convert.backends.lava_processes.guarded import GuardedModel

Array = npt.NDArray[Any]


class Neurons(AbstractProcess):
    """State of neurons that integrate, and when each presentation starts.

    Parameters
    ----------
    shape
        ``(W, H, C)`` or ``(N,)``. The arrays below broadcast over it, so that ``(C,)`` is per channel.
    batch_size
        B.
    bias, initial_potential
        Integers, in weight units.
    reset
        ``"soft"`` or ``"hard"``.
    reset_interval
        Steps that each image is shown, T.
    reset_offset
        Global step in which this layer does its first step of the first image; recording starts there.
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
        reset: str,
        reset_interval: int,
        reset_offset: int,
        **further: Any,
    ) -> None:
        super().__init__(reset=reset, reset_interval=reset_interval, reset_offset=reset_offset, **further)
        self.v = Var(shape=(batch_size, *shape), init=0)
        self.bias = Var(shape=bias.shape, init=bias)
        self.initial_potential = Var(shape=initial_potential.shape, init=initial_potential)


class SpikingNeurons(Neurons):
    """Integrate-and-fire neurons; the potential keeps what exceeds the threshold.

    At each step::

        v = initial_potential      if time_step % reset_interval == reset_offset % reset_interval
        v = clip(v + current + bias, -131071, 131071)
        s_out = v >= threshold
        v = v - threshold * s_out

    With ``reset`` "hard" the neurons are Lava's own LIF without leak: v has 6 bits below 1, clips at +-(2^23 - 1) / 64,
    fires where v > threshold - 1, and is 0 after a spike.

    Parameters
    ----------
    output_shape
        Of ``s_out``: ``(B, *shape)``, or the same number of neurons in other axes.
    threshold
        Integers, in weight units, that broadcast over ``shape``.
    fan_out
        int64 of ``shape``: synapses that leave each neuron.
    column
        Which column of ``spike_counts`` and ``synaptic_operations`` is this layer's.
    spike_counts, synaptic_operations
        Files to fill: ``.npy``, int64 ``(N, T, spiking layers)``.
    trace
        Files to fill with every spike and every potential: ``.npy``, bool and int32 ``(N, T, C, H, W)``; or none.
    neurons
        As in `Neurons`.
    """

    def __init__(
        self,
        *,
        output_shape: tuple[int, ...],
        threshold: Array,
        fan_out: Array,
        column: int,
        spike_counts: str,
        synaptic_operations: str,
        trace: tuple[str, ...],
        **neurons: Any,
    ) -> None:
        super().__init__(
            fan_out=fan_out,
            column=column,
            spike_counts=spike_counts,
            synaptic_operations=synaptic_operations,
            trace=trace,
            **neurons,
        )
        self.s_out = OutPort(shape=output_shape)
        self.threshold = Var(shape=threshold.shape, init=threshold)


class IntegratingNeurons(Neurons):
    """Neurons without threshold: ``v = clip(v + current + bias, -131071, 131071)``.

    Parameters
    ----------
    potentials
        File to fill: ``.npy``, int32 ``(N, T, *shape)``.
    neurons
        As in `Neurons`.
    """

    def __init__(self, *, potentials: str, **neurons: Any) -> None:
        super().__init__(potentials=potentials, **neurons)


class SoftResetIF(SpikingNeurons):
    """`SpikingNeurons` that receive their current, of one image, from a synapse such as Lava's Conv or Dense.

    Parameters
    ----------
    shape
        As in `Neurons`.
    output_shape
        ``shape``, or the same number of neurons in one axis, for a Dense. (Lava's own reshaping of ports calls
        ``np.reshape(newshape=...)``, which NumPy 2.5 refuses.)
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
    """What all neurons do first in a step, and where in the recordings that step belongs; exact 32-bit integers."""

    # In units of 2^-shift weight units.
    v: Array = LavaPyType(np.ndarray, np.int32, precision=24)
    initial_potential: Array = LavaPyType(np.ndarray, np.int32, precision=17)
    bias: Array = LavaPyType(np.ndarray, np.int32, precision=18)

    def prepare(self) -> None:
        self._interval = int(self.proc_params["reset_interval"])
        self._offset = int(self.proc_params["reset_offset"])
        self.soft = self.proc_params["reset"] == "soft"
        # Lava's LIF: act_shift, vth_shift and bias_exp of 6.
        self.shift = 0 if self.soft else 6
        limit = loihi.POTENTIAL_LIMIT if self.soft else loihi.LIF_POTENTIAL_LIMIT
        self._limit = int(limit * 2**self.shift)

    def advance(self, current: Array) -> None:
        """Do one step with ``current``, int32 that broadcasts over ``v``."""
        if self.time_step % self._interval == self._offset % self._interval:
            self.v[...] = self.initial_potential << self.shift
        # No overflow of int32: a current is below 2^23 (after the shift, where there is one), the rest too.
        self.v += current << self.shift
        self.v += self.bias << self.shift
        np.clip(self.v, -self._limit, self._limit, out=self.v)

    def record(self, recording: Array, values: Array) -> None:
        """Write ``values`` ``(B, ...)`` of this step into ``recording`` ``(N, T, ...)``.

        Nothing before the first and after the last image, nor of what fills up the last presentation.
        """
        presentation, step = divmod(self.time_step - self._offset, self._interval)
        if presentation >= 0:
            first = presentation * len(values)
            place = recording[first : first + len(values), step]
            place[...] = values[: len(place)]


class SpikingModel(IntegratingModel):
    """The model of `SpikingNeurons`, wherever their current comes from."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.bool_, precision=1)
    threshold: Array = LavaPyType(np.ndarray, np.int32, precision=18)

    def prepare(self) -> None:
        super().prepare()
        # float64, so that BLAS sums it: exact up to 2^53.
        self._fan_out: Array = self.proc_params["fan_out"].astype(np.float64).ravel()
        column = self.proc_params["column"]
        self._spike_counts: Array = np.load(self.proc_params["spike_counts"], mmap_mode="r+")[:, :, column]
        self._operations: Array = np.load(self.proc_params["synaptic_operations"], mmap_mode="r+")[:, :, column]
        self._trace: list[Array] = [np.load(file, mmap_mode="r+") for file in self.proc_params["trace"]]

    def advance(self, current: Array) -> None:
        super().advance(current)
        spikes = self.v > (self.threshold - 1) << self.shift
        if self.soft:
            self.v -= spikes * self.threshold
        else:
            self.v[spikes] = 0
        self.s_out.send(spikes.reshape(self.s_out.shape))
        per_image = spikes.reshape(len(spikes), -1)
        self.record(self._spike_counts, np.count_nonzero(per_image, axis=1))
        self.record(self._operations, per_image @ self._fan_out)
        if self._trace:
            traced_spikes, traced_potentials = self._trace
            self.record(traced_spikes, spikes.swapaxes(1, -1))
            self.record(traced_potentials, (self.v >> self.shift).swapaxes(1, -1))


class ReadoutModel(IntegratingModel):
    """The model of `IntegratingNeurons`, wherever their current comes from."""

    def prepare(self) -> None:
        super().prepare()
        self._potentials: Array = np.load(self.proc_params["potentials"], mmap_mode="r+")

    def advance(self, current: Array) -> None:
        super().advance(current)
        self.record(self._potentials, self.v >> self.shift)


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
