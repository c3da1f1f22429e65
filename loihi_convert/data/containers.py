"""Containers of images, and of labels or targets (NumPy, torch, PIL, a DataLoader) -> their pixels and arrays."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeGuard, cast, runtime_checkable

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import ArrayLike, NDArray

from loihi_convert.arrays import Array
from loihi_convert.data.array_pixels import are_rounded, channels_first, pixels_of, require_bright
from loihi_convert.data.dataset import Dataset, DataSplits
from loihi_convert.data.image_files import PILLOW_ERRORS
from loihi_convert.errors import DataError

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


def collected_from(images: Images, where: str, *, is_whole: bool = True) -> Collected:
    """The images, in pixels, and what comes with them; an iterator is read once."""
    if isinstance(images, Dataset):
        own = images.labels if images.targets is None else images.targets
        return Collected(np.asarray(images.images), () if own is None else (own,), True, images, images.are_rounded)
    if is_pair(images):
        return collected_from(images[0], where, is_whole=is_whole)._replace(others=images[1:], is_batch=True)
    if _is_array(images):
        arrays = [array_of(images, where)]
        collected = Collected(pixels_of(arrays[0], where))
    else:
        is_loader = hasattr(images, "dataset") and hasattr(images, "batch_size")
        items = [_parts(item, where, may_be_rows=not is_loader) for item in _items(images, where)]
        if not items:
            raise DataError("found no image", where=where, expected="must hold at least one")
        arrays = [array_of(item[0], where) for item in items]
        is_batch = is_loader and getattr(images, "batch_sampler", None) is not None
        # A single image has at most three axes.
        is_batch = is_batch or all(array.ndim == 4 for array in arrays)
        batches = [pixels if is_batch else pixels[np.newaxis] for pixels in (pixels_of(one, where) for one in arrays)]
        if len(shapes := {batch.shape[1:] for batch in batches}) > 1:
            raise _different_shapes(shapes, where, _shapes_hint(items, arrays))
        pixels = np.concatenate(batches)
        others = [item[1] for item in items if len(item) > 1]
        collected = Collected(
            pixels[:, np.newaxis] if pixels.ndim == 3 else pixels, others if len(others) == len(items) else (), is_batch
        )
    if is_whole:
        require_bright(collected.pixels, arrays, where)
    return collected._replace(are_rounded=are_rounded(arrays))


def _parts(item: object, where: str, *, may_be_rows: bool) -> Sequence[object]:
    """An image or a batch, followed by what comes with it.

    A list of arrays of one shape, with one axis or two, is an image, given by its rows or channels; but not a list that
    a DataLoader makes of the tuples of its Dataset.
    """
    item = _without_keys(item)
    _refuse_mapping(item, where)
    if may_be_rows and isinstance(item, list) and [len(shape) for shape in set(map(_shape, item))] in ([1], [2]):
        return (np.stack([array_of(part, where) for part in item]),)
    return item if isinstance(item, (tuple, list)) else (item,)


def _without_keys(item: object) -> object:
    """(image, label) or (image,) of a dict, as from Hugging Face's data sets; anything else as it is."""
    if not isinstance(item, Mapping):
        return item
    images, labels = ([name for name in names if name in item] for names in (_IMAGE_KEYS, _LABEL_KEYS))
    is_clear = len(images) == 1 and len(labels) <= 1
    return tuple(item[name] for name in (*images, *labels)) if is_clear else item


def _shape(value: object) -> tuple[int, ...]:
    """The shape of an array, a tensor, or nested lists of them or of numbers."""
    if isinstance(value, list):
        return (len(value), *_shape(value[0])) if value else (0,)
    return tuple(getattr(value, "shape", ()))


def _different_shapes(shapes: set[tuple[int, ...]], where: str, hint: str = "") -> DataError:
    found = f"found different shapes: {', '.join(map(str, sorted(shapes)))}"
    return DataError(found, where=where, expected="must all have the same shape", hint=hint)


def _shapes_hint(items: Sequence[Sequence[object]], arrays: Sequence[Array]) -> str:
    """What to do if the images in ``items``, as ``arrays``, differ in shape."""
    if len(items) == 2 and arrays[0].ndim != arrays[1].ndim:
        return "Pass images and labels as two arguments."
    counts = [getattr(item[1], "shape", ())[:1] if len(item) > 1 else () for item in items]
    if any(count == array.shape[:1] != (1,) for count, array in zip(counts, arrays, strict=True)):
        return "If each item is a batch, pass the DataLoader itself, or batches (N, C, H, W)."
    return "Resize them to the network's input size."


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
            hint="Pass the arrays in it one by one."
            if isinstance(value, NpzFile)
            else "Return (image, label) from the Dataset, or pass images and labels as two arguments.",
        )


def _items(images: object, where: str) -> Iterator[object]:
    _refuse_mapping(images, where)
    if isinstance(images, str) or not isinstance(images, (Iterable, _Indexed)):
        expected = "must be a NumPy array, a torch tensor, a list of images, a Dataset or a DataLoader"
        hint = "`load_data` reads a folder of images or an .npz file." if isinstance(images, str | Path) else ""
        if isinstance(images, DataSplits):
            hint = "Pass `calibration` of it to `convert`, and `test.images` to `run`."
        raise DataError(f"found an object of type {type(images).__name__}", where=where, expected=expected, hint=hint)
    items = iter(images) if isinstance(images, Iterable) else (images[index] for index in range(len(images)))
    for index in itertools.count():
        try:
            item = next(items)
        except StopIteration:
            return
        except OSError as error:
            # A file that a Dataset reads.
            kind = "batch" if hasattr(images, "batch_size") else "item"
            # The last line: the others are the traceback of a DataLoader's worker.
            cause = (str(error).strip() or type(error).__name__).splitlines()[-1]
            hint = "" if isinstance(error, (ConnectionError, TimeoutError)) else "Replace or remove its file."
            raise DataError(f"{kind} {index:,} cannot be read ({cause})", where=where, hint=hint) from error
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
        hint = "Pass a NumPy array."
        if isinstance(value, _Tensor):
            hint = (
                f"Pass the tensor's {'.to_dense()' if 'sparse' in str(getattr(value, 'layout', '')) else '.float()'}."
            )
        raise DataError(f"found {kind}, which is not an array ({error})", where=where, hint=hint) from error
