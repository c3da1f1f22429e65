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

from loihi_convert.arrays import Array
from loihi_convert.backends import open_backend
from loihi_convert.data import DataSplits, StoredImages, load_data, stored_images
from loihi_convert.errors import DataError
from loihi_convert.pipeline import running
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.pipeline.origin import open_file
from loihi_convert.simulation import image_shards

SHAPE = (1, 8, 8)

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_images, "LARGE_BYTES", 0)


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


@pytest.mark.parametrize(
    "convert",
    [
        lambda images: images,
        lambda images: images[:, 0],
        lambda images: images.transpose(0, 2, 3, 1).copy(),
        lambda images: images / np.float32(255),
        lambda images: (images / 255).astype(np.float64)[:, 0],
        lambda images: images > 100,
    ],
    ids=["NCHW", "NHW", "NHWC", "float32", "float64", "bool"],
)
def test_an_npz_file(digits: DataSplits, tmp_path: Path, convert: Callable[[Array], Array]) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, labels=digits.test.known_labels[:90], images=convert(digits.test.images[:90]))
    at_once = load_data(path, input_shape=SHAPE)
    assert_same(stored(path), at_once.test.images)
    later = load_data(path, input_shape=SHAPE, at_once=False)
    assert np.array_equal(later.test.known_labels, at_once.test.known_labels)
    assert later.notes == ()


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("calibration", [None, 0.01, 0.9])
def test_a_note_says_that_rounding_changes_an_npz_file(
    digits: DataSplits, tmp_path: Path, at_once: bool, calibration: float | None
) -> None:
    path, images = tmp_path / "images.npz", digits.test.images[:90] / 255
    for contrast in (0.01, 0.9):
        own = {} if calibration is None else {"calibration": 0.1 + calibration * images}
        is_noted = 0.01 in (contrast, calibration)
        np.savez(path, images=0.1 + contrast * images, **own)
        notes = load_data(path, input_shape=SHAPE, at_once=at_once).notes
        assert [note.startswith("floats are rounded to 8 bits") for note in notes] == [True] * is_noted


@pytest.mark.parametrize(
    "save",
    [
        lambda path, images: np.savez_compressed(path, images=images),
        lambda path, images: np.savez(path, images=images.astype(np.int16)),
        lambda path, images: np.savez(path, images=np.asfortranarray(images)),
    ],
    ids=["compressed", "int16", "Fortran"],
)
def test_what_cannot_be_mapped_is_read_at_once_with_a_note(
    digits: DataSplits, tmp_path: Path, save: Callable[[Path, Array], None]
) -> None:
    path = tmp_path / "images.npz"
    save(path, digits.test.images[:90])
    found = load_data(path, input_shape=SHAPE, at_once=False)
    assert isinstance(found.test.images, np.ndarray)
    assert np.array_equal(found.test.images, digits.test.images[:90])
    (note,) = found.notes
    assert "compressed, in Fortran order, or integers other than uint8" in note
    assert "all of them are read into memory" in note
    assert load_data(path, input_shape=SHAPE).notes == ()


def test_errors_are_those_of_reading_at_once(digits: DataSplits, tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    for arrays in ({"images": digits.test.images[:9, :, :7]}, {"labels": np.zeros(3)}, {"images": np.zeros((0, 8, 8))}):
        np.savez(path, **arrays)  # type: ignore[arg-type]
        messages = []
        for at_once in (True, False):
            with pytest.raises(DataError) as raised:
                load_data(path, input_shape=SHAPE, at_once=at_once)
            messages.append(str(raised.value))
        assert messages[0] == messages[1]


def test_a_part_may_be_almost_black_but_not_the_whole(tmp_path: Path) -> None:
    images, path = np.ones((90, *SHAPE), np.uint8), tmp_path / "images.npz"
    np.savez(path, images=images)
    for at_once in (True, False):
        with pytest.raises(DataError, match=r"of 1\.\.1"):
            load_data(path, input_shape=SHAPE, at_once=at_once)
    images[70] = 2
    np.savez(path, images=images)
    assert_same(stored(path), images)
    np.savez(path, images=images / 255)
    assert_same(stored(path), images)


@pytest.mark.parametrize("damage", ["header", "version", "compression"])
def test_every_error_of_a_damaged_file_is_caught(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, images=np.full((90, *SHAPE), 9, np.uint8))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    place, value = {
        "header": (content.index(b"}", content.index(b"'shape'")), ord(" ")),
        "version": (entry + 6, 147),
        "compression": (entry + 10, 99),
    }[damage]
    content[place] = value
    path.write_bytes(content)
    for at_once in (True, False):
        with pytest.raises(DataError, match=r"damaged, or not an \.npz file"):
            load_data(path, input_shape=SHAPE, at_once=at_once)


def test_damage_is_noticed_before_a_run(digits: DataSplits, tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, images=digits.test.images)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged, or not an \.npz file"):
        load_data(path, input_shape=SHAPE, at_once=False)


def test_another_file_in_its_place_is_refused(digits: DataSplits, tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, images=digits.test.images[:50])
    images = stored(path)
    np.savez(path, images=digits.test.images[50:100])
    with pytest.raises(DataError, match="is another file on ") as raised:
        images[:3].read()
    assert raised.value.where == str(path)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read on "):
        images[:3].read()


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


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_a_run_folder_is_that_of_images_in_memory(digits: DataSplits, files: Path, tmp_path: Path, kind: str) -> None:
    data = tmp_path / "images.npz"
    if kind == "folder":
        data = image_folder(tmp_path / "images", digits, 300)
    else:
        # 100 of the images for calibration are also run, and so choose no margin.
        calibration = np.concatenate([digits.test.images[:100], digits.validation.images])
        np.savez(data, images=digits.test.images, labels=digits.test.known_labels, calibration=calibration)
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
            assert workers.largest < (64 * 150 if kind == "folder" else 1500)
    assert ("early_exit.csv" in found[0]) == (kind == "npz")
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
