"""Shards on a real Dask cluster of two processes: the same bytes, the user's errors, workers that die."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.dask_functions import refused, stumbling, times, unexpected

from loihi_convert.cells import dask_workers
from loihi_convert.cells.dask_executors import local_cluster
from loihi_convert.cells.dask_workers import DaskWorkers
from loihi_convert.errors import DataError, PlatformError


@pytest.fixture(scope="module")
def workers() -> Iterator[DaskWorkers]:
    with local_cluster(2) as executor:
        yield DaskWorkers(executor._client)


def test_results_are_in_the_order_of_the_items(workers: DaskWorkers) -> None:
    done: list[int] = []
    assert workers.slots == 2
    assert workers.map(times, 3, range(20), done=done.append) == [3 * item for item in range(20)]
    assert sorted(done) == list(range(20))
    assert workers.map(times, 3, []) == []


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


def test_another_exception_is_one_sentence(workers: DaskWorkers) -> None:
    with pytest.raises(PlatformError, match=r"5 cannot be computed by a worker \(IndexError: list index out of range"):
        workers.map(unexpected, None, [5])


def test_an_item_is_computed_again_if_its_worker_dies(workers: DaskWorkers, tmp_path: Path) -> None:
    assert workers.map(stumbling, tmp_path, [0, 1, 2]) == [0, 1, 2]
    assert (tmp_path / "died").exists()


def test_an_item_that_kills_its_workers_is_named(
    workers: DaskWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dask tries four workers; one is enough here.
    monkeypatch.setattr(workers._client.cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(
        PlatformError, match=r"the workers that computed 3 died, each time, the last at tcp://"
    ) as raised:
        workers.map(stumbling, tmp_path, [3])
    assert "memory" in raised.value.hint


@pytest.mark.parametrize("package", dask_workers.SAME_VERSIONS)
def test_a_worker_of_another_version_is_refused(
    workers: DaskWorkers, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    here = dask_workers._versions()

    def others() -> dict[str, Any]:
        return {**here, package: "0.0"}

    monkeypatch.setattr(dask_workers, "_versions", others)
    with pytest.raises(PlatformError) as raised:
        workers.map(times, 2, [1])
    assert f"has {package} {here[package]}" in raised.value.found
    assert raised.value.expected == "must be 0.0, as where the command runs"
