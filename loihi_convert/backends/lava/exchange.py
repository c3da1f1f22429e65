"""A run on Lava as both sides know it: its steps, and the files that pass images in and results out.

Both sides write and read them: `lava_backend.py`, and `host.py`, which may run on another Python and NumPy.

A synapse responds one step later, so layer i (from 0) does its local step t = 1, 2, ... of presentation k at global
step k x interval + t + i + 1, and starts each presentation with a reset.

**Custom neurons** reset themselves within a step: presentations follow each other directly, and the interval is T.

**Stock LIFReset** sets u = v = 0 every P steps, before it integrates the input of that step. So the -theta that a spike
in local step P sends to its own neuron arrives in step P + 1, after the reset. Therefore an image gets 2P steps, with
input and biases in the first T <= P of them, and no neuron fires in steps P + 1 .. 2P:

- The first layer receives nothing from step P + 1 on, but -theta from its own spikes of step P. So u <= 0 and
  V0 + u < theta: it does not fire, so nothing follows, and u does not rise above 0.
- A layer after one that does not fire in steps P + 1 .. 2P receives nothing in its own steps P + 1 .. 2P, so the same
  holds for it.

So no message is in flight when step 2P + 1 resets again, and the state is that of the start. P is a power of two
because the chip allows no other reset interval. An interval shorter than 2P would not work, nor would T blank steps
without a reset: the potential in excess of the threshold would keep a neuron firing.

**Graded spikes** take one step for an image, so presentations follow each other directly. Before the first one come
some settling steps with an input of 0 (`ir.graded`). The input neurons have no synapse: they process image k in global
step ``settling`` + k + 1, one step before the first layer with a synapse.

**Recording.** Lava's means to read from a running network (``Var.get``, Monitor) cost about 1 ms per step; our models
write to memory maps of the files.
"""

from __future__ import annotations

import copyreg
import math
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loihi_convert.backends.loihi2.board import Board
from loihi_convert.backends.result import LayerTrace, RunResult
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import LavaLayout
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import QuantizedNetwork


@dataclass(frozen=True)
class Timing:
    """The global steps of a run.

    Parameters
    ----------
    images
        N.
    batch_size
        Images per presentation.
    timesteps
        T.
    layers
        Number of consecutive synapses.
    interval
        Steps from one presentation to the next: T, or, for stock Processes, `stock_interval`.
    settling
        Steps before the first presentation: 0, but for graded spikes as many as end in the settled state.
    """

    images: int
    batch_size: int
    timesteps: int
    layers: int
    interval: int
    settling: int = 0

    @property
    def total(self) -> int:
        """Global steps until the last layer has done T steps of the last image."""
        presentations = math.ceil(self.images / self.batch_size)
        return self.settling + (presentations - 1) * self.interval + self.timesteps + self.layers

    def images_done(self, step: int) -> int:
        """Return the number of images that the last layer has finished after a global step."""
        steps = step - self.settling - self.layers
        presentations = max(0, steps + self.interval - self.timesteps) // self.interval
        return min(self.images, presentations * self.batch_size)


def first_step(layer: int) -> int:
    """Return the global step in which a layer does its first step of the first image."""
    return layer + 2


def reset_interval(timesteps: int) -> int:
    """Return P of a stock LIFReset: the smallest power of two >= T."""
    return 1 << (timesteps - 1).bit_length()


def stock_interval(timesteps: int) -> int:
    """Return the steps from one image to the next in a network of stock Processes: 2P."""
    return 2 * reset_interval(timesteps)


