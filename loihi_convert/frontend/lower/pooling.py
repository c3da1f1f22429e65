"""Average pooling: a linear map with a constant kernel.

Requires: any map.
Ensures: nonoverlapping windows stay a pooling before the map (`Window.pool`), which the simulation sums once for all
channels. It commutes with a pointwise convolution, which on one-pixel maps is a dense layer. Any other pooling becomes
a convolution of each channel with a constant kernel.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from loihi_convert.arrays import Shape
from loihi_convert.frontend.lower.linear import through
from loihi_convert.frontend.lower.value import Value
from loihi_convert.frontend.lower.window import Window, pooled_size
from loihi_convert.frontend.operations import AveragePool


def averaged(value: Value, pool: AveragePool, shape: Shape) -> Value:
    """Return ``value`` after ``pool``, of ``shape``."""
    channels, size = value.shape[0], (shape[1], shape[2])
    if pool.kernel == (1, 1) and pool.tiles:
        return value
    # With ceil_mode the last window may reach beyond the map.
    covers = size == pooled_size(value.size, pool.kernel)
    if pool.tiles and covers and all(term.window.is_pointwise and not term.window.is_dense for term in value.terms):
        window = replace(Window.identity(channels, size), pool=pool.kernel)
    else:
        kernel = np.full((channels, 1, *pool.kernel), pool.factor)
        window = Window(kernel, size, pool.stride, pool.padding, groups=channels)
    found = through(value, window)
    if size != (1, 1):
        return found
    return replace(found, terms=tuple(replace(term, window=_dense(term.window)) for term in found.terms))


def _dense(window: Window) -> Window:
    is_dense = window.is_pointwise and not window.is_channelwise and window.groups == 1
    return replace(window, is_dense=is_dense or window.is_dense)
