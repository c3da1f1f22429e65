"""Images, labels and targets in memory, in any container, -> the checked arrays used in this package.

=====================  =============================================================================================
container              `Dataset`, with its labels or targets; NumPy array, torch tensor (any device), nested list;
                       list of images (arrays, tensors, PIL, turned as their EXIF data say); torch Dataset or
                       DataLoader of images, of (image, label, ...), or of dicts with ``image``, ``img`` or
                       ``pixel_values`` and ``label`` or ``labels``; an iterable of batches with four axes, or of
                       (batch, labels); a pair of arrays (images, labels)
axes                   ``(N, H, W)`` or ``(N, C, H, W)``; with ``input_shape``, which tells them apart, also
                       ``(N, H, W, C)``, and of signals ``(N, C, L)`` or, with one channel, ``(N, L)``
uint8, other integers  pixels, 0..255
bool                   False is 0, True is 255
floats                 pixel / 255, in 0..1; rounded to the nearest pixel value
=====================  =============================================================================================
"""

from __future__ import annotations

import operator
import reprlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeGuard, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loihi_convert.data.dataset import Dataset, dtype_and_shape
from loihi_convert.data.image_files import PILLOW_ERRORS
from loihi_convert.errors import DataError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Task

_PIL_MODES: Final = ("1", "L", "RGB")
_IMAGE_KEYS: Final = ("image", "img", "pixel_values")
_LABEL_KEYS: Final = ("label", "labels")
_MAX_CHANNELS: Final = 4
_VALUES: Final = "must be uint8 (0..255), or floats in 0..1"
_SCALE: Final = (
    "Pass the values of a normalization as `mean` and `std`, and scale the rest to 0..1, always by the same numbers: "
    "(x - low) / (high - low) of the calibration images, clipped."
)
# float16, the coarsest common type, has errors of 2^-12 below 1; a step of 8-bit pixels is 16 times that.
_ROUNDING: Final = 1e-3
# As above, in levels of 8-bit pixels, with a margin.
_ON_LEVEL: Final = 0.1
# The number of arrays, and of values of each, that are compared with the levels.
_COMPARED_ARRAYS: Final = 256
_COMPARED: Final = 10_000


@runtime_checkable
class _Tensor(Protocol):
    """The part of `torch.Tensor` used here; this file does not import torch."""

    def detach(self) -> _Tensor: ...
    def cpu(self) -> _Tensor: ...
    def numpy(self) -> Array: ...


@runtime_checkable
class _Indexed(Protocol):
    """A map-style `torch.utils.data.Dataset`, a list or a tuple."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> object: ...


Images: TypeAlias = "ArrayLike | _Tensor | Dataset | _Indexed | Iterable[object]"
Labels: TypeAlias = "ArrayLike | _Tensor"
Targets: TypeAlias = "ArrayLike | _Tensor"


def as_input_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return ``(C, H, W)`` unchanged, and ``(C, L)``, the shape of a signal, as ``(C, 1, L)``.

    Raises
    ------
    UsageError
        For any other number of axes, or an axis that is not a whole number of at least 1.
    """
    try:
        sizes = tuple(map(operator.index, shape))
    except TypeError:
        sizes = ()
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise UsageError(
            f"found {shape!r}",
            where="input_shape",
            expected="must be (C, H, W) of an image, or (C, L) of a signal, each at least 1",
        )
    return sizes[0], sizes[1] if len(sizes) == 3 else 1, sizes[-1]


def as_images(
    images: Images, input_shape: tuple[int, int, int] | None = None, *, where: str = "images"
) -> NDArray[np.uint8]:
    """Return ``images``, in any format of the table at the top, as uint8 ``(N, C, H, W)``, N >= 1; or a `DataError`."""
    # `where` names the images in errors; images of another known `input_shape`, (C, H, W), are refused.
    return collected_from(images, where).images(input_shape, where)


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
    elif array.ndim == 2 and array.size and np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all():
        # One-hot rows.
        array = array.argmax(1) if array.shape[1] == (class_count or array.shape[1]) else array
    if array.dtype.kind not in "biu" or array.shape != (count,):
        one_hot = f"one-hot rows ({count}, {class_count or 'outputs'})"
        raise DataError(
            f"found {dtype_and_shape(array)}",
            where=where,
            expected=f"must be integers or booleans ({count},), one per image, or {one_hot}",
            hint="Number the classes from 0, or omit unknown labels. Numbers to be predicted are `targets`.",
        )
    low, high = (int(array.min()), int(array.max())) if count else (0, 0)
    if low < 0 or high >= (class_count or 2**63):
        expected = f"must be in 0..{(class_count or 2**63) - 1}, the network's output for each image"
        raise DataError(f"found values {low}..{high}", where=where, expected=expected)
    return array.astype(np.int64)


