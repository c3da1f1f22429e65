"""The work that the circuit of stock neurons adds to a run, counted exactly from what the run recorded.

A run counts spikes, and the synapses of the next layer that they reach. For an image that is shown for T steps, the
circuit (`ir.neuron_model`, `backends.lava.stock_network`) adds, with P the smallest power of two >= T:

===================  ==================================================================================
steps                2P instead of T, because of the resets (`backends.lava.timing`)
neurons              R, which pass on the bit that switches the biases: one for each layer after the
                     first, up to the last layer with a bias. Each spikes in T steps.
synaptic operations  the soft resets: one for each spike of the network. In each of T steps, one for
                     each bias that is not 0, and one for each of the R neurons.
===================  ==================================================================================

Unless T is a power of two, neurons may also spike in steps T + 1 to P, which a run does not simulate. As long as u does
not wrap, their spikes and synaptic operations are at most P - T times those of

- the first layer in step T: without input, a neuron that is below its threshold stays there;
- all neurons of the other layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.backends.lava.timing import reset_interval, stock_interval
from loihi_convert.backends.result import RunResult
from loihi_convert.chip.energy import CircuitEvents
from loihi_convert.ir.quantized import QuantizedNetwork


@dataclass(frozen=True, eq=False)
class CircuitWork:
    """The work that the circuit of ``network`` adds to the run ``result``; see this module's docstring."""

    result: RunResult
    network: QuantizedNetwork

    @property
    def synaptic_operations(self) -> Array:
        """int64 ``(N, T)``: the circuit's synaptic operations in each of the steps 1..T."""
        stored = self.network.stored
        biases = sum(
            int(np.count_nonzero(np.broadcast_to(layer.bias.T, shape[::-1])))
            for layer, shape in zip(stored.layers, stored.shapes, strict=True)
            if layer.bias is not None
        )
        return np.asarray(self.result.spike_counts.sum(axis=2) + (biases + self._neurons))

    def events(self, timesteps: int) -> CircuitEvents:
        """Return the work for images shown for ``timesteps`` steps, mean over images."""
        spikes, operations = self._most_spikes_without_input(timesteps)
        further_steps = reset_interval(timesteps) - timesteps
        return CircuitEvents(
            steps=stock_interval(timesteps),
            neurons=self._neurons,
            spikes=self._neurons * timesteps,
            synaptic_operations=float(self.synaptic_operations[:, :timesteps].sum(axis=1).mean()),
            further_spikes=further_steps * spikes,
            further_synaptic_operations=further_steps * (operations + spikes),
        )

    @property
    def _neurons(self) -> int:
        """R."""
        return max((index for index, layer in enumerate(self.network.layers) if layer.bias is not None), default=0)

    def _most_spikes_without_input(self, timesteps: int) -> tuple[float, float]:
        """The most spikes in a step after ``timesteps``, and the synapses of the next layer that they reach."""
        first_layer, others = np.s_[:, timesteps - 1, :1], self.network.fan_outs[1:]
        spikes = float(self.result.spike_counts[first_layer].sum(axis=1).mean())
        operations = float(self.result.synaptic_operations[first_layer].sum(axis=1).mean())
        return spikes + sum(fan_out.size for fan_out in others), operations + sum(int(one.sum()) for one in others)
