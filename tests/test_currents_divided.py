"""Kernels that are divided into convolutions and single taps: their sums, what is found, and where it pays."""

from __future__ import annotations

import math
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracle
from support.strategies import Drawn

from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ir.synapse import Conv, Dense, Synapse
from loihi_convert.simulation import currents as module
from loihi_convert.simulation import kernel_structure
from loihi_convert.simulation.convolution import Geometry
from loihi_convert.simulation.currents import Currents, as_convolution, pooled_maps
from loihi_convert.simulation.kernel_structure import Structure, structures_of
from loihi_convert.simulation.split_convolution import SplitConvolution


@st.composite
def lowered(draw: st.DrawFn) -> tuple[Synapse, Shape]:
    """A kernel as lowering makes them: populations of windows and input channels of their own, relays, identities."""
    rng = Drawn(draw)
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    inputs, outputs = int(rng.integers(1, 14)), int(rng.integers(1, 14))
    size = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    weight = np.zeros((groups * outputs, inputs, *size), np.int32)
    for _ in range(int(rng.integers(0, 5))):
        _add_population(rng, weight, groups, outputs)
    stride, dilation = ((int(rng.integers(1, 3)), int(rng.integers(1, 3))) for _ in range(2))
    reach = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
    padding = (int(rng.integers(0, reach[0] + 1)), int(rng.integers(0, reach[1] + 1)))
    pool = (int(rng.integers(1, 3)), 1)
    height, width = (reach[axis] + int(rng.integers(1, 6)) for axis in range(2))
    shape = (groups * inputs, height * pool[0], width)
    if groups == 1 and rng.random() < 0.2:
        whole = np.zeros((outputs, inputs, height, width), np.int32)
        whole[:, :, : size[0], : size[1]] = weight
        return Dense(whole.reshape(outputs, -1), None, pool), shape
    return Conv(weight, None, stride, padding, dilation, groups, pool), shape


def _add_population(rng: Drawn, weight: Array, groups: int, outputs: int) -> None:
    """Write a block of weights, or single ones, into the same rows and columns of each of some groups."""
    _, inputs, *size = weight.shape
    rows = np.unique(rng.integers(0, outputs, int(rng.integers(1, outputs + 1))))
    columns = np.unique(rng.integers(0, inputs, int(rng.integers(1, inputs + 1))))
    corner = [int(rng.integers(0, k)) for k in size]
    ends = [int(rng.integers(first + 1, k + 1)) for first, k in zip(corner, size, strict=True)]
    is_dense = bool(rng.integers(0, 2))
    for group in range(int(rng.integers(1, groups + 1))):
        own = weight[group * outputs : (group + 1) * outputs]
        if is_dense:
            window = own[np.ix_(rows, columns, range(corner[0], ends[0]), range(corner[1], ends[1]))]
            block = rng.integers(-127, 128, window.shape)
            own[np.ix_(rows, columns, range(corner[0], ends[0]), range(corner[1], ends[1]))] = block
        else:
            count = min(len(rows), len(columns))
            own[rows[:count], columns[:count], corner[0], corner[1]] = rng.integers(1, 128, count)


@given(case=lowered(), seed=st.integers(0, 10**6))
@settings(max_examples=120, deadline=None)
def test_every_division_equals_int64(case: tuple[Synapse, Shape], seed: int) -> None:
    """By bytes and by float32, whether it pays or not."""
    synapse, shape = case
    weight, geometry = as_convolution(synapse, shape)
    maps, size = pooled_maps(shape, synapse.pool), ((*synapse.output_shape(shape), 1, 1)[1:3])
    rng = np.random.default_rng(seed)
    inputs = rng.integers(0, math.prod(synapse.pool) + 1, (2, *maps)).astype(np.uint8)
    unpooled = as_conv(weight, geometry)
    expected = np.stack([oracle.current(unpooled, image) for image in inputs.transpose(0, 3, 1, 2)])
    for structure in structures_of(weight, geometry):
        is_dense = isinstance(synapse, Dense)
        for largest_input in (2, None):
            divided = SplitConvolution(
                structure, geometry.stride, maps, size, largest_input=largest_input, covers_map=is_dense
            )
            # The second time by bytes alone.
            for found in (divided(inputs), divided(inputs)):
                assert found.dtype == np.float32
                assert np.array_equal(found.transpose(0, 3, 1, 2), expected)


def as_conv(weight: Array, geometry: Geometry) -> Conv:
    return Conv(weight, None, *geometry)


