"""The files that pass images to a simulation on Lava and results back.

Both sides write and read them: `lava_backend.py`, and `host.py`, which may run on another Python and NumPy.
"""

from __future__ import annotations

import copyreg
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loihi_convert.backends.lava.recording import LavaRecording, SpikeFiles
from loihi_convert.backends.lava.timing import first_step
from loihi_convert.backends.result import LayerTrace, RunResult
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.quantized import QuantizedNetwork

StoredNetwork = QuantizedNetwork | GradedNetwork
"""A network that `export` wrote."""


@dataclass(frozen=True)
class LavaFiles:
    """The files of one run, with its images and results.

    Parameters
    ----------
    path
        An existing folder that only this user can read.
    """

    path: Path

    @property
    def network(self) -> Path:
        """The network, pickled so that any NumPy can read it."""
        return self.path / "network.pickle"

    @property
    def images(self) -> Path:
        """uint8 ``(N, C, H, W)``: integers as they enter the network."""
        return self.path / "images.npy"

    @property
    def steps(self) -> Path:
        """int64 ``(1,)``: number of global steps started."""
        return self.path / "steps.npy"

    @property
    def potentials(self) -> Path:
        """int32 ``(N, T, classes)``: potentials of the last layer."""
        return self.path / "potentials.npy"

    @property
    def output_spikes(self) -> Path:
        """bool ``(N, T, classes)``, if the last layer has neurons."""
        return self.path / "output_spikes.npy"

    @property
    def spike_counts(self) -> Path:
        """int64 ``(N, T, spiking layers)``."""
        return self.path / "spike_counts.npy"

    @property
    def synaptic_operations(self) -> Path:
        """int64 ``(N, T, spiking layers)``."""
        return self.path / "synaptic_operations.npy"

    @property
    def failure(self) -> Path:
        """One line of text, written by the Lava process that failed."""
        return self.path / "failure.txt"

    def layer_trace(self, index: int) -> tuple[Path, Path]:
        """Spikes and potentials of a hidden layer: bool, or int32 for messages, and int32 ``(N, T, *shape)``."""
        return self.path / f"spikes{index}.npy", self.path / f"potentials{index}.npy"

    def fill(self, network: StoredNetwork, images: Array, timesteps: int, trace: bool) -> None:
        """Write the inputs, and reserve space for the results."""
        moments = (len(images), timesteps)
        with self.network.open("wb") as file:
            pickler = pickle.Pickler(file)
            pickler.dispatch_table = {**copyreg.dispatch_table, np.ndarray: _by_bytes}
            pickler.dump(network)
        is_graded = isinstance(network, GradedNetwork)
        np.save(self.images, images if isinstance(network, GradedNetwork) else network.pixels(images))
        _reserve(self.steps, np.int64, (1,))
        _reserve(self.potentials, np.int32, moments + network.shapes[-1])
        if network.readout == "spikes":
            _reserve(self.output_spikes, np.bool_, moments + network.shapes[-1])
        _reserve(self.spike_counts, np.int64, (*moments, len(network.spiking_layers)))
        _reserve(self.synaptic_operations, np.int64, (*moments, len(network.spiking_layers)))
        for index in range(len(network.layers) - 1 if trace else 0):
            spikes, potentials = self.layer_trace(index)
            _reserve(spikes, np.int32 if is_graded else np.bool_, moments + network.shapes[index])
            _reserve(potentials, np.int32, moments + network.shapes[index])

    def recording(
        self, network: StoredNetwork, index: int, timesteps: int, trace: bool, *, interval: int, settling: int = 0
    ) -> LavaRecording:
        """Return the recording of layer ``index`` into these files, with ``interval`` steps from image to image, and
        ``settling`` ones before the first."""
        is_last = index == len(network.layers) - 1
        spikes, potentials = (self.output_spikes, self.potentials) if is_last else self.layer_trace(index)
        recorded = trace or is_last
        files = None
        if index < len(network.spiking_layers):
            files = SpikeFiles(
                spike_counts=str(self.spike_counts),
                synaptic_operations=str(self.synaptic_operations),
                column=index,
                fan_out=network.fan_outs[index].transpose(),
                spikes=str(spikes) if recorded else None,
            )
        # Input neurons of graded spikes have no synapse, which would take a step.
        place = index - 1 if isinstance(network, GradedNetwork) else index
        start = settling + first_step(place)
        return LavaRecording(start, interval, timesteps, str(potentials) if recorded else None, files)

    def result(self, network: StoredNetwork, trace: bool, seconds: float, startup_seconds: float) -> RunResult:
        """Return the results of the simulation."""
        potentials = np.load(self.potentials)
        output_spikes = np.load(self.output_spikes) if network.readout == "spikes" else None
        traces: list[LayerTrace] = []
        if trace:
            paths = [self.layer_trace(index) for index in range(len(network.layers) - 1)]
            traces = [LayerTrace(np.load(spikes), np.load(membrane)) for spikes, membrane in paths]
            traces.append(LayerTrace(output_spikes, potentials))
        return RunResult(
            potentials=potentials,
            spike_counts=np.load(self.spike_counts),
            synaptic_operations=np.load(self.synaptic_operations),
            seconds=seconds,
            startup_seconds=startup_seconds,
            output_spikes=output_spikes,
            traces=tuple(traces),
        )


def _by_bytes(array: Array) -> tuple[type, tuple[Shape, str, bytes]]:
    """Reduce an array for pickle: NumPy 2 uses names (``numpy._core``) that NumPy 1 does not know."""
    return np.ndarray, (array.shape, array.dtype.str, array.tobytes())


def _reserve(path: Path, dtype: npt.DTypeLike, shape: Shape) -> None:
    # Written in full: a memory map of a sparse file crashes with SIGBUS when the disk is full.
    np.save(path, np.zeros(shape, dtype))
