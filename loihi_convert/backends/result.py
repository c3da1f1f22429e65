"""What a run gives: integers at every step, the same from every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.ir.digits import joined
from loihi_convert.ir.task import classes_of


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """Every spike and potential of one layer.

    Parameters
    ----------
    spikes
        bool ``(N, T, *shape)``; ``None`` for a last layer that only integrates.
    potentials
        int32 ``(N, T, *shape)``, after integration and reset of that step, rounded down.
    """

    spikes: Array | None
    potentials: Array


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a run of N images over T time steps gives, the same from every backend.

    Parameters
    ----------
    potentials
        int32 ``(N, T, classes)``: membrane potential of the last layer after each step.
    spike_counts
        int64 ``(N, T, spiking layers)``: spikes of each layer that has neurons in each step.
    synaptic_operations
        int64 ``(N, T, spiking layers)``: synapses of nonzero weight reached by those spikes (NeuroBench: effective
        accumulates); none are after the last layer.
    seconds
        Wall-clock time of the simulation itself, without loading and compiling.
    startup_seconds
        Loading, compiling, starting.
    output_spikes
        bool ``(N, T, classes)``: the last layer's spikes in each step; ``None`` where it only integrates.
    channel_spikes
        Per spiking layer, int64 ``(T, C)``: spikes of each channel in each step, all images together. Counted by `ref`
        alone, empty from `sim`: `pipeline.run` adds those of the `ref` run to which it finds a run of `sim` equal.
    traces
        One per layer where ``trace`` was asked for, else empty.
    wrapped_images
        Images on which the u of some stock neuron wrapped, so that it is not the potential that the file means.
        Counted by `ref`; ``None`` unless the neurons are stock.
    measured
        Measurements of the profiler of a chip, by its names: seconds, joules, watts. Empty without a profiler.
    """

    potentials: Array
    spike_counts: Array
    synaptic_operations: Array
    seconds: float
    startup_seconds: float
    output_spikes: Array | None = None
    channel_spikes: tuple[Array, ...] = ()
    traces: tuple[LayerTrace, ...] = ()
    wrapped_images: int | None = None
    measured: Mapping[str, float] = field(default_factory=dict)

    def with_joined_digits(self, low_bits: int) -> RunResult:
        """The result of the whole readout where it was run in two digits, see `ir.digits`; itself for 0 bits."""
        if not low_bits:
            return self
        potentials = joined(self.potentials, low_bits)
        traces = (*self.traces[:-1], LayerTrace(None, potentials)) if self.traces else ()
        return replace(self, potentials=potentials, traces=traces)

    @property
    def outputs(self) -> Array:
        """What the class is read from after each step, ``(N, T, classes)``: the potential, int32, or, where the last
        layer has neurons, how often each has fired since the first step, int64."""
        return self.potentials if self.output_spikes is None else self.output_spikes.cumsum(axis=1, dtype=np.int64)

    @property
    def predictions(self) -> Array:
        """int64 ``(N, T)``: the class that the output stands for after each step, see `ir.task.classes_of`."""
        return classes_of(self.outputs)
