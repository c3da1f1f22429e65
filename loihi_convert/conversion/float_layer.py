"""One layer in floating point, and its rounding to integers at a given scale.

One unit of a channel's potential stands for ``m_k = s_k x``, where s_k is the real value of one weight unit and x the
real value of one input unit: 1 / (2^p - 1) for a p-bit pixel, 1 for a spike, each divided by ``k_h k_w`` after a
pooling, which sums in integers. Then::

    w_q = round(w a / s_k)    theta_q = round(theta / m_k)    b_q = round(b / m_k)    v0_q = floor(theta_q v0 / theta)

with ``a`` the amplitude of the input channel, taken from that channel's threshold *after* rounding.

A relay (`ir.relays`) has ``w_q = theta_q``, a power of two where it can be chosen freely. Its scale is then
``a / theta_q``, without rounding, so that the integers represent the repeated amplitude exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from loihi_convert.arrays import Array, by_channel
from loihi_convert.chip import limits
from loihi_convert.ir.network import SpikingLayer
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer
from loihi_convert.ir.relays import is_relay
from loihi_convert.ir.rounding import rounded
from loihi_convert.ir.synapse import Synapse

_HUGE: Final = 2.0**30


def excessive_bias(synapse: Synapse) -> float:
    """Return the largest magnitude of a bias if it exceeds the sum of any channel's weights, otherwise 0.

    It then takes more of a potential's range than inputs of 1 can.
    """
    sums = np.abs(synapse.weight).reshape(synapse.channels, -1).sum(axis=1)
    largest = 0.0 if synapse.bias is None else float(np.abs(synapse.bias).max())
    return largest if largest > sums.max() else 0.0


@dataclass(frozen=True, eq=False)
class FloatLayer:
    """A layer before rounding.

    Parameters
    ----------
    layer
        The layer.
    synapse
        Its synapse, with the amplitudes of the layer before as factors.
    largest_input
        Largest integer of one input: 2^p - 1 for p-bit pixels, 1 for spikes.
    largest_weight
        Largest integer weight, for example 127 for 8 bits.
    one_scale
        Whether all channels must have the same scale, as classes do, whose outputs are compared.
    """

    layer: SpikingLayer
    synapse: Synapse
    largest_input: int
    largest_weight: int
    one_scale: bool

    @property
    def unit(self) -> float:
        """x: the real value of one input unit."""
        return 1.0 / math.prod(self.synapse.pool) / self.largest_input

    @property
    def is_alive(self) -> Array:
        """bool ``(C,)``: which channels can fire, or integrate."""
        neuron = self.layer.neuron
        return np.ones(self.synapse.channels, np.bool_) if neuron is None else np.isfinite(neuron.threshold)

    @property
    def threshold(self) -> Array:
        """float64 ``(C,)``: the thresholds, 0 for channels that can never fire or if the layer only integrates."""
        neuron = self.layer.neuron
        return np.zeros(self.synapse.channels) if neuron is None else np.where(self.is_alive, neuron.threshold, 0.0)

    @property
    def is_relay(self) -> Array:
        """bool ``(C,)``: which channels are relays that can fire."""
        return is_relay(self.layer.relay_of, self.synapse.channels) & self.is_alive

    @property
    def relay_weight(self) -> int:
        """Weight and threshold of relays with one threshold per channel: the largest power of two that fits a weight.

        The largest, because for target loihi2 all thresholds of a layer share one power of two.
        """
        return 1 << (self.largest_weight.bit_length() - 1)

    @property
    def magnitudes(self) -> Array:
        """float64 ``(C, n)``: the magnitudes of the weights."""
        return np.abs(self.synapse.weight).reshape(self.synapse.channels, -1)

    @property
    def largest_bias(self) -> Array:
        """float64 ``(C,)``: the largest bias magnitude of each channel."""
        bias = self.synapse.bias
        channels = self.synapse.channels
        return np.zeros(channels) if bias is None else np.abs(bias).reshape(channels, -1).max(axis=1)

    def quantize(self, scale: Array, *, is_scalar: bool = False) -> QuantizedLayer:
        """Return the layer in integers at ``scale``, float64 ``(C_out,)``: the s_k of this module's docstring.

        Relays have their own scales. ``is_scalar``: at these scales all thresholds are the same integer, see
        `scalar_threshold.py`.
        """
        synapse, neuron = self.synapse, self.layer.neuron
        alive, relays = self.is_alive, self.is_relay
        relay_weight = self._shared_threshold(scale) if is_scalar else self.relay_weight
        # The row of a relay holds one nonzero weight: the amplitude that it repeats.
        scale = np.where(relays, self.magnitudes.max(axis=1) / relay_weight, scale)
        potential_unit = scale * self.unit
        # The weights of a dead channel are 0: it costs nothing and its potential stays constant.
        rows = synapse.weight.reshape(synapse.channels, -1)
        weight = rounded(rows, np.where(alive, scale, np.inf), self.largest_weight).astype(np.int32)
        weight = weight.reshape(synapse.weight.shape)
        bias = synapse.bias
        if bias is not None:
            per_channel = by_channel(np.where(alive, potential_unit, np.inf), bias.ndim)
            # Far beyond what Loihi holds, and refused by the exactness rules, instead of wrapped.
            bias = np.rint(np.clip(bias / per_channel, -_HUGE, _HUGE)).astype(np.int32)
        integers = None
        if neuron is not None:
            finite = np.where(alive, neuron.threshold, 1.0)
            threshold = np.where(alive, np.maximum(np.rint(finite / potential_unit), 1), limits.NEVER_FIRES)
            threshold = np.where(relays, relay_weight, threshold)
            if is_scalar:
                # A dead channel gets the threshold of the others: its weights and bias are 0.
                threshold = np.full_like(threshold, threshold.min())
            initial = initial_integers(threshold, neuron.initial_potential / finite)
            integers = IntegerNeuron(threshold.astype(np.int32), initial)
        return QuantizedLayer(
            name=self.layer.name,
            synapse=replace(synapse, weight=weight, bias=bias),
            neuron=integers,
            scale=potential_unit,
            largest_input=self.largest_input,
            balanced=neuron,
            correction=self.layer.correction,
            relay_of=self.layer.relay_of,
        )

    def _shared_threshold(self, scale: Array) -> int:
        """The common threshold at the scales of `scalar_threshold`; that of relays if all channels are relays."""
        own = self.is_alive & ~self.is_relay
        if not own.any():
            return self.relay_weight
        return int(max(1, np.rint(self.threshold[own] / (scale[own] * self.unit)).min()))


def initial_integers(threshold: Array, share: Array) -> Array:
    """Return the initial potentials ``floor(threshold x share)`` for integer thresholds: int32 ``(C,)``."""
    return np.asarray(np.floor(threshold * share), np.int32)
