"""Programs that run Lava outside the host process, for tests that no option of the package covers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys


def output_of(program: str, *arguments: object) -> str:
    """Return the standard output of a Python program; its child processes end with it."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            out, _ = process.communicate(timeout=120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0
    return out
