"""Convolution and dense synapse as matrix products of a batch equal plain loops, however the batch is cut."""

from __future__ import annotations

import numpy as np
import pytest
from support import oracle

from loihi_convert.backends.lava.processes import gemm
from loihi_convert.backends.lava.synapse_processes import batch_synapse
from loihi_convert.ir.quantized import QuantizedLayer
from loihi_convert.ir.synapse import Conv, Dense

RNG = np.random.default_rng(0)
INPUTS = RNG.integers(0, 256, (5, 4, 9, 8)).astype(np.uint8)


def weight(*shape: int) -> np.ndarray:
    return RNG.integers(-127, 128, shape).astype(np.int32)


@pytest.mark.parametrize("images_at_once", [1, 2, 5])
@pytest.mark.parametrize(
    "synapse",
    [
        Conv(weight(3, 4, 3, 2)),
        Conv(weight(4, 4, 2, 3), stride=(2, 1), padding=(1, 2), dilation=(2, 1)),
        Conv(weight(6, 2, 3, 2), groups=2, padding=(0, 1)),
        Conv(weight(4, 1, 2, 2), groups=4, pool=(2, 3)),
        Dense(weight(7, 4 * 9 * 8)),
        Dense(weight(7, 4 * 4 * 2), pool=(2, 3)),
    ],
)
def test_a_batch_equals_plain_loops(
    synapse: Conv | Dense, images_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = synapse.output_shape(INPUTS.shape[1:])
    if isinstance(synapse, Conv):
        columns = 4 * shape[1] * shape[2] * synapse.weight[0].size
        monkeypatch.setattr(gemm, "COLUMN_BYTES", images_at_once * columns)
    layer = QuantizedLayer("layer", synapse, None, np.ones(synapse.channels), 255)
    out = np.full((5, *shape[::-1]), np.nan, np.float32)
    batch_synapse(layer, INPUTS.shape[1:], 5)(INPUTS.swapaxes(1, -1), out)
    for image, currents in zip(INPUTS, out, strict=True):
        np.testing.assert_array_equal(currents.transpose(), oracle.current(synapse, image.astype(np.int64)))
