"""Users' own images: every supported format gives the right array, any other an error with its path."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.refusals import data_refused, refusal, refused

from loihi_convert.data import load_data
from loihi_convert.data.dataset import DataSplits, in_turns
from loihi_convert.data.in_memory import as_images
from loihi_convert.data.own_images import load_image_folder, load_npz
from loihi_convert.errors import DataError, UsageError
from loihi_convert.ground.arrays import Array


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
    assert splits.held_out is None


def test_images_without_labels_may_be_in_the_order_of_their_classes(tmp_path: Path) -> None:
    """In a folder whose names begin with the class, for example: thresholds are chosen on a mixture."""
    values = np.arange(60, dtype=np.uint8).reshape(60, 1, 1)
    for value in range(60):
        put(tmp_path / f"flat/{value:02}.png", np.full((4, 6), value, np.uint8))
    np.savez(tmp_path / "own.npz", images=values)
    np.savez(tmp_path / "apart.npz", images=values[50:], calibration=values)
    folder = load_image_folder(tmp_path / "flat")
    for splits in (folder, load_npz(tmp_path / "own.npz"), load_npz(tmp_path / "apart.npz")):
        order = splits.calibration_images("all")[:, 0, 0, 0].tolist()
        assert sorted(order) == list(range(60))
        assert min(order[:20]) < 20 < 40 < max(order[:20])
    assert folder.test.images[:, 0, 0, 0].tolist() == list(range(60))


def test_class_folders_are_labels_in_sorted_order(tmp_path: Path) -> None:
    for name, value in (("dog/1.png", 10), ("cat/2.png", 20), ("cat/1.png", 30), (".cache/1.png", 0)):
        put(tmp_path / name, grey(value))
    splits = load_image_folder(tmp_path)
    assert splits.classes == ("cat", "dog")
    # In turns, in proportion: half of the cats, the dog, the other half.
    assert splits.test.known_labels.tolist() == [0, 1, 0]
    assert splits.test.images[:, 0, 0, 0].tolist() == [30, 10, 20]
    assert splits.test.paths == ("cat/1.png", "dog/1.png", "cat/2.png")
    assert splits.test[1:].paths == ("dog/1.png", "cat/2.png")
    assert splits.test[np.array([2, 0])].paths == ("cat/2.png", "cat/1.png")


def test_images_that_are_left_out_are_counted(tmp_path: Path) -> None:
    """torchvision's ImageFolder would read them, so its accuracy would be that of other images."""
    for name in ("cat/1.png", "cat/more/v1.0/2.png", "cat/.cache/3.png", "dog/1.png", "dog/2.bmp", "dog/3.TIFF"):
        put(tmp_path / name, grey(10))
    (tmp_path / "dog/notes.txt").write_text("not an image")
    *_, note = load_image_folder(tmp_path).notes
    assert note == "2 images of other formats than PNG and JPEG are left out"
    (tmp_path / "dog/2.bmp").rename(tmp_path / "cat/1.bmp")
    assert load_image_folder(tmp_path / "dog").notes == ("1 images of other formats than PNG and JPEG are left out",)
    (tmp_path / "dog/3.TIFF").unlink()
    assert load_image_folder(tmp_path / "dog").notes == ()


@pytest.mark.parametrize("labels", [[0] * 60 + [1] * 30 + [5] * 10, [5, 0, 1, 0] * 25, [3] * 7, []])
def test_any_first_images_show_each_class_as_often_as_all_do(labels: list[int]) -> None:
    found = np.array(labels, np.int64)
    order = in_turns(found)
    assert sorted(order) == list(range(len(found)))
    for label in set(labels):
        share = np.cumsum(found[order] == label) - np.arange(1, len(found) + 1) * labels.count(label) / len(labels)
        assert np.abs(share).max() < len(set(labels))
        # Images of one class keep their order.
        assert (np.diff(order[found[order] == label]) > 0).all()


