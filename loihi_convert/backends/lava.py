"""Backend `sim`: Lava's CPU simulator, at arm's length in a host process; this file starts, feeds and watches it.

``import lava`` sets the multiprocessing start method, prints to stdout, and leaves spinning processes and shared memory
behind when it is interrupted; an error in a model hangs it for ever. So Lava lives in `lava_host`, in a session of its
own, and whatever happens the whole session is killed and swept up. Images and results pass through memory maps in a
temporary folder, requests and answers as JSON lines through two pipes::

    LavaBackend  --stdin: {"folder": ...}-->              lava_host  --fork-->  one process per Lava Process
                 <--stdout: {"event": "finished" ...}--

Lava may be installed in another interpreter than this one, of another Python and NumPy version. The host imports this
file there, where NumPy and Lava are all there is.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loihi_convert.backends import BackendName, LayerTrace, RunResult, check_run
from loihi_convert.errors import BackendError, PlatformError
from loihi_convert.network import QuantizedNetwork
from loihi_convert.progress import Progress, silent
from loihi_convert.synapse import Array, Shape

STALL_SECONDS: Final = 120.0
"""After so many seconds without a simulated step a run is given up: one step of the largest network takes seconds."""

LAVA_PYTHON: Final = "LOIHI_CONVERT_LAVA_PYTHON"
"""Environment variable: the interpreter that has Lava, where it is not this one."""

_POLL_SECONDS: Final = 0.05
_KILL_SECONDS: Final = 1.0
_SHARED_MEMORY: Final = Path("/dev/shm")
_LOG_LINES: Final = 6

# Each Lava Process is an operating system process; with BLAS threads of their own they fight for the cores: on two busy
# ones the MNIST network falls from 140 images/s to 3.
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class LavaBackend:
    """Runs exported files on Lava's CPU simulator; every integer equals `ref`'s.

    The host process starts with the first run (Lava's import takes about 2 s), serves any number of runs, and ends with
    the ``with`` block, or with this process, however that ends.

    Parameters
    ----------
    lava_python
        Interpreter that has NumPy and Lava, as a path or a name to be found on PATH. Default: what `LAVA_PYTHON` says,
        else this interpreter.
    stall_seconds
        A run without progress for so long is given up.
    """

    name: Final[BackendName] = "sim"

    def __init__(self, *, lava_python: str | None = None, stall_seconds: float = STALL_SECONDS) -> None:
        self._lava_python = other_interpreter(lava_python)
        self._stall_seconds = stall_seconds
        self._host: _Host | None = None
        self._versions: dict[str, str] = {}

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python, NumPy and Lava in the host process; empty before the first run."""
        return dict(self._versions)

    def run(
        self, path: Path, images: Array, timesteps: int, *, trace: bool = False, progress: Progress = silent
    ) -> RunResult:
        """See `backends.Backend.run`.

        Raises
        ------
        PlatformError
            If Lava is not installed, its interpreter cannot be used, or the temporary folder is full.
        BackendError
            If the simulation fails, stalls or is ended from outside. No process of it is left then; a further run
            starts a new host.
        """
        # h5py is not needed where only the host runs.
        from loihi_convert import netx

        started = time.perf_counter()
        network = netx.read(path)
        check_run(network, images, timesteps, trace=trace)
        try:
            host, folder = self._prepare(network, images, timesteps, trace)
            host.send({"folder": str(folder.path), "timesteps": timesteps, "trace": trace})
            seconds = self._watch(host, folder, _Steps(len(images), timesteps, len(network.layers)), progress)
            result = folder.result(network, trace, seconds, time.perf_counter() - started - seconds)
            shutil.rmtree(folder.path)
        except BaseException:
            self._end()
            raise
        return result

    def __enter__(self) -> LavaBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            host.end()

    def _prepare(
        self, network: QuantizedNetwork, images: Array, timesteps: int, trace: bool
    ) -> tuple[_Host, RunFolder]:
        """A running host, and the files of the run."""
        try:
            host = self._host = self._host or _Host(self._lava_python)
            folder = RunFolder(Path(tempfile.mkdtemp(dir=host.folder)))
            folder.fill(network, images, timesteps, trace)
        except OSError as error:
            raise PlatformError(
                f"sim: the temporary folder cannot hold the run ({error}); free some space, set TMPDIR, or run fewer "
                "images or no trace."
            ) from error
        return host, folder

    def _watch(self, host: _Host, folder: RunFolder, steps: _Steps, progress: Progress) -> float:
        """Wait for the end of the run; return the seconds that its steps took."""
        counter = np.load(folder.steps, mmap_mode="r")
        done, changed_at = 0, time.monotonic()
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
                return float(answer["seconds"])
            elif answer["event"] == "missing":
                raise PlatformError(
                    f"sim: Lava cannot be imported{host.where} ({answer['reason']}); `loihi-convert doctor` says what "
                    "to install, and --lava-python names another interpreter. `--backend ref` gives the same integers "
                    "without Lava."
                )
            else:
                raise host.error(answer["reason"])


def other_interpreter(given: str | None) -> str | None:
    """Return the interpreter that ``given``, or else `LAVA_PYTHON`, names for Lava; ``None``: this one."""
    return given or os.environ.get(LAVA_PYTHON) or None


@dataclass(frozen=True)
class _Steps:
    """How the global steps of a run count images: layer i does its local step t of image k at kT + t + i + 1."""

    images: int
    timesteps: int
    layers: int

    @property
    def total(self) -> int:
        return self.images * self.timesteps + self.layers

    def images_done(self, step: int) -> int:
        return max(0, step - self.layers) // self.timesteps


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, through which images enter the simulation and results leave it.

    Parameters
    ----------
    path
        An existing folder that only this user can read.
    """

    path: Path

    @property
    def network(self) -> Path:
        """The `QuantizedNetwork`, pickled so that any NumPy can read it."""
        return self.path / "network.pickle"

    @property
    def images(self) -> Path:
        """uint8 ``(N, C, H, W)``: integers as they enter the network."""
        return self.path / "images.npy"

    @property
    def steps(self) -> Path:
        """int64 ``(1,)``: global steps begun."""
        return self.path / "steps.npy"

    @property
    def potentials(self) -> Path:
        """int32 ``(N, T, classes)``: the last layer's."""
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
        """Spikes and potentials of a hidden layer: bool and int32 ``(N, T, *shape)``."""
        return self.path / f"spikes{index}.npy", self.path / f"potentials{index}.npy"

    def fill(self, network: QuantizedNetwork, images: Array, timesteps: int, trace: bool) -> None:
        """Write the inputs, and reserve the space of the results."""
        moments = (len(images), timesteps)
        with self.network.open("wb") as file:
            _NetworkPickler(file).dump(network)
        np.save(self.images, network.pixels(images))
        _reserve(self.steps, np.int64, (1,))
        _reserve(self.potentials, np.int32, moments + network.shapes[-1])
        if network.readout == "spikes":
            _reserve(self.output_spikes, np.bool_, moments + network.shapes[-1])
        _reserve(self.spike_counts, np.int64, (*moments, len(network.spiking_layers)))
        _reserve(self.synaptic_operations, np.int64, (*moments, len(network.spiking_layers)))
        for index in range(len(network.layers) - 1 if trace else 0):
            spikes, potentials = self.layer_trace(index)
            _reserve(spikes, np.bool_, moments + network.shapes[index])
            _reserve(potentials, np.int32, moments + network.shapes[index])

    def result(self, network: QuantizedNetwork, trace: bool, seconds: float, startup_seconds: float) -> RunResult:
        """Read what the simulation wrote."""
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


class _NetworkPickler(pickle.Pickler):
    """Pickles arrays as their bytes: NumPy 2 pickles them by names (``numpy._core``) that NumPy 1 does not know."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return np.ndarray, (value.shape, value.dtype.str, value.tobytes())
        return NotImplemented


def _reserve(path: Path, dtype: npt.DTypeLike, shape: Shape) -> None:
    # Written out, because a memory map of a file with holes dies of SIGBUS once the disk is full.
    np.save(path, np.zeros(shape, dtype))


def remove_shared_memory(token: str) -> None:
    """Remove the shared memory and the semaphores of the host process that was given ``token``."""
    for segment in _SHARED_MEMORY.glob(f"*{token}*"):
        segment.unlink(missing_ok=True)


class _Host:
    """The host process: its pipes, its folder, its end.

    Parameters
    ----------
    lava_python
        Interpreter to run it in; ``None``: this one.
    """

    def __init__(self, lava_python: str | None) -> None:
        self._python = sys.executable if lava_python is None else _executable(lava_python)
        self.where = "" if lava_python is None else f" by {self._python}"
        self.is_ready = False
        self.folder = Path(tempfile.mkdtemp(prefix="loihi-"))
        self._token = secrets.token_hex(8)
        self._log = self.folder / "log.txt"
        self._unread = b""
        module = "loihi_convert.backends.lava_host"
        environment = {**os.environ, **_ONE_THREAD}
        try:
            if lava_python is not None:
                environment |= {"PYTHONPATH": str(self._folder_of_this_package())}
                environment.pop("PYTHONHOME", None)
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [self._python, "-u", "-m", module, str(self.folder), self._token, str(os.getpid())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self.folder,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise self._unusable(str(error)) from error
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _folder_of_this_package(self) -> Path:
        """A folder for PYTHONPATH, which no other package of this interpreter is in."""
        folder = self.folder / "packages"
        folder.mkdir()
        (folder / __name__.partition(".")[0]).symlink_to(Path(__file__).parents[1])
        return folder

    def send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # A host that is gone shows in `receive`, with its reason.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the next answer, or ``None`` if none comes within ``seconds``; raise if the host has ended."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        if b"\n" not in self._unread and select.select([pipe], [], [], seconds)[0]:
            self._unread += os.read(pipe, 2**16)
        line, end, rest = self._unread.partition(b"\n")
        if end:
            self._unread = rest
            try:
                answer: dict[str, Any] = json.loads(line)
            except ValueError as error:
                raise self._unusable(f"it answers {line[:80]!r}") from error
            return answer
        # WNOWAIT leaves the zombie, so that its process group number cannot be given to others before `end`.
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        if ended.si_code == os.CLD_EXITED and not self.is_ready:
            # A Python that meets an error ends with 1 and says which in its last line; other programs say it first.
            words = self._last_words() or [f"it {how_it_ended(ended)}"]
            raise self._unusable(words[-1 if ended.si_status == 1 else 0])
        raise self.error(f"the Lava host process {how_it_ended(ended)}")

    def error(self, reason: str) -> BackendError:
        """Describe what stopped the simulation, with the end of the host's log."""
        log = "".join(f"\n  {line}" for line in self._last_words())
        return BackendError(
            f"sim: the simulation was stopped: {reason}. Run it again, or use `--backend ref`, which gives the same "
            f"integers." + (f" End of Lava's log:{log}" if log else "")
        )

    def _last_words(self) -> list[str]:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-_LOG_LINES:]

    def _unusable(self, reason: str) -> PlatformError:
        return PlatformError(
            f"sim: {self._python} cannot run Lava ({reason}); Lava needs Python 3.10 or newer that has NumPy and "
            f"lava-nc, named by --lava-python or {LAVA_PYTHON}. `--backend ref` gives the same integers without Lava."
        )

    def end(self) -> None:
        """Kill the host and its children; leave no process, no shared memory and no file behind."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # Every child of the host holds this pipe: its end is theirs. (Whether a dead one still counts in the process
        # group depends on when init reaps it.)
        deadline = time.monotonic() + _KILL_SECONDS
        pipe = self._process.stdout.fileno()
        while (left := deadline - time.monotonic()) > 0:
            if select.select([pipe], [], [], left)[0] and not os.read(pipe, 2**16):
                break
        self._process.stdout.close()
        # A request that the host never read is flushed by close.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        remove_shared_memory(self._token)
        shutil.rmtree(self.folder, ignore_errors=True)


def _executable(name: str) -> str:
    """Return the absolute path of a program; links are kept, because a virtual environment is known by its link."""
    found = shutil.which(Path(name).expanduser())
    if found is None:
        raise PlatformError(
            f"--lava-python {name} (or {LAVA_PYTHON}): no such program; give the path of a Python interpreter that has "
            "Lava, as in ~/.venvs/lava/bin/python."
        )
    return str(Path(found).absolute())


def how_it_ended(ended: os.waitid_result) -> str:
    """Return ``ended with exit code 1``, ``was ended by SIGTERM`` or the like."""
    if ended.si_code == os.CLD_EXITED:
        return f"ended with exit code {ended.si_status}"
    reason = " (the kernel does so when memory runs out)" if ended.si_status == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(ended.si_status).name}{reason}"
