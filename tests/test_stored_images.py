"""Own images that are not read at once: the same pixels and run folders as from memory, and only the part in use."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image
from support.command_line import invoker
from support.shard_runs import write_files, written
from test_shards import Elsewhere

from loihi_convert.backends.backend import open_backend
from loihi_convert.data import DataSplits, StoredImages, image_files, load_data
from loihi_convert.errors import DataError
from loihi_convert.ground.arrays import Array
from loihi_convert.pipeline import running
from loihi_convert.pipeline.opening import open_file
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.simulation import image_shards

SHAPE = (1, 8, 8)

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "LARGE_BYTES", 0)


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits")


@pytest.fixture(scope="module")
def files(digits: DataSplits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of `write_files`."""
    path = tmp_path_factory.mktemp("stored")
    write_files(path, digits)
    return path


def image_folder(path: Path, digits: DataSplits, count: int) -> Path:
    for index, (image, label) in enumerate(zip(digits.test.images[:count], digits.test.known_labels, strict=False)):
        (path / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path / str(label) / f"{index:04}.png")
    return path


def stored(data: Path) -> StoredImages:
    images = load_data(data, input_shape=SHAPE, at_once=False).test.images
    assert isinstance(images, StoredImages)
    return images


def assert_same(images: StoredImages, expected: Array) -> None:
    """Assert that all ways to read give the same."""
    assert (images.shape, images.dtype, images.ndim, len(images)) == (expected.shape, np.uint8, 4, len(expected))
    assert np.array_equal(np.asarray(images), expected)
    assert np.array_equal(np.asarray(images[3:7]), expected[3:7])
    assert np.array_equal(np.asarray(images[2:9][1:3]), expected[3:5])
    assert np.array_equal(np.asarray(images[np.array([5, 1, 8])]), expected[[5, 1, 8]])
    assert np.array_equal(np.stack(list(images)), expected)
    assert np.asarray(images[:0]).shape == (0, *expected.shape[1:])
    elsewhere: StoredImages = pickle.loads(pickle.dumps(images[4:6]))
    assert np.array_equal(np.asarray(elsewhere), expected[4:6])


def test_a_folder(digits: DataSplits, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images", digits, 70)
    at_once = load_data(folder, input_shape=SHAPE)
    later = load_data(folder, input_shape=SHAPE, at_once=False)
    assert_same(stored(folder), at_once.test.images)
    assert (later.classes, later.notes, later.name) == (at_once.classes, at_once.notes, at_once.name)
    assert np.array_equal(later.test.known_labels, at_once.test.known_labels)
    assert at_once.held_out is None
    assert later.held_out is None


def test_only_the_files_in_use_are_read(digits: DataSplits, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images", digits, 20)
    images = stored(folder)
    paths = images.paths
    paths[0].unlink()
    paths[1].write_bytes(b"no image")
    assert np.asarray(images[2:]).shape == (18, *SHAPE)
    for index in (0, 1):
        with pytest.raises(DataError, match="cannot be read as a PNG or JPEG image") as raised:
            images[index : index + 1].read()
        assert raised.value.where == str(paths[index])


class Counted(Elsewhere):
    """Workers that know how many bytes the largest shard has on its way to them."""

    largest = 0

    def map(
        self,
        function: Callable[[Shared, Item], Result],
        shared: Shared,
        items: Sequence[Item],
        *,
        place: Callable[[Item], Hashable] | None = None,
        done: Callable[[Item], None] = lambda item: None,
    ) -> list[Result]:
        self.largest = max(len(pickle.dumps(item)) for item in items)
        return super().map(function, shared, items, place=place, done=done)


def test_a_run_folder_is_that_of_images_in_memory(digits: DataSplits, files: Path, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "images", digits, 300)
    opened = open_file(files / "model.net")
    found = []
    for name, at_once, workers in (("memory", True, None), ("here", False, None), ("there", False, Counted(7))):
        splits = load_data(data, input_shape=SHAPE, at_once=at_once)
        options = RunOptions(float_snn=True)
        with open_backend("ref") as backend:
            folder = tmp_path / "runs" / name
            running.run_into_folder(folder, [opened], backend, splits, splits.test, options, workers=workers)
        found.append(written(folder))
        if workers is not None:
            # Places of 64 images, which have 4096 bytes of pixels.
            assert workers.largest < 64 * 150
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_the_command_reads_in_parts(
    files: Path, digits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = image_folder(tmp_path / "images", digits, 70)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_shards, "SHARD_BYTES", 64 * 64)
    run = invoker(monkeypatch, capsys)
    done = run("run", files / "model.net", "--data", data, "-o", "out")
    assert done.code == 0, done.err
    assert "70 images" in done.out
    broken = sorted(data.rglob("*.png"))[66]
    broken.write_bytes(b"no image")
    done = run("run", files / "model.net", "--data", data, "-o", "other")
    assert (done.code, done.out) == (DataError.exit_code, "")
    assert f"error: {broken}: cannot be read as a PNG or JPEG image" in done.err
    assert not Path("other").exists()
