"""Images and labels from a program: every supported format gives the same array, any other a clear error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.refusals import data_refused, refusal, refused
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from loihi_convert.data import Dataset as OwnDataset
from loihi_convert.data.in_memory import (
    as_calibration,
    as_dataset,
    as_images,
    as_input_shape,
    as_labels,
    as_regression_dataset,
    as_targets,
)
from loihi_convert.errors import DataError
from loihi_convert.ground.arrays import Array

GREY = np.random.RandomState(0).randint(0, 256, (5, 1, 8, 6)).astype(np.uint8)
COLOUR = np.random.RandomState(1).randint(0, 256, (5, 3, 8, 6)).astype(np.uint8)
GREY[0, 0, 0, :2] = COLOUR[0, 0, 0, :2] = (0, 255)
LABELS = [2, 0, 1, 2, 0]


class Pairs(Dataset[tuple[object, int]]):
    """A map-style data set, which Python cannot iterate over by itself."""

    def __init__(self, images: list[object]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[object, int]:
        if index >= len(self.images):
            raise AssertionError("a data set need not raise IndexError")
        return self.images[index], LABELS[index]


class Stream(IterableDataset[Array]):
    def __iter__(self) -> Iterator[Array]:
        return iter(COLOUR)


def _last(images: Any) -> int:
    """The size of the last axis of images, or of a list's first image."""
    while isinstance(images, list):
        images = images[0] if not isinstance(images[0], int | float | np.generic) else np.array(images)
    return 0 if isinstance(images, Image.Image) else images.shape[-1]


@pytest.mark.parametrize(
    "images",
    [
        GREY,
        GREY[:, 0],
        GREY.transpose(0, 2, 3, 1),
        GREY.astype(np.int64),
        GREY[:, 0].tolist(),
        (GREY / 255).tolist(),
        GREY / 255,
        (GREY / 255).astype(np.float32),
        # Off by 2^-12 at most.
        (GREY / 255).astype(np.float16),
        torch.from_numpy(GREY),
        torch.from_numpy(GREY / 255).requires_grad_(),
        list(GREY),
        list(GREY[:, 0]),
        list(torch.from_numpy(GREY).float() / 255),
        [Image.fromarray(image) for image in GREY[:, 0]],
        [[list(row) for row in image] for image in GREY[:, 0]],
    ],
)
@pytest.mark.parametrize("input_shape", [None, (1, 8, 6)])
def test_grey_images_of_every_form(images: Any, input_shape: tuple[int, int, int] | None) -> None:
    if input_shape is None and _last(images) == 1:
        # Channels last, or maps of one column: only the network's shape tells.
        with pytest.raises(DataError):
            as_images(images)
        return
    found = as_images(images, input_shape)
    assert found.dtype == np.uint8
    assert np.array_equal(found, GREY)


@pytest.mark.parametrize(
    "images",
    [
        COLOUR,
        COLOUR.transpose(0, 2, 3, 1),
        torch.from_numpy(COLOUR).float() / 255,
        [Image.fromarray(image.transpose(1, 2, 0)) for image in COLOUR],
        DataLoader(torch.from_numpy(COLOUR), batch_size=2),
        Stream(),
        [[[list(row) for row in channel] for channel in image] for image in COLOUR],
    ],
)
@pytest.mark.parametrize("input_shape", [None, (3, 8, 6)])
def test_colour_images_of_every_form(images: Any, input_shape: tuple[int, int, int] | None) -> None:
    if input_shape is None and isinstance(images, (np.ndarray, list)) and _last(images) == 3:
        with pytest.raises(DataError) as raised:
            as_images(images)
        assert "3,8,6" in raised.value.hint
        return
    assert np.array_equal(as_images(images, input_shape), COLOUR)


def test_the_input_shape_tells_axes_apart() -> None:
    """8 x 3 pixels of 8 channels: nothing but the network says which axis is which."""
    images = np.arange(2 * 8 * 3 * 8, dtype=np.uint8).reshape(2, 8, 3, 8)
    assert np.array_equal(as_images(images, (8, 3, 8)), images)
    assert np.array_equal(as_images(images, (8, 8, 3)), images.transpose(0, 3, 1, 2))
    assert as_images(np.zeros((3, 8, 8), bool), (1, 8, 8)).shape == (3, 1, 8, 8)