@dataclass(frozen=True)
class LavaRun:
    """One run of ``image_count`` images on Lava.

    Its files are ``.npy``: ``images``, the integers that enter, uint8 ``(N, C, H, W)``; ``steps``, int64 ``(1,)``, the
    global steps started; and those of `RunResult`, by the names of its fields. A hidden layer that is traced has
    ``spikes`` and ``potentials``, followed by its index. A Lava process that fails writes a line to ``failure``.

    Parameters
    ----------
    folder
        An existing folder that only this user can read.
    network
        The network, as stored.
    timesteps, trace, first_image
        As in `Backend.run`.
    neuron
        The neuron model; None for graded spikes.
    layout, batch_size
        As in `LavaBackend`.
    is_stream
        As in `reference.run_graded`.
    board
        The board to run on; None: simulate.
    profile
        Whether to measure time and energy in an additional run on it.
    """

    folder: str
    network: QuantizedNetwork | GradedNetwork
    image_count: int
    timesteps: int = 1
    trace: bool = False
    first_image: int = 0
    neuron: NeuronModel | None = None
    layout: LavaLayout = "processes"
    batch_size: int = 1
    is_stream: bool = False
    board: Board | None = None
    profile: bool = False

    @property
    def timing(self) -> Timing:
        """Its steps."""
        depth = self.network.depth
        if self.neuron is None:
            # Graded spikes, of the input neurons, too, end one step after the last layer.
            return Timing(self.image_count, 1, 1, depth, 1, settling=len(self.network.layers) + 1)
        interval = stock_interval(self.timesteps) if self.neuron.is_circuit else self.timesteps
        return Timing(self.image_count, self.batch_size, self.timesteps, depth, interval)

    @property
    def failure(self) -> Path:
        return Path(self.folder, "failure.txt")

    def file(self, name: str) -> str:
        return f"{self.folder}/{name}.npy"

    def fill(self, images: Array) -> None:
        """Write the run and its images, uint8 ``(N, C, H, W)``, and reserve space for the results."""
        with Path(self.folder, "run.pickle").open("wb") as file:
            pickler = pickle.Pickler(file)
            pickler.dispatch_table = {**copyreg.dispatch_table, np.ndarray: _by_bytes}
            pickler.dump(self)
        np.save(self.file("images"), self.network.pixels(images))
        self._reserve("steps", np.int64, (1,))
        for name, array in self._named(self._unfilled).items():
            self._reserve(name, array.dtype, array.shape)

    @property
    def _unfilled(self) -> RunResult:
        return RunResult.unfilled(self.network, self.image_count, self.timesteps, trace=self.trace)

    def _named(self, result: RunResult) -> dict[str, Array]:
        """The arrays of ``result`` by the names of their files."""
        names = ("potentials", "output_spikes", "spike_counts", "synaptic_operations")
        arrays = {name: getattr(result, name) for name in names}
        for index, trace in enumerate(result.traces[:-1]):
            arrays |= {f"spikes{index}": trace.spikes, f"potentials{index}": trace.potentials}
        return {name: array for name, array in arrays.items() if array is not None}

    def _reserve(self, name: str, dtype: npt.DTypeLike, shape: Shape) -> None:
        # Written in full: a memory map of a sparse file crashes with SIGBUS when the disk is full.
        np.save(self.file(name), np.zeros(shape, dtype))

    @classmethod
    def read(cls, folder: str) -> LavaRun:
        """Return the run that `fill` wrote."""
        found = pickle.loads(Path(folder, "run.pickle").read_bytes())
        assert isinstance(found, cls)
        return found

    def recording(self, index: int) -> LavaRecording:
        """Return the recording of layer ``index`` into these files."""
        network, timing = self.network, self.timing
        is_last = index == len(network.layers) - 1
        is_kept, suffix = self.trace or is_last, "" if is_last else str(index)
        spikes = None
        if index < len(network.spiking_layers):
            spikes = SpikeFiles(
                spike_counts=self.file("spike_counts"),
                synaptic_operations=self.file("synaptic_operations"),
                column=index,
                fan_out=network.fan_outs[index].transpose(),
                spikes=self.file("output_spikes" if is_last else f"spikes{index}") if is_kept else None,
            )
        # Input neurons of graded spikes have no synapse, which would take a step.
        first = timing.settling + first_step(index - (len(network.layers) - network.depth))
        potentials = self.file(f"potentials{suffix}") if is_kept else None
        return LavaRecording(first, timing.interval, self.timesteps, potentials, spikes)

    def result(self, seconds: float = 0, startup_seconds: float = 0) -> RunResult:
        """Return the results of the simulation."""
        result = replace(self._unfilled, seconds=seconds, startup_seconds=startup_seconds, channel_spikes=())
        for name, array in self._named(result).items():
            array[...] = np.load(self.file(name), mmap_mode="r")
        last = (LayerTrace(result.output_spikes, result.potentials),) if self.trace else ()
        return replace(result, traces=(*result.traces[:-1], *last))


