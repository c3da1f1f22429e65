"""Fast, exact ProcessModels of Lava's Conv and Dense Processes, with one matrix product per step.

Like Lava's models they respond one step late: first they send the last step's result, then receive and compute.
Weights, inputs and sums are float32, which is exact (`gemm.py`). Our weights have no bits that Lava's Dense would round
away (sign mode, bit count, weight_exp). Lava's Conv on the CPU ignores weight_exp; this one does not.
"""

from __future__ import annotations

import numpy as np
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.conv.process import Conv
from lava.proc.dense.process import Dense

from loihi_convert.backends.lava.processes.gemm import ConvGemm
from loihi_convert.backends.lava.processes.guarded import GuardedConv, GuardedModel
from loihi_convert.ground.arrays import Array


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
