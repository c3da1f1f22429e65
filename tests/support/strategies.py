"""Random networks and synapses for hypothesis, which shrinks a failure to a few small layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st

from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import Reset
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from support.networks import build_network, on_the_grids, random_conv, random_dense

Case: TypeAlias = tuple[QuantizedNetwork, Array]
"""A network and images for it, uint8 ``(N, C, H, W)``."""

INPUT_SHAPES = st.tuples(st.integers(1, 4), st.integers(5, 10), st.integers(5, 10))


class Drawn:
    """The choices of `support.networks`, made by hypothesis; array values come from a seed that it chooses."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def integers(self, low: int, high: int, size: Any = None) -> Any:
        if size is None and not isinstance(high, np.ndarray):
            return self._draw(st.integers(int(low), int(high) - 1))
        return self._numbers.integers(low, high, size)

    def random(self) -> float:
        # Reduced towards 1: without what happens with a probability.
        return 1 - self._draw(st.floats(0, 1, exclude_max=True, allow_subnormal=False))

    def uniform(self, low: float, high: float, size: Any = None) -> Any:
        return self._numbers.uniform(low, high, size)

    def choice(self, options: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(options))


@st.composite
def networks(draw: st.DrawFn, reset: Reset | None = None, takes_pixels: bool = False) -> Case:
    """Networks of 1 to 4 layers of any kind that satisfy the exactness rules, with three images each.

    ``reset`` excludes networks with another reset, and ``takes_pixels`` those with Poisson input.
    """
    poisson_seed = None if takes_pixels else draw(st.none() | st.integers(0, 100))
    return build_network(Drawn(draw), poisson_seed, 0, reset=reset)


@st.composite
def loihi2_networks(draw: st.DrawFn) -> Case:
    """The same for target loihi2, where some potentials wrap."""
    network, images = draw(networks())
    return on_the_grids(Drawn(draw), network), images


@st.composite
def synapses(draw: st.DrawFn) -> tuple[Conv | Dense, Shape]:
    """A convolution or a dense synapse, pooled or not, and the shape of its input."""
    shape = draw(INPUT_SHAPES)
    rng = Drawn(draw)
    return random_conv(rng, shape) if draw(st.booleans()) else random_dense(rng, shape), shape
