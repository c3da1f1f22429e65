"""Text for the tables of `benchmark.py`: medians with minima and maxima, a line on the machine, and CSV files."""

from __future__ import annotations

import contextlib
import csv
import datetime
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch


def spread(values: Sequence[float]) -> str:
    """Return the median, with minimum and maximum in brackets, to three digits: ``1.25 (1.10..1.40)``."""
    if not values:
        return ""
    median, least, most = map(three_digits, (statistics.median(values), min(values), max(values)))
    return f"{median} ({least}..{most})"


def three_digits(value: float) -> str:
    """Return ``value`` to three digits, thousands separated: ``12,346``, ``0.0123``."""
    decimals = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def processor() -> str:
    """Return the processor, the number of its cores in use, and a limit that oneDNN has on its instructions."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} logical processors"
    return f"{model}; {cores}" + (f"; ONEDNN_MAX_CPU_ISA={limit}" if limit else "")


def machine(threads: int) -> str:
    """Return processor, cores in use, and versions in one line."""
    return (
        f"{processor()}, {threads} threads; Python "
        f"{platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}; {platform.system()}; "
        f"load average at the end {os.getloadavg()[0]:.1f}"
    )


CONDITIONS: Final = ("threads", "machine", "date", "commit")
"""Columns that say how a row was measured; empty in rows measured before November 29, 2026."""


def conditions(threads: int) -> dict[str, str]:
    """Return the values of `CONDITIONS`; the commit is empty outside a clone."""
    commit = ""
    with contextlib.suppress(OSError):
        asked = ("git", "rev-parse", "--short", "HEAD")
        commit = subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout
    values = (str(threads), processor(), datetime.datetime.now().date().isoformat(), commit.strip())
    return dict(zip(CONDITIONS, values, strict=True))


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as source:
        return list(csv.DictReader(source))