def as_targets(targets: Targets, count: int, output_count: int = 0, *, where: str = "targets") -> NDArray[np.float64]:
    """Return ``targets``, numbers ``(count,)`` or ``(count, outputs)`` in any form, as float64 ``(count, outputs)``.

    ``output_count`` is the number of outputs; 0 if unknown. ``where`` is the name of the targets in errors.
    """
    array = array_of(targets, where)
    rows = array[:, np.newaxis] if array.ndim == 1 else array
    outputs = output_count or (rows.shape[1] if rows.ndim == 2 else 0)
    is_number = array.dtype.kind in "iuf"
    if not is_number or rows.shape != (count, outputs) or not outputs or not np.isfinite(rows).all():
        not_finite = " with NaN or infinity" if is_number and not np.isfinite(rows).all() else ""
        raise DataError(
            f"found {dtype_and_shape(array)}{not_finite}",
            where=where,
            expected=f"must be finite numbers ({count}, {outputs or 'outputs'}), one row per image",
        )
    return rows.astype(np.float64)


def as_dataset(
    images: Images,
    labels: Labels | None = None,
    *,
    input_shape: tuple[int, int, int] | None = None,
    class_count: int = 0,
) -> Dataset:
    """Return images with labels, in any format of `as_images` and `as_labels`; a DataLoader may supply both."""
    found, chosen = _with_own(images, labels, "labels", input_shape)
    return replace(found, labels=None if chosen is None else as_labels(chosen, len(found), class_count))


def as_regression_dataset(
    images: Images,
    targets: Targets | None = None,
    *,
    input_shape: tuple[int, int, int] | None = None,
    output_count: int = 0,
) -> Dataset:
    """Return images with targets, in any format of `as_images` and `as_targets`; a DataLoader may supply both."""
    found, chosen = _with_own(images, targets, "targets", input_shape)
    return replace(found, targets=None if chosen is None else as_targets(chosen, len(found), output_count))


def as_calibration(
    images: Images,
    labels: Labels | None,
    targets: Targets | None,
    *,
    task: Task,
    input_shape: tuple[int, int, int] | None,
) -> Dataset:
    """Return images with labels or targets, whichever ``task`` has, if there are any.

    Those that come with their images, as from a DataLoader, are left out with a warning if they are neither.

    Raises
    ------
    UsageError
        If targets are given for a classification, or labels for a regression.
    DataError
        As in `as_dataset` and `as_regression_dataset`.
    """
    kind, given, other = ("targets", targets, labels) if task == "regression" else ("labels", labels, targets)
    if other is not None:
        where = "labels" if kind == "targets" else "targets"
        raise UsageError(f"given for a {task}", where=where, hint=f"Pass `{kind}`.")
    dataset = as_regression_dataset if task == "regression" else as_dataset
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
            hint=f"Let its Dataset return the images with their {kind}.",
        )
    return collected.dataset(input_shape), given if own is None else own


