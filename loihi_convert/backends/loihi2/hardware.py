"""Board-specific parts of a run on Loihi 2; the only file that uses the Lava extension for Loihi.

It is used only in the process that runs Lava. Intel provides the extension to members of its research community (INRC);
it is not public. **Nothing here has ever run on a chip.** The code relies on these public sources:

=====================================  =================================================================================
``lava.utils.loihi``                   in Lava itself: is the extension installed, which board
``Loihi2HwCfg``                        in Lava itself: run condition of a board
``lava.utils.profiler.Profiler``       in Lava itself, with names of the extension's; one ``run`` only for each profiler
``lava.proc.embedded_io.spike``        used by lava-dl's tests and tutorials: PyToNxAdapter, PyToN3ConvAdapter
``Var.get()`` of a LIF's u             used by lava-dl's tests of PilotNet on Loihi: the state after some steps
=====================================  =================================================================================

Two points are unknown. An adapter may add one step of delay; then every layer would be late by one step, and the golden
folder would fail from the first layer on. A chip may not accept ``du = -1`` and ``dv = 4096``, which exceed the 12 bits
that Lava documents (with ``leak``, ``du`` is 0).
"""

from __future__ import annotations

import math
import os
import time

import numpy as np

from loihi_convert.backends.lava.exchange import LavaRun, Recorder
from loihi_convert.backends.lava.networks import Port, StockNetwork, build_circuit
from loihi_convert.backends.loihi2.board import MESSAGE_BITS_OF_A_CONVOLUTION, NO_EXTENSION, NOT_INSTALLED, Board
from loihi_convert.chip import limits
from loihi_convert.ir.neuron_model import circuit
from loihi_convert.ir.quantized import QuantizedNetwork


class NoBoardError(Exception):
    """No board is available: the reason, and what to do, for the user."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


def use_board(board: Board) -> None:
    """Have Lava run on ``board`` from now on.

    Raises
    ------
    NoBoardError
        If the extension is not installed, or Lava finds no such board.
    """
    from lava.utils import loihi as lava_loihi

    if not lava_loihi.is_installed():
        raise NoBoardError(NO_EXTENSION, NOT_INSTALLED)
    generation = lava_loihi.ChipGeneration[board.generation]
    try:
        if board.address is not None:
            given = {"host_binary_path": path} if (path := os.environ.get("HOST_BINARY")) else {}
            lava_loihi.use_ethernet_host(board.address, loihi_gen=generation, **given)
        else:
            # Lava's own look-up of a partition or board fails at the last, empty line of sinfo's output.
            lava_loihi.use_slurm_host(loihi_gen=generation)
            os.environ.update(board.environment)
    except (ImportError, OSError, ValueError) as error:
        raise NoBoardError(
            f"Lava refuses the board ({error})", "Choose another one with `partition`, `board` and `loihi_gen`."
        ) from None


def run_on_board(run: LavaRun) -> tuple[float, dict[str, float]]:
    """Run, record every layer, and profile if requested; return the seconds of the steps, and the profiler's totals."""
    stock, steps = build_circuit(run, connect_through_adapter), run.timing.total
    stock.source.create_runtime(run_cfg=_run_config())
    started = time.perf_counter()
    assert isinstance(run.network, QuantizedNetwork)
    record_by_steps(run.network, stock, steps)
    seconds = time.perf_counter() - started
    stock.source.stop()
    return seconds, _profile(build_circuit(run, connect_through_adapter), steps) if run.profile else {}


def _run_config() -> object:
    """Return Lava's run condition of a board, with integers from the host, as on its simulator."""
    from lava.magma.core.run_configs import Loihi2HwCfg
    from lava.proc.io.source import PySendModelFixed, RingBuffer

    return Loihi2HwCfg(exception_proc_model_map={RingBuffer: PySendModelFixed})


def connect_through_adapter(out: Port, into: Port, message_bits: int) -> None:
    """Connect a port on the host to the port of a synapse on the chip."""
    from lava.proc.embedded_io.spike import PyToN3ConvAdapter, PyToNxAdapter

    if len(into.shape) == 3:
        adapter = PyToN3ConvAdapter(
            shape=into.shape, num_message_bits=MESSAGE_BITS_OF_A_CONVOLUTION if message_bits else 0
        )
    else:
        adapter = PyToNxAdapter(shape=into.shape, num_message_bits=message_bits)
    (out if out.shape == into.shape else out.reshape(into.shape)).connect(adapter.inp)
    adapter.out.connect(into)


def record_by_steps(network: QuantizedNetwork, stock: StockNetwork, steps: int) -> None:
    """Run ``steps`` steps; after each step that a layer records, read its u and write its spikes and potentials.

    Both are functions of u: s = [u + bias > vth], V = V0 + u - theta s.
    """
    from lava.magma.core.run_conditions import RunSteps

    circuits = [circuit(layer) for layer in network.layers]
    recorders = [Recorder(neurons.proc_params["recording"]) for neurons in stock.neurons]
    pending = 0
    for step in range(1, steps + 1):
        pending += 1
        recording = [index for index, recorder in enumerate(recorders) if recorder.records(step)]
        if recording or step == steps:
            stock.source.run(RunSteps(num_steps=pending))
            pending = 0
        for index in recording:
            layer, numbers = network.layers[index], circuits[index]
            # u has 24 bits including the sign; the upper 8 bits are ignored.
            u = (stock.neurons[index].u.get().astype(np.int32) << 8) >> 8
            potentials = u >> limits.UNIT_EXP
            if layer.neuron is not None:
                spikes = u + (numbers.bias_mant << numbers.bias_exp) > numbers.vth << limits.UNIT_EXP
                potentials = potentials + layer.neuron.initial_potential - layer.neuron.threshold * spikes
                recorders[index].record_spikes(step, spikes[np.newaxis])
            recorders[index].record_potentials(step, potentials[np.newaxis])


def _profile(stock: StockNetwork, steps: int) -> dict[str, float]:
    """Run all steps at once with Lava's profiler; return its totals: seconds, joules and watts."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.utils.profiler import Profiler

    run_cfg = _run_config()
    profiler = Profiler.init(run_cfg)
    profiler.execution_time_probe(num_steps=steps)
    profiler.energy_probe(num_steps=steps)
    stock.source.run(RunSteps(num_steps=steps), run_cfg=run_cfg)
    stock.source.stop()
    found = {name: float(np.sum(getattr(profiler, name))) for name in ("execution_time", "energy", "static_energy")}
    found["power"] = float(np.mean(profiler.power))
    return {name: value for name, value in found.items() if math.isfinite(value)}
