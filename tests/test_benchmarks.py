"""The splits never change; files are found in their usual places, and damage is detected."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.refusals import data_refused
from typer.testing import CliRunner

from loihi_convert import cli
from loihi_convert.data import DATASETS, benchmarks, load_data
from loihi_convert.data.benchmarks import DESCRIPTIONS, SHA256, fetch, load_benchmark, read_file
from loihi_convert.data.dataset import Dataset
from loihi_convert.errors import DataError, PlatformError


def idx(array: NDArray[np.uint8]) -> bytes:
    """Return ``array`` as an idx file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def mnist_files() -> dict[str, bytes]:
    """Return four files of MNIST's lengths: the first pixels of image n are n, big-endian; its label is n % 10."""
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
        monkeypatch.setitem(SHA256["mnist"], name, hashlib.sha256(content).hexdigest())
    return mnist_files


def numbers(dataset: Dataset) -> NDArray[np.int64]:
    """Return the number that each image of ``mnist_files`` carries."""
    return np.ascontiguousarray(dataset.images[:, 0, 0, :4]).view(">u4")[:, 0].astype(np.int64)


def test_torch_takes_no_image_for_channels_last() -> None:
    """An output of a convolution could then not be viewed as flat."""
    images = load_data("digits").train.images
    assert images.strides == images.copy().strides


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
    assert read_file(tmp_path, "mnist", "t10k-labels-idx1-ubyte") == content


def test_a_missing_file_says_where_and_how(tmp_path: Path) -> None:
    with data_refused(tmp_path, "train-images-idx3-ubyte of mnist (looked in mnist/"):
        load_data("mnist", tmp_path)


@pytest.mark.parametrize("damage", ["flip", "truncate", "append"])
def test_a_damaged_file_is_noticed(tmp_path: Path, known: dict[str, bytes], damage: str) -> None:
    content = bytearray(known["t10k-labels-idx1-ubyte"])
    if damage == "flip":
        content[500] ^= 1
    content = {"flip": content, "truncate": content[:-1], "append": content + b"\0"}[damage]
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_file(tmp_path, "mnist", "t10k-labels-idx1-ubyte")
    assert caught.value.where == str(tmp_path / "t10k-labels-idx1-ubyte")
    assert hashlib.sha256(content).hexdigest() in caught.value.found
    assert SHA256["mnist"]["t10k-labels-idx1-ubyte"] in caught.value.expected


def test_a_damaged_gzip_file_is_noticed(tmp_path: Path, known: dict[str, bytes]) -> None:
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    packed = gzip.compress(known["t10k-labels-idx1-ubyte"])
    for content in (packed[:50], b"no gzip", packed[:20] + b"\xff\xff\xff" + packed[23:]):
        path.write_bytes(content)
        with data_refused(path, "cannot be read"):
            read_file(tmp_path, "mnist", "t10k-labels-idx1-ubyte")


