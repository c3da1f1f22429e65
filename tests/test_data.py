"""The splits never change; MNIST is found wherever it usually lies, and damage is noticed."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from loihi_convert import data
from loihi_convert.data import DATASETS, MNIST_SHA256, Dataset, default_root, load_data, read_mnist_file
from loihi_convert.errors import DataError, UsageError


def some(count: int, classes: int = 3) -> Dataset:
    """Return ``count`` images; image n is filled with n, its label is n modulo ``classes``."""
    numbers = np.arange(count)
    images = np.broadcast_to(numbers[:, None, None, None] % 256, (count, 1, 2, 2)).astype(np.uint8)
    return Dataset(images, (numbers % classes).astype(np.int64))


def idx(array: NDArray[np.uint8]) -> bytes:
    """Return ``array`` as an idx file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def mnist_files() -> dict[str, bytes]:
    """Return four files of MNIST's lengths: image n holds n, big-endian, in its first pixels; its label is n % 10."""
    files = {}
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, :4] = np.arange(count, dtype=">u4").view(np.uint8).reshape(count, 4)
        files[f"{part}-images-idx3-ubyte"] = idx(images)
        files[f"{part}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    return files


@pytest.fixture
def known(mnist_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Make the package take ``mnist_files`` for MNIST."""
    for name, content in mnist_files.items():
        monkeypatch.setitem(MNIST_SHA256, name, hashlib.sha256(content).hexdigest())
    return mnist_files


def numbers(dataset: Dataset) -> NDArray[np.int64]:
    """Return the number that each image of ``mnist_files`` carries."""
    return np.ascontiguousarray(dataset.images[:, 0, 0, :4]).view(">u4")[:, 0].astype(np.int64)


def test_digits_has_the_designed_splits() -> None:
    splits = load_data("digits")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1197, 200, 400)
    assert splits.calibration is splits.train
    assert splits.input_shape == (1, 8, 8)
    assert splits.classes == tuple("0123456789")
    pixels = np.concatenate([part.images.ravel() for part in (splits.train, splits.validation, splits.test)])
    assert (pixels.min(), pixels.max()) == (0, 255)
    # Pixels of 0..16 times 255 / 16: seventeen values.
    assert set(np.unique(pixels)) == {round(level * 255 / 16) for level in range(17)}


def test_digits_splits_are_disjoint_parts_of_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    splits = load_data("digits")
    parts = (splits.train, splits.validation, splits.test)
    ours = sorted(
        (image.tobytes(), int(label)) for part in parts for image, label in zip(part.images, part.labels, strict=True)
    )
    bunch = load_digits()
    scaled = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    assert ours == sorted((image.tobytes(), int(label)) for image, label in zip(scaled, bunch.target, strict=True))


def test_the_digits_split_never_changes() -> None:
    # A frozen digest: results of different versions are comparable only on the same images.
    splits = load_data("digits")
    assert hashlib.sha256(splits.test.labels.astype("<i8").tobytes()).hexdigest()[:16] == "a062a2259ac1c45a"
    assert hashlib.sha256(splits.validation.images.tobytes()).hexdigest()[:16] == "52240dcd4f684d29"


def test_mnist_has_the_designed_splits(tmp_path: Path, known: dict[str, bytes]) -> None:
    (tmp_path / "mnist").mkdir()
    for name, content in known.items():
        (tmp_path / "mnist" / name).write_bytes(content)
    splits = load_data("mnist", tmp_path)
    assert splits.input_shape == (1, 28, 28)
    train, validation, calibration = map(numbers, (splits.train, splits.validation, splits.calibration))
    assert (len(train), len(validation), len(calibration)) == (55_000, 5_000, 10_000)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(60_000))
    assert np.isin(calibration, train).all()
    assert len(np.unique(calibration)) == 10_000
    assert np.array_equal(numbers(splits.test), np.arange(10_000))
    for part in (splits.train, splits.validation, splits.calibration, splits.test):
        assert np.array_equal(part.labels, numbers(part) % 10)
        assert np.array_equal(np.bincount(part.labels), np.full(10, len(part) // 10))


def test_calibration_is_the_split_or_every_image_that_is_neither_validation_nor_test() -> None:
    splits = data.DataSplits("some", ("a", "b", "c"), some(9), some(3), some(6), some(4))
    assert len(splits.calibration_images()) == 6
    assert splits.calibration_images("all") is splits.train.images
    with pytest.raises(UsageError, match="calibration: 'both' is no choice; choose one of split, all"):
        splits.calibration_images("both")


@given(count=st.integers(1, 60), wanted=st.integers(0, 60), classes=st.integers(1, 5))
@settings(deadline=None)
def test_a_split_is_stratified_and_loses_nothing(count: int, wanted: int, classes: int) -> None:
    wanted = min(wanted, count)
    whole = some(count, classes)
    chosen, rest = data._split(whole, wanted)
    assert (len(chosen), len(rest)) == (wanted, count - wanted)
    both = np.concatenate([chosen.images, rest.images])[:, 0, 0, 0]
    assert np.array_equal(np.sort(both), np.arange(count))
    share = np.bincount(whole.labels) * wanted / count
    found = np.bincount(chosen.labels, minlength=len(share))
    assert (np.abs(found - share) < 1).all()


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "mnist/MNIST/raw", "."])
@pytest.mark.parametrize("spelling", ["t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_is_found_in_every_usual_place(
    tmp_path: Path, known: dict[str, bytes], folder: str, spelling: str, suffix: str
) -> None:
    content = known["t10k-labels-idx1-ubyte"]
    path = tmp_path / folder / f"{spelling}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if suffix else content)
    assert read_mnist_file(tmp_path, "t10k-labels-idx1-ubyte") == content


def test_a_missing_file_says_where_and_how(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"holds no MNIST file train-images-idx3-ubyte \(looked in .*tools/fetch_data\.py"
    ):
        load_data("mnist", tmp_path)


@pytest.mark.parametrize("damage", ["flip", "truncate", "append"])
def test_a_damaged_file_is_noticed(tmp_path: Path, known: dict[str, bytes], damage: str) -> None:
    content = bytearray(known["t10k-labels-idx1-ubyte"])
    if damage == "flip":
        content[500] ^= 1
    content = {"flip": content, "truncate": content[:-1], "append": content + b"\0"}[damage]
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: damaged, or another data set: its SHA-256 is"):
        read_mnist_file(tmp_path, "t10k-labels-idx1-ubyte")


def test_a_damaged_gzip_file_is_noticed(tmp_path: Path, known: dict[str, bytes]) -> None:
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    packed = gzip.compress(known["t10k-labels-idx1-ubyte"])
    for content in (packed[:50], b"no gzip", packed[:20] + b"\xff\xff\xff" + packed[23:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"idx1-ubyte\.gz: cannot be read .*Delete it and fetch it again"):
            read_mnist_file(tmp_path, "t10k-labels-idx1-ubyte")


def test_the_root_is_the_environments_or_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOIHI_CONVERT_DATA", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("LOIHI_CONVERT_DATA")
    assert default_root() == Path.home() / ".cache" / "loihi-convert"


def test_an_unknown_data_set_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=f"data: 'imagenet' is no data set; choose one of {', '.join(DATASETS)}"):
        load_data("imagenet")


def test_a_data_set_refuses_other_arrays_and_writing() -> None:
    images, labels = np.zeros((2, 1, 4, 4), np.uint8), np.zeros(2, np.int64)
    with pytest.raises(DataError, match=r"images: found float32 \(2, 1, 4, 4\); they must be uint8 \(N, C, H, W\)"):
        Dataset(images.astype(np.float32), labels)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"images: found uint8 \(2, 4, 4\)"):
        Dataset(images[:, 0], labels)
    with pytest.raises(DataError, match=r"labels: found int64 \(3,\); they must be int64 \(2,\), one per image"):
        Dataset(images, np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="read-only"):
        Dataset(images, labels).images[0] = 1


def test_a_data_set_is_sliced_together() -> None:
    part = some(10)[2:5]
    assert part.images[:, 0, 0, 0].tolist() == [2, 3, 4]
    assert part.labels.tolist() == [2, 0, 1]
    assert some(10)[np.array([9, 0])].labels.tolist() == [0, 0]
