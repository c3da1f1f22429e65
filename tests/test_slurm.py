"""Sweeps, runs and exports on a real SLURM: the bytes of one process, also if a job is cancelled.

`.ci/run` starts one of a single node with `support/slurm_node.sh`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.shard_runs import write_files, written
from support.strangers import assert_turned_away, listening, said

from loihi_convert.batch.clusters import slurm_cluster
from loihi_convert.batch.places import SlurmJobs
from loihi_convert.data import load_data


def sinfo_answers() -> bool:
    return shutil.which("sbatch") is not None and subprocess.run(["sinfo"], capture_output=True).returncode == 0


pytestmark = [pytest.mark.slurm, pytest.mark.skipif(not sinfo_answers(), reason="no SLURM answers")]

JOBS = "workers=2,walltime=00:10:00,memory=3GB,interface=lo"
GRID = ("sweep", "model.pt", "-T", "1,2,4", "--balance", "percentile,ngu-lee", "--calibration", "40", "--images", "30")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of `write_files`, and in ``here`` the sweep computed without SLURM."""
    path = tmp_path_factory.mktemp("made")
    write_files(path, load_data("digits"))
    succeed(*GRID, "--workers", "0", "-o", "here", folder=path)
    return path


@pytest.fixture(autouse=True)
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``made``, the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "loihi_convert", *map(str, words)]


def succeed(*words: object, folder: Path | None = None) -> None:
    done = subprocess.run(command(*words), cwd=folder, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def cells(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder, "cells").glob("*.json")}


def require_same_sweep(one: str, other: str) -> None:
    assert len(cells(one)) == 6
    assert cells(one) == cells(other)
    for name in ("sweep.csv", "sweep.html"):
        assert Path(one, name).read_bytes() == Path(other, name).read_bytes()


def jobs() -> list[str]:
    """The numbers of this user's running jobs."""
    words = ["squeue", "--me", "--states=RUNNING", "--noheader", "--format=%i"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()


@contextmanager
def started(*words: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_jobs_compute_the_cells_of_a_sweep() -> None:
    succeed(*GRID, "--slurm", JOBS, "-o", "a folder")
    require_same_sweep("here", "a folder")


def test_an_array_of_shards_is_the_whole_sweep() -> None:
    words = " ".join(command(*GRID, "-o", "there"))
    Path("job.sh").write_text(f"#!/bin/sh\nexport OMP_NUM_THREADS=1\n{words} --shard $SLURM_ARRAY_TASK_ID/3\n")
    subprocess.run(["sbatch", "--wait", "--array=1-3", "--mem=3G", "job.sh"], check=True, timeout=280)
    require_same_sweep("here", "there")


def test_a_cancelled_job_is_replaced() -> None:
    with started(*GRID, "--slurm", JOBS, "-o", "there") as process:
        deadline = time.monotonic() + 200
        while not cells("there"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        cancelled = jobs()
        assert cancelled
        subprocess.run(["scancel", *cancelled], check=True)
        _, told = process.communicate(timeout=250)
        assert process.returncode == 0, told
    require_same_sweep("here", "there")


def test_strangers_are_turned_away_from_each_port(tmp_path: Path) -> None:
    """Of the scheduler and of a job, both of which listen to the network with keys that only this user can read."""
    logs = tmp_path / "my sweep" / "slurm"
    with slurm_cluster(SlurmJobs(1, walltime="00:10:00", memory="3GB", interface="lo"), logs) as workers:
        workers._client.wait_for_workers(1, timeout=120)
        assert {path.stat().st_mode & 0o777 for path in logs.glob("keys-*")} == {0o700}
        of_job = [each for each in psutil.process_iter(["cmdline"]) if "--tls-key" in (each.info["cmdline"] or [])]
        here, job = psutil.Process(), [each for one in of_job for each in (one, *one.children(recursive=True))]
        opened = {port for _, port in listening([here, *job])}
        assert len(opened) >= 3
        for port in opened:
            assert b"compression" in said(port, workers._client.security, tmp_path)
            assert_turned_away(port, tmp_path)
    assert not list(logs.glob("keys-*"))


def test_jobs_that_slurm_refuses_are_an_error() -> None:
    words = command(*GRID, "--slurm", f"{JOBS},partition=nowhere", "-o", "there")
    done = subprocess.run(words, capture_output=True, text=True, timeout=250)
    assert done.returncode == 4, done.stderr
    assert "nvalid partition" in done.stderr
    assert "Traceback" not in done.stderr


def test_jobs_share_the_images_of_a_run() -> None:
    words = ("run", "model.net", "--images", "300")
    succeed(*words, "-o", "one")
    succeed(*words, "-o", "several", "--slurm", JOBS)
    assert written(Path("one"), "command_line") == written(Path("several"), "command_line")


def test_jobs_share_the_calibration_images_of_an_export() -> None:
    words = ("export", "model.pt", "-T", "4", "--balance", "least-squares", "--bias-correction", "-o")
    succeed(*words, "here.net")
    succeed(*words, "there.net", "--slurm", JOBS)
    assert Path("here.net").read_bytes() == Path("there.net").read_bytes()
