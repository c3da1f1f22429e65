"""The work of relays in a run: their neurons, spikes and synaptic operations, separate from all other neurons.

`ref` counts spikes by channel, but synaptic operations only by layer. The operations of a relay channel are computed as
its spikes x the mean fan-out of its neurons. That is exact if all neurons of the channel have the same fan-out: where a
skip enters a sum, or passes one more layer, pixel by pixel. Otherwise it is an estimate, for example for a relay before
a padded kernel: neurons at the border have fewer synapses.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.backends.result import RunResult
from loihi_convert.external import AnyNetwork
from loihi_convert.external.cuba import CubaNetwork
from loihi_convert.ir.graded import GradedLayer
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.relays import relay_count


class RelayWork(NamedTuple):
    """The relays of each of L spiking layers.

    Parameters
    ----------
    neurons
        int64 ``(L,)``.
    spikes
        float64 ``(T, L)``, up to each step, summed over images; NaN in layers with relays if the run did not count
        spikes by channel.
    synaptic_operations
        The same for the synapses that these spikes reach.
    """

    neurons: Array
    spikes: Array
    synaptic_operations: Array


def relay_work(result: RunResult, network: AnyNetwork) -> RelayWork:
    """Return the work of the relays of ``network`` in a run."""
    counts = result.spike_counts.shape
    neurons, work = np.zeros(counts[2], np.int64), np.zeros((2, *counts[1:]))
    if isinstance(network, CubaNetwork):
        return RelayWork(neurons, *work)
    stored = network.stored if isinstance(network, QuantizedNetwork) else network
    layers: tuple[QuantizedLayer | GradedLayer, ...] = network.spiking_layers
    for index, (layer, fan_out) in enumerate(zip(layers, stored.fan_outs, strict=True)):
        if layer.relay_of is None or not relay_count(layer.relay_of):
            continue
        relays = layer.relay_of >= 0
        neurons[index] = relay_count(layer.relay_of) * math.prod(fan_out.shape[1:])
        if not result.channel_spikes:
            work[:, :, index] = np.nan
            continue
        spikes = result.channel_spikes[index][:, relays].cumsum(axis=0)
        reached = spikes @ fan_out[relays].reshape(len(spikes.T), -1).mean(axis=1)
        every = result.synaptic_operations[:, :, index].sum(axis=0).cumsum()
        work[:, :, index] = spikes.sum(axis=1), np.minimum(reached, every)
    return RelayWork(neurons, *work)


def known(value: float) -> float | None:
    """Return ``value``, or None if it is NaN, that is, not counted."""
    return None if math.isnan(value) else value