def test_an_npz_file_in_the_order_of_its_classes_is_calibrated_in_turns(tmp_path: Path) -> None:
    path, images = tmp_path / "own.npz", np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    np.savez(path, images=images, labels=np.array([0, 0, 0, 2, 2, 2]))
    splits = load_npz(path)
    assert splits.test.images.ravel().tolist() == [0, 1, 2, 3, 4, 5]
    assert splits.calibration_images("2").ravel().tolist() == [0, 3]
    assert splits.held_out is None
    assert "in the order of their classes" in splits.notes[-1]
    np.savez(path, images=images, labels=np.array([0, 2, 0, 0, 2, 2]))
    splits = load_npz(path)
    assert splits.notes == ()
    assert splits.calibration is splits.test


def test_a_folder_called_like_a_data_set_is_not_recorded_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "mnist" / "1.png", grey(7))
    for data in ("./mnist", Path("mnist")):
        name = load_data(data).name
        assert name == "./mnist"
        assert load_data(name).test.images.shape == (1, 1, 4, 6)


DIGITS = tuple("0123456789")
TWELVE = tuple(map(str, range(12)))


def test_the_name_of_own_images_can_be_written_to_a_checkpoint(tmp_path: Path) -> None:
    """A file name need not be UTF-8."""
    path = tmp_path / os.fsdecode(b"pets\xff")
    put(path / "a.png", grey(0))
    assert load_data(path).name == "pets\\udcff"


def folders(path: Path, *names: str) -> Path:
    for name in names:
        put(path / name / "1.png", grey(0))
    return path


@pytest.mark.parametrize(
    ("names", "classes", "class_map", "found", "labels"),
    [
        # By name, wherever the network has them.
        ("cat dog", ("dog", "bird", "cat"), None, ("dog", "bird", "cat"), [2, 0]),
        ("cat dog", ("cat", "dog"), None, ("cat", "dog"), [0, 1]),
        ("0 1 2 3 4 5 6 7 8 9", DIGITS, None, DIGITS, list(range(10))),
        ("3 7", DIGITS, None, DIGITS, [3, 7]),
        # Not known: the order of ImageFolder.
        ("cat dog", (), None, ("cat", "dog"), [0, 1]),
        ("1 10 2", (), None, ("1", "10", "2"), [0, 1, 2]),
        # Not known, but the folders have their numbers.
        (" ".join(TWELVE), (), "names", (), [int(name) for name in sorted(TWELVE)]),
        # More than ten numbers: only the user knows which order the CNN was trained in.
        (" ".join(TWELVE), TWELVE, "sorted", tuple(sorted(TWELVE)), list(range(12))),
        (" ".join(TWELVE), TWELVE, "names", TWELVE, [int(name) for name in sorted(TWELVE)]),
        ("0 2 10", TWELVE, "names", TWELVE, [0, 10, 2]),
        # As the user says.
        ("one zero", DIGITS, {"zero": "0", "one": 1}, DIGITS, [1, 0]),
        ("Katze dog", ("dog", "cat"), {"Katze": "cat", "dog": "dog"}, ("dog", "cat"), [1, 0]),
        ("a b", (), {"a": 1, "b": "0"}, (), [1, 0]),
        ("cat dog", ("0", "1"), "sorted", ("cat", "dog"), [0, 1]),
        ("Hund Katze", ("dog", "cat"), "sorted", ("dog", "cat"), [0, 1]),
    ],
)
def test_class_folders_are_outputs_of_the_network(
    tmp_path: Path, names: str, classes: tuple[str, ...], class_map: Any, found: tuple[str, ...], labels: list[int]
) -> None:
    splits = load_data(folders(tmp_path, *names.split()), classes=classes, class_map=class_map)
    by_folder = sorted(zip(splits.test.paths or (), splits.test.known_labels.tolist(), strict=True))
    assert (splits.classes, [label for _, label in by_folder]) == (found, labels)
    (note,) = splits.notes
    for name, label in zip(sorted(names.split()), labels, strict=True):
        assert f"{name} -> {label}" in note