def test_the_axes_of_a_dataset_are_known() -> None:
    few_columns = np.arange(2 * 6 * 5 * 4, dtype=np.uint8).reshape(2, 6, 5, 4)
    named = as_dataset(few_columns, input_shape=(6, 5, 4))
    assert np.array_equal(as_dataset(named).images, few_columns)
    assert np.array_equal(as_images(named), few_columns)
    with pytest.raises(DataError) as raised:
        as_dataset(few_columns)
    assert all(shape in raised.value.hint for shape in ("4,6,5", "6,5,4"))


RAMP = np.arange(256).reshape(1, 16, 16) / 255
DARK = np.zeros((1, 16, 16))


@pytest.mark.parametrize(
    ("images", "levels"),
    [
        # 256 values of standard deviation 73.9 levels; times 0.02 these are 1.48, around 25.5 to 30.6.
        (0.1 + 0.02 * RAMP, "1.5"),
        ((0.1 + 0.02 * RAMP).astype(np.float32), "1.5"),
        (0.1 + 0.04 * RAMP, ""),
        # On the levels of 8 bits, nothing is lost; float16 is exact enough.
        (np.rint(5 * RAMP) / 255, ""),
        ((np.rint(5 * RAMP) / 255).astype(np.float16), ""),
        (np.rint(5 * RAMP).astype(np.uint8), ""),
        # One image in three is an outlier, or the others are constant.
        (np.stack([RAMP, 0.1 + 0.02 * RAMP, 0.1 + 0.02 * RAMP]), "1.5"),
        (np.stack([0.3 + 0.5 * RAMP, DARK, DARK]), ""),
        (0.1 + 0.001 * RAMP, "0"),
        (RAMP.reshape(256, 1, 1), ""),
        # Of 40,000 values, about every fourth is compared, not always a corner on a level: 26, 26, 25 and 27 levels.
        (np.tile(np.array([[26, 26], [24.6, 26.6]]) / 255, (10_000, 1, 1)), "0.71"),
        # One channel of two.
        (np.stack([0.9 * RAMP, 0.1 + 0.02 * RAMP], 1), "1.5"),
    ],
)
def test_rounding_to_few_levels_is_noted(images: Any, levels: str) -> None:
    found = as_dataset(images)
    assert f"(standard deviation {levels} levels)" in found.rounding_note if levels else found.rounding_note == ""
    assert ("(0 and 1 if there are none)" in found.rounding_note) == bool(levels)
    assert found[:1].are_rounded == as_dataset([*images]).are_rounded == found.are_rounded


def test_booleans_are_black_and_white() -> None:
    assert np.array_equal(as_images(GREY > 127), np.where(GREY > 127, 255, 0))


def test_one_image_of_many_may_be_almost_black() -> None:
    images = np.stack([(GREY[0] > 100).astype(np.int64), GREY[0]])
    assert np.array_equal(as_images(list(images), (1, 8, 6)), images)


def test_one_float_image_of_many_may_be_almost_black() -> None:
    dark = np.full((1, 8, 6), 1 / 255, np.float32)
    expected = np.concatenate([GREY, np.ones((1, 1, 8, 6), np.uint8)])
    for images in ([*FLOATS, dark], DataLoader([*FLOATS, dark], batch_size=1)):  # type: ignore[arg-type]
        assert np.array_equal(as_images(images), expected)


def test_floats_are_rounded_to_the_nearest_pixel() -> None:
    floats = np.array([0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1 + 1e-6, -1e-6]).reshape(1, 1, 1, 6)
    assert as_images(floats).ravel().tolist() == [0, 0, 1, 255, 255, 0]


@pytest.mark.parametrize(
    "images",
    [
        DataLoader(TensorDataset(torch.from_numpy(COLOUR), torch.tensor(LABELS)), batch_size=2),
        DataLoader(TensorDataset(torch.from_numpy(COLOUR / 255), torch.tensor(LABELS)), batch_size=5),
        DataLoader(TensorDataset(torch.from_numpy(COLOUR), torch.tensor(LABELS)), batch_size=None),
        TensorDataset(torch.from_numpy(COLOUR), torch.tensor(LABELS)),
        Pairs(list(COLOUR)),
        Subset(Pairs(list(COLOUR)), range(5)),
        Pairs([Image.fromarray(image.transpose(1, 2, 0)) for image in COLOUR]),
        list(zip(COLOUR, LABELS, strict=True)),
        [[image, label] for image, label in zip(COLOUR, LABELS, strict=True)],
        Pairs([list(image) for image in COLOUR]),
        (COLOUR, np.array(LABELS)),
        [torch.from_numpy(COLOUR), torch.tensor(LABELS)],
        list(DataLoader(TensorDataset(torch.from_numpy(COLOUR), torch.tensor(LABELS)), batch_size=2)),
        OwnDataset(COLOUR, np.array(LABELS)),
        list(zip(COLOUR, np.eye(3)[LABELS], strict=True)),
        [{"img": image, "label": label, "id": 7} for image, label in zip(COLOUR, LABELS, strict=True)],
        DataLoader(
            [
                {"pixel_values": torch.from_numpy(image), "labels": label}
                for image, label in zip(COLOUR, LABELS, strict=True)
            ],  # type: ignore[arg-type]
            batch_size=2,
        ),
    ],
)
def test_labels_come_with_their_images(images: Any) -> None:
    dataset = as_dataset(images, input_shape=(3, 8, 6), class_count=3)
    assert np.array_equal(dataset.images, COLOUR)
    assert dataset.known_labels.tolist() == LABELS
    with pytest.raises(DataError) as caught:
        as_dataset(images, LABELS)
    assert (caught.value.where, caught.value.hint) == ("labels", "Omit `labels`.")