class Collected(NamedTuple):
    """Pixels with their original axes, N first, and what comes with them.

    ``others`` are the labels or targets of each image or, if ``is_batch``, of each batch; empty unless all have some.
    If ``are_axes_known``, the pixels are ``(N, C, H, W)``. ``are_rounded`` is as in `Dataset`.
    """

    pixels: NDArray[np.uint8]
    others: Sequence[object] = ()
    is_batch: bool = False
    are_axes_known: bool = False
    are_rounded: bool = False

    def images(self, input_shape: tuple[int, int, int] | None, where: str = "images") -> NDArray[np.uint8]:
        """The pixels as ``(N, C, H, W)``; a `DataError` for other shapes than that of the network, if it is known."""
        pixels = self.pixels
        count, *shape = pixels.shape
        expected, hint = "must be (N, H, W) or (N, C, H, W)", "Pass [image] for a single image."
        if input_shape is None:
            if pixels.ndim == 3:
                return pixels[:, np.newaxis]
            is_last = pixels.ndim == 4 and shape[0] > _MAX_CHANNELS >= shape[2]
            if self.are_axes_known or (pixels.ndim == 4 and not is_last):
                return pixels
            if is_last:
                hint = (
                    f"If the axes are (N, H, W, C), pass `input_shape` {shape[2]},{shape[0]},{shape[1]}; if they are "
                    f"(N, C, H, W), {','.join(map(str, shape))}."
                )
        else:
            channels, *size = input_shape
            # An axis of length 1 may be missing, as that of grey images, or the height of signals.
            if [length for length in shape if length > 1] == [length for length in input_shape if length > 1]:
                return pixels.reshape(count, *input_shape)
            if shape == [*size, channels]:
                return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
            expected = f"must be {('N', *input_shape)}".replace("'", "")
        raise DataError(f"found {pixels.shape}", where=where, expected=expected, hint=hint)

    def dataset(self, input_shape: tuple[int, int, int] | None) -> Dataset:
        """The images alone."""
        return Dataset(self.images(input_shape), None, are_rounded=self.are_rounded)

    def own(self, kind: str) -> Array | None:
        """The labels or targets, which ``kind`` names, N first; None if there are none."""
        if not self.others:
            return None
        arrays = [array_of(one, kind) for one in self.others]
        return _joined(
            [np.atleast_1d(one) if self.is_batch or one.size == 1 else one[np.newaxis] for one in arrays], kind
        )


def collected_from(images: Images, where: str) -> Collected:
    """The images, in pixels, and what comes with them; an iterator is read once."""
    if isinstance(images, Dataset):
        own = images.labels if images.targets is None else images.targets
        return Collected(np.asarray(images.images), () if own is None else (own,), True, True, images.are_rounded)
    if is_pair(images):
        return collected_from(images[0], where)._replace(others=images[1:], is_batch=True)
    if _is_array(images):
        arrays = [array_of(images, where)]
        collected = Collected(pixels_of(arrays[0], where))
    else:
        items = [_parts(item, where) for item in _items(images, where)]
        if not items:
            raise DataError("found no image", where=where, expected="must hold at least one")
        arrays = [array_of(item[0], where) for item in items]
        is_loader = hasattr(images, "dataset") and getattr(images, "batch_sampler", None) is not None
        # A single image has at most three axes.
        is_batch = is_loader or all(array.ndim == 4 for array in arrays)
        pixels = _joined([pixels_of(one if is_batch else one[np.newaxis], where) for one in arrays], where)
        others = [item[1] for item in items if len(item) > 1]
        collected = Collected(pixels, others if len(others) == len(items) else (), is_batch)
    if collected.pixels.max() <= 1 and any(array.any() for array in arrays):
        found = (
            f"found {arrays[0].dtype} {collected.pixels.shape} of at most {max(array.max() for array in arrays):.4g}"
        )
        hint = "They seem to be divided by 255 twice; pass booleans, if 1 is white."
        raise DataError(f"{found}, nearly black", where=where, expected=_VALUES, hint=hint)
    return collected._replace(are_rounded=are_rounded(arrays))


def _parts(item: object, where: str) -> Sequence[object]:
    """An image or a batch, followed by what comes with it; of a dict, as from Hugging Face's data sets, by its keys."""
    if not isinstance(item, Mapping):
        return item if isinstance(item, (tuple, list)) else (item,)
    images, labels = ([name for name in names if name in item] for names in (_IMAGE_KEYS, _LABEL_KEYS))
    if len(images) != 1 or len(labels) > 1:
        raise _no_image(item, where)
    return [item[name] for name in (*images, *labels)]


def _no_image(item: object, where: str) -> DataError:
    kind = f"dict with the keys {reprlib.repr(list(item))}" if isinstance(item, Mapping) else type(item).__name__
    return DataError(
        f"found a {kind}",
        where=where,
        expected="must be an array, a tensor, a list of images, a Dataset or a DataLoader, of images or (image, label)",
    )