@pytest.mark.parametrize("names", ["one zero", "1 2 3 4 5 6 7 8 9 10"])
@pytest.mark.parametrize("classes", [DIGITS, ("bird", "cat")])
def test_a_folder_that_is_not_a_class_of_the_network(tmp_path: Path, names: str, classes: tuple[str, ...]) -> None:
    """Their order would be taken for the classes: ten folders 1 .. 10 gave an accuracy of 10 % on MNIST."""
    with pytest.raises(DataError) as caught:
        load_image_folder(folders(tmp_path, *names.split()), classes)
    error = caught.value
    assert error.where == str(tmp_path)
    assert error.found.split()[2] in set(names.split()) - set(classes)
    assert error.expected.endswith(", ".join(classes))
    assert "class_map" in error.hint


@pytest.mark.parametrize(
    ("classes", "class_map", "said"),
    [
        (DIGITS, {"one": "1"}, "lacks zero"),
        (DIGITS, {"one": "1", "zero": "10"}, "class 10"),
        (DIGITS, {"one": "1", "zero": "null"}, "class null"),
        ((), {"one": "1", "zero": "null"}, "class null"),
        ((), {"one": 1, "zero": "9" * 5000}, "class 9"),
        (DIGITS, {"one": "1", "zero": "0", "two": "2"}, "found 'two'"),
        (DIGITS, "sorted", "2 class folders for 10 classes"),
        (("one", "zero", "2"), "sorted", "2 class folders for 3 classes"),
    ],
)
def test_a_class_map_that_does_not_fit(tmp_path: Path, classes: tuple[str, ...], class_map: Any, said: str) -> None:
    with refused("class_map", said):
        load_image_folder(folders(tmp_path, "one", "zero"), classes, class_map=class_map)


@pytest.mark.parametrize("name", ["9" * 20, "007", "cat"])
def test_a_folder_that_is_not_named_by_a_number(tmp_path: Path, name: str) -> None:
    assert refusal(UsageError, load_image_folder, folders(tmp_path, name), class_map="names") == (
        "class_map",
        f"found the class {name}",
    )
    largest = load_image_folder(folders(tmp_path / "large", "9" * 9), class_map="names")
    assert largest.test.known_labels.tolist() == [999_999_999]


@pytest.mark.parametrize("names", [TWELVE, ("0", "2", "10")])
def test_more_than_ten_numbers_are_ambiguous(tmp_path: Path, names: tuple[str, ...]) -> None:
    """As numbers, or in the order of text: a part of the folders would be taken for other classes than all of them."""
    with pytest.raises(UsageError) as caught:
        load_image_folder(folders(tmp_path, *names), TWELVE)
    assert caught.value.where == "class_map"
    assert "'names'" in caught.value.expected
    assert "'sorted'" in caught.value.expected


def test_a_class_map_is_for_class_folders(tmp_path: Path) -> None:
    put(tmp_path / "flat" / "1.png", grey(0))
    for data in ("digits", str(tmp_path / "flat"), str(saved(tmp_path, images=IMAGES))):
        with refused("class_map", data):
            load_data(data, class_map={"a": 0})


