"""The Processes and settings of a run on a Loihi 2 board, planned without Lava (``--backend loihi2 --dry-run``)."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from loihi_convert.backends.lava.exchange import Timing, first_step, reset_interval, stock_interval
from loihi_convert.backends.loihi2.board import MESSAGE_BITS_OF_A_CONVOLUTION, Board
from loihi_convert.chip import limits
from loihi_convert.chip.resources import network_resources
from loihi_convert.errors import low_to_high
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ir.neuron_model import Circuit, NeuronModel, circuit
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv

STOP_SECONDS: Final = (0.01, 0.1)
"""Assumed time of one stop with its reads, through the board's host: no number is public, and none was measured."""

COMPILING_MINUTES: Final = 30


@dataclass(frozen=True)
class PlannedProcess:
    """One Lava Process.

    Parameters
    ----------
    layer
        Name of its layer; ``"input"``, or ``"bias switch"``.
    kind
        Its class in Lava.
    shape
        Shape of its output, C, H, W.
    parameters
        The main parameters, by Lava's names; arrays are given by their range.
    """

    layer: str
    kind: str
    shape: Shape
    parameters: dict[str, str]


@dataclass(frozen=True)
class ChipPlan:
    """All Processes of a run, and the resources and time it needs.

    Parameters
    ----------
    processes, timing, reset_interval, board
        The Processes, their steps, and the board.
    neurocores
        Fewest and most neurocores, with the circuit, see `chip.resources`.
    values_read
        Number of u values, over all layers, that the host reads for one time step of an image.
    stops
        Number of interruptions of the run for reading.
    profile
        Whether the network is compiled again, and run without stops, to measure time and energy.
    """

    processes: tuple[PlannedProcess, ...]
    timing: Timing
    reset_interval: int
    board: Board
    neurocores: tuple[int, int]
    values_read: int
    stops: int
    profile: bool = False

    @property
    def seconds(self) -> tuple[float, float]:
        """Seconds on the board after compiling: the number of stops times an assumed time; nothing was measured."""
        return self.stops * STOP_SECONDS[0], self.stops * STOP_SECONDS[1]

    @property
    def time_limit(self) -> str:
        """The time limit for SLURM, HH:MM:SS: half an hour to compile each network, plus twice the longest run."""
        minutes = COMPILING_MINUTES * (1 + self.profile) + math.ceil(2 * self.seconds[1] / 60)
        return f"{minutes // 60:02}:{minutes % 60:02}:00"

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "processes": [vars(process) for process in self.processes],
            "images": self.timing.images,
            "timesteps": self.timing.timesteps,
            "reset_interval": self.reset_interval,
            "steps_per_image": self.timing.interval,
            "steps": self.timing.total,
            "neurocores": self.neurocores,
            "values_read_per_step": self.values_read,
            "stops": self.stops,
            "expected_seconds": self.seconds,
            "time_limit": self.time_limit,
            "environment": self.board.environment,
        }


def plan(
    network: QuantizedNetwork,
    image_count: int,
    timesteps: int,
    board: Board,
    *,
    neuron: NeuronModel,
    profile: bool = False,
) -> ChipPlan:
    """Return the plan of a run of ``network`` (target loihi2): the Processes of `stock_network.build_circuit`."""
    network = network.stored
    circuits = [circuit(layer) for layer in network.layers]
    processes = list(_from_host(network))
    if with_bias := [index for index, numbers in enumerate(circuits) if numbers.source_mant is not None]:
        switch = f"1 in {timesteps} of {stock_interval(timesteps)} steps"
        processes.append(_process("bias switch", "RingBuffer", (1,), data=switch))
        processes.append(_process("bias switch", "PyToNxAdapter", (1,), num_message_bits=0))
        relay = {"du": limits.NO_MEMORY - 1, "dv": limits.NO_MEMORY, "vth": 0}
        processes += with_bias[-1] * [
            _process("bias switch", "Dense", (1,), weights=1),
            _process("bias switch", "LIF", (1,), **relay),
        ]
    for index, (layer, numbers) in enumerate(zip(network.layers, circuits, strict=True)):
        resets = {"reset_interval": reset_interval(timesteps), "reset_offset": first_step(index)}
        processes += _layer(layer, network.shapes[index], numbers, {"du": neuron.du, "dv": limits.NO_MEMORY}, resets)
    depth = len(network.layers)
    timing = Timing(image_count, 1, timesteps, depth, stock_interval(timesteps))
    cores = network_resources(network, has_circuit=True).cores
    neurons = sum(map(math.prod, network.shapes))
    # Every layer runs for T steps and starts one step after the previous layer; in short intervals, images overlap.
    recorded = timesteps + depth - 1
    stops = (image_count - 1) * min(recorded, stock_interval(timesteps)) + recorded
    return ChipPlan(tuple(processes), timing, reset_interval(timesteps), board, cores, neurons, stops, profile)


