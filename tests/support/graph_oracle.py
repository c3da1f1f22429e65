"""A lowered graph in int64 without relays: each population integrates the spikes of its input populations.

The integers are those of the quantized layers that contain the populations. The value of a relay is looked up in the
map of its source, see `levels.Sample`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loihi_convert.backends.result import RunResult
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedNetwork
from loihi_convert.lowering.chain import Chain
from loihi_convert.lowering.levels import Sample
from loihi_convert.lowering.value import IMAGE
from support import oracle


@dataclass(eq=False)
class _State:
    """The neurons of one population: V (or u of the circuit) and the last step's spikes, int64 ``(C, H, W)``."""

    channels: Array
    neuron: IntegerNeuron | None
    v: Array
    fired: Array


@dataclass(frozen=True, eq=False)
class GraphOracle:
    """Runs `chain`'s graph of populations with the integers of ``network``."""

    chain: Chain
    network: QuantizedNetwork

    def assert_equal(self, images: Array, result: RunResult, timesteps: int) -> int:
        """Check every potential and spike of the traced ``result``; return the number of compared spikes."""
        compared = 0
        for index, image in enumerate(images):
            states = self._start()
            for step in range(timesteps):
                maps = {IMAGE: oracle.first_signal(self.network, image, index, step)}
                for level, layer in enumerate(self.network.layers, 1):
                    arrived = oracle.current(layer.synapse, self._gathered(level - 1, maps))
                    trace = result.traces[level - 1]
                    for number in self.chain.levels.on(level):
                        state = states[number]
                        potential = self._step(state, arrived[state.channels])
                        shape = self.chain.levels.populations[number].shape
                        maps[number] = state.fired.reshape(shape)
                        assert np.array_equal(trace.potentials[index, step][state.channels], potential), (level, step)
                        if trace.spikes is not None:
                            found = trace.spikes[index, step][state.channels]
                            assert np.array_equal(found, state.fired), (level, step)
                            compared += int(state.fired.sum())
                    self._assert_relays(level, maps, trace.potentials[index, step], trace.spikes, (index, step))
        return compared

    def _start(self) -> dict[int, _State]:
        states = {}
        unit = 1 if self._is_circuit else oracle.UNIT[self.network.reset]
        for number, population in enumerate(self.chain.levels.populations):
            level = self.chain.levels.of[number]
            layer, shape = self.network.layers[level - 1], self.network.shapes[level - 1]
            places = {
                sample.channel: k for k, sample in enumerate(self.chain.channels[level]) if sample.source == number
            }
            channels = np.array([places[channel] for channel in range(population.shape[0])])
            neuron, v = None, np.zeros((len(channels), *shape[1:]), np.int64)
            if layer.neuron is not None:
                initial = layer.neuron.initial_potential[channels]
                neuron = IntegerNeuron(layer.neuron.threshold[channels], initial)
                # The circuit compares with a lower level instead.
                v = v if self._is_circuit else v + oracle.per_channel(initial, v.ndim) * unit
            states[number] = _State(channels, neuron, v, np.zeros_like(v))
        return states

    def _step(self, state: _State, arrived: Array) -> Array:
        """Run one step; return the potentials."""
        if self._is_circuit:
            state.v, state.fired, potential, _ = oracle.integrated_by_circuit(
                state.v, state.fired, arrived, state.neuron, leaks=False
            )
            return potential
        state.v, fires = oracle.integrated(state.v, arrived, state.neuron, self.network.reset)
        state.fired = np.zeros_like(state.v) if fires is None else fires.astype(np.int64)
        return state.v // oracle.UNIT[self.network.reset]

    @property
    def _is_circuit(self) -> bool:
        return self.network.target == "loihi2"

    def _gathered(self, level: int, maps: dict[int, Array]) -> Array:
        """Return the channels of a level, each looked up at its source."""
        return np.stack([self._looked_up(level, sample, maps) for sample in self.chain.channels[level]])

    def _looked_up(self, level: int, sample: Sample, maps: dict[int, Array]) -> Array:
        """Return ``x[channel, r_h i + top, r_w j + left]``, with 0 outside x."""
        source, levels = maps[sample.source][sample.channel], self.chain.levels
        (height, width), cell = levels.size(level), levels.cell(level, sample.source)
        rows, columns = np.arange(height) * cell[0] + sample.top, np.arange(width) * cell[1] + sample.left
        inside = [
            (places >= 0) & (places < extent) for places, extent in zip((rows, columns), source.shape, strict=True)
        ]
        found = source[np.ix_(np.where(inside[0], rows, 0), np.where(inside[1], columns, 0))]
        return np.asarray(found * (inside[0][:, None] & inside[1]))

    def _assert_relays(
        self, level: int, maps: dict[int, Array], potentials: Array, spikes: Array | None, place: tuple[int, int]
    ) -> None:
        """Check that a relay fires with the neuron it represents, and that its potential stays at its initial value."""
        neuron = self.network.layers[level - 1].neuron
        for channel, sample in enumerate(self.chain.channels[level]):
            if self.chain.levels.of[sample.source] != level:
                assert spikes is not None
                assert neuron is not None
                wanted = self._looked_up(level, sample, maps).reshape(spikes.shape[3:])
                assert np.array_equal(spikes[place][channel], wanted), (level, place, sample)
                assert (potentials[channel] == neuron.initial_potential[channel]).all(), (level, place, sample)