def test_a_network_takes_its_own_shape(tmp_path: Path) -> None:
    """Grey images for a network of three channels lose nothing, nor do three equal channels for a grey one."""
    put(tmp_path / "1.png", grey(0))
    images = load_data(tmp_path, input_shape=(3, 4, 6)).test.images
    assert np.array_equal(images, np.stack([grey(0)] * 3)[None])
    put(tmp_path / "2.png", np.stack([grey(9)] * 3, axis=2))
    images = load_data(tmp_path, input_shape=(1, 4, 6)).test.images
    assert np.array_equal(images, np.stack([grey(0), grey(9)])[:, None])
    put(tmp_path / "3.png", np.stack([grey(9), grey(9), grey(8)], axis=2))
    put(tmp_path / "4.png", np.stack([grey(9), grey(9), grey(8)], axis=2))
    for shape, found in (((1, 4, 6), "has colours"), ((1, 4, 5), "6 x 4")):
        with data_refused(str(tmp_path / ("3.png" if "colours" in found else "1.png")), found):
            load_data(tmp_path, input_shape=shape)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_photo_is_turned_as_its_exif_data_say(tmp_path: Path, suffix: str) -> None:
    """Orientation 6: the camera was held upright, so the picture must be turned clockwise by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((16, 8), np.uint8)
    pixels[:8] = 200
    put(tmp_path / f"1.{suffix}", pixels, exif=exif)
    images = load_image_folder(tmp_path).test.images
    assert images.shape == (1, 1, 8, 16)
    assert np.abs(images[0, 0].astype(int) - np.rot90(pixels, -1)).max() <= 2
    with Image.open(tmp_path / f"1.{suffix}") as photo:
        assert np.array_equal(as_images([photo]), images)


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
    def error() -> DataError:
        with pytest.raises(DataError) as caught:
            load_image_folder(tmp_path)
        return caught.value

    assert (error().where, error().found) == (str(tmp_path), "contains no images")
    assert ".png, .jpg, .jpeg" in error().expected
    (tmp_path / "cat").mkdir()
    (tmp_path / "readme.txt").touch()
    assert (error().where, error().found) == (str(tmp_path), "contains no images")
    put(tmp_path / "dog" / "1.png", grey(0))
    assert (error().where, error().found) == (str(tmp_path / "cat"), "contains no images")
    put(tmp_path / "1.png", grey(0))
    assert (error().where, error().found) == (str(tmp_path), "contains images both next to and inside its folders")


def test_damaged_exif_data_are_an_error_or_no_rotation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 1, "maker"
    path = tmp_path / "1.jpg"
    put(path, np.full((8, 8), 100, np.uint8), exif=exif)
    content = path.read_bytes()
    begin, generator, read = content.index(b"Exif") + 4, random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[begin + generator.randrange(50)] = generator.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            read += load_image_folder(tmp_path).test.images.shape == (1, 1, 8, 8)
    assert read > 100


def test_images_of_different_sizes(tmp_path: Path) -> None:
    put(tmp_path / "a.png", grey(0))
    put(tmp_path / "b.png", grey(0, 4, 5))
    with pytest.raises(DataError) as caught:
        load_image_folder(tmp_path)
    assert (caught.value.where, caught.value.found) == (str(tmp_path / "b.png"), "is 5 x 4 pixels")
    assert "6 x 4" in caught.value.expected
    assert "a.png" in caught.value.expected


def test_modes_that_would_lose_something(tmp_path: Path) -> None:
    put(tmp_path / "a.png", grey(0).astype(np.uint16) * 200)
    assert refusal(DataError, load_image_folder, tmp_path) == (str(tmp_path / "a.png"), "has pixels of mode I;16")


@pytest.mark.parametrize(("channels", "mode"), [(2, "RGBA"), (3, "RGB"), (4, "RGBA")])
def test_colours_of_16_bits_are_refused(tmp_path: Path, channels: int, mode: str) -> None:
    """Pillow reads the high bytes only: 300 as 1. It writes no such file."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    # The colour types of the PNG specification: 4 is grey with transparency, 2 colour, 6 colour with transparency.
    header = struct.pack(">IIBBBBB", 1, 1, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    row = b"\0" + struct.pack(f">{channels}H", *[300] * (channels - 1), 65535)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))
    with pytest.raises(DataError) as caught:
        load_image_folder(tmp_path)
    assert (caught.value.where, caught.value.found) == (
        str(tmp_path / "a.png"),
        f"has pixels of mode 16-bit {mode}",
    )


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1)])
def test_an_alpha_channel_is_ignored_if_every_pixel_is_opaque(tmp_path: Path, mode: str, channels: int) -> None:
    put(tmp_path / "a.png", grey(0), mode)
    loaded = load_image_folder(tmp_path).test.images
    assert loaded.shape[1] == channels
    assert all(np.array_equal(channel, grey(0)) for channel in loaded[0])
    image = Image.fromarray(grey(0)).convert(mode)
    image.putalpha(Image.fromarray(np.where(grey(0) == grey(0).max(), 254, 255).astype(np.uint8)))
    image.save(tmp_path / "a.png")
    with pytest.raises(DataError) as caught:
        load_image_folder(tmp_path)
    assert caught.value.found == f"has pixels of mode {mode} with transparency"


