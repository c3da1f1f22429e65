"""Images, labels and targets in memory (NumPy, torch, PIL, a DataLoader) -> the arrays used in this package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loihi_convert.arrays import Array
from loihi_convert.choices import Task
from loihi_convert.data.array_pixels import channels_first, pixels_of, require_bright
from loihi_convert.data.dataset import Dataset, described
from loihi_convert.errors import DataError, UsageError

_PIL_MODES: Final = ("1", "L", "RGB")


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


Images: TypeAlias = "ArrayLike | _Tensor | _Indexed | Iterable[object]"
Labels: TypeAlias = "ArrayLike | _Tensor"
Targets: TypeAlias = "ArrayLike | _Tensor"


def as_images(
    images: Images,
    input_shape: tuple[int, int, int] | None = None,
    *,
    where: str = "images",
    is_whole: bool = True,
) -> NDArray[np.uint8]:
    """Return ``images`` as uint8 ``(N, C, H, W)``, N >= 1.

    =====================  =============================================================================================
    container              NumPy array, torch tensor (any device), nested list; list of images (arrays, tensors, PIL);
                           torch Dataset or DataLoader of images or of (image, label, ...)
    axes                   ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)``; ``(N, C, L)`` or, with one channel,
                           ``(N, L)`` for a network of signals, whose ``input_shape`` is ``(C, 1, L)``
    uint8, other integers  pixels, 0..255
    bool                   False is 0, True is 255
    floats                 pixel / 255, in 0..1; rounded to the nearest pixel value
    =====================  =============================================================================================

    Parameters
    ----------
    images
        As above. Without ``input_shape``, images are assumed ``(N, H, W, C)`` if the last axis has at most 4 elements
        and the second one has more.
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
    return channels_first(_collected(images, where, is_whole=is_whole)[0], input_shape, where)


