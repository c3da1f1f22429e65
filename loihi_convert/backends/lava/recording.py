"""Recording of the neurons of one layer during a run.

Lava's means to read from a running network (``Var.get``, Monitor) cost about 1 ms per step; our models write to memory
maps of the files reserved by `exchange.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loihi_convert.ground.arrays import Array


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
