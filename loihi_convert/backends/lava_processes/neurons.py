"""Integrate-and-fire neurons with soft reset, and neurons that only integrate; both record what they do.

Lava's own ways out of a running network (``Var.get``, Monitor) cost about 1 ms a step; these write to memory maps.
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


class SoftResetIF(AbstractProcess):
    """Integrate-and-fire neurons; the potential keeps what exceeds the threshold.

    At each step::

        v = initial_potential      if time_step % reset_interval == reset_offset % reset_interval
        v = clip(v + a_in + bias, -131071, 131071)
        s_out = v >= threshold
        v = v - threshold * s_out

    With ``reset`` "hard" the neurons are Lava's own LIF without leak: v has 6 bits below 1, clips at +-(2^23 - 1) / 64,
    fires where v > threshold - 1, and is 0 after a spike.

    Parameters
    ----------
    shape
        ``(W, H, C)`` or ``(N,)``. The three arrays below broadcast over it, so that ``(C,)`` is per channel.
    output_shape
        ``shape``, or the same number of neurons in one axis, for a Dense. (Lava's own reshaping of ports calls
        ``np.reshape(newshape=...)``, which NumPy 2.5 refuses.)
    threshold, initial_potential, bias
        Integers, in weight units.
    reset
        ``"soft"`` or ``"hard"``.
    reset_interval
        Steps that each image is shown, T.
    reset_offset
        Global step in which this layer does its first step of the first image; recording starts there.
    fan_out
        int64 of ``shape``: synapses that leave each neuron.
    column
        Which column of ``spike_counts`` and ``synaptic_operations`` is this layer's.
    spike_counts, synaptic_operations
        Files to fill: ``.npy``, int64 ``(N, T, spiking layers)``.
    trace
        Files to fill with every spike and every potential: ``.npy``, bool and int32 ``(N, T, C, H, W)``; or none.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        threshold: Array,
        initial_potential: Array,
        bias: Array,
        reset: str,
        reset_interval: int,
        reset_offset: int,
        fan_out: Array,
        column: int,
        spike_counts: str,
        synaptic_operations: str,
        trace: tuple[str, ...],
    ) -> None:
        super().__init__(
            reset=reset,
            reset_interval=reset_interval,
            reset_offset=reset_offset,
            fan_out=fan_out,
            column=column,
            spike_counts=spike_counts,
            synaptic_operations=synaptic_operations,
            trace=trace,
        )
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=output_shape)
        self.v = Var(shape=shape, init=0)
        self.threshold = Var(shape=threshold.shape, init=threshold)
        self.initial_potential = Var(shape=initial_potential.shape, init=initial_potential)
        self.bias = Var(shape=bias.shape, init=bias)


class Integrator(AbstractProcess):
    """Neurons without threshold: ``v = clip(v + a_in + bias, -131071, 131071)``; v starts every image at 0.

    Parameters
    ----------
    shape
        ``(N,)``.
    bias
        Integers that broadcast over ``shape``.
    reset, reset_interval, reset_offset
        As in `SoftResetIF`.
    potentials
        File to fill: ``.npy``, int32 ``(N, T, *shape)``.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        bias: Array,
        reset: str,
        reset_interval: int,
        reset_offset: int,
        potentials: str,
    ) -> None:
        super().__init__(reset=reset, reset_interval=reset_interval, reset_offset=reset_offset, potentials=potentials)
        self.a_in = InPort(shape=shape)
        self.v = Var(shape=shape, init=0)
        self.initial_potential = Var(shape=(1,), init=0)
        self.bias = Var(shape=bias.shape, init=bias)


class IntegratingModel(GuardedModel):
    """What both neurons do first in a step, and where in the recordings that step belongs."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
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

    def integrate(self) -> None:
        if self.time_step % self._interval == self._offset % self._interval:
            self.v[...] = self.initial_potential << self.shift
        # No overflow of int32: an input is below 2^23 (after the shift, where there is one), the rest too.
        self.v += self.a_in.recv() << self.shift
        self.v += self.bias << self.shift
        np.clip(self.v, -self._limit, self._limit, out=self.v)

    def recorded_at(self, images: int) -> tuple[int, int] | None:
        """Index (image, step) of this global step, or ``None`` before the first and after the last image."""
        image, step = divmod(self.time_step - self._offset, self._interval)
        return (image, step) if 0 <= image < images else None


@implements(proc=SoftResetIF, protocol=LoihiProtocol)
@requires(CPU)
class PySoftResetIFModel(IntegratingModel):
    """Exact 32-bit integers in NumPy."""

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

    def step(self) -> None:
        self.integrate()
        spikes = self.v > (self.threshold - 1) << self.shift
        if self.soft:
            self.v -= spikes * self.threshold
        else:
            self.v[spikes] = 0
        self.s_out.send(spikes.reshape(self.s_out.shape))
        if (index := self.recorded_at(len(self._spike_counts))) is None:
            return
        self._spike_counts[index] = np.count_nonzero(spikes)
        self._operations[index] = self._fan_out @ spikes.ravel()
        if self._trace:
            traced_spikes, traced_potentials = self._trace
            traced_spikes[index] = spikes.transpose()
            traced_potentials[index] = (self.v >> self.shift).transpose()


@implements(proc=Integrator, protocol=LoihiProtocol)
@requires(CPU)
class PyIntegratorModel(IntegratingModel):
    """Exact 32-bit integers in NumPy."""

    def prepare(self) -> None:
        super().prepare()
        self._potentials: Array = np.load(self.proc_params["potentials"], mmap_mode="r+")

    def step(self) -> None:
        self.integrate()
        if (index := self.recorded_at(len(self._potentials))) is not None:
            self._potentials[index] = self.v >> self.shift
