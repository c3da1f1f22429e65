"""Where the images enter Lava."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from loihi_convert.backends.lava_processes.guarded import GuardedModel


class ImageSource(AbstractProcess):
    """Sends each image as graded spikes of at most 8 bits in ``timesteps`` successive steps, then zeros.

    Image k is sent in the global steps kT + 1 .. (k + 1)T.

    Parameters
    ----------
    shape
        ``(W, H, C)``, or the same number of values in one axis.
    images
        File of the integers to send: ``.npy``, uint8 ``(N, C, H, W)``.
    timesteps
        T.
    steps
        File to fill: ``.npy``, int64 ``(1,)``; the number of global steps begun.
    """

    def __init__(self, *, shape: tuple[int, ...], images: str, timesteps: int, steps: str) -> None:
        super().__init__(images=images, timesteps=timesteps, steps=steps)
        self.s_out = OutPort(shape=shape)


@implements(proc=ImageSource, protocol=LoihiProtocol)
@requires(CPU)
class PyImageSourceModel(GuardedModel):
    """Reads the images from a memory map."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.uint8, precision=8)

    def prepare(self) -> None:
        self._images: npt.NDArray[Any] = np.load(self.proc_params["images"], mmap_mode="r")
        self._blank: npt.NDArray[Any] = np.zeros(self._images.shape[1:], np.uint8)
        self._steps: npt.NDArray[Any] = np.load(self.proc_params["steps"], mmap_mode="r+")

    def step(self) -> None:
        self._steps[0] = self.time_step
        index = (self.time_step - 1) // self.proc_params["timesteps"]
        image = self._images[index] if index < len(self._images) else self._blank
        self.s_out.send(image.transpose().reshape(self.s_out.shape))