def test_a_transparent_colour_is_refused_if_a_pixel_has_it(tmp_path: Path) -> None:
    put(tmp_path / "a.png", np.full((4, 6), 2, np.uint8), transparency=3)
    assert load_image_folder(tmp_path).test.images.max() == 2
    put(tmp_path / "a.png", np.full((4, 6), 3, np.uint8), transparency=3)
    with pytest.raises(DataError) as caught:
        load_image_folder(tmp_path)
    assert caught.value.found == "has pixels of mode L with transparency"


def test_unreadable_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.png", grey(0))
    whole = (tmp_path / "a.png").read_bytes()
    gif = io.BytesIO()
    Image.fromarray(grey(0)).save(gif, "gif")
    for content in (b"", b"no image", whole[:40], whole[:-20], gif.getvalue()):
        (tmp_path / "a.png").write_bytes(content)
        with data_refused(tmp_path / "a.png", "cannot be read as a PNG or JPEG image"):
            load_image_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError) as caught:
        load_image_folder(tmp_path)
    assert "decompression bomb" in caught.value.found
    with data_refused(tmp_path / "absent", "No such file or directory"):
        load_image_folder(tmp_path / "absent")


def saved(path: Path, **arrays: Array) -> Path:
    np.savez(path / "mine.npz", **arrays)
    return path / "mine.npz"


def test_npz_with_everything(tmp_path: Path) -> None:
    images = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)
    path = saved(
        tmp_path,
        images=images[:3],
        labels=np.array([2, 0, 2], np.uint8),
        classes=np.array(["a", "b", "c"]),
        calibration=images[3:],
    )
    splits = load_npz(path, ("0", "1", "2"))
    assert splits.classes == ("a", "b", "c")
    assert splits.test.known_labels.tolist() == [2, 0, 2]
    assert np.array_equal(splits.test.images[:, 0], images[:3])
    assert np.array_equal(splits.calibration_images()[:, 0], images[3:])
    assert is_unsplit(splits)
    # The network's names, if the file has none, and its number of classes.
    path = saved(tmp_path, images=images)
    splits = load_npz(path, ("x", "y", "z"))
    assert (splits.name, splits.classes, splits.test.labels) == ("mine.npz", ("x", "y", "z"), None)
    path = saved(tmp_path, images=images, labels=np.arange(5))
    with data_refused(f"{path}: labels", "0..4", "0..1"):
        load_npz(path, ("x", "y"))


