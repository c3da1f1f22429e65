"""Images in PNG and JPEG files, read at once or when they are used."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from loihi_convert.errors import DataError, one_of
from loihi_convert.ground.files import asked, cannot_read, require_fits

LARGE_BYTES: Final = 2**27
"""Most bytes of pixels that are read at once."""

_READ_AT_ONCE: Final = 64

_GREY_MODES: Final = ("L", "1", "LA")
_COLOUR_MODES: Final = ("RGB", "P", "RGBA")
PILLOW_ERRORS: Final = (OSError, ValueError, TypeError, SyntaxError, struct.error)
"""Exceptions of Pillow for a file that is damaged."""


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images in PNG and JPEG files: uint8 ``(N, C, H, W)``.

    A slice, or an array of indices, gives other stored images; ``numpy.asarray`` reads them. Pickled, only paths are
    sent to another process, which reads the files itself.

    Parameters
    ----------
    paths
        The files, absolute.
    image_shape
        ``(C, H, W)`` that each must have.
    """

    paths: tuple[Path, ...]
    image_shape: tuple[int, int, int]
    dtype: ClassVar = np.dtype(np.uint8)
    ndim: ClassVar = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(N, C, H, W)``."""
        return len(self.paths), *self.image_shape

    def __getitem__(self, index: slice | NDArray[np.intp]) -> StoredImages:
        rows = np.arange(len(self.paths))[index]
        return StoredImages(tuple(self.paths[row] for row in rows), self.image_shape)

    def read(self) -> NDArray[np.uint8]:
        """Return the pixels, ``(N, C, H, W)``."""
        return stacked(self.paths, self.image_shape) if self.paths else np.empty(self.shape, np.uint8)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for first in range(0, len(self), _READ_AT_ONCE):
            yield from self[first : first + _READ_AT_ONCE].read()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self.read() if dtype is None else self.read().astype(dtype, copy=False)


def is_large(count: int, image_shape: tuple[int, int, int]) -> bool:
    """Whether ``count`` images of ``(C, H, W)`` are not read at once."""
    return count * math.prod(image_shape) > LARGE_BYTES


def stacked(paths: Sequence[Path], input_shape: tuple[int, int, int] | None) -> NDArray[np.uint8]:
    """Return the images as uint8 ``(N, C, H, W)``.

    ``input_shape`` is ``(C, H, W)`` of the network; None: the size of the first image, and colours if any has them.

    Raises
    ------
    DataError
        If an image cannot be read or does not fit.
    """
    # A missing file is named when it is read.
    stored = sum(path.stat().st_size for path in paths if asked(path, Path.exists, DataError))
    pixels = [_read_image(path, len(paths), stored) for path in paths]
    channels = max(image.shape[2] for image in pixels) if input_shape is None else input_shape[0]
    size = pixels[0].shape[:2] if input_shape is None else input_shape[1:]
    fits = []
    for path, image in zip(paths, pixels, strict=True):
        if image.shape[:2] != size:
            like = f"{paths[0].name} is" if input_shape is None else "the network expects"
            found, expected = (
                f"is {image.shape[1]} x {image.shape[0]} pixels",
                f"must be {size[1]} x {size[0]}, as {like}",
            )
            raise DataError(found, where=path, expected=expected)
        fits.append(_with_channels(path, image, channels))
    return np.stack(fits).transpose(0, 3, 1, 2)


def _with_channels(path: Path, image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """``(H, W, channels)``; a grey image may have one channel or three equal ones."""
    if image.shape[2] == channels:
        return image
    if image.shape[2] == 1 and channels == 3:
        return np.broadcast_to(image, (*image.shape[:2], channels))
    grey = image[..., :1]
    if channels == 1 and (image == grey).all():
        return grey
    found = "has colours" if image.shape[2] == 3 else "is a grey image"
    raise DataError(found, where=path, expected=f"must have {channels} channel{'s' * (channels > 1)}")


def _read_image(path: Path, count: int, stored: int) -> NDArray[np.uint8]:
    """The pixels as uint8 ``(H, W, C)``, C = 1 or 3; refused if ``count`` such images, in files of ``stored`` bytes
    together, take too much memory."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # Pillow warns about EXIF data that many cameras write.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # The content decides, not the suffix, but between two formats only, to limit the attack surface.
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                mode = image.mode
                # Known before any pixel is decoded.
                size = count * math.prod(image.size) * len(image.getbands())
                require_fits(size, stored, path, DataError, f"with {count:,} images of its size it takes")
                if ";16" in str(image.tile) and mode in _COLOUR_MODES:
                    # Pillow drops the low byte of each number.
                    mode = f"16-bit {mode}"
                upright = ImageOps.exif_transpose(image)
                transparent = mode in ("LA", "RGBA") or "transparency" in image.info
                if transparent and mode in (*_GREY_MODES, *_COLOUR_MODES):
                    transparent = upright.convert("RGBA").getchannel("A").getextrema() != (255, 255)
                pixels = np.asarray(upright.convert("L" if mode in _GREY_MODES else "RGB"))
    except PermissionError as error:
        raise cannot_read(path, error) from error
    except (*PILLOW_ERRORS, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"cannot be read as a PNG or JPEG image ({error})", where=path) from error
    if mode not in (*_GREY_MODES, *_COLOUR_MODES) or transparent:
        found = f"{mode} with transparency" if transparent else mode
        raise DataError(
            f"has pixels of mode {found}",
            where=path,
            expected=f"{one_of(('L (8-bit grey)', 'RGB', 'P (palette)', '1 (black and white)'))}, each pixel opaque",
        )
    return pixels.reshape(*pixels.shape[:2], -1)