def test_labels_of_an_iterator_are_kept() -> None:
    pixels, labels = torch.from_numpy(GREY), torch.tensor(LABELS)
    loader = DataLoader(TensorDataset(pixels, labels), batch_size=2)
    for images in (zip(GREY, LABELS, strict=True), iter(loader)):
        found = as_calibration(images, None, None, task="classification", input_shape=None)
        assert np.array_equal(found.images, GREY)
        assert found.known_labels.tolist() == LABELS
    targets = as_calibration(zip(GREY, TARGETS, strict=True), None, None, task="regression", input_shape=None).targets
    assert targets is not None
    assert targets.tolist() == TARGETS


def test_labels_of_a_pair_of_arrays_must_fit() -> None:
    with pytest.raises(DataError) as caught:
        as_calibration((GREY, np.array(LABELS[:4])), None, None, task="classification", input_shape=None)
    assert (caught.value.where, caught.value.found) == ("labels", "found int64 (4,)")
    assert caught.value.expected == "must be integers or booleans (5,), one per image, or one-hot rows (5, outputs)"


def test_a_shuffled_loader_keeps_images_and_labels_together() -> None:
    numbers = torch.arange(100)
    pixels = numbers.to(torch.uint8)[:, None, None, None].expand(100, 1, 4, 4)
    dataset = as_dataset(DataLoader(TensorDataset(pixels, numbers), batch_size=7, shuffle=True))
    assert dataset.known_labels.tolist() != numbers.tolist()
    assert np.array_equal(dataset.images[:, 0, 0, 0], dataset.known_labels)


GREYS = TensorDataset(torch.from_numpy(GREY))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 2},
        {"sampler": DistributedSampler(GREYS, num_replicas=1, rank=0, shuffle=False)},
        {"batch_sampler": BatchSampler(SequentialSampler(GREYS), 2, drop_last=False)},
    ],
)
def test_a_loader_of_images_alone_takes_labels(options: Any) -> None:
    assert as_dataset(DataLoader(GREYS, **options), LABELS).known_labels.tolist() == LABELS


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 2, "shuffle": True},
        {"sampler": DistributedSampler(GREYS, num_replicas=1, rank=0)},
        {"batch_sampler": BatchSampler(RandomSampler(GREYS), 2, drop_last=False)},
    ],
)
def test_a_shuffled_loader_of_images_alone_takes_no_labels(options: Any) -> None:
    loader = DataLoader(GREYS, **options)
    assert len(as_dataset(loader)) == 5
    for given in ({"labels": LABELS}, {"targets": TARGETS}):
        with pytest.raises(DataError, match="a DataLoader that shuffles") as caught:
            (as_dataset if "labels" in given else as_regression_dataset)(loader, **given)  # type: ignore[operator]
        assert [caught.value.where] == list(given)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        np.array(LABELS, np.uint8),
        torch.tensor(LABELS),
        tuple(LABELS),
        np.array(LABELS)[:, np.newaxis],
        np.eye(3, dtype=int)[LABELS],
        torch.eye(3)[LABELS],
    ],
)
def test_labels_of_every_form(labels: Any) -> None:
    found = as_labels(labels, 5, 3)
    assert (found.dtype, found.tolist()) == (np.int64, LABELS)
    assert as_dataset(GREY, labels).known_labels.tolist() == LABELS
    assert as_dataset(GREY).labels is None


