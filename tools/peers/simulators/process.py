"""The process of a program: started, asked for repeats, ended."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from loihi_convert.errors import PlatformError
from simulators import Peer
from simulators.worker import Request

_TOOLS: Final = Path(__file__).resolve().parents[1]
_LAST_LINES: Final = 3
_RAISED: Final = re.compile(r"[\w.]+(Error|Exception): ")


class Worker:
    """A program in a separate process and an environment that has it; a context manager.

    Raises
    ------
    PlatformError
        If it does not start or does not answer; contains the `reason`.
    """

    def __init__(self, peer: Peer, request: Request, patience: float) -> None:
        self._peer, self._patience = peer, patience
        command = [*python_with(peer.requirement), "-m", "simulators.worker", request.json()]
        threads = {name: str(request.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as this object
        self._process = subprocess.Popen(
            command,
            cwd=_TOOLS,
            env={**os.environ, **threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        try:
            self.ready = self._answer()
        except BaseException:
            self.__exit__()
            raise

    def repeat(self) -> dict[str, Any]:
        """Run all images once; return the seconds and the process's peak memory."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], self._patience)[0]:
            raise PlatformError(
                f"no answer within {self._patience:.0f} s", where=self._peer.name, hint="Allow more with --patience."
            )
        if line := self._process.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        self._errors.seek(0)
        raise PlatformError(f"ended with {code}: {reason(self._errors.read())}", where=self._peer.name)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        # It has a separate session, so this only ends processes that uv or Lava started for it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def reason(output: str) -> str:
    """Return the exceptions in the ``output`` of a program that failed, or its last lines if there are none."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    raised = dict.fromkeys(line for line in lines if _RAISED.match(line))
    return "; ".join(raised) or " ".join(lines[-_LAST_LINES:]) or "no output"


def python_with(requirement: str | None) -> list[str]:
    """Return the command of a Python with ``requirement``: this interpreter, or an environment created by uv.

    Raises
    ------
    PlatformError
        If this interpreter does not have it and uv is missing.
    """
    if requirement is None or _has(requirement):
        return [sys.executable]
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise PlatformError("not installed; uv, which would install it, is missing", where=requirement)
    return [uv, "run", "--quiet", "--python", sys.executable, "--with", requirement, "python"]


def _has(requirement: str) -> bool:
    name, version = requirement.split("==")
    try:
        return importlib.metadata.version(name) == version
    except importlib.metadata.PackageNotFoundError:
        return False