IMAGES = np.zeros((3, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "key", "found"),
    [
        ({}, "", "no arrays"),
        ({"image": IMAGES}, "", "contains image"),
        ({"images": IMAGES, "lables": np.zeros(3, int)}, "", "contains images, lables"),
        ({"images": IMAGES + 1.5}, "images", "float64 (3, 4, 4) of 1.5..1.5"),
        ({"images": IMAGES, "calibration": IMAGES.astype(int) - 1}, "calibration", "int64 (3, 4, 4) of -1..-1"),
        ({"images": IMAGES, "calibration": IMAGES[:, :2]}, "calibration", "found (3, 2, 4)"),
        ({"images": IMAGES, "labels": np.zeros(2, int)}, "labels", "int64 (2,)"),
        ({"images": IMAGES, "labels": np.array([0, 1, 2]), "classes": np.array(["a", "b"])}, "labels", "0..2"),
        ({"images": IMAGES, "classes": np.arange(3)}, "classes", "int64 (3,)"),
        ({"images": IMAGES, "classes": np.array(["a", "a"])}, "classes", "<U1 (2,)"),
        ({"images": IMAGES, "classes": np.array(["", "a"])}, "classes", "<U1 (2,)"),
        ({"images": IMAGES.astype(object)}, "", "Object arrays cannot be loaded"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, arrays: dict[str, Array], key: str, found: str) -> None:
    path = saved(tmp_path, **arrays)
    with data_refused((f"{path}: {key}" if key else str(path)), found):
        load_npz(path)


def test_npz_of_floats_and_of_the_networks_shape(tmp_path: Path) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (3, 4, 6)).astype(np.uint8)
    path = saved(tmp_path, images=pixels / 255)
    for shape in (None, (1, 4, 6)):
        assert np.array_equal(load_npz(path, input_shape=shape).test.images[:, 0], pixels)
    with data_refused(f"{path}: images"):
        load_npz(path, input_shape=(3, 4, 6))
    last = saved(tmp_path, images=pixels[..., np.newaxis])
    assert np.array_equal(load_npz(last, input_shape=(1, 4, 6)).test.images[:, 0], pixels)


def test_a_folder_of_macos_is_no_class(tmp_path: Path) -> None:
    put(tmp_path / "cat/1.png", grey(1))
    (tmp_path / "__MACOSX").mkdir()
    assert load_image_folder(tmp_path).classes == ("cat",)


def test_classes_in_another_order_than_the_networks(tmp_path: Path) -> None:
    names, classes = np.array(["dog", "cat"]), ("cat", "bird", "dog")
    path = saved(tmp_path, images=IMAGES, labels=np.array([0, 1, 0]), classes=names)
    splits = load_npz(path, classes)
    assert (splits.classes, splits.test.known_labels.tolist()) == (classes, [2, 0, 2])
    # Numbers are no names.
    assert load_npz(path, ("0", "1")).test.known_labels.tolist() == [0, 1, 0]
    assert refusal(DataError, load_npz, path, ("cat", "bird")) == (f"{path}: classes", "found dog")
    targets = np.arange(6.0).reshape(3, 2)
    splits = load_npz(saved(tmp_path, images=IMAGES, targets=targets, classes=names), ("cat", "dog"))
    assert splits.classes == ("cat", "dog")
    assert np.array_equal(np.asarray(splits.test.targets), targets[:, ::-1])


@pytest.mark.parametrize(
    ("names", "classes", "found"),
    [
        (("7", "1", "3"), DIGITS, [7, 1, 7]),
        (tuple(reversed(DIGITS)), DIGITS, [9, 8, 9]),
        (tuple(sorted(TWELVE)), TWELVE, [0, 1, 0]),
        (("cat", "1"), DIGITS, [0, 1, 0]),
    ],
)
def test_classes_named_by_numbers(
    tmp_path: Path, names: tuple[str, ...], classes: tuple[str, ...], found: list[int]
) -> None:
    """MNIST's classes are called "0" to "9"."""
    path = saved(tmp_path, images=IMAGES, labels=np.array([0, 1, 0]), classes=np.array(names))
    splits = load_npz(path, classes)
    assert splits.test.known_labels.tolist() == found
    assert any("keep their numbers" in note for note in splits.notes) == ("cat" in names)


@pytest.mark.parametrize("targets", [np.arange(5), np.arange(10.0).reshape(5, 2)])
def test_npz_with_targets(tmp_path: Path, targets: Array) -> None:
    images = np.zeros((5, 8, 6), np.uint8)
    names = ["x", "y"][: targets[0].size]
    splits = load_npz(saved(tmp_path, images=images, targets=targets, classes=names))
    assert np.array_equal(splits.test.targets, targets.reshape(5, -1))
    assert (splits.test.labels, splits.classes) == (None, tuple(names))
    # The names of a network's outputs are not those of the file.
    assert load_npz(saved(tmp_path, images=images, targets=targets), ("a", "b", "c")).classes == ("a", "b", "c")
    for arrays, found in (
        ({"targets": targets, "labels": np.zeros(5, int)}, "contains images, labels, targets"),
        ({"targets": targets, "classes": ["x", "y", "z"]}, f"found {targets.dtype} {targets.shape}"),
        ({"targets": targets[:4]}, f"found {targets.dtype} {targets[:4].shape}"),
    ):
        with pytest.raises(DataError) as caught:
            load_npz(saved(tmp_path, images=images, **arrays))
        assert caught.value.found == found


def test_data_must_show_what_the_network_gives(tmp_path: Path) -> None:
    images = np.zeros((5, 8, 6), np.uint8)
    numbers = load_npz(saved(tmp_path, images=images, targets=np.zeros((5, 2)))).test
    classes = load_npz(saved(tmp_path, images=images, labels=np.zeros(5, int))).test
    nothing = load_npz(saved(tmp_path, images=images)).test
    for task in ("classification", "regression"):
        nothing.require_fit(task, 2, "mine.npz")
    numbers.require_fit("regression", 2, "mine.npz")
    classes.require_fit("classification", 2, "mine.npz")
    for dataset, task, outputs, found in (
        (numbers, "classification", 2, "found targets"),
        (classes, "regression", 2, "found labels"),
        (numbers, "regression", 3, "found targets (5, 2)"),
    ):
        assert refusal(DataError, dataset.require_fit, task, outputs, "mine.npz") == ("mine.npz", found)


def test_a_bare_array_is_not_an_npz_file(tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", IMAGES)
    path = (tmp_path / "bare.npy").rename(tmp_path / "bare.npz")
    with pytest.raises(DataError) as caught:
        load_npz(path)
    assert (caught.value.where, caught.value.found) == (str(path), "contains an unnamed array")
    assert "images=images, labels=labels" in caught.value.hint


def zipped(path: Path, content: bytes) -> Path:
    """A zip archive with the entry images.npy."""
    with zipfile.ZipFile(path / "mine.npz", "w") as archive:
        archive.writestr("images.npy", content)
    return path / "mine.npz"


def npy(shape: tuple[int, ...]) -> bytes:
    """An array of 64 bytes whose header claims ``shape``."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": "|u1"})
    return stream.getvalue() + bytes(64)


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))])
def test_a_full_memory_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = zipped(tmp_path, npy((1, 8, 8)))
    assert load_npz(path).input_shape == (1, 8, 8)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", fail)
    with pytest.raises(type(error)):
        load_npz(path)


def test_files_that_may_not_be_read_are_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    put(tmp_path / "flat" / "1.png", grey(0))
    path = saved(tmp_path, images=IMAGES)
    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    for data, where in ((tmp_path / "flat", tmp_path / "flat" / "1.png"), (path, path)):
        assert refusal(DataError, load_data, data) == (str(where), "cannot be read (Permission denied)")


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
            assert splits.test.labels is None or splits.test.labels.tolist() == [0, 1, 2]
    assert refused > 200


def test_what_takes_too_much_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        put(tmp_path / f"images/{number}.png", grey(number))
    np.savez_compressed(tmp_path / "own.npz", images=np.zeros((9, 4, 6), np.uint8))
    monkeypatch.setenv("LOIHI_CONVERT_GIB", "0")
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with data_refused(tmp_path / "images/0.png", "with 3 images of its size it takes"):
        load_image_folder(tmp_path / "images")
    with data_refused(tmp_path / "own.npz", "takes"):
        load_npz(tmp_path / "own.npz")
