"""Arrays of any values and order of axes -> pixels, uint8 ``(N, C, H, W)``."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loihi_convert.data.dataset import dtype_and_shape
from loihi_convert.errors import DataError, UsageError
from loihi_convert.ground.arrays import Array

_MAX_CHANNELS: Final = 4
_AXES: Final = "(N, H, W) or (N, C, H, W)"
_ONE_IMAGE: Final = "Pass [image] for a single image."
_VALUES: Final = "must be uint8 (0..255), or floats in 0..1"
# float16, the coarsest common type, has errors of 2^-12 below 1; a step of 8-bit pixels is 16 times that.
_ROUNDING: Final = 1e-3
# As above, in levels of 8-bit pixels, with a margin.
_ON_LEVEL: Final = 0.1
# The number of arrays, and of values of each, that are compared with the levels.
_COMPARED_ARRAYS: Final = 256
_COMPARED: Final = 10_000
_SCALE_PIXELS: Final = "Divide them by 255. If the CNN was trained on 0..255, also pass `mean=0` and `std=0.00392157`."
_SCALE_SIGNALS: Final = (
    "Signals s: pass (s - low) / (high - low), clipped to 0..1, always with low and high of the calibration signals. "
    "If the CNN was trained on (s - m) / d, `mean` is (m - low) / (high - low), `std` d / (high - low); if on s, m is "
    "0 and d is 1."
)
# At an edge, bicubic interpolation goes up to about a tenth of it beyond both sides.
_OVERSHOOT: Final = 0.1


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
            hint=f"A signal of one channel is (1, {sizes[0]})." if len(sizes) == 1 else "",
        )
    return sizes[0], sizes[1] if len(sizes) == 3 else 1, sizes[-1]


def pixels_of(array: Array, where: str) -> NDArray[np.uint8]:
    """Return the values as pixels, with unchanged axes; all images together must be bright, see `require_bright`."""
    kind = array.dtype.kind
    if array.size == 0 or kind not in "biuf":
        raise DataError(
            f"found {dtype_and_shape(array)}", where=where, expected=f"{_VALUES}, {_AXES}, with at least one image"
        )
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        return array.view(np.uint8)
    low, high = float(array.min()), float(array.max())
    if kind == "f":
        return _from_floats(array, low, high, where)
    if low < 0 or high > 255:
        raise _out_of_range(array.dtype, array.shape, low, high, where)
    return array.astype(np.uint8)


def are_rounded(arrays: Sequence[Array]) -> bool:
    """Return whether `pixels_of` rounds values, floats between the levels of 8-bit pixels; a part is compared."""
    for array in arrays[:: -(-len(arrays) // _COMPARED_ARRAYS)]:
        if array.dtype.kind == "f" and array.size:
            step, pixels = -(-array.size // _COMPARED), math.prod(array.shape[1:])
            # Otherwise only some places in the images are compared, such as their corners.
            while math.gcd(step, pixels) > 1:
                step += 1
            levels = array.reshape(-1)[::step].astype(np.float64) * 255
            if (np.abs(levels - np.rint(levels)) > _ON_LEVEL).any():
                return True
    return False


def require_bright(pixels: NDArray[np.uint8], arrays: Sequence[Array], where: str) -> None:
    """Raise a `DataError` if no pixel is above 1, but the values in ``arrays`` are not all 0."""
    if pixels.max() > 1:
        return
    low, high = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
    kind = max((array.dtype for array in arrays), key=lambda one: one.kind == "f")
    if high > 0 and kind.kind == "f":
        found = f"found {kind} {pixels.shape} of {low:.4g}..{high:.4g}, nearly black"
        raise DataError(found, where=where, expected=_VALUES, hint="They seem to be divided by 255 twice.")
    if high > 0:
        raise _out_of_range(kind, pixels.shape, low, high, where)


def _out_of_range(kind: np.dtype[np.generic], shape: tuple[int, ...], low: float, high: float, where: str) -> DataError:
    hint = "Pass booleans, or floats, if 1 is white." if (low, high) == (0, 1) else "Scale them to 0..255."
    return DataError(f"found {kind} {shape} of {low:g}..{high:g}", where=where, expected=_VALUES, hint=hint)


def _from_floats(array: Array, low: float, high: float, where: str) -> NDArray[np.uint8]:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"found {dtype_and_shape(array)} with NaN or infinity", where=where, expected=_VALUES)
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        found = f"found {dtype_and_shape(array)} of {low:.4g}..{high:.4g}"
        raise DataError(found, where=where, expected=_VALUES, hint=_range_hint(low, high))
    pixels = np.clip(array.astype(np.float32), 0, 1) * np.float32(255)
    return np.asarray(np.rint(pixels), np.uint8)


def _range_hint(low: float, high: float) -> str:
    """What to do with floats of ``low..high``."""
    if low >= -_OVERSHOOT and abs(high - 1) <= _OVERSHOOT:
        return "Clip them to 0..1; a resize with bicubic interpolation goes beyond."
    if low < 0:
        return f"Images: remove transforms.Normalize and pass its values as `mean` and `std`. {_SCALE_SIGNALS}"
    if 16 < high <= 255:
        return _SCALE_PIXELS
    return f"Images: divide them by {high:g}, if that is white. {_SCALE_SIGNALS}"


def channels_first(
    pixels: NDArray[np.uint8], input_shape: tuple[int, int, int] | None, where: str
) -> NDArray[np.uint8]:
    """Return ``pixels`` as ``(N, C, H, W)``, from any order of axes that can be told."""
    shape = pixels.shape
    if input_shape is None:
        return _of_any_size(pixels, where)
    channels, height, width = input_shape
    # A list of (C, L) has gained an axis, like a list of grey images.
    signals = ((channels, width), (1, channels, width), *(((width,),) if channels == 1 else ()))
    if height == 1 and shape[1:] in signals:
        return pixels.reshape(len(pixels), *input_shape)
    if pixels.ndim == 3 and channels == 1 and shape[1:] == (height, width):
        return pixels[:, np.newaxis]
    if pixels.ndim == 4 and shape[1:] == input_shape:
        return pixels
    if pixels.ndim == 4 and shape[1:] == (height, width, channels):
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    raise DataError(
        f"found {shape}",
        where=where,
        expected=f"must be (N, {channels}, {height}, {width})"
        + (f" or (N, {channels}, {width})" if height == 1 else ""),
        hint=_ONE_IMAGE if shape in (input_shape, (height, width), (height, width, channels)) else "",
    )


def _of_any_size(pixels: NDArray[np.uint8], where: str) -> NDArray[np.uint8]:
    """The same for an unknown input shape; another order of axes is refused where it seems to be one."""
    shape = pixels.shape
    if pixels.ndim == 3 and shape[0] != 3:
        return pixels[:, np.newaxis]
    hint = _ONE_IMAGE
    if pixels.ndim == 2:
        hint = f"{_ONE_IMAGE} For signals (N, L), pass `input_shape=(1, {shape[1]})`."
    elif pixels.ndim == 3:
        hint = "Pass [image] for one image with three channels, images[:, None] for three grey images."
    elif pixels.ndim == 4:
        if shape[1] <= _MAX_CHANNELS or shape[3] > _MAX_CHANNELS:
            return pixels
        channels, height, width = shape[3], shape[1], shape[2]
        hint = (
            f"If the axes are (N, H, W, C), pass `input_shape` {channels},{height},{width}; if they are (N, C, H, W), "
            f"{','.join(map(str, shape[1:]))}."
        )
    raise DataError(f"found {shape}", where=where, expected=f"must be {_AXES}", hint=hint)
