"""What a run on a Loihi 2 board would build and set, without Lava: for ``run --backend loihi2 --dry-run``."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loihi_convert.arrays import Array, Shape
from loihi_convert.backends.lava.timing import Timing, first_step, reset_interval, stock_interval
from loihi_convert.backends.loihi2.board import Board
from loihi_convert.chip import limits
from loihi_convert.ir.circuit import Circuit, circuit
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv


@dataclass(frozen=True)
class PlannedProcess:
    """One Lava Process.

    Parameters
    ----------
    layer
        Name of the layer it belongs to; ``"input"``, or ``"bias switch"``.
    kind
        Its class in Lava.
    shape
        Of its output, C, H, W.
    parameters
        Those that matter, by Lava's names; arrays as their range.
    """

    layer: str
    kind: str
    shape: Shape
    parameters: dict[str, str]


@dataclass(frozen=True)
class ChipPlan:
    """All of them, and the steps of the run."""

    processes: tuple[PlannedProcess, ...]
    timing: Timing
    reset_interval: int
    board: Board

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "processes": [vars(process) for process in self.processes],
            "images": self.timing.images,
            "timesteps": self.timing.timesteps,
            "reset_interval": self.reset_interval,
            "steps_per_image": self.timing.interval,
            "steps": self.timing.total,
            "environment": self.board.environment,
        }


def plan(network: QuantizedNetwork, image_count: int, timesteps: int, board: Board, *, neuron: NeuronModel) -> ChipPlan:
    """Return what `stock_network.build_circuit` builds of ``network``, of target loihi2, and where it would run."""
    network = network.stored
    processes = [_input(network)]
    circuits = [circuit(layer) for layer in network.layers]
    if with_bias := [index for index, numbers in enumerate(circuits) if numbers.source_mant is not None]:
        switch = f"1 in {timesteps} of {stock_interval(timesteps)} steps"
        processes.append(PlannedProcess("bias switch", "RingBuffer", (1,), {"data": switch}))
        processes += with_bias[-1] * [
            PlannedProcess("bias switch", "Dense", (1,), {"weights": "1"}),
            PlannedProcess(
                "bias switch", "LIF", (1,), {"du": str(limits.NO_MEMORY - 1), "dv": str(limits.NO_MEMORY), "vth": "0"}
            ),
        ]
    for index, layer in enumerate(network.layers):
        processes += _layer(layer, network.shapes[index], circuits[index], index, timesteps, neuron)
    timing = Timing(image_count, 1, timesteps, len(network.layers), stock_interval(timesteps))
    return ChipPlan(tuple(processes), timing, reset_interval(timesteps), board)


def _input(network: QuantizedNetwork) -> PlannedProcess:
    pixels = f"{network.pixel_bits} bits" if network.poisson_seed is None else "Poisson spikes"
    return PlannedProcess("input", "ImageSource", network.input_shape, {"pixels": pixels})


def _layer(
    layer: QuantizedLayer, shape: Shape, numbers: Circuit, index: int, timesteps: int, neuron: NeuronModel
) -> list[PlannedProcess]:
    weights = {"weights": _range(2 * layer.weight), "weight_exp": "-1"}
    neurons = {
        "du": str(neuron.du),
        "dv": str(limits.NO_MEMORY),
        "vth": str(numbers.vth),
        "bias_mant": _range(numbers.bias_mant),
        "bias_exp": str(numbers.bias_exp),
        "reset_interval": str(reset_interval(timesteps)),
        "reset_offset": str(first_step(index)),
    }
    found = [
        PlannedProcess(layer.name, "Conv" if isinstance(layer.synapse, Conv) else "Dense", shape, weights),
        PlannedProcess(layer.name, "LIFReset", shape, neurons),
    ]
    if layer.neuron is not None:
        own = {"weights": _range(-numbers.self_weight_mant), "weight_exp": str(numbers.self_weight_exp)}
        found.append(PlannedProcess(layer.name, "Sparse", (math.prod(shape),), own))
    if numbers.source_mant is not None:
        bias = {"weights": _range(2 * numbers.source_mant), "weight_exp": str(numbers.source_exp - 1)}
        found.append(PlannedProcess(layer.name, "Dense", (math.prod(shape),), bias))
    return found


def _range(values: Array) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}..{high}"


def sbatch_script(words: Sequence[str], job: str, board: Board) -> str:
    """Return a batch script for SLURM that does the run: ``words`` is the command line, ``job`` names it."""
    # A name for SLURM, whatever the file is called.
    job = re.sub(r"[^\w.-]", "_", job)
    options = [f"#SBATCH --job-name={job}", f"#SBATCH --output={job}-%j.log"]
    if board.partition is not None:
        options.append(f"#SBATCH --partition={board.partition}")
    if board.name is not None:
        options.append(f"#SBATCH --nodelist={board.name}")
    exports = [f"export {name}={shlex.quote(value)}" for name, value in board.environment.items()]
    return "\n".join(
        [
            "#!/bin/bash",
            *options,
            "# Never tried on a chip: compare with `loihi-convert golden --backend loihi2` first.",
            "set -eu",
            *exports,
            shlex.join(words),
            "",
        ]
    )
