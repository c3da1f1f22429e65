"""Runs of which the images are divided into shards: the same bytes in any split, without Dask."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.networks import random_network
from support.shard_runs import Elsewhere, write_files, written

from loihi_convert import netx
from loihi_convert.backends.backend import BackendOptions, open_backend
from loihi_convert.backends.reference import ReferenceBackend, run_network
from loihi_convert.backends.result import RunResult, concatenated
from loihi_convert.data import DataSplits, load_data
from loihi_convert.errors import UsageError, VerificationError
from loihi_convert.pipeline import running
from loihi_convert.pipeline.opening import open_file
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.pipeline.running import ImagesRun, joined_runs
from loihi_convert.simulation import image_shards
from loihi_convert.simulation.image_shards import SHARD_BYTES, Shard, block_multiple
from loihi_convert.simulation.image_shards import shards as divided


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits")


@pytest.fixture(scope="module")
def folder(digits: DataSplits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of `write_files`."""
    path = tmp_path_factory.mktemp("shards")
    write_files(path, digits)
    return path


@pytest.mark.parametrize("name", ["model", "poisson"])
def test_a_run_folder_is_the_same_in_every_split(
    digits: DataSplits, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(image_shards, "SHARDS_PER_WORKER", 1)
    opened = open_file(folder / f"{name}.net", model=folder / "model.pt")
    found = {}
    for count in (0, 1, 2, 7):
        workers = Elsewhere(count) if count else None
        with open_backend("ref") as backend:
            running.run_into_folder(
                tmp_path / str(count),
                [opened],
                backend,
                digits,
                digits.test,
                RunOptions((2, 8), float_snn=True),
                workers=workers,
            )
        found[count] = written(tmp_path / str(count))
        if workers is not None:
            # 400 test images and 200 of validation, in blocks of 64.
            assert workers.computed == {1: 1 + 1, 2: 2 + 2, 7: 7 + 4}[count]
    assert {"accuracy.csv", "predictions.csv", "early_exit.csv", "manifest.json", "result.json"} <= set(found[0])
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert found[7] == found[0]


def test_float_outputs_do_not_depend_on_the_number_of_threads(digits: DataSplits, folder: Path) -> None:
    opened = open_file(folder / "model.net", model=folder / "model.pt")
    runs = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with open_backend("ref") as backend:
                runs.append(
                    running.run_shard(
                        running.FileWork(opened, backend, RunOptions(float_snn=True)), Shard(0, digits.test.images)
                    )
                )
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        for name in ("cnn_outputs", "float_outputs"):
            assert getattr(run, name).tobytes() == getattr(runs[0], name).tobytes()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cuts", [(1,), (2, 3), (1, 2, 3, 4)])
def test_integers_are_joined_from_any_parts(seed: int, cuts: tuple[int, ...]) -> None:
    """Integers, unlike floats, may be divided anywhere."""
    network, images = random_network(seed, image_count=5)
    steps = min(4, network.max_timesteps)
    whole = run_network(network, images, steps, trace=True)
    edges = (0, *cuts, len(images))
    parts = [
        run_network(network, images[first:last], steps, trace=True, first_image=first)
        for first, last in itertools.pairwise(edges)
    ]
    assert_equal(concatenated(parts), whole)


def assert_equal(found: RunResult, expected: RunResult) -> None:
    """Assert that all integers are equal, of the same dtype."""
    for name in ("potentials", "spike_counts", "synaptic_operations", "output_spikes"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())
    assert found.wrapped_images == expected.wrapped_images
    assert len(found.channel_spikes) == len(expected.channel_spikes)
    for one, other in zip(found.channel_spikes, expected.channel_spikes, strict=True):
        assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())
    assert len(found.traces) == len(expected.traces)
    for trace, wanted in zip(found.traces, expected.traces, strict=True):
        assert np.array_equal(trace.potentials, wanted.potentials)
        assert (trace.spikes is None) == (wanted.spikes is None)
        assert trace.spikes is None or np.array_equal(trace.spikes, wanted.spikes)


