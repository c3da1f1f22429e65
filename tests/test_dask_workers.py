"""Shards on a real Dask cluster of two processes: the same bytes, the user's errors, workers that die."""

from __future__ import annotations

import logging
import mmap
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client, LocalCluster
from support.command_line import Invoke, invoker
from support.dask_functions import (
    AtOnce,
    Failing,
    Killing,
    Number,
    Numbered,
    at_once,
    page_faults,
    refused,
    stumbling,
    times,
)
from support.shard_runs import write_files, written
from support.strangers import assert_turned_away, listening, said

from loihi_convert.backends.backend import BackendOptions, open_backend
from loihi_convert.batch import clusters
from loihi_convert.batch.clusters import DaskWorkers, local_cluster, slurm_cluster, standing_cluster
from loihi_convert.batch.computation import Computation, Outcome, Store, compute_missing
from loihi_convert.batch.places import SlurmJobs
from loihi_convert.data import load_data
from loihi_convert.errors import DataError, PlatformError
from loihi_convert.pipeline import running
from loihi_convert.pipeline.opening import open_file
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.simulation.image_shards import shards as divided

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workers() -> Iterator[DaskWorkers]:
    with local_cluster(2) as opened:
        yield opened


def no_need(one: Computation) -> Outcome:
    raise AssertionError(one)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of `write_files`."""
    path = tmp_path_factory.mktemp("shards")
    write_files(path, load_data("digits"))
    return path


@pytest.mark.parametrize("name", ["model", "poisson"])
def test_two_workers_write_the_bytes_of_one_process(
    workers: DaskWorkers, folder: Path, tmp_path: Path, name: str
) -> None:
    digits = load_data("digits")
    opened = open_file(folder / f"{name}.net", model=folder / "model.pt")
    options = RunOptions(float_snn=True)
    for output, at in (("here", None), ("there", workers)):
        with open_backend("ref") as backend:
            running.run_into_folder(tmp_path / output, [opened], backend, digits, digits.test, options, workers=at)
    here, there = written(tmp_path / "here"), written(tmp_path / "there")
    assert {"accuracy.csv", "predictions.csv", "early_exit.csv", "firing_rates.csv"} <= set(here)
    assert here == there


def test_an_error_in_a_shard_is_the_users_error(workers: DaskWorkers, folder: Path) -> None:
    opened, digits = open_file(folder / "model.net"), load_data("digits")
    backend = open_backend("sim", BackendOptions(lava_python="/no/python"))
    work = running.FileWork(opened, backend, RunOptions())
    with pytest.raises(PlatformError, match="program /no/python not found") as raised:
        workers.map(running.run_work, work, divided(digits.test.images, 4, "cpu"))
    assert raised.value.where == "lava_python"


@pytest.fixture
def invoke(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """The command line in a folder with the files of `write_files`."""
    for path in folder.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return invoker(monkeypatch, capsys)


def test_run_with_workers(invoke: Invoke) -> None:
    assert invoke("run", "model.net", "--images", "300", "-o", "here").code == 0
    done = invoke("run", "model.net", "--images", "300", "-o", "there", "--workers", "2")
    assert done.code == 0, done.err
    assert "300 images" in done.out.replace("test images", "images")
    assert written(Path("here"), "command_line") == written(Path("there"), "command_line")


def test_export_with_workers(invoke: Invoke) -> None:
    words = ("export", "model.pt", "-T", "4", "--balance", "least-squares", "--bias-correction", "-o")
    assert invoke(*words, "here.net").code == 0
    done = invoke(*words, "there.net", "--workers", "2")
    assert done.code == 0, done.err
    assert Path("here.net").read_bytes() == Path("there.net").read_bytes()


def test_a_worker_keeps_the_memory_of_its_maps(workers: DaskWorkers) -> None:
    """With Dask's own thresholds every map's pages are returned, and faulted in again: 100 x 512 here."""
    size = 2**21
    workers.map(page_faults, size, [100])
    (faults,) = workers.map(page_faults, size, [100])
    assert faults < 10 * size // mmap.PAGESIZE


def test_items_of_a_place_return_to_the_worker_that_had_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is busy: what Dask is told is compared, not what it does."""
    with local_cluster(2) as workers:
        submit, told = Client.submit, list[Any]()

        def recorded(self: Client, function: Any, *arguments: Any, **options: Any) -> Any:
            told.append((options.get("workers"), options.get("allow_other_workers")))
            return submit(self, function, *arguments, **options)

        monkeypatch.setattr(Client, "submit", recorded)
        assert workers.map(times, 2, [1, 2, 3], place=lambda item: ("a", item)) == [2, 4, 6]
        assert {at for at, _ in told} == {None}
        told.clear()
        assert workers.map(times, 2, [1, 2, 4], place=lambda item: ("a", item)) == [2, 4, 8]
        addresses = set(workers._client.nthreads())
    # What the items share, then the items; the last one was never seen.
    assert [other for _, other in told] == [None, True, True, None]
    assert all(at is None or (len(at) == 1 and at[0] in addresses) for at, _ in told)


