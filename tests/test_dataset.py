"""Images with and without labels, and their stratified splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusals import refusal

from loihi_convert.data import image_files, load_data
from loihi_convert.data.dataset import Dataset, DataSplits, split
from loihi_convert.errors import DataError, UsageError


def some(count: int, classes: int = 3) -> Dataset:
    """Return ``count`` images; all pixels of image n are n, and its label is n modulo ``classes``."""
    numbers = np.arange(count)
    images = np.broadcast_to(numbers[:, None, None, None] % 256, (count, 1, 2, 2)).astype(np.uint8)
    return Dataset(images, (numbers % classes).astype(np.int64))


def test_calibration_is_the_split_part_of_it_or_every_image_that_is_neither_validation_nor_test() -> None:
    splits = DataSplits("some", ("a", "b", "c"), some(9), some(3), some(6), some(4))
    assert len(splits.calibration_images()) == 6
    assert splits.calibration_images("all") is splits.train.images
    assert np.array_equal(splits.calibration_images("4"), splits.calibration.images[:4])
    for choice in ("both", "0", "7", "-1", "²"):
        with pytest.raises(UsageError) as caught:
            splits.calibration_images(choice)
        assert (caught.value.where, caught.value.found) == ("calibration", f"found {choice!r}")
        assert "1..6" in caught.value.expected


def test_a_fingerprint_tells_images_apart() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 2, 2), np.uint8)

    def fingerprint(images: np.ndarray) -> str:
        return Dataset(images, None).fingerprint

    changed = images.copy()
    changed[20, 0, 1, 1] ^= 1
    others = {fingerprint(some) for some in (images, images[:39], images[::-1], images.reshape(40, 1, 4, 1), changed)}
    assert len(others) == 5
    assert fingerprint(images.copy()) == fingerprint(images)


def test_a_fingerprint_of_splits_tells_labels_and_targets_apart() -> None:
    images, labels = np.zeros((4, 1, 2, 2), np.uint8), np.array([0, 1, 2, 3])

    def fingerprint(**known: np.ndarray) -> str:
        everything = Dataset(images, **{"labels": None, **known})
        return DataSplits("own", (), everything, everything[:0], everything, everything).fingerprint

    found = [fingerprint(), fingerprint(labels=labels), fingerprint(labels=labels[::-1])]
    found += [fingerprint(targets=values[:, None] / 2) for values in (labels, labels[::-1])]
    assert len(set(found)) == 5


def test_the_images_that_chose_thresholds_are_recognized_although_they_are_mixed() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 2, 2), np.uint8)
    everything, given = Dataset(images, None), Dataset(images.copy(), None)
    splits = DataSplits("own", (), given, everything[:0], given, everything)
    assert (splits.calibration_images() != images).any()
    assert splits.calibration.fingerprint == everything.fingerprint


def test_of_large_images_some_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "LARGE_BYTES", 4095)
    images = np.zeros((1024, 1, 2, 2), np.uint8)
    same, other = images.copy(), images.copy()
    # Every fourth image.
    same[3, 0, 0, 0] = other[4, 0, 0, 0] = 1
    whole, unseen, seen = (Dataset(array, None).fingerprint for array in (images, same, other))
    assert whole == unseen != seen


def test_held_out_images_are_none_that_run() -> None:
    """Image n is filled with n: of six calibration images, two are not among the first four."""
    everything, nothing = some(6), some(6)[:0]
    held_out = DataSplits("some", (), everything, some(3), everything, everything).held_out
    assert held_out is not None
    assert (held_out.split, len(held_out.images)) == ("validation", 3)
    held_out = DataSplits("some", (), everything, nothing, everything, some(4)).held_out
    assert held_out is not None
    assert held_out.split == "calibration"
    assert held_out.images.images[:, 0, 0, 0].tolist() == [4, 5]
    assert held_out.images.known_labels.tolist() == [1, 2]
    assert DataSplits("own", (), everything, nothing, everything, everything).held_out is None


@given(count=st.integers(1, 60), wanted=st.integers(0, 60), classes=st.integers(1, 5))
@settings(deadline=None)
def test_a_split_is_stratified_and_loses_nothing(count: int, wanted: int, classes: int) -> None:
    wanted = min(wanted, count)
    whole = some(count, classes)
    chosen, rest = split(whole, wanted)
    assert (len(chosen), len(rest)) == (wanted, count - wanted)
    both = np.concatenate([chosen.images, rest.images])[:, 0, 0, 0]
    assert np.array_equal(np.sort(both), np.arange(count))
    share = np.bincount(whole.labels) * wanted / count
    found = np.bincount(chosen.labels, minlength=len(share))
    assert (np.abs(found - share) < 1).all()


def test_labels_that_are_ids_are_split() -> None:
    ids = 10**12 + np.arange(20) % 2 * 10**12
    chosen, rest = split(Dataset(np.zeros((20, 1, 1, 1), np.uint8), ids), 4)
    assert (np.unique(chosen.labels, return_counts=True)[1].tolist(), len(rest)) == ([2, 2], 16)


def test_a_data_set_refuses_other_arrays_and_writing() -> None:
    images, labels = np.zeros((2, 1, 4, 4), np.uint8), np.zeros(2, np.int64)
    for others, other_labels, where, found in (
        (images.astype(np.float32), labels, "images", "found float32 (2, 1, 4, 4)"),
        (images[:, 0], labels, "images", "found uint8 (2, 4, 4)"),
        (images, np.zeros(3, np.int64), "labels", "found int64 (3,)"),
    ):
        assert refusal(DataError, Dataset, others, other_labels) == (where, found)
    with pytest.raises(ValueError, match="read-only"):
        Dataset(images, labels).images[0] = 1


def test_a_data_set_is_sliced_together() -> None:
    part = some(10)[2:5]
    assert part.images[:, 0, 0, 0].tolist() == [2, 3, 4]
    assert part.labels.tolist() == [2, 0, 1]
    assert some(10)[np.array([9, 0])].labels.tolist() == [0, 0]


def test_labels_may_be_unknown() -> None:
    unlabelled = Dataset(some(10).images, None)
    assert len(unlabelled) == 10
    assert unlabelled[2:5].labels is None
    assert unlabelled[2:5].images[:, 0, 0, 0].tolist() == [2, 3, 4]
    with pytest.raises(DataError) as caught:
        _ = unlabelled.known_labels
    assert (caught.value.where, caught.value.found) == ("labels", "found images without labels")


def test_a_data_set_is_shown_in_a_line() -> None:
    digits = load_data("digits")
    assert repr(digits.test) == "Dataset(400 images 1x8x8, labels)"
    assert repr(digits) == "DataSplits(digits: train 1,197, validation 200, calibration 1,197, test 400 images)"