@given(count=st.integers(1, 40), images=st.integers(1, 1000), device=st.sampled_from(["cpu", "cuda"]))
def test_shards_are_all_images_in_order_and_begin_where_blocks_begin(count: int, images: int, device: str) -> None:
    pixels = np.arange(images * 2, dtype=np.uint8).reshape(images, 1, 1, 2)
    found = divided(pixels, count, device)
    assert np.array_equal(np.concatenate([shard.images for shard in found]), pixels)
    assert 1 <= len(found) <= count
    unit = block_multiple(device)
    assert all(shard.first % unit == 0 for shard in found)
    assert [shard.first for shard in found] == np.cumsum([0, *(len(shard.images) for shard in found[:-1])]).tolist()
    # As equal as whole blocks allow: the largest has at most one block more than the mean of all.
    assert max(len(shard.images) for shard in found) <= unit * -(-images // (unit * count)) or count == 1


def test_a_shard_has_a_limited_size() -> None:
    # 256 x 512 pixels: 2^17 bytes an image, 1024 images a shard.
    images = np.broadcast_to(np.zeros((), np.uint8), (3000, 1, 256, 512))
    found = divided(images, 1, "cpu")
    assert [len(shard.images) for shard in found] == [1024, 1024, 952]
    assert found[0].images.size == SHARD_BYTES


def run_of(count: int, *, place: str, seconds: float, versions: dict[str, str]) -> ImagesRun:
    counts = np.zeros((count, 1, 1), np.int64)
    result = RunResult(np.zeros((count, 1, 2), np.int32), counts, counts, seconds, seconds / 10)
    return ImagesRun(result, count, None, None, versions, place)


def test_the_time_is_that_of_the_busiest_thread() -> None:
    runs = [
        run_of(3, place="a", seconds=1.0, versions={"numpy": "2.0"}),
        run_of(2, place="b", seconds=2.5, versions={"numpy": "2.0"}),
        run_of(1, place="a", seconds=2.0, versions={"numpy": "2.1"}),
    ]
    found = joined_runs(runs)
    assert (found.result.seconds, found.result.startup_seconds) == (3.0, pytest.approx(0.3))
    assert (len(found.result.potentials), found.equal_to_reference) == (6, 6)
    assert found.backend_versions == {"numpy": "2.0, 2.1"}


def test_a_worker_needs_no_file(digits: DataSplits, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    path.write_bytes((folder / "model.net").read_bytes())
    opened, shard = open_file(path), Shard(0, digits.test.images[:2])
    work = running.FileWork(opened, open_backend("ref"), RunOptions())
    path.unlink()
    expected = run_network(netx.read(folder / "model.net"), shard.images, 8)
    assert_equal(running.run_work(work, shard).result, expected)


def test_workers_are_refused_for_a_board(folder: Path) -> None:
    class Board:
        name = "loihi2"

    with pytest.raises(UsageError) as raised:
        pickle.dumps(running.FileWork(open_file(folder / "model.net"), Board(), RunOptions()))  # type: ignore[arg-type]
    assert raised.value.where == "backend"


def test_images_of_a_shard_keep_their_numbers(digits: DataSplits, folder: Path) -> None:
    """An error names an image by its number in the whole run."""

    class Wrong:
        name, options = "sim", BackendOptions()
        versions: dict[str, str] = {}  # noqa: RUF012

        def run(self, *given: Any, **rest: Any) -> RunResult:
            result = ReferenceBackend().run(*given, **rest)
            result.potentials[3, 1, 0] += 1
            return result

    opened = open_file(folder / "poisson.net")
    with pytest.raises(VerificationError, match=r"output potential of image 67 at T = 2, index \(0,\)"):
        running.run_shard(running.FileWork(opened, Wrong(), RunOptions()), Shard(64, digits.test.images[64:70]))


@pytest.mark.lava
@pytest.mark.parametrize("options", [BackendOptions(), BackendOptions(lava_layout="layers")])
def test_a_shard_on_lava_has_the_poisson_spikes_of_its_place(
    digits: DataSplits, folder: Path, options: BackendOptions
) -> None:
    opened = open_file(folder / "poisson.net")
    shard = Shard(64, digits.test.images[64:68])
    with open_backend("sim", options) as backend:
        # Compared with `ref`, which has the spikes of the undivided run.
        assert running.run_shard(running.FileWork(opened, backend, RunOptions()), shard).equal_to_reference == 4
