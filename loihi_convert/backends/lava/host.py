"""The process that runs Lava: ``python -m loihi_convert.backends.lava.host FOLDER TOKEN``.

Started, controlled and stopped by `lava_backend.py`, through pipes at its stdin and stdout. For each request it builds
a network of Lava Processes (`networks.py`) and runs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import gc
import importlib.metadata
import json
import logging
import os
import platform
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import process as multiprocessing_process
from multiprocessing import shared_memory
from pathlib import Path
from typing import Final

import numpy as np

from loihi_convert.backends.lava import networks
from loihi_convert.backends.lava.exchange import LavaRun
from loihi_convert.backends.lava.host_process import how_it_ended, remove_shared_memory
from loihi_convert.backends.loihi2.hardware import NoBoardError, run_on_board, use_board
from loihi_convert.ground.arrays import Array

_WATCH_SECONDS: Final = 0.1
_PR_SET_PDEATHSIG: Final = 1

# Capacity of a channel in Lava, in messages. All Processes do each step together, so at most one message waits; Lava's
# default of 64 would only take 32 times the shared memory.
_CHANNEL_SIZE: Final = 2


def main(folder: Path, token: str) -> None:
    """Serve run requests until stdin ends."""
    host = _Watched(folder, token)
    try:
        import_lava()
    except ImportError as error:
        host.answer(event="missing", reason=str(error))
        return
    host.answer(event="ready", versions=_versions())
    for line in sys.stdin:
        run = LavaRun.read(json.loads(line))
        host.failure = run.failure
        try:
            seconds, measured = _run(run, host)
        except NoBoardError as error:
            host.answer(event="no board", reason=error.reason, hint=error.hint)
        except Exception as error:
            traceback.print_exc()
            host.fail(f"{type(error).__name__}: {error}")
        else:
            host.answer(event="finished", seconds=seconds, measured=measured)


class _Watched:
    """This process, its answers to the parent, and a thread that detects the end of a child or the parent.

    If a child ends, Lava would wait forever; if the parent ends, everything else would stay behind. The interpreter may
    be a script that starts Python: stdin then tells when the process behind the script ends.
    """

    def __init__(self, folder: Path, token: str) -> None:
        self._folder, self._token, self._parent = folder, token, os.getppid()
        self._stepping = False
        self._failed = False
        self.failure = Path()
        # Lava prints to stdout: that goes to the log, so that the pipe carries only our messages.
        self._pipe = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        # A prefix by which the parent finds Lava's leftovers in /dev/shm after a kill; the standard library has no
        # public way to set it.
        shared_memory._SHM_NAME_PREFIX = f"/{token}-"  # type: ignore[attr-defined]
        shared_memory._SHM_SAFE_NAME_LENGTH = len(token) + 18  # type: ignore[attr-defined]
        settings = multiprocessing_process.current_process()._config  # type: ignore[attr-defined]
        settings["semprefix"] = f"/{token}"
        # Sockets go to ``folder``, which is removed at the end. It is the working folder, which children inherit, and
        # its short name is used because the path of a socket may have at most 107 bytes.
        settings["tempdir"] = "."
        _let_children_die_with_their_parent()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """Within this context no child may end, not even cleanly."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False

    def answer(self, **message: object) -> None:
        os.write(self._pipe, json.dumps(message).encode() + b"\n")

    def fail(self, reason: str) -> None:
        """Report that the run failed, with the reason given by the model, if any."""
        self._failed = True
        with contextlib.suppress(OSError):
            reason = self.failure.read_text(encoding="utf-8")
        self.answer(event="failed", reason=reason)

    def _watch(self) -> None:
        stdin = select.poll()
        # No event but the end, which is always reported.
        stdin.register(sys.stdin.fileno(), 0)
        while True:
            if stdin.poll(1_000 * _WATCH_SECONDS) or os.getppid() != self._parent:
                remove_shared_memory(self._token)
                shutil.rmtree(self._folder, ignore_errors=True)
                os.killpg(0, signal.SIGKILL)
            if not self._failed and (ended := _ended_child()) and (ended.si_status != 0 or self._stepping):
                self.fail(f"a Lava process {how_it_ended(ended)}")


def _ended_child() -> os.waitid_result | None:
    # WNOWAIT: multiprocessing must still find the child later.
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None


def _let_children_die_with_their_parent() -> None:
    """Let the kernel kill every forked child when its parent ends (precisely, the thread that forked it)."""
    prctl = ctypes.CDLL(None).prctl
    forking = os.getpid()

    def before() -> None:
        nonlocal forking
        forking = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have ended before this took effect.
        if os.getppid() != forking:
            os._exit(1)

    os.register_at_fork(before=before, after_in_child=in_child)


def import_lava() -> None:
    """Import Lava on any Python: from 3.11 on, an unhashable dataclass is refused as a default value."""
    original = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: bool) -> type | Callable[[type], type]:
        def decorate(cls: type) -> type:
            needs_hash = cls.__module__ == "lava.magma.compiler.var_model"
            return original(**{"unsafe_hash": True, **options} if needs_hash else options)(cls)

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass  # type: ignore[assignment]
    try:
        import lava.magma.compiler.var_model
    finally:
        dataclasses.dataclass = original
    import lava.proc.conv.process
    import lava.proc.dense.process  # noqa: F401
    from lava.magma.core.process.ports.ports import ReshapePort

    # Lava calls np.reshape(newshape=...), which NumPy deprecates from 2.1 on and refuses from 2.5 on.
    ReshapePort.get_transform_func_fwd = lambda port: functools.partial(_reshaped, port.shape)


def _reshaped(shape: tuple[int, ...], values: Array) -> Array:
    return values.reshape(shape)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "numpy": np.__version__}
    # A checkout of Lava on the path has no version.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["lava-nc"] = importlib.metadata.version("lava-nc")
    return found


def _run(run: LavaRun, host: _Watched) -> tuple[float, dict[str, float]]:
    """Run one network on all its images; return the time of the steps in seconds, and measurements of a chip."""
    from lava.magma.core.process.process import ProcessServer
    from lava.magma.core.process.variable import VarServer

    if run.board is None:
        seconds, measured = _simulate(run, host), dict[str, float]()
    else:
        use_board(run.board)
        seconds, measured = run_on_board(run)
    # Lava keeps all Processes and Vars, with their weights, and a log handler per Process.
    ProcessServer().reset_server()
    VarServer().reset_server()
    logging.getLogger().handlers.clear()
    gc.collect()
    return seconds, measured


def _simulate(run: LavaRun, host: _Watched) -> float:
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    if run.neuron is None:
        source = networks.build_graded(run)
    else:
        source = networks.build_circuit(run).source if run.neuron.is_circuit else networks.build(run)
    source.create_runtime(
        run_cfg=Loihi2SimCfg(exception_proc_model_map=networks.models(run)),
        compile_config={"pypy_channel_size": _CHANNEL_SIZE},
    )
    with host.stepping():
        started = time.perf_counter()
        source.run(RunSteps(num_steps=run.timing.total))
        seconds = time.perf_counter() - started
    source.stop()
    return seconds


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
