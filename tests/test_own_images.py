"""Users' own images: every form that is allowed gives the right array, every other one an error with its path."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loihi_convert.arrays import Array
from loihi_convert.data import load_data
from loihi_convert.data.dataset import DataSplits
from loihi_convert.data.own_images import load_image_folder, load_npz
from loihi_convert.errors import DataError


def grey(value: int, height: int = 4, width: int = 6) -> Array:
    """Return a grey image, brighter by one in each column, so that axes cannot be confused."""
    return np.broadcast_to(np.arange(value, value + width), (height, width)).astype(np.uint8)


def put(path: Path, pixels: Array, mode: str | None = None, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)


def is_unsplit(splits: DataSplits) -> bool:
    return splits.train is splits.calibration and len(splits.validation) == 0


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    put(tmp_path / "b.png", grey(20))
    put(tmp_path / "a.PNG", grey(10))
    put(tmp_path / ".hidden.png", grey(30))
    (tmp_path / "notes.txt").write_text("not an image")
    splits = load_image_folder(tmp_path)
    assert (splits.name, splits.classes, splits.input_shape) == (tmp_path.name, (), (1, 4, 6))
    assert splits.test.labels is None
    assert np.array_equal(splits.test.images, np.stack([grey(10), grey(20)])[:, None])
    assert is_unsplit(splits)
    assert splits.calibration_images("all") is splits.test.images
    assert splits.calibration_images("split") is splits.test.images


def test_class_folders_are_labels_in_sorted_order(tmp_path: Path) -> None:
    for name, value in (("dog/1.png", 10), ("cat/2.png", 20), ("cat/1.png", 30), (".cache/1.png", 0)):
        put(tmp_path / name, grey(value))
    splits = load_image_folder(tmp_path)
    assert splits.classes == ("cat", "dog")
    assert splits.test.known_labels.tolist() == [0, 0, 1]
    assert splits.test.images[:, 0, 0, 0].tolist() == [30, 20, 10]


def test_a_folder_called_like_a_data_set_is_not_recorded_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "mnist" / "1.png", grey(7))
    for data in ("./mnist", Path("mnist")):
        name = load_data(data).name
        assert name == "./mnist"
        assert load_data(name).test.images.shape == (1, 1, 4, 6)


@pytest.mark.parametrize(
    ("classes", "names", "labels"),
    [
        # Found by name, wherever the network has them.
        (("dog", "bird", "cat"), ("dog", "bird", "cat"), [2, 0]),
        (("cat", "dog"), ("cat", "dog"), [0, 1]),
        # Mere numbers: sorted, as torchvision does.
        (("0", "1"), ("cat", "dog"), [0, 1]),
    ],
)
def test_class_folders_are_outputs_of_the_network(
    tmp_path: Path, classes: tuple[str, ...], names: tuple[str, ...], labels: list[int]
) -> None:
    put(tmp_path / "cat" / "1.png", grey(0))
    put(tmp_path / "dog" / "1.png", grey(0))
    splits = load_image_folder(tmp_path, classes)
    assert (splits.classes, splits.test.known_labels.tolist()) == (names, labels)


@pytest.mark.parametrize("classes", [("bird", "cat"), ("0", "1", "2")])
def test_a_folder_that_is_no_class_of_the_network(tmp_path: Path, classes: tuple[str, ...]) -> None:
    put(tmp_path / "cat" / "1.png", grey(0))
    put(tmp_path / "dog" / "1.png", grey(0))
    with pytest.raises(
        DataError, match=rf"folder (dog|cat) is no class of the network, .* are {', '.join(classes)}\. N"
    ):
        load_image_folder(tmp_path, classes)


def test_colour_is_kept_and_grey_joins_it(tmp_path: Path) -> None:
    colour = np.random.RandomState(0).randint(0, 256, (4, 6, 3)).astype(np.uint8)
    put(tmp_path / "1.png", colour)
    put(tmp_path / "2.png", grey(7))
    put(tmp_path / "3.png", np.where(grey(0) % 2 == 0, 255, 0).astype(np.uint8), "1")
    # A palette of 24 colours holds 24 pixels exactly.
    Image.fromarray(colour).quantize(256).save(tmp_path / "4.png")
    images = load_image_folder(tmp_path).test.images
    assert images.shape == (4, 3, 4, 6)
    assert np.array_equal(images[0], colour.transpose(2, 0, 1))
    assert np.array_equal(images[1], np.stack([grey(7)] * 3))
    assert set(images[2].ravel().tolist()) == {0, 255}
    assert np.abs(images[3].astype(int) - images[0]).max() <= 8


def test_jpeg_is_read(tmp_path: Path) -> None:
    put(tmp_path / "1.jpg", np.full((8, 8), 100, np.uint8), quality=95)
    put(tmp_path / "2.JPEG", np.full((8, 8), 200, np.uint8), quality=95)
    images = load_image_folder(tmp_path).test.images
    assert np.abs(images[:, 0].astype(int) - np.array([100, 200])[:, None, None]).max() <= 2


def test_an_empty_folder(tmp_path: Path) -> None:
    message = r"holds no image; allowed are \.png, \.jpg, \.jpeg, in it or in class folders"
    with pytest.raises(DataError, match=message):
        load_image_folder(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "readme.txt").touch()
    with pytest.raises(DataError, match=message):
        load_image_folder(tmp_path)
    put(tmp_path / "dog" / "1.png", grey(0))
    with pytest.raises(DataError, match=r"cat: holds no image; remove the folder, or put images of its class into it"):
        load_image_folder(tmp_path)
    put(tmp_path / "1.png", grey(0))
    with pytest.raises(DataError, match=r"holds images both beside and inside its folders; put every image into"):
        load_image_folder(tmp_path)


def test_images_of_different_sizes(tmp_path: Path) -> None:
    put(tmp_path / "a.png", grey(0))
    put(tmp_path / "b.png", grey(0, 4, 5))
    with pytest.raises(DataError, match=r"b\.png: is 5 x 4 pixels, a\.png is 6 x 4; all images must .* Resize them"):
        load_image_folder(tmp_path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_modes_that_would_lose_something(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        put(tmp_path / "a.png", grey(0).astype(np.uint16) * 200)
    else:
        put(tmp_path / "a.png", grey(0), mode)
    with pytest.raises(DataError, match=rf"a\.png: has pixels of mode {mode}; allowed are 8-bit grey \(L\), RGB"):
        load_image_folder(tmp_path)


def test_a_transparent_colour_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "a.png", grey(0), transparency=3)
    with pytest.raises(DataError, match=r"a\.png: has pixels of mode L with transparency"):
        load_image_folder(tmp_path)


def test_unreadable_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.png", grey(0))
    whole = (tmp_path / "a.png").read_bytes()
    gif = io.BytesIO()
    Image.fromarray(grey(0)).save(gif, "gif")
    for content in (b"", b"no image", whole[:40], whole[:-20], gif.getvalue()):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.png: cannot be read as a PNG or JPEG image .* Replace or remove it"):
            load_image_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match=r"a\.png: cannot be read .*decompression bomb"):
        load_image_folder(tmp_path)
    with pytest.raises(DataError, match=r"absent: cannot be read \(No such file or directory\)"):
        load_image_folder(tmp_path / "absent")


def saved(path: Path, **arrays: Array) -> Path:
    np.savez(path / "mine.npz", **arrays)
    return path / "mine.npz"


@pytest.mark.parametrize("shape", [(5, 28, 28), (5, 3, 28, 20), (5, 28, 20, 3), (5, 28, 20, 1), (5, 1, 3, 2)])
def test_npz_images_in_every_order(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    splits = load_npz(saved(tmp_path, images=images))
    expected = {
        (5, 28, 28): images[:, None] if images.ndim == 3 else images,
        (5, 28, 20, 3): images.transpose(0, 3, 1, 2) if images.ndim == 4 else images,
        (5, 28, 20, 1): images.transpose(0, 3, 1, 2) if images.ndim == 4 else images,
    }.get(shape, images)
    assert np.array_equal(splits.test.images, expected)
    assert (splits.name, splits.classes, splits.test.labels) == ("mine.npz", (), None)
    assert is_unsplit(splits)


def test_npz_with_everything(tmp_path: Path) -> None:
    images = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)
    path = saved(
        tmp_path,
        images=images[:3],
        labels=np.array([2, 0, 2], np.uint8),
        classes=np.array(["a", "b", "c"]),
        calibration=images[3:],
    )
    splits = load_npz(path, ("x", "y", "z"))
    assert splits.classes == ("a", "b", "c")
    assert splits.test.known_labels.tolist() == [2, 0, 2]
    assert np.array_equal(splits.test.images[:, 0], images[:3])
    assert np.array_equal(splits.calibration_images()[:, 0], images[3:])
    assert is_unsplit(splits)
    assert load_npz(saved(tmp_path, images=images), ("x", "y", "z")).classes == ("x", "y", "z")


IMAGES = np.zeros((3, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"holds the arrays \(none\); allowed are images, labels, classes, calibration, of which images must be"),
        ({"image": IMAGES}, "holds the arrays image; allowed are"),
        ({"images": IMAGES, "lables": np.zeros(3, int)}, "holds the arrays images, lables; allowed are"),
        ({"images": IMAGES / 255}, r"images is float64 \(3, 4, 4\); it must be uint8 .* scale floating-point pixels"),
        ({"images": IMAGES[0]}, r"images is uint8 \(4, 4\); it must be uint8 \(N, H, W\)"),
        ({"images": IMAGES[:0]}, r"images is uint8 \(0, 4, 4\); .* at least one image"),
        ({"images": IMAGES, "calibration": IMAGES.astype(int)}, r"calibration is int64 \(3, 4, 4\)"),
        (
            {"images": IMAGES, "calibration": IMAGES[:, :2]},
            r"calibration images are \(1, 2, 4\), its images \(1, 4, 4\) \(C, H, W\); they must be alike",
        ),
        ({"images": IMAGES, "labels": np.zeros(2, int)}, r"labels is int64 \(2,\); it must be integers \(3,\)"),
        ({"images": IMAGES, "labels": np.zeros(3)}, r"labels is float64 \(3,\); it must be integers"),
        ({"images": IMAGES, "labels": np.array([0, -1, 5])}, r"labels are -1\.\.5; allowed are whole numbers from 0"),
        (
            {"images": IMAGES, "labels": np.array([0, 1, 2]), "classes": np.array(["a", "b"])},
            r"labels are 0\.\.2; allowed are whole numbers 0\.\.1, one for each class",
        ),
        ({"images": IMAGES, "classes": np.arange(3)}, r"classes is int64 \(3,\); it must be one string for each class"),
        ({"images": IMAGES, "classes": np.array(["a", "a"])}, r"classes is <U1 \(2,\); .* no two of them alike"),
        ({"images": IMAGES.astype(object)}, r"damaged, or no \.npz file \(Object arrays cannot be loaded"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, arrays: dict[str, Array], message: str) -> None:
    with pytest.raises(DataError, match=rf"mine\.npz: .*{message}"):
        load_npz(saved(tmp_path, **arrays))


def test_labels_beyond_the_networks_classes(tmp_path: Path) -> None:
    path = saved(tmp_path, images=IMAGES, labels=np.array([0, 1, 2]))
    with pytest.raises(DataError, match=r"labels are 0\.\.2; allowed are whole numbers 0\.\.1"):
        load_npz(path, ("x", "y"))


def test_a_bare_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", IMAGES)
    path = (tmp_path / "bare.npy").rename(tmp_path / "bare.npz")
    with pytest.raises(DataError, match=r"bare\.npz: holds one bare array; allowed are images"):
        load_npz(path)


def test_a_damaged_npz_is_an_error_or_the_same(tmp_path: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (3, 4, 4)).astype(np.uint8)
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, images=images, labels=np.arange(3))
    content = path.read_bytes()
    generator, refused = random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(content)
        if generator.random() < 0.3:
            del damaged[generator.randrange(len(content)) :]
        else:
            damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            splits = load_npz(path)
        except DataError:
            refused += 1
        else:
            assert np.array_equal(splits.test.images[:, 0], images)
            assert splits.test.known_labels.tolist() == [0, 1, 2]
    assert refused > 200
