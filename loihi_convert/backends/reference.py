"""Backend `ref`: the exact integers of the file, simulated in torch on the CPU (`simulate.py`)."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
import torch

from loihi_convert import netx
from loihi_convert.backends import BackendName, LayerTrace, RunResult, check_run
from loihi_convert.network import QuantizedNetwork
from loihi_convert.progress import Progress, silent
from loihi_convert.simulate import Simulator, batches
from loihi_convert.synapse import Array


class ReferenceBackend:
    """Runs exported files exactly as Lava's CPU simulator does, without Lava."""

    name: Final[BackendName] = "ref"

    @property
    def versions(self) -> dict[str, str]:
        """Empty: it runs in this process."""
        return {}

    @property
    def layout(self) -> None:
        """None: it does without Lava."""

    def run(
        self, path: Path, images: Array, timesteps: int, *, trace: bool = False, progress: Progress = silent
    ) -> RunResult:
        """See `backends.Backend.run`."""
        started = time.perf_counter()
        network = netx.read(path)
        return run_network(network, images, timesteps, trace=trace, progress=progress, started=started)

    def __enter__(self) -> ReferenceBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to end: this backend holds no process."""


def run_network(
    network: QuantizedNetwork,
    images: Array,
    timesteps: int,
    *,
    trace: bool = False,
    progress: Progress = silent,
    started: float | None = None,
) -> RunResult:
    """Run a network that is in memory; what export compares the written file with. Arguments as `Backend.run`."""
    started = time.perf_counter() if started is None else started
    check_run(network, images, timesteps, trace=trace)
    simulator = Simulator(network)
    fan_outs = [torch.from_numpy(fan_out.astype(np.float32).ravel()) for fan_out in network.fan_outs]
    count = len(images)
    potentials = np.empty((count, timesteps, *network.shapes[-1]), np.int32)
    output_spikes = np.empty(potentials.shape, np.bool_) if network.readout == "spikes" else None
    spike_counts = np.empty((count, timesteps, len(fan_outs)), np.int64)
    operations = np.empty((count, timesteps, len(fan_outs)), np.int64)
    traces = _empty_traces(network, count, timesteps) if trace else ()
    ready = time.perf_counter()
    done = 0
    for batch in batches(images, simulator.batch_size):
        rows = slice(done, done + len(batch))
        for step, states in enumerate(simulator.steps(batch, timesteps)):
            potentials[rows, step] = states[-1].potential.floor().numpy()
            if output_spikes is not None and states[-1].spikes is not None:
                output_spikes[rows, step] = states[-1].spikes.numpy()
            for index, (state, fan_out) in enumerate(zip(states, fan_outs, strict=False)):
                assert state.spikes is not None
                flat = state.spikes.flatten(1)
                spike_counts[rows, step, index] = flat.sum(1, dtype=torch.float64).numpy()
                operations[rows, step, index] = _exact_dot(flat, fan_out)
            for layer_trace, state in zip(traces, states if trace else (), strict=True):
                layer_trace.potentials[rows, step] = state.potential.floor().numpy()
                if layer_trace.spikes is not None and state.spikes is not None:
                    layer_trace.spikes[rows, step] = state.spikes.numpy()
        done += len(batch)
        progress(done, count)
    finished = time.perf_counter()
    return RunResult(
        potentials=potentials,
        spike_counts=spike_counts,
        synaptic_operations=operations,
        seconds=finished - ready,
        startup_seconds=ready - started,
        output_spikes=output_spikes,
        traces=traces,
    )


def _exact_dot(spikes: torch.Tensor, fan_out: torch.Tensor) -> Array:
    """Sum of fan-outs of the neurons that fired, ``(B,)``; float32 holds it exactly below 2^24, float64 beyond."""
    if float(fan_out.sum(dtype=torch.float64)) < 2**24:
        return (spikes @ fan_out).numpy()
    return (spikes.double() @ fan_out.double()).numpy()


def _empty_traces(network: QuantizedNetwork, count: int, timesteps: int) -> tuple[LayerTrace, ...]:
    return tuple(
        LayerTrace(
            spikes=None if layer.neuron is None else np.empty((count, timesteps, *shape), np.bool_),
            potentials=np.empty((count, timesteps, *shape), np.int32),
        )
        for layer, shape in zip(network.layers, network.shapes, strict=True)
    )
