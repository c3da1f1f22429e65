"""Backend `sim`: Lava's CPU simulator in a host process, which this file starts, controls and monitors.

Images and results pass through memory maps in a temporary folder (`exchange.py`), requests and answers as JSON lines
through two pipes (`host_process.py`)::

    LavaBackend  --stdin: {"folder": ...}-->              lava_host  --fork-->  one process per Lava Process
                 <--stdout: {"event": "finished" ...}--

Lava may be installed in another interpreter, with another Python and NumPy version, and only NumPy and Lava in it.

Backend `loihi2` is the network of stock Processes on a Loihi 2 board, in the same host process. **It has never run on a
chip.** The board-specific part is in `hardware.py`, which lists its published sources on the Lava extension for Loihi.
Everything else is the code that `sim` runs with ``--neuron stock``.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from dataclasses import replace
from typing import Any, Final

import numpy as np

from loihi_convert.backends.backend import Backend, BackendOptions
from loihi_convert.backends.lava.exchange import LavaRun, Timing
from loihi_convert.backends.lava.host_process import HostProcess
from loihi_convert.backends.loihi2.board import Board, chosen_board
from loihi_convert.backends.result import RunResult, check_run, require_result_size
from loihi_convert.errors import PlatformError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import BackendName, LavaLayout
from loihi_convert.ground.dependencies import other_interpreter
from loihi_convert.ground.progress import current_progress
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.network import Spiking
from loihi_convert.ir.quantized import QuantizedNetwork

STALL_SECONDS: Final = 120.0
"""Seconds without a simulated step after which a run is stopped; a step of the largest network takes seconds."""

MAX_BATCH: Final = 64
MAX_NEURONS: Final = 2**20
"""Most images per batch, and most neurons of a batch: limits of `fitting_batch_size`."""

_POLL_SECONDS: Final = 0.05


class LavaBackend(Backend):
    """Runs networks on Lava's CPU simulator; all integers are equal to those of `ref`.

    The host process starts with the first run (Lava's import takes about 2 s), serves any number of runs, and ends with
    the ``with`` block, or with this process, even if that is killed.

    Parameters
    ----------
    options
        ``neuron`` and ``leak``; ``lava_python``, the interpreter with NumPy and Lava, as a path or a name on PATH, by
        default that in `dependencies.LAVA_PYTHON`, else this interpreter; ``lava_layout``, by default
        ``"processes"``, the only one for stock neurons.
    batch_size
        Images per batch in layout ``"layers"``, at least 1; by default `fitting_batch_size`.
    stall_seconds
        Seconds without progress after which a run is stopped.
    """

    name: BackendName = "sim"

    def __init__(
        self,
        options: BackendOptions = BackendOptions(),
        *,
        batch_size: int | None = None,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        super().__init__(options)
        self._lava_python = other_interpreter(self.options.lava_python)
        self._batch_size = batch_size
        self._stall_seconds = stall_seconds
        self._host: HostProcess | None = None
        self._board: Board | None = None
        self._versions: dict[str, str] = {}

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python, NumPy and Lava in the host process; empty before the first run."""
        return dict(self._versions)

    @property
    def layout(self) -> LavaLayout:
        """The layout it was opened with, or the default."""
        return self.options.lava_layout or "processes"

    def run(
        self,
        network: QuantizedNetwork | GradedNetwork,
        images: Array,
        timesteps: int = 1,
        *,
        trace: bool = False,
        first_image: int = 0,
        is_stream: bool = False,
    ) -> RunResult:
        """See `backends.Backend.run`.

        Raises
        ------
        UsageError
            If the options ask for neurons or a layout that the network does not support, or the result would be too
            large.
        PlatformError
            If Lava is not installed, its interpreter cannot be used, or the temporary folder is full.
        BackendError
            If the simulation fails, stalls or is killed. None of its processes is left then; the next run starts a new
            host.
        """
        started, layout = time.perf_counter(), self.layout
        if isinstance(network, GradedNetwork):
            if self._board is not None:
                expected = "must be ref or sim for graded spikes: no board runs them yet"
                raise UsageError(f"found {self.name}", where="backend", expected=expected)
            neuron, low_bits, hint = None, 0, ""
            require_result_size(network, len(images), 1, trace=trace)
        else:
            check_run(network, images, timesteps, trace=trace)
            neuron, low_bits = self.options.neuron_model(network), network.low_bits
            hint = "Omit it, or pass `neuron='own'`, which gives the same integers as long as nothing wraps."
        if layout != "processes" and (neuron is None or neuron.is_circuit):
            expected = f"must be processes for {'graded spikes' if neuron is None else 'stock neurons'}"
            raise UsageError(f"found {layout}", where="lava_layout", expected=expected, hint=hint)
        network = network.stored
        batch_size = self._batch_size or fitting_batch_size(network, len(images)) if layout == "layers" else 1
        run = LavaRun(
            "",
            network,
            len(images),
            timesteps,
            trace,
            first_image=first_image,
            neuron=neuron,
            layout=layout,
            batch_size=batch_size,
            is_stream=is_stream,
            board=self._board,
            profile=self.options.profile,
        )
        return self._simulated(run, images, started).with_joined_digits(low_bits)

    def _simulated(self, run: LavaRun, images: Array, started: float) -> RunResult:
        """Return the result of ``run``, which gets its folder here; without a host if that fails."""
        try:
            host, run = self._prepare(run, images)
            # A host that cannot run may remove its files.
            counter = np.load(run.file("steps"), mmap_mode="r")
            host.send(run.folder)
            seconds, measured = self._watch(host, counter, run.timing)
            result = run.result(seconds, time.perf_counter() - started - seconds)
            shutil.rmtree(run.folder)
        except BaseException:
            self._end()
            raise
        return replace(result, measured=measured)

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            host.end()

    def _prepare(self, run: LavaRun, images: Array) -> tuple[HostProcess, LavaRun]:
        """Return a running host, and the run with its files."""
        try:
            host = self._host = self._host or HostProcess(self.name, self._lava_python)
            run = replace(run, folder=tempfile.mkdtemp(dir=host.folder))
            run.fill(images)
        except OSError as error:
            raise PlatformError(
                f"the temporary folder cannot hold the run ({error})",
                where=self.name,
                hint="Free some space, set TMPDIR to another folder, or run fewer images or without `trace`.",
            ) from error
        return host, run

    def _watch(self, host: HostProcess, counter: Array, steps: Timing) -> tuple[float, dict[str, float]]:
        """Wait for the end of the run; return the time of its steps in seconds, and a chip's measurements."""
        done, changed_at, progress = 0, time.monotonic(), current_progress()
        while True:
            answer = host.receive(_POLL_SECONDS)
            if answer is None:
                if int(counter[0]) != done:
                    done, changed_at = int(counter[0]), time.monotonic()
                    progress(steps.images_done(done), steps.images)
                elif time.monotonic() - changed_at > self._stall_seconds:
                    raise host.error(f"no progress for {self._stall_seconds:g} s, after step {done} of {steps.total}")
            elif answer["event"] == "ready":
                host.is_ready, changed_at = True, time.monotonic()
                self._versions = answer["versions"]
            elif answer["event"] == "finished":
                progress(steps.images, steps.images)
                return float(answer["seconds"]), dict(answer["measured"])
            elif answer["event"] == "missing":
                raise PlatformError(
                    f"Lava cannot be imported{host.where} ({answer['reason']})",
                    where=self.name,
                    hint="`loihi-convert doctor` says what to install; `lava_python` selects another interpreter. "
                    "`backend='ref'` gives the same integers without Lava.",
                )
            elif answer["event"] == "no board":
                raise PlatformError(answer["reason"], where=self.name, hint=answer["hint"])
            else:
                raise host.error(answer["reason"])


def fitting_batch_size(network: Spiking[Any], image_count: int) -> int:
    """Return how many of ``image_count`` images to put into a batch: enough to hide Lava's overhead for each step.

    A neuron takes about 30 bytes per image, 2 of them in shared memory, which is scarce in containers.
    """
    neurons = sum(math.prod(shape) for shape in (network.input_shape, *network.shapes))
    most = max(1, min(MAX_BATCH, MAX_NEURONS // neurons))
    return math.ceil(image_count / math.ceil(image_count / most))


_BOARD_STALL_SECONDS: Final = 1800.0
"""The same on a board: compiling for the chip and waiting for a board take minutes."""


class Loihi2Backend(LavaBackend):
    """Runs networks for target loihi2 on a board.

    The u of every layer is read after every step, so that it can be compared with `ref`. This is slow and does not
    represent the chip's speed. ``profile`` measures time and energy in an additional run without interruptions.

    Parameters
    ----------
    options
        ``board``, by default from the environment; ``profile``, an additional run with Lava's profiler;
        ``lava_python`` and ``leak`` as in `LavaBackend`.
    """

    name: BackendName = "loihi2"

    def __init__(self, options: BackendOptions = BackendOptions()) -> None:
        super().__init__(replace(options, neuron="stock"), stall_seconds=_BOARD_STALL_SECONDS)
        self._board = self.options.board or chosen_board()
