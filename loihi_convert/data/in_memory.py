"""Images, labels and targets in memory, in any container, -> the checked arrays used in this package."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from loihi_convert.arrays import Array
from loihi_convert.choices import Task
from loihi_convert.data.containers import Images as Images
from loihi_convert.data.containers import Labels as Labels
from loihi_convert.data.containers import Targets as Targets
from loihi_convert.data.containers import array_of, collected_from, is_pair, is_shuffled
from loihi_convert.data.dataset import Dataset, dtype_and_shape
from loihi_convert.errors import DataError, UsageError


def as_images(
    images: Images,
    input_shape: tuple[int, int, int] | None = None,
    *,
    where: str = "images",
    is_whole: bool = True,
) -> NDArray[np.uint8]:
    """Return ``images`` as uint8 ``(N, C, H, W)``, N >= 1.

    =====================  =============================================================================================
    container              `Dataset`, with its labels or targets; NumPy array, torch tensor (any device), nested list;
                           list of images (arrays, tensors, lists of their rows or channels, PIL, turned as their EXIF
                           data say); torch Dataset or DataLoader of images, of (image, label, ...), or of dicts with
                           ``image``, ``img`` or ``pixel_values`` and ``label`` or ``labels``; an iterable of batches
                           with four axes, or of (batch, labels); a pair of arrays (images, labels)
    axes                   ``(N, H, W)`` or ``(N, C, H, W)``; with ``input_shape``, which tells them apart, also
                           ``(N, H, W, C)``, and of signals ``(N, C, L)`` or, with one channel, ``(N, L)``
    uint8, other integers  pixels, 0..255
    bool                   False is 0, True is 255
    floats                 pixel / 255, in 0..1; rounded to the nearest pixel value
    =====================  =============================================================================================

    Parameters
    ----------
    images
        As above.
    input_shape
        ``(C, H, W)`` of the network, if known: other images are refused.
    where
        The name of the images in error messages.
    is_whole
        Whether these are all images, of which one must have a pixel above 1 if any has a pixel of 1.

    Raises
    ------
    DataError
        For invalid values, NaN, axes or sizes.
    """
    return collected_from(images, where, is_whole=is_whole).images(input_shape, where)


def as_labels(labels: Labels, count: int, class_count: int = 0, *, where: str = "labels") -> NDArray[np.int64]:
    """Return ``labels`` as int64 ``(count,)``.

    Parameters
    ----------
    labels
        A list, NumPy array or torch tensor of whole numbers from 0, or booleans, ``(count,)`` or, as in Keras and
        MedMNIST, ``(count, 1)``: the network's output for each image; or one-hot rows ``(count, outputs)``.
    count
        Number of images.
    class_count
        Number of outputs; 0 if unknown.
    where
        The name of the labels in error messages.

    Raises
    ------
    DataError
        For an invalid type, shape or range.
    """
    array = array_of(labels, where)
    if array.shape == (count, 1):
        array = array[:, 0]
    elif _is_one_hot(array) and array.shape[1] == (class_count or array.shape[1]):
        array = array.argmax(1)
    if array.dtype.kind not in "biu" or array.shape != (count,):
        one_hot = f"one-hot rows ({count}, {class_count or 'outputs'})"
        raise DataError(
            f"found {dtype_and_shape(array)}",
            where=where,
            expected=f"must be integers or booleans ({count},), one per image, or {one_hot}",
            hint=_labels_hint(array, count),
        )
    low, high = (int(array.min()), int(array.max())) if count else (0, 0)
    if low < 0 or high >= (class_count or 2**63):
        allowed = f"in 0..{class_count - 1}" if class_count else "at least 0" if low < 0 else "below 2^63"
        raise DataError(
            f"found values {low}..{high}",
            where=where,
            expected=f"must be {allowed}, the network's output for each image",
            hint="Number the classes from 0.",
        )
    return array.astype(np.int64)


def as_targets(targets: Targets, count: int, output_count: int = 0, *, where: str = "targets") -> NDArray[np.float64]:
    """Return ``targets`` as float64 ``(count, outputs)``.

    Parameters
    ----------
    targets
        A list, NumPy array or torch tensor of numbers, ``(count,)`` or ``(count, outputs)``: the desired outputs for
        each image.
    count
        Number of images.
    output_count
        Number of outputs; 0 if unknown.
    where
        The name of the targets in error messages.

    Raises
    ------
    DataError
        For an invalid type or shape, NaN, or infinity.
    """
    array = array_of(targets, where)
    rows = array[:, np.newaxis] if array.ndim == 1 else array
    outputs = output_count or (rows.shape[1] if rows.ndim == 2 else 0)
    if array.dtype.kind not in "iuf" or rows.shape != (count, outputs) or not outputs:
        wanted = f"({count}, {output_count})" if output_count else f"({count},) or ({count}, outputs)"
        raise DataError(
            f"found {dtype_and_shape(array)}", where=where, expected=f"must be numbers {wanted}, one row per image"
        )
    numbers = rows.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise DataError("found NaN or infinity", where=where, expected="must be finite")
    return numbers


def as_dataset(
    images: Images,
    labels: Labels | None = None,
    *,
    input_shape: tuple[int, int, int] | None = None,
    class_count: int = 0,
) -> Dataset:
    """Return images with labels, in any format of `as_images` and `as_labels`; a DataLoader may supply both.

    Raises
    ------
    DataError
        Also if there are labels in ``images`` and in ``labels``.
    """
    found, chosen = _with_own(images, labels, "labels", input_shape)
    own = None if chosen is None else as_labels(chosen, len(found), class_count)
    return replace(found, labels=own)


def as_regression_dataset(
    images: Images,
    targets: Targets | None = None,
    *,
    input_shape: tuple[int, int, int] | None = None,
    output_count: int = 0,
) -> Dataset:
    """Return images with targets, in any format of `as_images` and `as_targets`; a DataLoader may supply both.

    Raises
    ------
    DataError
        Also if there are targets in ``images`` and in ``targets``.
    """
    found, chosen = _with_own(images, targets, "targets", input_shape)
    own = None if chosen is None else as_targets(chosen, len(found), output_count)
    return replace(found, targets=own)


def as_calibration(
    images: Images,
    labels: Labels | None,
    targets: Targets | None,
    *,
    task: Task,
    input_shape: tuple[int, int, int] | None,
) -> Dataset:
    """Return images with labels or targets, whichever ``task`` has, if there are any.

    Those that come with their images, as from a DataLoader, are left out if they are neither.

    Raises
    ------
    UsageError
        If targets are given for a classification, or labels for a regression.
    DataError
        As in `as_dataset` and `as_regression_dataset`.
    """
    is_regression = task == "regression"
    if is_regression and labels is not None:
        raise UsageError("given for a regression", where="labels", hint="Pass `targets`.")
    if not is_regression and targets is not None:
        raise UsageError("given for a classification", where="targets", hint="Pass `labels`.")
    given, kind = (targets, "targets") if is_regression else (labels, "labels")
    dataset = as_regression_dataset if is_regression else as_dataset
    if given is not None or is_pair(images):
        return dataset(images, given, input_shape=input_shape)
    collected = collected_from(images, "images")
    found = collected.dataset(input_shape)
    own = None
    try:
        own = collected.own(kind)
        return dataset(found, own)
    except DataError as error:
        # Not the pictures or boxes that a Dataset may also return.
        if own is not None and own.ndim == 1:
            hint = f". {error.hint}" if error.hint else ""
            warnings.warn(f"the {kind} in `images` are left out: {error.found}{hint}", stacklevel=3)
        return found


def _with_own(
    images: Images, given: Labels | None, kind: str, input_shape: tuple[int, int, int] | None
) -> tuple[Dataset, Labels | None]:
    """Images alone, and their labels or targets: ``given``, or those in ``images``; ``kind`` names them."""
    collected = collected_from(images, "images")
    own = collected.own(kind)
    if own is not None and given is not None:
        raise DataError(f"found {kind} also in `images`", where=kind, hint=f"Omit `{kind}`.")
    if given is not None and is_shuffled(images):
        raise DataError(
            "found a DataLoader that shuffles `images`",
            where=kind,
            expected="must be in the order of the images",
            hint=f"Pass the DataLoader's Dataset, or let its Dataset return the images with their {kind}.",
        )
    return collected.dataset(input_shape), given if own is None else own


def _is_one_hot(array: Array) -> bool:
    return array.ndim == 2 and array.size > 0 and bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())


def _labels_hint(array: Array, count: int) -> str:
    if array.ndim == 2 and len(array) == count and not _is_one_hot(array):
        return "Rows with several classes, or shares of them, are not labels: give one class per image, or omit them."
    if array.dtype.kind == "f" and array.shape == (count,):
        if np.array_equal(array, np.rint(array)):
            return "Pass labels.astype(int), or labels.long() of a tensor."
        return "Number the classes from 0. Values to be predicted are `targets`, of a regression."
    if array.dtype.kind in "US":
        return "Number them in the order of the CNN's outputs, `names`: [names.index(label) for label in labels]."
    return "Omit them if unknown."
