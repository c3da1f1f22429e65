"""Images that stay in their files until they are used, so that a data set need not fit into memory."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

LARGE_BYTES: Final = 2**27
"""Most bytes of pixels that are read at once."""

_READ_AT_ONCE: Final = 64


class StoredImages(ABC):
    """Images in files: uint8 ``(N, C, H, W)``.

    A slice, or an array of indices, gives other stored images; ``numpy.asarray`` reads them. Pickled, only places are
    sent to another process, which reads the files itself.
    """

    dtype: Final = np.dtype(np.uint8)
    ndim: Final = 4

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """``(N, C, H, W)``."""

    @abstractmethod
    def __getitem__(self, index: slice | NDArray[np.intp]) -> StoredImages:
        """Return some of the images."""

    @abstractmethod
    def read(self) -> NDArray[np.uint8]:
        """Return the pixels, ``(N, C, H, W)``.

        Raises
        ------
        DataError
            If a file is missing, has changed, or cannot be used.
        """

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for first in range(0, len(self), _READ_AT_ONCE):
            yield from self[first : first + _READ_AT_ONCE].read()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self.read() if dtype is None else self.read().astype(dtype, copy=False)


def is_large(count: int, image_shape: tuple[int, int, int]) -> bool:
    """Whether ``count`` images of ``(C, H, W)`` are not read at once."""
    return count * math.prod(image_shape) > LARGE_BYTES
