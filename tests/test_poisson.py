"""Poisson input: the rate, pixels 0 and 255, and that a spike depends only on seed, image and step."""

from __future__ import annotations

import numpy as np
import pytest

from loihi_convert.ir.quantized import poisson_spikes
from loihi_convert.simulation.currents import Inputs


def test_the_rate_is_the_pixel_and_0_and_255_are_certain() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    spikes = poisson_spikes(images, 0, 0, 0, 4000)
    assert spikes.shape == (1, 4000, 1, 16, 16)
    assert spikes.dtype == np.uint8
    rates = spikes[0].mean(axis=0).ravel()
    assert rates[0] == 0
    assert rates[255] == 1
    expected = np.arange(256) / 255
    # Each rate is binomial. That one of 254 rates is off by 5 standard deviations happens once in 7,000 seeds.
    assert (np.abs(rates - expected) <= 5 * np.sqrt(expected * (1 - expected) / 4000)).all()


def test_a_spike_depends_only_on_seed_image_and_step() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 2, 5, 7)).astype(np.uint8)
    whole = poisson_spikes(images, 7, 0, 0, 12)
    for first, last, begin, end in ((0, 9, 0, 5), (3, 6, 5, 12), (8, 9, 11, 12)):
        part = poisson_spikes(images[first:last], 7, first, begin, end - begin)
        assert np.array_equal(part, whole[first:last, begin:end])
    assert not np.array_equal(poisson_spikes(images, 8, 0, 0, 12), whole)
    assert not np.array_equal(poisson_spikes(images, 7, 1, 0, 12), whole)
    # Successive steps are independent: 630 pixels of rate about 1/2 in two steps.
    gray = np.full((9, 2, 5, 7), 127, np.uint8)
    first, second = poisson_spikes(gray, 7, 0, 0, 2).swapaxes(0, 1).reshape(2, -1).astype(float)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2


@pytest.mark.parametrize(("pool", "dtype"), [((15, 17), np.uint8), ((16, 16), np.float32)])
def test_the_spikes_of_a_window_are_bytes_only_if_they_fit(pool: tuple[int, int], dtype: type) -> None:
    white = np.full((1, 1, *pool), 255, np.uint8)
    found = Inputs(pool, poisson_seed=0)(white, 0, 0, 2)
    assert (found.dtype, found.ravel().tolist()) == (dtype, [pool[0] * pool[1]] * 2)


def test_the_stream_of_spikes_never_changes() -> None:
    """From Philox-4x64-10's first words for key (7, 0): later versions must run a file in the same way."""
    words = np.random.Philox(key=[7, 0], counter=[0, 0, 0, 0]).random_raw(4)
    numbers = [int(word) >> (16 * part) & 0xFFFF for word in words for part in range(4)]
    image = np.full((1, 1, 4, 4), 100, np.uint8)
    expected = [int(number * 255 // 65536 < 100) for number in numbers]
    assert poisson_spikes(image, 7, 0, 0, 1).ravel().tolist() == expected
    assert expected == [0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("pool", [(1, 1), (2, 2)])
def test_inputs(pool: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 6)).astype(np.uint8)

    def summed(maps: np.ndarray) -> np.ndarray:
        n, t, c, h, w = maps.shape
        windows = maps.reshape(n, t, c, h // pool[0], pool[0], w // pool[1], pool[1]).sum(axis=(4, 6))
        return windows.transpose(0, 1, 3, 4, 2)

    constant = Inputs(pool, None, pixel_bits=5)
    assert constant.is_constant
    found = constant(images, 0, 3, 7)
    assert np.array_equal(found, summed(np.rint(images / 255 * 31)[:, None]))
    real = Inputs(pool)(images, 0, 3, 7)
    assert real == pytest.approx(summed(images[:, None] / 255), rel=1e-6)
    spikes = Inputs(pool, 9, pixel_bits=8)(images, 5, 3, 7)
    assert spikes.dtype == np.uint8
    assert np.array_equal(spikes, summed(poisson_spikes(images, 9, 5, 3, 7)))
