"""Time whole commands, from the shell's point of view, and write docs/results/commands.csv.

    python tools/command_times.py                    # all commands: about 20 minutes on two cores
    python tools/command_times.py --only inspect     # continue: those that begin so; the other rows are kept

Each command runs six times, each time in a new folder. The first time numba's cache is empty, as after an installation;
the median is that of the other five. `tools/pages.py` makes the table of docs/results/benchmarks.md from the file.
The rows do not say where they were measured: measure all of them on one machine, with one commit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from stored_results import read_rows

from loihi_convert.__main__ import exit_code
from loihi_convert.cli.console import log
from loihi_convert.errors import UsageError, VerificationError
from loihi_convert.ground.files import write_atomically
from loihi_convert.runs.columns import as_csv

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "docs/results/commands.csv"
RUNS: Final = 5

COMMANDS: Final[Mapping[str, int | None]] = {
    "inspect netx_models/mnist/model-T8.net": None,
    "check netx_models/mnist/model-T8.net": None,
    "run netx_models/mnist/model-T8.net": None,
    "run netx_models/mnist/model-T64.net": None,
    "run netx_models/cifar10/model-T4.net": None,
    "export netx_models/mnist/cnn.safetensors -T 4 -o mnist.net": None,
    "export netx_models/mnist/cnn.safetensors -T 64 -o mnist.net": None,
    "export netx_models/cifar10/cnn.safetensors -T 8 -o cifar10.net": 1,
}
"""What follows ``loihi-convert``, and the number of threads; None: all cores."""

FIELDS: Final = (
    *("command", "threads", "first_seconds", "median_seconds", "minimum_seconds", "maximum_seconds", "peak_mib"),
)

LAUNCHER: Final = """
import resource, subprocess, sys, time
begun = time.monotonic()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(code)
"""
"""Runs a command from a small process: on Linux ``ru_maxrss`` of a command includes the memory of its parent."""


class Timed(NamedTuple):
    """Seconds of one run, and the peak memory of its largest process in MiB."""

    seconds: float
    peak_mib: float


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORDS", default="", help="how the commands begin; default: all")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="default: docs/results/commands.csv")
    options = parser.parse_args()
    return exit_code(lambda: measure(options.only, options.output))


def measure(beginning: str, output: Path) -> None:
    """Time the commands that begin so, and write them to ``output``, each as soon as it is done."""
    chosen = [command for command in COMMANDS if command.startswith(beginning)]
    if not chosen:
        raise UsageError(f"found {beginning!r}", where="--only", expected="must be how a command begins")
    rows = {row["command"]: row for row in read_rows(output)} if output.exists() else {}
    for command in chosen:
        with tempfile.TemporaryDirectory() as cache:
            first, *warm = (timed(command, COMMANDS[command], Path(cache)) for _ in range(1 + RUNS))
        seconds = [run.seconds for run in warm]
        figures = (first.seconds, statistics.median(seconds), min(seconds), max(seconds))
        peak = f"{statistics.median(run.peak_mib for run in warm):.0f}"
        texts = (command, str(COMMANDS[command] or "all"), *(f"{value:.2f}" for value in figures), peak)
        rows[command] = dict(zip(FIELDS, texts, strict=True))
        log(f"{command}: {rows[command]['median_seconds']} s")
        write_atomically(output, as_csv(rows[each] for each in COMMANDS if each in rows))


def timed(command: str, threads: int | None, cache: Path) -> Timed:
    """Run ``command`` in a new folder with numba's cache in ``cache``.

    Raises
    ------
    VerificationError
        If it fails.
    """
    words = [str(ROOT / word) if word.startswith("netx_models/") else word for word in command.split()]
    own = {"NUMBA_CACHE_DIR": str(cache), **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-S", "-c", LAUNCHER, Path(sys.executable).with_name("loihi-convert"), *words],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | own,
            stdout=subprocess.PIPE,
            text=True,
        )
    if done.returncode:
        raise VerificationError(f"exit code {done.returncode}", where=command)
    return Timed(*map(float, done.stdout.split()))


if __name__ == "__main__":
    sys.exit(main())