def test_fashion_mnist_is_not_taken_for_mnist(tmp_path: Path, known: dict[str, bytes]) -> None:
    (tmp_path / "mnist").mkdir()
    for name, content in known.items():
        (tmp_path / "mnist" / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_benchmark("fashion-mnist", tmp_path)
    assert "train-images-idx3-ubyte of fashion-mnist (looked in fashion-mnist/" in caught.value.found
    # Files outside a named folder are identified by their content.
    with pytest.raises(DataError) as caught:
        load_benchmark("fashion-mnist", tmp_path / "mnist")
    assert "another data set" in caught.value.found
    assert "fashion-mnist, c59f468a" in caught.value.expected


@pytest.fixture
def cifar_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six small batches: image n of 12,000 has label n % 10, n in its first two pixels, the channel in the third."""
    numbers = np.arange(12_000)
    images = np.zeros((12_000, 3, 32, 32), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = numbers // 256, numbers % 256
    images[:, :, 0, 2] = (0, 1, 2)
    rows = np.concatenate([(numbers % 10).astype(np.uint8)[:, None], images.reshape(12_000, -1)], axis=1)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, batch in zip(SHA256["cifar10"], np.split(rows, 6), strict=True):
        (folder / name).write_bytes(batch.tobytes())
        monkeypatch.setitem(SHA256["cifar10"], name, hashlib.sha256(batch.tobytes()).hexdigest())
    return tmp_path


def test_cifar10_is_read_from_its_binary_version(cifar_root: Path) -> None:
    splits = load_benchmark("cifar10", cifar_root)
    assert splits.input_shape == (3, 32, 32)
    assert splits.classes[3] == "cat"
    # Of 10,000 training images, 5,000 are for validation, and the other 5,000 are all used for calibration.
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [5_000, 5_000, 2_000]
    seen = []
    for part in (splits.train, splits.validation, splits.test):
        number = part.images[:, 0, 0, 0] * np.int64(256) + part.images[:, 0, 0, 1]
        assert np.array_equal(part.known_labels, number % 10)
        assert (part.images[:, :, 0, 2] == (0, 1, 2)).all()
        seen.append(number)
    assert np.array_equal(np.sort(np.concatenate(seen[:2])), np.arange(10_000))
    assert np.array_equal(seen[2], np.arange(10_000, 12_000))


@pytest.mark.parametrize("data", ["mnist", "fashion-mnist", "cifar10"])
def test_a_set_that_is_not_there_says_how_to_fetch_it(tmp_path: Path, data: str) -> None:
    with pytest.raises(DataError) as caught:
        load_data(data, tmp_path)
    assert caught.value.hint == f"Download it: loihi-convert data {data} --data-root {tmp_path}"


def test_the_inputs_of_mlperf_tiny_come_from_a_clone_or_a_folder(
    tmp_path: Path, cifar_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten files of random values for each benchmark; of every five, the first calibrates."""
    random, clone, labels = np.random.default_rng(0), tmp_path / "clone", np.arange(10)
    colours, words = random.integers(256, size=(10, 96, 96, 3)), random.integers(-128, 128, size=(10, 1, 49, 10))
    decibels = random.uniform(-80, 12, size=(10, 40, 5, 128)).astype("<f4")
    small = colours[:, :32, :32]
    inputs = {
        "image-classification": ("ic01", small.astype("u1"), small.transpose(0, 3, 1, 2)),
        "visual-wake-words": ("vww01", colours.astype("u1"), colours.transpose(0, 3, 1, 2)),
        "keyword-spotting": ("kws01", words.astype("i1"), words + 128),
        "anomaly-detection": ("ad01", decibels, np.rint(decibels / 0.3910152316093445 + 217)),
    }
    for name, (benchmark, files, pixels) in inputs.items():
        folder = clone / "datasets" / benchmark
        folder.mkdir(parents=True)
        for number in labels:
            (folder / f"{number}.bin").write_bytes(files[number].tobytes())
        (folder / "y_labels.csv").write_text("".join(f"{number}.bin,10,{number}\n" for number in labels))
        rows = np.concatenate([labels[:, None], pixels.reshape(10, -1)], axis=1).astype(np.uint8)
        digest = hashlib.sha256(rows.tobytes()).hexdigest()
        monkeypatch.setitem(SHA256, f"mlperf-tiny-{name}", {f"{benchmark}.bin": digest})
    script = "git init -q; git add .; git -c user.name=a -c user.email=a@b commit -qm a; git rev-parse HEAD"
    commit = subprocess.run(script, cwd=clone, shell=True, check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setattr(benchmarks, "_ENERGYRUNNER_COMMIT", commit)
    assert fetch("mlperf-tiny-keyword-spotting", cifar_root, given=clone / "datasets")
    shutil.rmtree(clone / "datasets")
    with pytest.raises(PlatformError, match=r"could not be downloaded .*vww01/y_labels.csv"):
        fetch("mlperf-tiny-visual-wake-words", cifar_root, given=tmp_path)
    done = CliRunner().invoke(cli.app, ["data", "mlperf-tiny", "--from", str(clone), "--data-root", str(cifar_root)])
    assert done.exit_code == 0, done.output
    for name, (_, _, pixels) in inputs.items():
        splits, scored = load_data(f"mlperf-tiny-{name}", cifar_root), labels % 5 > 0
        if name == "image-classification":
            assert (len(splits.train), len(splits.validation), splits.classes[3]) == (5_000, 5_000, "cat")
            scored[:] = True
        else:
            assert np.array_equal(splits.calibration.images.ravel(), pixels[~scored].ravel())
        assert np.array_equal(splits.test.images.ravel(), pixels[scored].ravel())
        if name == "anomaly-detection":
            assert np.abs(splits.test.targets - decibels[scored].reshape(-1, 640)).max() < 0.2
        else:
            assert np.array_equal(splits.test.labels, labels[scored])


def test_each_set_has_the_described_size(mnist_files: dict[str, bytes]) -> None:
    """MNIST's files have a header of 8 bytes and 4 per axis; a row of CIFAR-10 is a label and 3 x 32 x 32 pixels."""
    digits = load_data("digits")
    found = (digits.input_shape, len(digits.train) + len(digits.validation), len(digits.test), 0)
    assert DESCRIPTIONS["digits"] == found
    size = sum(map(len, mnist_files.values()))
    assert DESCRIPTIONS["mnist"] == DESCRIPTIONS["fashion-mnist"] == ((1, 28, 28), 60_000, 10_000, size)
    assert DESCRIPTIONS["cifar10"].byte_count == 60_000 * (1 + 3 * 32 * 32)
    assert tuple(DESCRIPTIONS) == DATASETS