def test_labels_of_two_classes_may_be_booleans() -> None:
    assert as_labels([True, False], 2, 2).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.eye(5, dtype=int)[:, ::-1] + np.eye(5, dtype=int), "int64 (5, 5)"),
        (np.full((5, 5), 0.2), "float64 (5, 5)"),
        (np.zeros(5), "float64 (5,)"),
        (np.array([0, 1, 2, 3, 4.5]), "float64 (5,)"),
        (np.array([0, 1, 2, 3, np.nan]), "float64 (5,)"),
        (np.eye(6, dtype=int)[LABELS], "int64 (5, 6)"),
        (LABELS[:4], "int64 (4,)"),
        (["cat"] * 5, "<U3 (5,)"),
        ([[1], [1, 2]], "list"),
        ([1, 2, 3, 4, 5], "1..5"),
        ([-1, 0, 0, 0, 0], "-1..0"),
    ],
)
def test_labels_that_cannot_be_used(labels: Any, found: str) -> None:
    with data_refused("labels", found):
        as_labels(labels, 5, 5)


TARGETS = [[0.5, -2], [1.5, 3], [0, 0], [7, 1e-9], [-1, 2]]


@pytest.mark.parametrize(
    ("images", "targets"),
    [
        (GREY, TARGETS),
        (GREY, np.array(TARGETS, np.float32)),
        (GREY, torch.tensor(TARGETS)),
        (DataLoader(TensorDataset(torch.from_numpy(GREY), torch.tensor(TARGETS)), batch_size=2), None),
        (TensorDataset(torch.from_numpy(GREY), torch.tensor(TARGETS)), None),
        (list(zip(GREY, TARGETS, strict=True)), None),
        (OwnDataset(GREY, None, np.array(TARGETS)), None),
    ],
)
def test_targets_of_every_form(images: Any, targets: Any) -> None:
    dataset = as_regression_dataset(images, targets, input_shape=(1, 8, 6), output_count=2)
    assert dataset.targets is not None
    assert (dataset.targets.dtype, dataset.labels) == (np.float64, None)
    assert np.array_equal(dataset.targets, np.array(TARGETS, dataset.targets.dtype)) or np.allclose(
        dataset.targets, TARGETS, rtol=1e-6
    )
    chosen = dataset[np.array([3, 1])]
    assert np.array_equal(chosen.targets, dataset.targets[[3, 1]])


def test_targets_of_different_length() -> None:
    assert refusal(DataError, as_regression_dataset, [(GREY[0], [1, 2]), (GREY[1], [1, 2, 3])]) == (
        "targets",
        "found different shapes: (2,), (3,)",
    )


def test_one_target_an_image() -> None:
    assert as_targets([1, 2, 3], 3).tolist() == [[1], [2], [3]]
    pairs = TensorDataset(torch.from_numpy(GREY), torch.arange(5.0)[:, None])
    assert as_regression_dataset(pairs, output_count=1).targets.tolist() == [[0], [1], [2], [3], [4]]
    assert as_regression_dataset(GREY).targets is None


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (TARGETS[:4], "float64 (4, 2)"),
        (np.zeros((5, 3)), "float64 (5, 3)"),
        (np.zeros(5), "float64 (5,)"),
        (np.zeros((5, 2, 1)), "float64 (5, 2, 1)"),
        (["cat"] * 5, "<U3 (5,)"),
        (np.full((5, 2), np.nan), "NaN"),
    ],
)
def test_targets_that_cannot_be_used(targets: Any, found: str) -> None:
    with data_refused("targets", found):
        as_targets(targets, 5, 2)


def test_the_shape_of_a_signal_has_two_axes() -> None:
    assert [as_input_shape(shape) for shape in ((3, 8, 6), (2, 9))] == [(3, 8, 6), (2, 1, 9)]
    for shape in ((9,), (1, 1, 8, 8), (0, 9), (), 9, ("1", 8, 8), (1.0, 8)):
        with refused("input_shape"):
            as_input_shape(shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3])
def test_signals(channels: int) -> None:
    signals = np.random.RandomState(2).randint(0, 256, (5, channels, 9)).astype(np.uint8)
    shape = (channels, 1, 9)
    forms = [signals, list(signals), signals[:, :, np.newaxis], torch.from_numpy(signals)]
    for form in [*forms, *([signals[:, 0]] if channels == 1 else [])]:
        assert np.array_equal(as_images(form, shape), signals[:, :, np.newaxis])
    with pytest.raises(DataError) as caught:
        as_images(signals[:, :, :8], shape)
    assert f"(N, {channels}, 1, 9)" in caught.value.expected
    if channels == 3:
        with pytest.raises(DataError):
            as_images(signals.transpose(0, 2, 1), shape)


