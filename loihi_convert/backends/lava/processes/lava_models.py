"""Models of Lava's own Processes: Lava's models, guarded, with recording of the neurons; and faster synapses.

Conv and Dense of binary spikes take one matrix product per step. Like Lava's models they respond one step late: first
they send the last step's result, then receive and compute. Weights, inputs and sums are float32, which is exact
(`gemm.py`). Our weights have no bits that Lava's Dense would round away (sign mode, bit count, weight_exp). Lava's Conv
on the CPU ignores weight_exp; this one does not.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.conv.models import PyConvModelFixed
from lava.proc.conv.process import Conv
from lava.proc.dense.models import PyDenseModelBitAcc
from lava.proc.dense.process import Dense
from lava.proc.lif.models import PyLifResetModelBitAcc
from lava.proc.lif.process import LIFReset
from lava.proc.sdn.models import PyDeltaModelFixed, PySigmaDeltaModelFixed, PySigmaModelFixed
from lava.proc.sdn.process import Delta, Sigma, SigmaDelta
from lava.proc.sparse.models import PySparseModelBitAcc
from lava.proc.sparse.process import Sparse

from loihi_convert.backends.lava.exchange import LavaRecording, Recorder
from loihi_convert.backends.lava.processes.custom import GuardedModel
from loihi_convert.backends.lava.processes.gemm import ConvGemm
from loihi_convert.ground.arrays import Array


class GuardedConv(GuardedModel):
    """A model of Conv, with a geometry of int32.

    Lava's models store it as int8, which a long pooled kernel or many groups would overflow; NumPy 2 does not even
    compare 128 channels with int8.
    """

    kernel_size: Array = LavaPyType(np.ndarray, np.int32)
    padding: Array = LavaPyType(np.ndarray, np.int32)
    stride: Array = LavaPyType(np.ndarray, np.int32)
    dilation: Array = LavaPyType(np.ndarray, np.int32)
    groups: Array = LavaPyType(np.ndarray, np.int32)


@implements(proc=Conv, protocol=LoihiProtocol)
@requires(CPU)
class PyConvModelGemm(GuardedConv):
    """Convolution as in `gemm.ConvGemm`.

    Axes are Lava's: input and output W, H, C; ``weight`` (C_out, K_w, K_h, C_in / groups), flipped in both kernel axes,
    because Lava's convolution flips the kernel where PyTorch's does not.
    """

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.float32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    a_buf: Array = LavaPyType(np.ndarray, np.float32)
    weight: Array = LavaPyType(np.ndarray, np.float32, precision=8)
    weight_exp: Array = LavaPyType(np.ndarray, np.int32)
    num_weight_bits: Array = LavaPyType(np.ndarray, np.int32)
    num_message_bits: Array = LavaPyType(np.ndarray, np.int32)

    def prepare(self) -> None:
        self._synapse = ConvGemm(
            self.weight[:, ::-1, ::-1] * np.float32(2.0 ** int(self.weight_exp[0])),
            self.s_in.shape,
            stride=tuple(self.stride),
            padding=tuple(self.padding),
            dilation=tuple(self.dilation),
            groups=int(self.groups[0]),
        )

    def step(self) -> None:
        self.a_out.send(self.a_buf)
        self._synapse(self.s_in.recv()[np.newaxis], out=self.a_buf[np.newaxis])


@implements(proc=Dense, protocol=LoihiProtocol)
@requires(CPU)
class PyDenseModelGemv(GuardedModel):
    """Fully connected synapse as one matrix-vector product; ``weights`` (N_out, N_in)."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.float32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    a_buff: Array = LavaPyType(np.ndarray, np.float32)
    weights: Array = LavaPyType(np.ndarray, np.float32, precision=8)
    num_message_bits: Array = LavaPyType(np.ndarray, np.int32)

    def prepare(self) -> None:
        self.weights = self.weights * np.float32(2.0 ** self.proc_params.get("weight_exp", 0))

    def step(self) -> None:
        self.a_out.send(self.a_buff)
        np.matmul(self.weights, self.s_in.recv(), out=self.a_buff)


