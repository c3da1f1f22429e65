"""The input Process, which sends images into a Lava network."""

from __future__ import annotations

import numpy as np
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from loihi_convert.backends.lava.processes.guarded import GuardedModel
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.poisson import poisson_spikes


class ImageSource(AbstractProcess):
    """Sends each batch of images in T consecutive steps, then zeros: pixels as graded spikes of at most 8 bits, or
    Poisson spikes.

    Presentation k, of the images kB .. (k + 1)B - 1, is sent in the global steps S + kR + 1 .. S + kR + T, where R is
    ``interval`` and S ``settling``. An incomplete last batch is padded with zeros.

    Parameters
    ----------
    shape
        ``(B, W, H, C)``, or the same number of values in other axes.
    batch_size
        B, the number of images per batch.
    images
        File of the integers to send: ``.npy``, uint8 ``(N, C, H, W)``.
    timesteps
        T.
    interval
        Steps from one presentation to the next; T or more.
    settling
        Steps before the first presentation.
    poisson_seed
        Seed of the Poisson spikes; ``None``: pixels.
    first_image
        Index of the first image in the whole run, for the Poisson spikes.
    steps
        File to update: ``.npy``, int64 ``(1,)``; the number of global steps started.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        batch_size: int,
        images: str,
        timesteps: int,
        interval: int,
        settling: int = 0,
        poisson_seed: int | None,
        first_image: int,
        steps: str,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            images=images,
            timesteps=timesteps,
            interval=interval,
            settling=settling,
            poisson_seed=poisson_seed,
            first_image=first_image,
            steps=steps,
        )
        self.s_out = OutPort(shape=shape)


@implements(proc=ImageSource, protocol=LoihiProtocol)
@requires(CPU)
class PyImageSourceModel(GuardedModel):
    """Reads the images from a memory map."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.uint8, precision=8)

    def prepare(self) -> None:
        self._images: Array = np.load(self.proc_params["images"], mmap_mode="r")
        self._steps: Array = np.load(self.proc_params["steps"], mmap_mode="r+")
        self._batch: Array = np.zeros((self.proc_params["batch_size"], *self._images.shape[1:]), np.uint8)

    def step(self) -> None:
        self._steps[0] = self.time_step
        presentation, step = divmod(self.time_step - 1 - self.proc_params["settling"], self.proc_params["interval"])
        first, seed = presentation * len(self._batch), self.proc_params["poisson_seed"]
        if step == 0 and presentation >= 0:
            images = self._images[first : first + len(self._batch)]
            self._batch[: len(images)] = images
            self._batch[len(images) :] = 0
        if presentation < 0 or step >= self.proc_params["timesteps"]:
            sent = np.zeros_like(self._batch)
        elif seed is None:
            sent = self._batch
        else:
            sent = poisson_spikes(self._batch, seed, self.proc_params["first_image"] + first, step, 1)[:, 0]
        self.s_out.send(sent.swapaxes(1, -1).reshape(self.s_out.shape))
