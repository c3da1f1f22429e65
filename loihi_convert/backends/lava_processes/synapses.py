"""Fast exact ProcessModels of Lava's own Conv and Dense Processes: the same integers from one matrix product.

Like Lava's models they answer one step late: first send what the last step gave, then receive and compute. Weights,
inputs and sums are float32, which is exact: the exactness rules of `loihi.py` bound every partial sum by 2^23 - 1,
so Lava's wrapping at 24 bits never applies either. Lava's model of Dense scales its weights by sign mode and bit
count; these 8-bit weights it would leave as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.conv.process import Conv
from lava.proc.dense.process import Dense
from numpy.lib.stride_tricks import sliding_window_view

from loihi_convert.backends.lava_processes.guarded import GuardedModel

Array = npt.NDArray[Any]


@implements(proc=Conv, protocol=LoihiProtocol)
@requires(CPU)
class PyConvModelGemm(GuardedModel):
    """Convolution as im2col and one matrix product per group.

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
    # Lava's own models keep the next five as int8, which a long pooled kernel or many groups would wrap.
    kernel_size: Array = LavaPyType(np.ndarray, np.int32)
    padding: Array = LavaPyType(np.ndarray, np.int32)
    stride: Array = LavaPyType(np.ndarray, np.int32)
    dilation: Array = LavaPyType(np.ndarray, np.int32)
    groups: Array = LavaPyType(np.ndarray, np.int32)

    def prepare(self) -> None:
        groups = int(self.groups[0])
        (pad_x, pad_y), (stride_x, stride_y), (dilation_x, dilation_y) = self.padding, self.stride, self.dilation
        width, height, channels_in = self.s_in.shape
        channels_out = len(self.weight)

        padded = np.zeros((width + 2 * pad_x, height + 2 * pad_y, channels_in), np.float32)
        self._interior = padded[pad_x : pad_x + width, pad_y : pad_y + height]

        extent = self.dilation * (self.kernel_size - 1) + 1
        windows = sliding_window_view(padded, (*extent, 1))[..., 0]
        windows = windows[::stride_x, ::stride_y, :, ::dilation_x, ::dilation_y].transpose(0, 1, 3, 4, 2)
        self._windows = np.split(windows, groups, axis=4)
        self._columns = np.empty(self._windows[0].shape, np.float32)
        self._matrix = self._columns.reshape(-1, self.weight[0].size)

        unflipped = self.weight[:, ::-1, ::-1].reshape(groups, channels_out // groups, -1)
        self._kernels = [np.ascontiguousarray(kernel.T) for kernel in unflipped]
        self._outputs = np.split(self.a_buf.reshape(-1, channels_out), groups, axis=1)

    def step(self) -> None:
        self.a_out.send(self.a_buf)
        self._interior[...] = self.s_in.recv()
        for window, kernel, output in zip(self._windows, self._kernels, self._outputs, strict=True):
            np.copyto(self._columns, window)
            np.matmul(self._matrix, kernel, out=output)


@implements(proc=Dense, protocol=LoihiProtocol)
@requires(CPU)
class PyDenseModelGemv(GuardedModel):
    """Fully connected synapse as one matrix-vector product; ``weights`` (N_out, N_in)."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.float32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    a_buff: Array = LavaPyType(np.ndarray, np.float32)
    weights: Array = LavaPyType(np.ndarray, np.float32, precision=8)
    num_message_bits: Array = LavaPyType(np.ndarray, np.int32)

    def step(self) -> None:
        self.a_out.send(self.a_buff)
        np.matmul(self.weights, self.s_in.recv(), out=self.a_buff)
