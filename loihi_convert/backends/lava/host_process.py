"""The operating system process that runs Lava, as seen by its parent: interpreter, pipes, shutdown.

``import lava`` sets the multiprocessing start method, prints to stdout, and leaves spinning processes and shared memory
behind when it is interrupted; an error in a model hangs it forever. So Lava runs in `lava.host`, in a separate session,
which in the end is always killed and cleaned up.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from loihi_convert.errors import BackendError, PlatformError
from loihi_convert.ground.dependencies import LAVA_PYTHON
from loihi_convert.ground.devices import on_usable_cores

_KILL_SECONDS: Final = 1.0
_SHARED_MEMORY: Final = Path("/dev/shm")
_LOG_LINES: Final = 6

# Each Lava Process is an operating system process; with BLAS threads of their own they compete for the cores: on two
# busy cores the MNIST network falls from 140 images/s to 3.
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class HostProcess:
    """The host process: its pipes, its folder, its shutdown.

    Parameters
    ----------
    backend
        Name of the backend it serves, for messages.
    lava_python
        Interpreter to run it in; ``None``: this one.
    """

    def __init__(self, backend: str, lava_python: str | None) -> None:
        self._backend = backend
        self._python = sys.executable if lava_python is None else _executable(lava_python)
        self.where = "" if lava_python is None else f" by {self._python}"
        self.is_ready = False
        self.folder = Path(tempfile.mkdtemp(prefix="loihi-"))
        self._token = secrets.token_hex(8)
        self._log = self.folder / "log.txt"
        self._unread = b""
        module = "loihi_convert.backends.lava.host"
        environment = {**os.environ, **_ONE_THREAD}
        try:
            paths = [str(self._folder_of_this_package())]
            if lava_python is not None:
                environment.pop("PYTHONHOME", None)
            elif inherited := environment.get("PYTHONPATH"):
                paths.append(inherited)
            environment["PYTHONPATH"] = os.pathsep.join(paths)
            with self._log.open("wb") as log, on_usable_cores():
                self._process = subprocess.Popen(
                    [self._python, "-u", "-m", module, str(self.folder), self._token],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self.folder,
                    env=environment,
                    start_new_session=True,
                )
        except BaseException as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise self._unusable(str(error)) from error
            raise

    def _folder_of_this_package(self) -> Path:
        """A folder for PYTHONPATH that contains no other package of this interpreter."""
        folder = self.folder / "packages"
        folder.mkdir()
        (folder / __name__.partition(".")[0]).symlink_to(Path(__file__).parents[2])
        return folder

    def send(self, request: str) -> None:
        assert self._process.stdin is not None
        # If the host has ended, `receive` reports it, with the reason.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the next answer, or ``None`` if there is none within ``seconds``; raise if the host has ended."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        if b"\n" not in self._unread and _is_readable(pipe, seconds):
            self._unread += os.read(pipe, 2**16)
        line, end, rest = self._unread.partition(b"\n")
        if end:
            self._unread = rest
            try:
                answer: dict[str, Any] = json.loads(line)
            except ValueError as error:
                raise self._unusable(f"it answers {line[:80]!r}") from error
            return answer
        # WNOWAIT leaves the zombie, so that its process group number cannot be reused before `end`.
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        if ended.si_code == os.CLD_EXITED and not self.is_ready:
            # On an error Python exits with 1 and names it in the last line; other programs name it in the first.
            words = self._last_words() or [f"it {how_it_ended(ended)}"]
            raise self._unusable(words[-1 if ended.si_status == 1 else 0])
        raise self.error(f"the Lava host process {how_it_ended(ended)}")

    def error(self, reason: str) -> BackendError:
        """Return the error that stopped the simulation, with the end of the host's log."""
        log = "".join(f"\n  {line}" for line in self._last_words())
        return BackendError(
            f"the simulation was stopped: {reason}",
            where=self._backend,
            hint="Run it again, or use `backend='ref'`, which gives the same integers."
            + (f" End of Lava's log:{log}" if log else ""),
        )

    def _last_words(self) -> list[str]:
        # The host removes its folder if it notices the end of its parent.
        with contextlib.suppress(OSError):
            lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
            return lines[-_LOG_LINES:]
        return []

    def _unusable(self, reason: str) -> PlatformError:
        return PlatformError(
            f"{self._python} cannot run Lava ({reason})",
            where=self._backend,
            expected="must be Python 3.10 or newer with NumPy and lava-nc",
            hint=f"Set `lava_python` or {LAVA_PYTHON} to another interpreter. `backend='ref'` gives the same integers "
            "without Lava.",
        )

    def end(self) -> None:
        """Kill the host and its children; leave no processes, shared memory or files behind."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # Every child of the host holds this pipe open: it closes when all have ended. (A dead child may stay in the
        # process group until init reaps it.)
        deadline = time.monotonic() + _KILL_SECONDS
        pipe = self._process.stdout.fileno()
        while (left := deadline - time.monotonic()) > 0:
            if _is_readable(pipe, left) and not os.read(pipe, 2**16):
                break
        self._process.stdout.close()
        # close flushes a request that the host never read.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        remove_shared_memory(self._token)
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_readable(pipe: int, seconds: float) -> bool:
    """Return whether ``pipe`` has data, or ends, within ``seconds``; unlike `select.select`, for any file number."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(1_000 * seconds))


def _executable(name: str) -> str:
    """Return the absolute path of a program; links are kept, as a virtual environment is identified by its link."""
    found = shutil.which(os.path.expanduser(name))  # noqa: PTH111 (a Path drops "./", and PATH would be searched)
    if found is None:
        raise PlatformError(
            f"program {name} not found",
            where="lava_python",
            expected="must be the path of a Python interpreter with Lava, such as ~/.venvs/lava/bin/python",
            hint=f"The default is the value of {LAVA_PYTHON}.",
        )
    return str(Path(found).absolute())


def how_it_ended(ended: os.waitid_result) -> str:
    """Return ``ended with exit code 1``, ``was killed by SIGTERM`` or the like."""
    if ended.si_code == os.CLD_EXITED:
        return f"ended with exit code {ended.si_status}"
    reason = " (the kernel does this when memory runs out)" if ended.si_status == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(ended.si_status).name}{reason}"


def remove_shared_memory(token: str) -> None:
    """Remove the shared memory and semaphores of the host process with ``token``."""
    for segment in _SHARED_MEMORY.glob(f"*{token}*"):
        segment.unlink(missing_ok=True)
