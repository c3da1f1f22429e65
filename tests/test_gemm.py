"""Convolution and dense synapse as matrix products of a batch equal plain loops, however the batch is cut."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracle
from support.strategies import synapses

from loihi_convert.backends.lava.networks import batch_synapse
from loihi_convert.backends.lava.processes import gemm
from loihi_convert.ground.arrays import Shape
from loihi_convert.ir.quantized import QuantizedLayer
from loihi_convert.ir.synapse import Conv, Dense

IMAGES = 5


@given(drawn=synapses(), images_at_once=st.integers(1, IMAGES), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_batch_equals_plain_loops(drawn: tuple[Conv | Dense, Shape], images_at_once: int, seed: int) -> None:
    synapse, input_shape = replace(drawn[0], bias=None), drawn[1]
    inputs = np.random.default_rng(seed).integers(0, 256, (IMAGES, *input_shape)).astype(np.uint8)
    shape = synapse.output_shape(input_shape)
    positions = shape[1] * shape[2] if isinstance(synapse, Conv) else 1
    layer = QuantizedLayer("layer", synapse, None, np.ones(synapse.channels), 255)
    out = np.full((IMAGES, *shape[::-1]), np.nan, np.float32)
    with mock.patch.object(gemm, "COLUMN_BYTES", images_at_once * 4 * positions * synapse.weight[0].size):
        batch_synapse(layer, input_shape, IMAGES)(inputs.swapaxes(1, -1), out)
    for image, currents in zip(inputs, out, strict=True):
        np.testing.assert_array_equal(currents.transpose(), oracle.current(synapse, image.astype(np.int64)))