FLOATS = (GREY / 255).astype(np.float32)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ((FLOATS - 0.1307) / 0.3081, "float32 (5, 1, 8, 6) of -0.4242..2.821"),
        (GREY.astype(np.float32), "of 0..255"),
        (np.minimum(GREY, 16).astype(np.float32), "of 0..16"),
        # Signals beyond the range of the calibration signals, and a CNN trained on (s - m) / d.
        (FLOATS * np.float32(1.5), "of 0..1.5"),
        (FLOATS - np.float32(0.5), "of -0.5..0.5"),
        (FLOATS * np.float32(1.02) - np.float32(0.01), "of -0.01..1.01"),
        # Centred signals of low amplitude must not be clipped.
        (FLOATS / 10 - np.float32(0.05), "of -0.05..0.05"),
        (np.where(GREY == 0, np.nan, FLOATS), "nan"),
        (np.where(GREY == 0, np.inf, FLOATS), "inf"),
        (GREY.astype(np.int16) - 1, "int16 (5, 1, 8, 6) of -1..254"),
        (GREY.astype(np.uint16) * 200, "uint16 (5, 1, 8, 6) of 0..5.1e+04"),
        ((GREY // 255).astype(np.int64), "of at most 1, nearly black"),
        ((GREY > 100).astype(np.uint8), "of at most 1, nearly black"),
        (GREY.astype(np.complex64), "complex64"),
        (GREY.astype("U3"), "<U3"),
        (GREY[:0], "uint8 (0, 1, 8, 6)"),
        (torch.from_numpy(FLOATS).bfloat16(), "torch.bfloat16"),
        (list((GREY > 100).astype(np.uint8)), "of at most 1, nearly black"),
        (Pairs(list((GREY > 100).astype(np.uint8))), "of at most 1, nearly black"),
        ([], "no image"),
        (Pairs([]), "no image"),
        ([GREY[0], COLOUR[0]], "(1, 8, 6), (3, 8, 6)"),
        ([Image.fromarray(GREY[0, 0]).convert("P")], "mode P"),
        ([Image.fromarray(GREY[0, 0].astype(np.uint16))], "mode I;16"),
        (7, "found a int"),
        ("mnist", "found a str"),
        ([{"left": GREY[0], "label": 1}], "keys ['left', 'label']"),
        ([{"image": GREY[0], "img": GREY[0]}], "keys ['image', 'img']"),
        (torch.from_numpy(FLOATS).to_sparse(), "torch.float32, which is not an array"),
        ({"image": GREY, "label": LABELS}, "keys ['image', 'label']"),
        ((GREY, LABELS), "different shapes"),
        ([(GREY[:3, 0], np.arange(3)), (GREY[3:, 0], np.arange(2))], "different shapes"),
        (list(FLOATS / 255), "of at most 0.003922"),
    ],
)
@pytest.mark.parametrize("input_shape", [None, (1, 8, 6)])
def test_values_that_cannot_be_used(images: Any, found: str, input_shape: tuple[int, int, int] | None) -> None:
    with data_refused("images", found):
        as_images(images, input_shape)


def test_labels_beyond_int64_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        as_labels(np.array([0, 2**63], np.uint64), 2)
    assert caught.value.found == "found values 0..9223372036854775808"


@pytest.mark.parametrize(
    ("shape", "input_shape"),
    [
        ((8, 6), (1, 8, 6)),
        ((3, 8, 6), (3, 8, 6)),
        ((8, 6, 3), (3, 8, 6)),
        ((5, 8, 6), (3, 8, 6)),
        ((5, 3, 8, 6), (1, 8, 6)),
        ((5, 8, 6, 3), (1, 8, 6)),
        ((5,), (1, 8, 6)),
        ((5, 1, 9, 6), (1, 8, 6)),
        ((3, 8, 6, 50), (3, 8, 6)),
        ((8, 6, 3, 50), (3, 8, 6)),
        ((1, 5, 1, 8, 6), (1, 8, 6)),
        ((8, 6), None),
        ((5, 1, 1, 8, 6), None),
    ],
)
def test_axes_that_cannot_be_used(shape: tuple[int, ...], input_shape: tuple[int, int, int] | None) -> None:
    assert refusal(DataError, as_images, np.zeros(shape, np.uint8), input_shape) == ("images", f"found {shape}")


def test_torch_is_not_imported_for_numpy_arrays() -> None:
    program = (
        "import sys, numpy; from loihi_convert.data.in_memory import as_images; "
        "as_images(numpy.zeros((2, 4, 4))); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