@given(case=lowered(), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_currents_of_real_numbers_differ_by_rounding_alone(case: tuple[Synapse, Shape], seed: int) -> None:
    synapse, shape = case
    rng = np.random.default_rng(seed)
    synapse = replace(synapse, weight=synapse.weight * rng.uniform(0.5, 1, synapse.weight.shape))
    with mock.patch.object(kernel_structure, "_WORTH_IT", math.inf):
        currents = Currents(synapse, shape, averages=True, takes_spikes=True)
    inputs = rng.integers(0, math.prod(synapse.pool) + 1, (5, *pooled_maps(shape, synapse.pool))).astype(np.uint8)
    found = currents(inputs)
    with mock.patch.object(kernel_structure, "_WORTH_IT", 0):
        whole = Currents(synapse, shape, averages=True, takes_spikes=True)
    # Weights of up to 127, at most 14 x 3 x 3 of them on inputs of up to 2: float32 rounds to 2^-8 at 2^15.
    assert found == pytest.approx(whole(inputs), rel=1e-5, abs=1e-3)
    assert np.array_equal(currents(inputs), found)


def residual_block(channels: int, stride: int) -> tuple[Conv, Conv]:
    """Its two levels: [conv | relay of x], and [conv, skip], which is an identity or a 1 x 1 shortcut."""
    rng = np.random.default_rng(0)
    inner = channels * stride
    first = np.zeros((inner + channels, channels, 3, 3), np.int32)
    first[:inner] = rng.integers(1, 128, (inner, channels, 3, 3))
    first[range(inner, inner + channels), range(channels), 1, 1] = 100
    second = np.zeros((inner, inner + channels, 3, 3), np.int32)
    second[:, :inner] = rng.integers(1, 128, (inner, inner, 3, 3))
    if stride == 1:
        second[range(inner), range(inner, inner + channels), 1, 1] = 90
    else:
        second[:, inner:, 1, 1] = rng.integers(1, 128, (inner, channels))
    return Conv(first, stride=(stride, stride), padding=(1, 1)), Conv(second, padding=(1, 1))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_residual_block_costs_its_convolutions_and_one_product_a_relay(
    monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    channels, size = 128, 8
    monkeypatch.setattr(kernel_structure, "cpu_features", lambda: frozenset({"avx2"}))
    first, second = residual_block(channels, stride)
    inner, pixels = channels * stride, (size // stride) ** 2
    found: list[int] = []
    monkeypatch.setattr(
        module,
        "SplitConvolution",
        lambda structure, stride, maps, size, **_: found.append(math.prod(size) * multiply_adds(structure)),
    )
    Currents(first, (channels, size, size), averages=False, takes_spikes=True)
    Currents(second, first.output_shape((channels, size, size)), averages=False, takes_spikes=True)
    skip = inner if stride == 1 else inner * channels
    assert found == [pixels * (9 * inner * channels + channels), pixels * (9 * inner * inner + skip)]


def multiply_adds(structure: Structure) -> int:
    """Multiply-adds per output position."""
    return sum(part.weight.size for part in structure.parts) + len(structure.taps.weights)


def test_populations_that_share_no_channels_are_the_groups_of_one_convolution() -> None:
    rng = np.random.default_rng(0)
    weight = np.zeros((12, 20, 3, 3), np.int32)
    for group in range(4):
        weight[3 * group : 3 * group + 3, 5 * group : 5 * group + 5] = rng.integers(1, 128, (3, 5, 3, 3))
    found = next(structures_of(weight, Geometry((1, 1), (1, 1), (1, 1), 1)))
    assert [part.geometry.groups for part in found.parts] == [4]
    assert multiply_adds(found) == 12 * 5 * 9


def test_relays_beside_grouped_channels_are_taken_out() -> None:
    """Depthwise 3 x 3 in the first groups, relays in the others."""
    weight = np.zeros((10, 1, 3, 3), np.int32)
    weight[:6] = np.random.default_rng(0).integers(1, 128, (6, 1, 3, 3))
    weight[6:, 0, 1, 1] = 50
    found = next(structures_of(weight, Geometry((2, 2), (1, 1), (1, 1), 10)))
    assert [part.geometry.groups for part in found.parts] == [6]
    assert multiply_adds(found) == 6 * 9 + 4


RATES = [1300.0, 45.0]


@pytest.mark.parametrize("rate", RATES)
def test_dense_kernels_and_small_layers_stay_whole(rate: float) -> None:
    rng = np.random.default_rng(0)
    dense = rng.integers(-127, 128, (64, 64, 3, 3))
    few_relays = dense.copy()
    few_relays[:3] = 0
    few_relays[range(3), range(3), 1, 1] = 100
    pruned = dense * (rng.random(dense.shape) < 0.5)
    geometry = Geometry((1, 1), (1, 1), (1, 1), 1)
    depthwise = rng.integers(1, 128, (64, 1, 3, 3))
    depthwise[32:] = 0
    depthwise[32:, 0, 1, 1] = 100
    for weight, own in (
        (dense, geometry), (few_relays, geometry), (pruned, geometry), (depthwise, geometry._replace(groups=64)),
    ):  # fmt: skip
        found = kernel_structure.worthwhile_structure(weight, own, (16, 16), (16, 16), rate=rate, is_integer=True)
        assert found is None


def test_dead_channels_alone_do_not_change_how_real_numbers_are_summed() -> None:
    """As a network with channels that never fire has been converted, so it is."""
    weight = np.random.default_rng(0).normal(size=(64, 64, 3, 3))
    weight[::2] = 0
    weight[:, 1::3] = 0
    for is_integer in (False, True):
        found = kernel_structure.worthwhile_structure(
            weight, Geometry((1, 1), (1, 1), (1, 1), 1), (8, 8), (8, 8), rate=RATES[1], is_integer=is_integer
        )
        assert (found is not None) == is_integer
