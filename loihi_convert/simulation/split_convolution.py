"""Application of a divided kernel to a batch: convolutions of its dense parts, then single taps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from loihi_convert.ground.arrays import Array
from loihi_convert.simulation.convolution import Convolution
from loihi_convert.simulation.kernel_structure import PartialConvolution, Structure
from loihi_convert.simulation.taps import add_taps, put


class SplitConvolution:
    """A divided kernel with the interface of `convolution.Convolution`.

    Parameters
    ----------
    structure
        The kernel.
    stride
        Stride of the whole kernel.
    input_shape
        ``(H, W, C)``.
    output_size
        Rows and columns of the outputs.
    largest_input, covers_map
        As in `Convolution`, for the whole kernel.
    """

    def __init__(
        self,
        structure: Structure,
        stride: tuple[int, int],
        input_shape: tuple[int, int, int],
        output_size: tuple[int, int],
        *,
        largest_input: int | None,
        covers_map: bool,
    ) -> None:
        self._channels, self._stride, self._output_size = structure.channels, stride, output_size
        self._spans, self._empty, self._taps = structure.spans, structure.empty, structure.taps.runs()
        self._has_base = structure.has_base
        self._parts = [
            _Part(part, input_shape, largest_input=largest_input, covers_map=covers_map) for part in structure.parts
        ]
        self.uses_int8 = largest_input is not None and all(part.convolution.uses_int8 for part in self._parts)
        # Compile here, in one thread, as in `Neurons`.
        for dtype in (np.uint8, np.float32):
            add_taps(np.empty((0, *input_shape), dtype), self._taps, self._empty, stride, self._sum_of(()))
        put(np.empty((0, 1), np.float32), np.empty((0, 4), np.int64), np.empty((0, 1), np.float32))

    def __call__(self, inputs: Array) -> Array:
        """See `Convolution`."""
        found = self._sum_of([part.convolution(part.seen(inputs)) for part in self._parts], len(inputs))
        if len(self._taps.weights) or len(self._empty):
            add_taps(inputs, self._taps, self._empty, self._stride, found)
        return found

    def _sum_of(self, parts: Sequence[Array], images: int = 0) -> Array:
        """Sum of the parts' outputs; the first part's own array is reused if it covers all outputs."""
        base = parts[0] if self._has_base and parts else None
        found = np.empty((images, *self._output_size, self._channels), np.float32) if base is None else base
        for part, spans in zip(parts, self._spans, strict=False):
            if part is not base:
                put(part.reshape(-1, part.shape[3]), spans, found.reshape(-1, self._channels))
        return found


class _Part:
    """One convolution, and the part of the maps that it uses."""

    def __init__(
        self,
        part: PartialConvolution,
        input_shape: tuple[int, int, int],
        *,
        largest_input: int | None,
        covers_map: bool,
    ) -> None:
        (top, bottom), (left, right) = part.crop
        height, width, _ = input_shape
        self._rows, self._columns = slice(top, height - bottom), slice(left, width - right)
        first, end = int(part.inputs[0]), int(part.inputs[-1]) + 1
        is_span = np.array_equal(part.inputs, np.arange(first, end))
        self._channels: Array | slice = slice(first, end) if is_span else part.inputs
        self.convolution = Convolution(
            part.weight,
            part.geometry,
            (height - top - bottom, width - left - right, len(part.inputs)),
            largest_input=largest_input,
            covers_map=covers_map and part.geometry.groups == 1,
        )

    def seen(self, inputs: Array) -> Array:
        """Return the part of ``(N, H, W, C)`` that it uses, contiguous."""
        maps = inputs[:, self._rows, self._columns]
        if isinstance(self._channels, slice):
            # NumPy copies short rows at half of torch's speed.
            return torch.from_numpy(maps[..., self._channels]).contiguous().numpy()
        return np.take(maps, self._channels, axis=3)