def _by_bytes(array: Array) -> tuple[type, tuple[Shape, str, bytes]]:
    """Reduce an array for pickle: NumPy 2 uses names (``numpy._core``) that NumPy 1 does not know."""
    return np.ndarray, (array.shape, array.dtype.str, array.tobytes())


@dataclass(frozen=True)
class SpikeFiles:
    """Files for the spikes of one layer.

    Parameters
    ----------
    spike_counts, synaptic_operations
        ``.npy``, int64 ``(N, T, spiking layers)``.
    column
        Index of this layer among the spiking layers.
    fan_out
        int64, in Lava's axes ``(W, H, C)`` or ``(N,)``: number of synapses from each neuron.
    spikes
        ``.npy``, bool, or int32 for messages, ``(N, T, C, H, W)``; None if not recorded.
    """

    spike_counts: str
    synaptic_operations: str
    column: int
    fan_out: Array
    spikes: str | None


@dataclass(frozen=True)
class LavaRecording:
    """The values that one layer records, and in which steps.

    Parameters
    ----------
    first_step
        Global step in which the layer does its first step of the first image.
    interval
        Steps from one presentation to the next.
    timesteps
        T: the steps of each presentation that are recorded.
    potentials
        ``.npy``, int32 ``(N, T, C, H, W)``: membrane potentials; None if not recorded.
    spikes
        Files for the spikes; ``None`` for a layer without neurons.
    """

    first_step: int
    interval: int
    timesteps: int
    potentials: str | None
    spikes: SpikeFiles | None


class Recorder:
    """Writes a `LavaRecording`, for batches of B images."""

    def __init__(self, recording: LavaRecording) -> None:
        self._when = recording
        self._potentials = _opened(recording.potentials)
        if (files := recording.spikes) is not None:
            # float64, so that BLAS sums it: exact up to 2^53.
            self._fan_out: Array = files.fan_out.astype(np.float64).ravel()
            self._spikes = _opened(files.spikes)
            self._spike_counts: Array = np.load(files.spike_counts, mmap_mode="r+")[:, :, files.column]
            self._operations: Array = np.load(files.synaptic_operations, mmap_mode="r+")[:, :, files.column]

    def records(self, time_step: int) -> bool:
        """Return whether a global step is one of the T steps of an image."""
        presentation, step = divmod(time_step - self._when.first_step, self._when.interval)
        return presentation >= 0 and step < self._when.timesteps

    def record_spikes(self, time_step: int, spikes: Array) -> None:
        """Write the spikes of a global step, bool ``(B, W, H, C)`` or ``(B, N)``, and the counts from them.

        Graded spikes are integers; 0 means that nothing is sent.
        """
        per_image = spikes.reshape(len(spikes), -1) != 0
        self._record(time_step, self._spike_counts, np.count_nonzero(per_image, axis=1))
        self._record(time_step, self._operations, per_image @ self._fan_out)
        if self._spikes is not None:
            self._record(time_step, self._spikes, spikes.swapaxes(1, -1))

    def record_potentials(self, time_step: int, potentials: Array) -> None:
        """Write potentials, integers in weight units, ``(B, W, H, C)`` or ``(B, N)``."""
        if self._potentials is not None:
            self._record(time_step, self._potentials, potentials.swapaxes(1, -1))

    def _record(self, time_step: int, recording: Array, values: Array) -> None:
        """Write ``values``, except before the first image, after the last one, and for padding in the last batch."""
        if self.records(time_step):
            presentation, step = divmod(time_step - self._when.first_step, self._when.interval)
            first = presentation * len(values)
            place = recording[first : first + len(values), step]
            place[...] = values[: len(place)]


def _opened(path: str | None) -> Array | None:
    return None if path is None else np.load(path, mmap_mode="r+")
