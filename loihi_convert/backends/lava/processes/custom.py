"""Custom Processes: the source of images, and neurons, with or without their synapse; all for batches of B images.

Every ProcessModel is a `GuardedModel`: an error in one ends its process instead of hanging the whole network.

A `SpikingLayer` is a synapse and its neurons in one. Fewer Processes do more work per step: Lava's overhead for
messages and synchronization is paid once per batch. The timing is that of Lava's Conv or Dense followed by neurons: in
each step a layer fires with the current of the previous step and sends its spikes, then receives spikes and computes
the current for the next step. So all layers compute at the same time.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from loihi_convert.backends.lava.exchange import LavaRecording, Recorder
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import poisson_spikes


class GuardedModel(PyLoihiProcessModel):
    """A ProcessModel whose exceptions are written to the file ``proc_params["failure"]`` and end the process.

    Lava swallows exceptions in a ProcessModel; ``run()`` and ``stop()`` then wait forever. The host watches for ended
    processes.
    """

    def prepare(self) -> None:
        """Prepare the steps; called once, after Lava has set the Vars and ports."""

    def step(self) -> None:
        """Do one time step, by default that of Lava's model after this class; ``self.time_step`` counts from 1."""
        super().run_spk()

    def start(self) -> None:
        with self._reported():
            self.prepare()
        super().start()

    def run_spk(self) -> None:
        with self._reported():
            self.step()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
            Path(self.proc_params["failure"]).write_text(reason, encoding="utf-8")
            os._exit(1)


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

    def __init__(self, *, shape: Shape, settling: int = 0, **parameters: Any) -> None:
        super().__init__(settling=settling, **parameters)
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


class Neurons(AbstractProcess):
    """Integrate-and-fire neurons; after a spike the potential keeps the excess over the threshold.

    At each step::

        v = initial_potential      in the first step of each presentation
        v = clip(v + current + bias, -131071, 131071)
        s_out = v >= threshold
        v = v - threshold * s_out

    With hard reset the neurons compute the same as Lava's LIF without leak; see `ir.neuron_model`.

    Parameters
    ----------
    shape
        ``(W, H, C)`` or ``(N,)``. The arrays below broadcast over it, so that ``(C,)`` is per channel.
    output_shape
        Shape of ``s_out``: ``(B, *shape)``, or the same number of neurons in other axes.
    batch_size
        B.
    bias, initial_potential, threshold
        Integers, in weight units. Neurons whose recording has no spikes only integrate.
    parameters
        ``neuron``, the `NeuronModel`, with soft or hard reset; ``recording``, a `LavaRecording`, in whose first step
        each presentation starts; and those of a subclass.
    """

    def __init__(
        self,
        *,
        shape: Shape,
        output_shape: Shape,
        batch_size: int,
        bias: Array,
        initial_potential: Array,
        threshold: Array,
        **parameters: Any,
    ) -> None:
        super().__init__(**parameters)
        self.v = Var(shape=(batch_size, *shape), init=0)
        self.bias = Var(shape=bias.shape, init=bias)
        self.initial_potential = Var(shape=initial_potential.shape, init=initial_potential)
        self.threshold = Var(shape=threshold.shape, init=threshold)
        self.s_out = OutPort(shape=output_shape)


class SoftResetIF(Neurons):
    """`Neurons` that receive their current, of one image, from a synapse such as Lava's Conv or Dense."""

    def __init__(self, *, shape: Shape, **neurons: Any) -> None:
        super().__init__(shape=shape, batch_size=1, **neurons)
        self.a_in = InPort(shape=shape)


SynapseFunction = Callable[[Array, Array], None]
"""Writes the currents of inputs ``(B, *input_shape)`` into float32 ``(B, *shape)``; `gemm.ConvGemm` or `DenseGemm`."""


class SpikingLayer(Neurons):
    """A ``synapse``, a `SynapseFunction`, and its `Neurons`, for B images of ``input_shape``."""

    def __init__(self, *, input_shape: Shape, shape: Shape, batch_size: int, **neurons: Any) -> None:
        super().__init__(shape=shape, output_shape=(batch_size, *shape), batch_size=batch_size, **neurons)
        self.s_in = InPort(shape=(batch_size, *input_shape))


class IntegrateAndFireModel(GuardedModel):
    """The step of `Neurons` for any source of current, in exact 32-bit integers."""

    # In units of 2^-shift weight units.
    v: Array = LavaPyType(np.ndarray, np.int32, precision=24)
    initial_potential: Array = LavaPyType(np.ndarray, np.int32, precision=17)
    bias: Array = LavaPyType(np.ndarray, np.int32, precision=18)
    threshold: Array = LavaPyType(np.ndarray, np.int32, precision=18)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.bool_, precision=1)

    def prepare(self) -> None:
        self._recording: LavaRecording = self.proc_params["recording"]
        self._recorder = Recorder(self._recording)
        neuron: NeuronModel = self.proc_params["neuron"]
        self._is_soft, self._shift = neuron.reset == "soft", neuron.fraction_bits
        self._limit = int(neuron.limit * 2**self._shift)

    def advance(self, current: Array) -> None:
        """Do one step with ``current``, int32 that broadcasts over ``v``."""
        if (self.time_step - self._recording.first_step) % self._recording.interval == 0:
            self.v[...] = self.initial_potential << self._shift
        # int32 cannot overflow: a current is below 2^23 (after a shift, if there is one), and so are all other terms.
        self.v += current << self._shift
        self.v += self.bias << self._shift
        np.clip(self.v, -self._limit, self._limit, out=self.v)
        if self._recording.spikes is not None:
            self._fire()
        self._recorder.record_potentials(self.time_step, self.v >> self._shift)

    def _fire(self) -> None:
        spikes = self.v > (self.threshold - 1) << self._shift
        if self._is_soft:
            self.v -= spikes * self.threshold
        else:
            self.v[spikes] = 0
        self.s_out.send(spikes.reshape(self.s_out.shape))
        self._recorder.record_spikes(self.time_step, spikes)


@implements(proc=SoftResetIF, protocol=LoihiProtocol)
@requires(CPU)
class PySoftResetIFModel(IntegrateAndFireModel):
    """Neurons whose current comes from another Process in the same step."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)

    def step(self) -> None:
        self.advance(self.a_in.recv())


@implements(proc=SpikingLayer, protocol=LoihiProtocol)
@requires(CPU)
class PySpikingLayerModel(IntegrateAndFireModel):
    """Neurons whose current comes from their own synapse, one step after its inputs."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.uint8, precision=8)

    def prepare(self) -> None:
        super().prepare()
        self._synapse: SynapseFunction = self.proc_params["synapse"]
        self._sums: Array = np.zeros(self.v.shape, np.float32)

    def step(self) -> None:
        self.advance(self._sums.astype(np.int32))
        self._synapse(self.s_in.recv(), self._sums)