@implements(proc=LIFReset, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class RecordingLifResetModel(GuardedModel, PyLifResetModelBitAcc):
    """Lava's bit-accurate LIFReset, with recording.

    Additional Process parameters: ``recording``, a `LavaRecording`; ``initial_potential`` V0 and
    ``threshold`` theta, integers that broadcast over the neurons. It records V0 + u - theta s, rounded down: the
    potential after the soft reset, which the neuron's recurrent synapse does in the next step.
    """

    def prepare(self) -> None:
        recording: LavaRecording = self.proc_params["recording"]
        self._recorder = Recorder(recording)
        self._fires = recording.spikes is not None
        self._initial_potential: Array = self.proc_params["initial_potential"]
        self._threshold: Array = self.proc_params["threshold"]
        self._spikes: Array = np.zeros(self.u.shape, np.bool_)

    def step(self) -> None:
        super().step()
        potentials = (self.u >> self.act_shift) + self._initial_potential - self._threshold * self._spikes
        if self._fires:
            self._recorder.record_spikes(self.time_step, self._spikes[np.newaxis])
        self._recorder.record_potentials(self.time_step, potentials[np.newaxis])

    def spiking_activation(self) -> Array:
        self._spikes = super().spiking_activation()
        return self._spikes


@implements(proc=Sparse, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class GuardedSparseModel(GuardedModel, PySparseModelBitAcc):
    """Lava's bit-accurate Sparse."""


class _Recording(GuardedModel):
    """A model whose state is written back before each image, and recorded after it.

    Process parameters: ``recording``, a `LavaRecording`, and ``is_stream``: the images are frames of one sequence, so
    that nothing is written back.
    """

    state: ClassVar[tuple[str, ...]]
    """Names of the Vars that hold the state."""

    def prepare(self) -> None:
        self._recorder = Recorder(self.proc_params["recording"])
        self._settled: dict[str, Array] = {}

    def step(self) -> None:
        if self._recorder.records(self.time_step) and not self.proc_params["is_stream"]:
            if not self._settled:
                self._settled = {name: getattr(self, name).copy() for name in self.state}
            for name, value in self._settled.items():
                setattr(self, name, value.copy())
        super().step()
        self.record()

    def record(self) -> None:
        """Record the results of the step."""
        raise NotImplementedError


class _RecordingDelta(_Recording):
    """A model that sends changes: messages and activations are recorded."""

    state = ("sigma", "act", "residue")
    act: Array
    state_exp: Array

    def delta_dynamics(self, act_data: Array) -> Array:
        """See ``AbstractDeltaModel``; keeps what is sent."""
        sent: Array = super().delta_dynamics(act_data)
        self._sent = sent
        return sent

    def record(self) -> None:
        messages = np.right_shift(self._sent, self.state_exp)
        self._recorder.record_spikes(self.time_step, messages[np.newaxis])
        self._recorder.record_potentials(self.time_step, self.act[np.newaxis])


@implements(proc=Delta, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RecordingDeltaModel(_RecordingDelta, PyDeltaModelFixed):
    """Lava's Delta in integers."""


@implements(proc=SigmaDelta, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RecordingSigmaDeltaModel(_RecordingDelta, PySigmaDeltaModelFixed):
    """Lava's SigmaDelta in integers."""


@implements(proc=Sigma, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RecordingSigmaModel(_Recording, PySigmaModelFixed):
    """Lava's Sigma in integers, the output; it sends no messages."""

    state = ("sigma",)

    def record(self) -> None:
        self._recorder.record_potentials(self.time_step, self.sigma[np.newaxis])


@implements(proc=Conv, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class GuardedConvModel(GuardedConv, PyConvModelFixed):
    """Lava's Conv in integers."""


@implements(proc=Dense, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class GuardedDenseModel(GuardedModel, PyDenseModelBitAcc):
    """Lava's bit-accurate Dense."""
