"""Programs that run Lava beside the host process, for what no option of ours asks of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys


def output_of(program: str, *arguments: object) -> str:
    """Standard output of a Python program, whose children do not outlive it."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            out, _ = process.communicate(timeout=120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0
    return out