def _joined(parts: Sequence[NDArray[Any]], where: str) -> NDArray[Any]:
    if len(shapes := {part.shape[1:] for part in parts}) > 1:
        found = f"found different shapes: {', '.join(map(str, sorted(shapes)))}"
        raise DataError(found, where=where, expected="must all have the same shape")
    return np.concatenate(parts)


def is_pair(value: object) -> TypeGuard[Sequence[ArrayLike]]:
    """Whether ``value`` is an array of images and one of labels or targets, which cannot be two images."""
    axes = [getattr(one, "ndim", 0) for one in value] if isinstance(value, (list, tuple)) else []
    return axes in ([2, 1], [3, 1], [4, 1], [4, 2])


def is_shuffled(images: object) -> bool:
    """Whether ``images`` are a DataLoader with ``shuffle=True``, or another of torch's shuffling samplers."""
    samplers = [getattr(one, "sampler", None) for one in (images, getattr(images, "batch_sampler", None))]
    # `DistributedSampler` has `shuffle`.
    return any("Random" in type(one).__name__ or getattr(one, "shuffle", False) is True for one in samplers)


def _is_array(value: object) -> bool:
    """Whether ``value`` is an array, a tensor, or nested lists of numbers, not a collection of them."""
    if hasattr(value, "__array__") or _is_picture(value):
        return True
    is_nested = isinstance(value, (list, tuple))
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return is_nested and isinstance(value, (int, float, np.generic))


def _items(images: object, where: str) -> Iterable[object]:
    if isinstance(images, str | Mapping) or not isinstance(images, (Iterable, _Indexed)):
        raise _no_image(images, where)
    return images if isinstance(images, Iterable) else (images[index] for index in range(len(images)))


def _is_picture(value: object) -> bool:
    """Whether ``value`` is a PIL image."""
    return hasattr(value, "getbands")


def array_of(value: object, where: str) -> Array:
    """``value`` as a NumPy array of its own dtype."""
    if _is_picture(value) and (mode := getattr(value, "mode", "")) not in _PIL_MODES:
        raise DataError(
            f"found a PIL image of mode {mode}", where=where, expected=f"must be of mode {', '.join(_PIL_MODES)}"
        )
    try:
        if isinstance(value, _Tensor):
            return np.asarray(value.detach().cpu().numpy())
        if _is_picture(value):
            from PIL import Image, ImageOps

            # As images in a folder are turned; colours first.
            picture = np.asarray(ImageOps.exif_transpose(cast(Image.Image, value)))
            return picture.transpose(2, 0, 1) if picture.ndim == 3 else picture
        return np.asarray(value)
    except PILLOW_ERRORS as error:
        # NumPy has no bfloat16, and lists may be ragged.
        kind = getattr(value, "dtype", type(value).__name__)
        raise DataError(
            f"found {kind}, which is not an array ({error})", where=where, hint="Pass a NumPy array, or tensor.float()."
        ) from error


def pixels_of(array: Array, where: str) -> NDArray[np.uint8]:
    """Return the values as pixels, with unchanged axes."""
    kind, found = array.dtype.kind, f"found {dtype_and_shape(array)}"
    if array.size == 0 or kind not in "biuf":
        raise DataError(found, where=where, expected=f"{_VALUES}, with at least one image")
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    low, high = float(array.min()), float(array.max())
    is_float = kind == "f"
    if not (low >= -_ROUNDING and high <= (1 + _ROUNDING if is_float else 255)):
        # NaN is in no range.
        raise DataError(f"{found} of {low:.4g}..{high:.4g}", where=where, expected=_VALUES, hint=_SCALE)
    if is_float:
        array = np.rint(np.clip(array.astype(np.float32), 0, 1) * np.float32(255))
    return array.astype(np.uint8, copy=False)


def are_rounded(arrays: Sequence[Array]) -> bool:
    """Return whether `pixels_of` rounds values, floats between the levels of 8-bit pixels; a part is compared."""
    for array in arrays[:: -(-len(arrays) // _COMPARED_ARRAYS)]:
        if array.dtype.kind == "f":
            # An odd step, which does not always meet the corners of images.
            levels = array.reshape(-1)[:: array.size // _COMPARED | 1].astype(np.float64) * 255
            if (np.abs(levels - np.rint(levels)) > _ON_LEVEL).any():
                return True
    return False