def test_strangers_are_turned_away_from_each_port(tmp_path: Path) -> None:
    """Scheduler, worker and nanny; only those that have the cluster's certificate are answered."""

    def ports() -> set[tuple[str, int]]:
        here = psutil.Process()
        return set(listening([here, *here.children(recursive=True)]))

    before = ports()
    with local_cluster(1) as workers:
        opened = ports() - before
        assert len(opened) >= 3
        assert {host for host, _ in opened} == {"127.0.0.1"}
        for _, port in opened:
            assert b"compression" in said(port, workers._client.security, tmp_path)
            assert_turned_away(port, tmp_path)


def test_a_scheduler_without_workers_or_keys_is_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "loihi_convert")

    def told() -> list[str]:
        found = [record for record in caplog.records if record.name.startswith("loihi_convert")]
        warnings = [record.getMessage() for record in found if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert address in warnings[0]
        assert "can run code as you" in warnings[0]
        return [record.getMessage() for record in found if record.levelno == logging.INFO]

    with LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
        address = cluster.scheduler_address
        with standing_cluster(address):
            assert told() == [f"{address} has no workers yet: waiting for one"]
        caplog.clear()
        cluster.scale(1)
        cluster.wait_for_workers(1)
        with standing_cluster(address):
            assert told() == []


def test_the_loss_of_the_last_worker_is_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_LOOK_SECONDS", 0.05)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        found = thread.submit(DaskWorkers(client).map, at_once, 0.2, range(10))
        time.sleep(0.5)
        cluster.scale(0)
        deadline = time.monotonic() + 20
        while "the last worker is gone: waiting" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
        cluster.scale(1)
        assert found.result(30) == [1] * 10
    assert caplog.text.count("the last worker is gone: waiting") == 1


def test_no_scheduler(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_CONNECT_SECONDS", 1)
    done = invoke("run", "model.net", "--scheduler", "tcp://127.0.0.1:9", "-o", "out")
    assert done.code == PlatformError.exit_code
    assert "error: tcp://127.0.0.1:9: no Dask scheduler answers within 1 s" in done.err
    assert not Path("out").exists()


def test_results_are_in_the_order_of_the_items(workers: DaskWorkers) -> None:
    done: list[int] = []
    assert workers.count == 2
    assert workers.map(times, 3, range(20), done=done.append) == [3 * item for item in range(20)]
    assert sorted(done) == list(range(20))
    assert workers.map(times, 3, []) == []


def test_a_worker_of_several_threads_computes_one_item_at_a_time() -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=3, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        workers = DaskWorkers(client)
        assert workers.count == 1
        assert workers.map(at_once, 0.02, range(6)) == [1] * 6
        found = workers.outcomes([AtOnce(number) for number in range(6)], no_need)
        assert [outcome.result for _, outcome in found] == [Number(value=1)] * 6


def test_an_error_of_an_item_keeps_its_fields(workers: DaskWorkers) -> None:
    with pytest.raises(DataError) as raised:
        workers.map(refused, "cat.png", range(5))
    error = raised.value
    assert (error.found, error.where, error.expected, error.hint) == (
        "is broken",
        "cat.png",
        "must be whole",
        "Mend it.",
    )
    # The workers live on.
    assert workers.map(times, 2, [1]) == [2]


def test_an_item_is_computed_again_if_its_worker_dies(workers: DaskWorkers, tmp_path: Path) -> None:
    assert workers.map(stumbling, tmp_path, [0, 1, 2]) == [0, 1, 2]
    assert (tmp_path / "died").exists()


def test_an_item_that_kills_its_workers_is_named(
    workers: DaskWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dask tries four workers; one is enough here.
    monkeypatch.setattr(workers._client.cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(PlatformError, match=r"every worker that computed 3 died, the last at tls://") as raised:
        workers.map(stumbling, tmp_path, [3])
    assert "memory" in raised.value.hint


def test_a_scheduler_with_keys_needs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Its keys are in Dask's settings; without them it does not answer."""
    with local_cluster(1) as workers:
        address, keys = workers._client.cluster.scheduler_address, workers._client.security
        names = {"ca-file": keys.tls_ca_file, "client.key": keys.tls_client_key, "client.cert": keys.tls_client_cert}
        settings = {f"distributed.comm.tls.{name}": value for name, value in names.items()}
        with dask.config.set(settings), standing_cluster(address) as standing:
            assert standing.map(times, 2, [1]) == [2]
        with pytest.raises(PlatformError, match="no Dask scheduler answers"), standing_cluster(address):
            pass
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("package", clusters.SAME_VERSIONS)
def test_a_worker_of_another_version_is_refused(
    workers: DaskWorkers, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    here = clusters.versions_here()

    def others() -> dict[str, Any]:
        return {**here, package: "0.0"}

    monkeypatch.setattr(clusters, "versions_here", others)
    with pytest.raises(PlatformError) as raised:
        workers.map(times, 2, [1])
    assert f"has {package} {here[package]}" in raised.value.found
    assert raised.value.expected == "must be 0.0, as where the command runs"


def test_needs_go_from_worker_to_worker(workers: DaskWorkers, tmp_path: Path) -> None:
    """1000 + (100 + 1 + 10) + 1, as in one process; an error is that of all that need it."""
    store, first = Store(tmp_path), Numbered(1)
    both = Numbered(100, (first, Numbered(10)))
    last, failing = Numbered(1000, (both, first)), Numbered(10_000, (Failing(7), first))
    assert compute_missing([last, failing], store, workers) == {}
    assert store.get(last) == Outcome(Number(value=1112))
    assert store.get(failing) == Outcome(error="fc: too large.")


def test_a_cell_that_kills_its_workers_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with local_cluster(1) as workers:
        monkeypatch.setattr(workers._client.cluster.scheduler, "allowed_failures", 0)
        ((_, outcome),) = workers.outcomes([Killing(2)], no_need)
    assert outcome.error.startswith("Dask: every worker that computed it died, the last at tls://")
    assert "memory" in outcome.error
    assert not outcome.is_final


def test_a_job_of_slurm_quotes_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sbatch` reads quotes as a shell does; this one keeps the script and refuses it."""
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/job.sh\nexit 1\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", "/my venv/bin/python")
    logs = tmp_path / "my sweep" / "slurm"
    with pytest.raises(PlatformError, match="refuses the jobs"), slurm_cluster(SlurmJobs(1), logs):
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    lines = [shlex.split(line) for line in (tmp_path / "job.sh").read_text().splitlines()]
    assert [words[2] for words in lines if words[1:2] in (["-o"], ["-e"])] == [
        f"{logs}/dask-worker-%J.out",
        f"{logs}/dask-worker-%J.err",
    ]
    assert lines[-1][:3] == ["/my venv/bin/python", "-m", "distributed.cli.dask_worker"]
    keys = [Path(lines[-1][lines[-1].index(f"--tls-{name}") + 1]) for name in ("ca-file", "cert", "key")]
    assert {path.parent.parent for path in keys} == {logs}
    # Deleted with the cluster.
    assert not any(path.exists() for path in keys)
    assert logs.is_dir()
