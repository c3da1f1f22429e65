"""Images, labels and targets in memory, in any container, -> the checked arrays used in this package."""

from __future__ import annotations

import itertools
import reprlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeGuard, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loihi_convert.data.array_pixels import are_rounded, channels_first, pixels_of, require_bright
from loihi_convert.data.dataset import Dataset, dtype_and_shape
from loihi_convert.data.stored_images import PILLOW_ERRORS
from loihi_convert.errors import DataError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Task


def as_images(
    images: Images,
    input_shape: tuple[int, int, int] | None = None,
    *,
    where: str = "images",
) -> NDArray[np.uint8]:
    """Return ``images`` as uint8 ``(N, C, H, W)``, N >= 1.

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

    Parameters
    ----------
    images
        As above.
    input_shape
        ``(C, H, W)`` of the network, if known: other images are refused.
    where
        The name of the images in error messages.

    Raises
    ------
    DataError
        For invalid values, NaN, axes or sizes.
    """
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
    elif _is_one_hot(array) and array.shape[1] == (class_count or array.shape[1]):
        array = array.argmax(1)
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
    """Return images with labels, in any format of `as_images` and `as_labels`; a DataLoader may supply both."""
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
    """Return images with targets, in any format of `as_images` and `as_targets`; a DataLoader may supply both."""
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


_PIL_MODES: Final = ("1", "L", "RGB")
_IMAGE_KEYS: Final = ("image", "img", "pixel_values")
_LABEL_KEYS: Final = ("label", "labels")


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


class Collected(NamedTuple):
    """Pixels with their original axes, N first, and what comes with them.

    ``others`` are the labels or targets of each image or, if ``is_batch``, of each batch; empty unless all have some.
    ``source`` is what they were, if that is a `Dataset`, whose images are ``(N, C, H, W)``. ``are_rounded`` is as in
    `Dataset`.
    """

    pixels: NDArray[np.uint8]
    others: Sequence[object] = ()
    is_batch: bool = False
    source: Dataset | None = None
    are_rounded: bool = False

    def images(self, input_shape: tuple[int, int, int] | None, where: str = "images") -> NDArray[np.uint8]:
        """The pixels as ``(N, C, H, W)``."""
        is_known = self.source is not None and input_shape is None
        return self.pixels if is_known else channels_first(self.pixels, input_shape, where)

    def dataset(self, input_shape: tuple[int, int, int] | None) -> Dataset:
        """The images alone."""
        return Dataset(self.images(input_shape), None, are_rounded=self.are_rounded)

    def own(self, kind: str) -> Array | None:
        """The labels or targets, which ``kind`` names, N first; None if there are none."""
        if not self.others:
            return None
        arrays = [array_of(one, kind) for one in self.others]
        rows = [np.atleast_1d(one) if self.is_batch or one.size == 1 else one[np.newaxis] for one in arrays]
        if len(shapes := {row.shape[1:] for row in rows}) > 1:
            raise _different_shapes(shapes, kind)
        found: Array = np.concatenate(rows)
        return found


def collected_from(images: Images, where: str) -> Collected:
    """The images, in pixels, and what comes with them; an iterator is read once."""
    if isinstance(images, Dataset):
        own = images.labels if images.targets is None else images.targets
        return Collected(np.asarray(images.images), () if own is None else (own,), True, images, images.are_rounded)
    if is_pair(images):
        return collected_from(images[0], where)._replace(others=images[1:], is_batch=True)
    if _is_array(images):
        arrays = [array_of(images, where)]
        collected = Collected(pixels_of(arrays[0], where))
    else:
        is_loader = hasattr(images, "dataset") and hasattr(images, "batch_size")
        items = [_parts(item, where) for item in _items(images, where)]
        if not items:
            raise DataError("found no image", where=where, expected="must hold at least one")
        arrays = [array_of(item[0], where) for item in items]
        is_batch = is_loader and getattr(images, "batch_sampler", None) is not None
        # A single image has at most three axes.
        is_batch = is_batch or all(array.ndim == 4 for array in arrays)
        batches = [pixels if is_batch else pixels[np.newaxis] for pixels in (pixels_of(one, where) for one in arrays)]
        if len(shapes := {batch.shape[1:] for batch in batches}) > 1:
            raise _different_shapes(shapes, where)
        pixels = np.concatenate(batches)
        others = [item[1] for item in items if len(item) > 1]
        collected = Collected(
            pixels[:, np.newaxis] if pixels.ndim == 3 else pixels, others if len(others) == len(items) else (), is_batch
        )
    require_bright(collected.pixels, arrays, where)
    return collected._replace(are_rounded=are_rounded(arrays))


def _parts(item: object, where: str) -> Sequence[object]:
    """An image or a batch, followed by what comes with it; of a dict, as from Hugging Face's data sets, by its keys."""
    if isinstance(item, Mapping):
        images, labels = ([name for name in names if name in item] for names in (_IMAGE_KEYS, _LABEL_KEYS))
        if len(images) == 1 and len(labels) <= 1:
            return [item[name] for name in (*images, *labels)]
    _refuse_mapping(item, where)
    return item if isinstance(item, (tuple, list)) else (item,)


def _different_shapes(shapes: set[tuple[int, ...]], where: str) -> DataError:
    found = f"found different shapes: {', '.join(map(str, sorted(shapes)))}"
    return DataError(found, where=where, expected="must all have the same shape")


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


def _refuse_mapping(value: object, where: str) -> None:
    if isinstance(value, Mapping):
        raise DataError(
            f"found a dict with the keys {reprlib.repr(list(value))}",
            where=where,
            expected="must be an image, or (image, label)",
            hint="Return (image, label) from the Dataset, or pass images and labels as two arguments.",
        )


def _items(images: object, where: str) -> Iterator[object]:
    _refuse_mapping(images, where)
    if isinstance(images, str) or not isinstance(images, (Iterable, _Indexed)):
        expected = "must be a NumPy array, a torch tensor, a list of images, a Dataset or a DataLoader"
        hint = "`load_data` reads a folder of images or an .npz file." if isinstance(images, str | Path) else ""
        raise DataError(f"found an object of type {type(images).__name__}", where=where, expected=expected, hint=hint)
    items = iter(images) if isinstance(images, Iterable) else (images[index] for index in range(len(images)))
    for index in itertools.count():
        try:
            item = next(items)
        except StopIteration:
            return
        except OSError as error:
            # A file that a Dataset reads. The last line: the others are the traceback of a DataLoader's worker.
            cause = (str(error).strip() or type(error).__name__).splitlines()[-1]
            kind = "batch" if hasattr(images, "batch_size") else "item"
            raise DataError(f"{kind} {index:,} cannot be read ({cause})", where=where) from error
        yield item


def _is_picture(value: object) -> bool:
    """Whether ``value`` is a PIL image."""
    return hasattr(value, "getbands")


def array_of(value: object, where: str) -> Array:
    """``value`` as a NumPy array of its own dtype."""
    if _is_picture(value) and (mode := getattr(value, "mode", "")) not in _PIL_MODES:
        raise DataError(
            f"found a PIL image of mode {mode}",
            where=where,
            expected=f"must be of mode {', '.join(_PIL_MODES)}",
            # PIL's convert clips 16-bit values at 255.
            hint="Pass numpy.asarray(image) / 65535, if that is white."
            if mode.startswith("I")
            else "Call image.convert('L') or image.convert('RGB').",
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