def as_input_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return ``(C, H, W)`` unchanged, and ``(C, L)``, the shape of a signal, as ``(C, 1, L)``.

    Raises
    ------
    UsageError
        For any other number of axes, or an axis below 1.
    """
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise UsageError(
            f"found {tuple(shape)}", where="input_shape", expected="must be (C, H, W), or (C, L), each at least 1"
        )
    return shape[0], shape[1] if len(shape) == 3 else 1, shape[-1]


def as_labels(labels: Labels, count: int, class_count: int = 0, *, where: str = "labels") -> NDArray[np.int64]:
    """Return ``labels`` as int64 ``(count,)``.

    Parameters
    ----------
    labels
        A list, NumPy array or torch tensor of whole numbers from 0: the network's output for each image.
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
    array = _array(labels, where)
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise DataError(
            f"found {described(array)}",
            where=where,
            expected=f"must be integers ({count},), one per image",
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
    array = _array(targets, where)
    rows = array[:, np.newaxis] if array.ndim == 1 else array
    outputs = output_count or (rows.shape[1] if rows.ndim == 2 else 0)
    if array.dtype.kind not in "iuf" or rows.shape != (count, outputs) or not outputs:
        wanted = f"({count}, {output_count})" if output_count else f"({count},) or ({count}, outputs)"
        raise DataError(
            f"found {described(array)}", where=where, expected=f"must be numbers {wanted}, one row per image"
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
    return Dataset(found, None if chosen is None else as_labels(chosen, len(found), class_count))


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
    return Dataset(found, None, None if chosen is None else as_targets(chosen, len(found), output_count))


def as_calibration(
    images: Images,
    labels: Labels | None,
    targets: Targets | None,
    *,
    task: Task,
    input_shape: tuple[int, int, int] | None,
) -> Dataset:
    """Return images with labels or targets, whichever ``task`` has, if there are any; a DataLoader may supply neither.

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
    if targets is not None:
        return as_regression_dataset(images, targets, input_shape=input_shape)
    if labels is not None:
        return as_dataset(images, labels, input_shape=input_shape)
    # Only a sized iterable can be read a second time.
    if isinstance(images, Sized):
        try:
            return (as_regression_dataset if is_regression else as_dataset)(images, input_shape=input_shape)
        except DataError as error:
            if error.where != ("targets" if is_regression else "labels"):
                raise
    return Dataset(as_images(images, input_shape), None)


def _with_own(
    images: Images, given: Labels | None, kind: str, input_shape: tuple[int, int, int] | None
) -> tuple[NDArray[np.uint8], Labels | None]:
    """Images, and their labels or targets: ``given``, or those in ``images``; ``kind`` names them."""
    pixels, own = _collected(images, "images", kind)
    if own is not None and given is not None:
        raise DataError(f"found {kind} also in `images`", where=kind, hint=f"Omit `{kind}`.")
    return channels_first(pixels, input_shape, "images"), given if own is None else own


def _labels_hint(array: Array, count: int) -> str:
    if array.ndim == 2 and len(array) == count:
        return "Pass labels.ravel()." if array.shape[1] == 1 else "For one-hot rows, pass labels.argmax(1)."
    if array.dtype.kind == "f" and array.shape == (count,):
        return "Pass labels.astype(int)."
    if array.dtype.kind in "US":
        return "Number the classes from 0: numpy.unique(labels, return_inverse=True)."
    return "Omit them if unknown."


def _collected(
    images: Images, where: str, kind: str = "labels", *, is_whole: bool = True
) -> tuple[NDArray[np.uint8], Array | None]:
    """Pixels with their original axes, N first, and labels or targets, named ``kind``, if there are any."""
    if _is_array(images):
        array = _array(images, where)
        pixels = pixels_of(array, where)
        if is_whole:
            require_bright(pixels, [array.dtype], where)
        return pixels, None
    items = [item if isinstance(item, (tuple, list)) else (item,) for item in _items(images, where)]
    if not items:
        raise DataError("found no image", where=where, expected="must hold at least one")
    is_loader = hasattr(images, "dataset") and hasattr(images, "batch_size")
    is_batch = is_loader and getattr(images, "batch_sampler", None) is not None
    arrays = [_array(item[0], where) for item in items]
    batches = [pixels if is_batch else pixels[np.newaxis] for pixels in (pixels_of(array, where) for array in arrays)]
    shapes = sorted({batch.shape[1:] for batch in batches})
    if len(shapes) > 1:
        raise DataError(
            f"found images of different shapes: {', '.join(map(str, shapes))}",
            where=where,
            expected="must all have the same shape",
            hint="Resize them to the network's input size.",
        )
    pixels = np.concatenate(batches)
    if is_whole:
        require_bright(pixels, [array.dtype for array in arrays], where)
    shown = [_array(item[1], kind) for item in items if len(item) > 1]
    stacked = None
    if len(shown) == len(items):
        rows = (np.atleast_1d(one) if is_batch or one.size == 1 else one[np.newaxis] for one in shown)
        stacked = np.concatenate(list(rows))
    return pixels[:, np.newaxis] if pixels.ndim == 3 else pixels, stacked


def _is_array(value: object) -> bool:
    """Whether ``value`` is an array, a tensor, or nested lists of numbers, not a collection of them."""
    if hasattr(value, "__array__") or _is_picture(value):
        return True
    is_nested = isinstance(value, (list, tuple))
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return is_nested and isinstance(value, (int, float))


def _items(images: object, where: str) -> Iterator[object]:
    if isinstance(images, str) or not isinstance(images, (Iterable, _Indexed)):
        raise DataError(
            f"found an object of type {type(images).__name__}",
            where=where,
            expected="must be a NumPy array, a torch tensor, a list of images, a Dataset or a DataLoader",
        )
    return iter(images) if isinstance(images, Iterable) else (images[index] for index in range(len(images)))


def _is_picture(value: object) -> bool:
    """Whether ``value`` is a PIL image."""
    return hasattr(value, "getbands")


def _array(value: object, where: str) -> Array:
    """``value`` as a NumPy array of its own dtype."""
    if _is_picture(value) and (mode := getattr(value, "mode", "")) not in _PIL_MODES:
        raise DataError(
            f"found a PIL image of mode {mode}",
            where=where,
            expected=f"must be of mode {', '.join(_PIL_MODES)}",
            hint="Call image.convert('L') or image.convert('RGB').",
        )
    try:
        if isinstance(value, _Tensor):
            return np.asarray(value.detach().cpu().numpy())
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        # NumPy has no bfloat16, and lists may be ragged.
        kind = getattr(value, "dtype", type(value).__name__)
        raise DataError(
            f"found {kind}, which is not an array ({error})",
            where=where,
            hint="Pass the tensor's .float()." if isinstance(value, _Tensor) else "Pass a NumPy array.",
        ) from error
