"""Threads: one for small networks, all for large ones, without busy waiting."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from loihi_convert.cnn.models import build_model, multiply_adds
from loihi_convert.cnn.trainer import training_threads
from loihi_convert.threads import MULTIPLY_ADDS_PER_THREAD, thread_count, usable_core_count


@pytest.mark.parametrize(
    ("threads_worth", "available", "count"), [(0, 8, 1), (0.9, 8, 1), (1, 1, 1), (2.5, 8, 2), (100, 8, 8), (100, 1, 1)]
)
def test_each_thread_has_enough_to_do(threads_worth: float, available: int, count: int) -> None:
    assert thread_count(int(threads_worth * MULTIPLY_ADDS_PER_THREAD), available) == count


def test_the_cores_of_this_process_are_counted_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert usable_core_count() == 2
    # As on macOS.
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_core_count() == 64


def test_multiply_adds_by_hand() -> None:
    """16c3 on 8 x 8, 2 x 2 pooling, 32c3 on 4 x 4, pooling, 10 outputs of 32 x 2 x 2."""
    by_hand = 16 * 9 * 64 + 32 * 16 * 9 * 16 + 10 * 128
    assert multiply_adds(build_model("digits-cnn", (1, 8, 8), 10), (1, 8, 8)) == by_hand


@pytest.mark.parametrize(
    ("architecture", "shape", "batch_size", "count"),
    [("digits-cnn", (1, 8, 8), 64, 1), ("mnist-cnn", (1, 28, 28), 128, 5), ("vgg-small", (3, 32, 32), 128, 16)],
)
def test_training_threads(
    monkeypatch: pytest.MonkeyPatch, architecture: str, shape: tuple[int, int, int], batch_size: int, count: int
) -> None:
    model = build_model(architecture, shape, 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert training_threads(model, shape, batch_size) == count


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_the_command_line_lets_threads_sleep_before_torch_is_loaded(given: str | None, found: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    program = (
        "import os, sys; from loihi_convert import cli, __main__\n"
        "cli.app = lambda **_: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"
        "__main__.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment | ({} if given is None else {"OMP_WAIT_POLICY": given}),
    )
    assert done.stdout == f"{found} False\n"


_PROGRAM = """
import os, subprocess, sys
cores = os.sched_getaffinity(0)
import torch
bound = os.sched_getaffinity(0)
assert bound <= cores, bound
from loihi_convert.cnn.qcfs import shared
from loihi_convert.simulation.blocks import on_cores
from loihi_convert.threads import on_usable_cores, usable_core_count
torch.set_num_threads(2)
found = []
on_cores("cpu", lambda rows: found.append(os.sched_getaffinity(0)), 4, 1)
shared(4, lambda begin, end: found.append(os.sched_getaffinity(0)))
with on_usable_cores():
    asked = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
    assert subprocess.check_output(asked, text=True).strip() == str(sorted(cores))
assert len(found) == 6 and all(each == cores for each in found), found
assert usable_core_count() == len(cores)
assert os.sched_getaffinity(0) == bound
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads are not bound to cores")
@pytest.mark.parametrize("name", ["OMP_PROC_BIND", "GOMP_CPU_AFFINITY"])
def test_our_threads_and_processes_use_all_cores_where_openmp_binds_its_own(name: str) -> None:
    cores = sorted(os.sched_getaffinity(0))
    value = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}.get(name, " ".join(map(str, cores)))
    others = {key: text for key, text in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False, env={**others, name: value}
    )
    assert done.returncode == 0, done.stderr