def _from_host(network: QuantizedNetwork) -> Iterator[PlannedProcess]:
    """Yield the source of the images, and the adapter to the first synapse on the chip."""
    layer, shape = network.layers[0], network.input_shape
    pixels = f"{network.pixel_bits} bits" if network.poisson_seed is None else "Poisson spikes"
    yield _process("input", "ImageSource", shape, pixels=pixels)
    is_graded = layer.largest_input > 1
    if isinstance(layer.synapse, Conv):
        bits = MESSAGE_BITS_OF_A_CONVOLUTION * is_graded
        yield _process("input", "PyToN3ConvAdapter", shape, num_message_bits=bits)
    else:
        bits = limits.MAX_PIXEL_BITS * is_graded
        yield _process("input", "PyToNxAdapter", (math.prod(shape),), num_message_bits=bits)


def _layer(
    layer: QuantizedLayer, shape: Shape, numbers: Circuit, decays: dict[str, int], resets: dict[str, int]
) -> Iterator[PlannedProcess]:
    name, neurons = layer.name, (math.prod(shape),)
    kind = "Conv" if isinstance(layer.synapse, Conv) else "Dense"
    yield _process(name, kind, shape, weights=2 * layer.weight, weight_exp=-1)
    levels: dict[str, Any] = {"vth": numbers.vth, "bias_mant": numbers.bias_mant, "bias_exp": numbers.bias_exp}
    yield _process(name, "LIFReset", shape, **decays, **levels, **resets)
    if layer.neuron is not None:
        mant, exp = -numbers.self_weight_mant, numbers.self_weight_exp
        yield _process(name, "Sparse", neurons, weights=mant, weight_exp=exp)
    if numbers.source_mant is not None:
        yield _process(name, "Dense", neurons, weights=2 * numbers.source_mant, weight_exp=numbers.source_exp - 1)


def _process(layer: str, kind: str, shape: Shape, **parameters: Array | int | str) -> PlannedProcess:
    shown = {
        name: low_to_high((value.min(), value.max())) if isinstance(value, np.ndarray) else str(value)
        for name, value in parameters.items()
    }
    return PlannedProcess(layer, kind, shape, shown)


def script(words: Sequence[str], job: str, planned: ChipPlan, *, folder: Path, activate: Path | None = None) -> str:
    """Return a batch script for the run: for SLURM or, if the board has an address, for this machine.

    Parameters
    ----------
    words
        The command line.
    job
        Name of the job.
    planned
        The planned run.
    folder
        Its working directory; paths in the command line are relative to it.
    activate
        The script that activates the Python environment, if it is a virtual one.
    """
    board = planned.board
    # A valid name for SLURM, for any file name.
    job = re.sub(r"[^\w.-]", "_", job)
    options = [f"#SBATCH --job-name={job}", f"#SBATCH --output={job}-%j.log", f"#SBATCH --time={planned.time_limit}"]
    options.append("#SBATCH --exclusive")
    if board.partition is not None:
        options.append(f"#SBATCH --partition={board.partition}")
    if board.name is not None:
        options.append(f"#SBATCH --nodelist={board.name}")
    how = "Run it with bash: the board has its own address."
    if board.address is None:
        how = "Submit it with sbatch; or run it with bash if Lava itself may request a board from SLURM."
    environment = dict(board.environment)
    is_slurm = environment.pop("SLURM", None) is not None
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    if is_slurm:
        # On a node where NXSDKHOST gives the board's address, Lava must not request another board from SLURM.
        exports.append('if [ -n "${NXSDKHOST:-}" ]; then export NOSLURM=1; else export SLURM=1; fi')
    return "\n".join(
        [
            "#!/bin/bash",
            *(options if board.address is None else ()),
            "# Never tried on a chip: compare with `loihi-convert golden --backend loihi2` first.",
            f"# {how}",
            "set -eu",
            f"cd {shlex.quote(str(folder))}",
            *([f". {shlex.quote(str(activate))}"] if activate is not None else ()),
            *exports,
            shlex.join(words),
            "",
        ]
    )


def script_suffix(board: Board) -> str:
    """Return ``.sbatch``, or ``.sh`` for a board used without SLURM."""
    return ".sbatch" if board.address is None else ".sh"
