"""The network in Loihi's integers and its layers, which is exported and run by every backend.

A network that Lava's CPU models would not compute exactly cannot be constructed. Arrays are read-only copies; shapes
are computed, not stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from loihi_convert.chip import limits, rules
from loihi_convert.chip.limits import TARGETS
from loihi_convert.errors import RangeError
from loihi_convert.ground.arrays import Array, Shape, freeze
from loihi_convert.ground.choices import MAX_SEED, MAX_TIMESTEPS, Granularity, Reset, Target
from loihi_convert.ir.network import (
    IntegrateAndFire,
    Spiking,
    is_positive,
    is_relay,
    relayed,
    require,
    require_numbers,
    require_relays,
)
from loihi_convert.ir.provenance import Provenance, as_provenance
from loihi_convert.ir.synapse import Dense, Synapse

MAX_NAME_LENGTH: Final = 400
"""Longest name of a layer, in characters."""


@dataclass(frozen=True, eq=False)
class IntegerNeuron:
    """Integrate-and-fire neurons in weight units: int arrays, each ``(C_out,)``.

    At each step ``V = clip(V + I, -131071, 131071); s = [V >= threshold]``, then soft reset. With hard reset the neuron
    is Lava's own LIF: it clips at +-131071.984375 (24 bits, 6 of them below 1) and fires where ``V > threshold - 1``.

    Parameters
    ----------
    threshold
        1..131072; 131072 never fires.
    initial_potential
        0..threshold - 1.
    """

    threshold: Array
    initial_potential: Array

    def __post_init__(self) -> None:
        freeze(self, "threshold", "initial_potential")


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """One layer in Loihi's integers.

    Parameters
    ----------
    name
        The module's name in the CNN.
    synapse
        Integer weights and biases; pooling *sums* (the factor 1 / (k_h k_w) of the average is in ``scale``).
    neuron
        ``None`` for a last layer that only integrates.
    scale
        ``(C_out,)``, float64: real potential = integer potential x scale.
    largest_input
        Largest value of one input: 2^p - 1 for p-bit pixels, 1 for spikes.
    balanced
        The floating-point neurons that ``neuron`` was rounded from; ``None`` without neurons.
    correction
        As in `SpikingLayer`, in floating point.
    relay_of
        As in `ReluLayer`. A relay's only weight equals its threshold, so that it repeats every spike exactly.
    low_bits
        For a last layer stored in two digits: bits of the low digit, see `split`; 0 otherwise.
    offset
        For the outputs of a regression: what is added to each after the run, in floating point, so that potentials need
        to hold only the deviation from it: float64 ``(C_out,)``.
    """

    name: str
    synapse: Synapse
    neuron: IntegerNeuron | None
    scale: Array
    largest_input: int = 1
    balanced: IntegrateAndFire | None = None
    correction: Array | None = None
    relay_of: Array | None = None
    low_bits: int = 0
    offset: Array | None = None

    def __post_init__(self) -> None:
        freeze(self, "scale", "correction", "relay_of", "offset")
        require_relays(self.name, self.synapse, self.relay_of)

    @property
    def weight(self) -> Array:
        return self.synapse.weight

    @property
    def bias(self) -> Array | None:
        return self.synapse.bias

    @property
    def threshold(self) -> Array | None:
        return None if self.neuron is None else self.neuron.threshold

    @property
    def initial_potential(self) -> Array | None:
        return None if self.neuron is None else self.neuron.initial_potential

    @property
    def used_amplitude(self) -> Array | None:
        """The amplitude, scaled as the threshold was by rounding: float64 ``(C_out,)``; ``None`` without neurons.

        0 for channels that can never fire. For a relay see `QuantizedNetwork.used_amplitudes`.
        """
        if self.neuron is None or self.balanced is None:
            return None
        alive = np.isfinite(self.balanced.threshold)
        share = self.neuron.threshold * self.scale / np.where(alive, self.balanced.threshold, 1.0)
        return np.where(alive, self.balanced.amplitude * share, 0.0)

    @property
    def stored(self) -> QuantizedLayer:
        """The layer as it is stored: the digits of a last layer that has two (`split`), otherwise itself."""
        if not self.low_bits:
            return self
        if self.neuron is not None or not 1 <= self.low_bits <= MAX_LOW_BITS or not isinstance(self.synapse, Dense):
            expected = f"must be in 1..{MAX_LOW_BITS}, in a dense layer without neurons"
            raise RangeError(f"found {self.low_bits} low bits", where=self.name, expected=expected)
        return replace(
            self,
            synapse=split(self.synapse, self.low_bits),
            scale=np.concatenate([self.scale * (1 << self.low_bits), self.scale]),
            correction=None,
            low_bits=0,
            offset=None,
        )

    @property
    def largest_input_sum(self) -> int:
        """The largest sum that a weight is multiplied by: of a pooling window, or of one input."""
        return math.prod(self.synapse.pool) * self.largest_input

    @property
    def largest_synaptic_current(self) -> int:
        """An upper bound on every partial sum of the weighted inputs, for any image: sum of |w| x largest input."""
        per_channel = np.abs(self.weight.astype(np.int64)).reshape(self.synapse.channels, -1).sum(axis=1)
        return int(per_channel.max()) * self.largest_input_sum

    @property
    def largest_current(self) -> int:
        """`largest_synaptic_current` plus the largest bias."""
        bias = 0 if self.bias is None else int(np.abs(self.bias.astype(np.int64)).max(initial=0))
        return self.largest_synaptic_current + bias


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedNetwork(Spiking[QuantizedLayer]):
    """A network in Loihi's integers; raises an error if it breaks an exactness rule of `chip.rules`.

    Parameters
    ----------
    input_shape
        ``(C, H, W)``.
    layers
        In order; only the last one may be without neurons.
    timesteps
        The latency T the thresholds were balanced for.
    max_timesteps
        Largest T for which the output potentials of the calibration images stay in range. If the last layer has
        neurons, which keep potentials in range: `MAX_TIMESTEPS`. With target ``loihi2``: ``timesteps``.
    pixel_bits
        p, 1..8: pixels enter as integers 0..2^p - 1. Always 8 with Poisson input.
    reset
        ``"soft"`` or ``"hard"``.
    provenance
        How it was made.
    poisson_seed
        As in `SpikingNetwork`.
    target
        ``"lava"``, or ``"loihi2"``: the network also satisfies the rules in `chip.rules`, and reset is soft.
    thresholds
        ``"channel"``; or ``"scalar"``: all channels of a layer have the same threshold, and the file holds it once.
    """

    input_shape: Shape
    layers: tuple[QuantizedLayer, ...]
    timesteps: int
    max_timesteps: int
    pixel_bits: int
    reset: Reset
    provenance: Provenance = field(default_factory=Provenance)
    poisson_seed: int | None = None
    target: Target = "lava"
    thresholds: Granularity = "channel"

    def __post_init__(self) -> None:
        object.__setattr__(self, "provenance", as_provenance(self.provenance))
        bits, most = self.pixel_bits, limits.MAX_PIXEL_BITS
        require(1 <= bits <= most, "pixel_bits", f"found {bits}", f"must be in 1..{most}")
        seed = self.poisson_seed
        require(seed is None or 0 <= seed <= MAX_SEED, "poisson_seed", f"found {seed}", f"must be in 0..{MAX_SEED}")
        is_fit = self.poisson_seed is None or bits == most
        require(is_fit, "pixel_bits", f"found {bits} for Poisson input", f"must be {most}")
        found = f"found {self.timesteps} with max_timesteps {self.max_timesteps}"
        expected = f"must be in 1..max_timesteps, which is at most {MAX_TIMESTEPS:,}"
        require(1 <= self.timesteps <= self.max_timesteps <= MAX_TIMESTEPS, "timesteps", found, expected)
        is_fit, expected = not self.is_circuit or self.reset == "soft", "must be soft, the reset of the circuit"
        require(is_fit, "reset", f"found 'hard' with target {self.target}", expected)
        kept = (
            *rules.EXACTNESS_RULES,
            *(rules.LIF_RULES if self.reset == "hard" else ()),
            *(rules.CHIP_RULES if self.is_circuit else ()),
            *(rules.SCALAR_RULES if self.thresholds == "scalar" else ()),
        )
        require(bool(self.layers), "layers", "found no layers", "must be at least one")
        for index, layer in enumerate((*self.layers[:-1], self.layers[-1].stored)):
            require_name(layer.name)
            most = 1 if index else largest_pixel(self.poisson_seed, self.pixel_bits)
            require(layer.largest_input == most, layer.name, f"largest_input {layer.largest_input}", f"must be {most}")
            _require_numbers(layer)
            for rule in kept:
                if broken := rule(layer):
                    raise RangeError(f"breaks the rule '{rule.__name__.replace('_', ' ')}': {broken}", where=layer.name)
        names = [layer.name for layer in self.layers]
        for name in names:
            require(names.count(name) == 1, name, "found in two layers", "must be the name of one layer")
        for layer in self.layers[:-1]:
            last = "unless it is the last layer"
            require(not layer.low_bits, layer.name, f"has {layer.low_bits} low bits", f"must have none {last}")
            require(layer.neuron is not None, layer.name, "has no neurons", f"must have neurons {last}")
            require(layer.offset is None, layer.name, "has an offset", f"must have none {last}")
        _require_numbers(self.layers[-1])
        self._require_exact_relays()
        require(len(self.shapes[-1]) == 1, names[-1], "is a convolution", "must be dense, as the last layer")

    def _require_exact_relays(self) -> None:
        """Each relay fires exactly when its source does: its weight is its threshold, or 0 if both never fire."""
        for index, layer in enumerate(self.layers):
            relays = np.flatnonzero(is_relay(layer.relay_of, layer.synapse.channels))
            if not relays.size:
                continue
            require(index > 0, layer.name, "has relays", "must have none: its inputs are pixels")
            require(index < len(self.layers) - 1, layer.name, "has relays", "must have none: it is the last layer")
            assert layer.relay_of is not None
            assert layer.threshold is not None
            rows, repeats = layer.weight[relays].reshape(relays.size, -1), layer.relay_of[relays]
            for channel, weight, threshold in zip(relays, rows.sum(axis=1), layer.threshold[relays], strict=True):
                found = f"weight {weight} of channel {channel}, whose threshold is {threshold}"
                require(weight in (0, threshold), layer.name, found, "a relay's weight must equal its threshold")
            sources = self.layers[index - 1].synapse.channels
            if isinstance(layer.synapse, Dense):
                taps = rows.argmax(axis=1) // max(1, rows.shape[1] // sources)
                repeats = np.where(rows.any(axis=1), taps, repeats)
            is_source = np.array_equal(repeats, layer.relay_of[relays]) and repeats.max() < sources
            expected = f"must be one of the {sources} channels of the layer before, at the relay's only weight"
            require(is_source, layer.name, "a relay does not repeat the channel given in relay_of", expected)

    @property
    def is_circuit(self) -> bool:
        """Whether its neurons are the circuit of stock neurons, whose potentials wrap; see `ir.neuron_model`."""
        return TARGETS[self.target].is_circuit

    @property
    def low_bits(self) -> int:
        """Bits of the low digit of the output potentials, which are joined after a run; 0 if they are not split."""
        return self.layers[-1].low_bits

    @property
    def stored(self) -> QuantizedNetwork:
        """The network as stored in a file and on a chip: a two-digit readout has two stored outputs per output."""
        return self if not self.low_bits else replace(self, layers=(*self.layers[:-1], self.layers[-1].stored))

    def has_constant_current(self, index: int) -> bool:
        """Whether the neurons of layer ``index`` get the same current in every step: pixels that are not spikes."""
        return index == 0 and self.poisson_seed is None

    def real_outputs(self, outputs: Array, timesteps: int | Array) -> Array:
        """Return `RunResult.outputs`, read after ``timesteps``, in the CNN's units: x `output_scale` / T + offset."""
        offset = self.layers[-1].offset
        found = np.asarray(outputs * self.output_scale / timesteps)
        return found if offset is None else found + offset

    @property
    def output_scale(self) -> Array:
        """Value of one unit of each output, potential or spike count, in the CNN's units: float64 ``(outputs,)``."""
        last = self.layers[-1]
        return last.scale * (1 if last.threshold is None else last.threshold)

    @property
    def used_amplitudes(self) -> tuple[Array | None, ...]:
        """`QuantizedLayer.used_amplitude` of each layer; that of a relay is exactly its source's."""
        found: list[Array | None] = []
        for layer in self.layers:
            used, before = layer.used_amplitude, found[-1] if found else None
            found.append(used if used is None or before is None else relayed(used, before, layer.relay_of))
        return tuple(found)

    @property
    def received_amplitudes(self) -> tuple[Array | None, ...]:
        """The used amplitude of each layer's inputs; None for pixels."""
        return (None, *self.used_amplitudes[:-1])

    @property
    def summary(self) -> str:
        """One line: architecture (see `Layered.architecture`), T, reset, target, and the task if not classification."""
        task = f", {self.task}" if self.task != "classification" else ""
        return f"{self.architecture}, T = {self.timesteps}, {self.reset} reset, for {self.target}{task}"

    def pixels(self, images: Array) -> Array:
        """Return uint8 images as the p-bit inputs of the network: round(image / 255 x (2^p - 1)), uint8."""
        return with_pixel_bits(images, self.pixel_bits)


def require_name(name: str) -> None:
    """Raise a `RangeError` unless ``name`` can be that of a layer."""
    # Names are printed in tables; a terminal would interpret control characters.
    is_fit, expected = name.isprintable() and 1 <= len(name) <= MAX_NAME_LENGTH, "printable characters"
    require(is_fit, "name of a layer", f"found {name[:20]!a}", f"must be 1..{MAX_NAME_LENGTH} {expected}")


def _require_numbers(layer: QuantizedLayer) -> None:
    """Raise a `RangeError` unless each array of the layer has one valid number per channel."""
    neuron, balanced = layer.neuron, layer.balanced
    numbers: list[tuple[str, Array | None, Callable[[Array], Array]]] = [
        ("scale", layer.scale, is_positive),
        ("correction", layer.correction, np.isfinite),
        ("offset", layer.offset, np.isfinite),
    ]
    if neuron is not None:
        # The exactness rules say what they must be.
        numbers += [("threshold", neuron.threshold, np.isfinite), ("V0", neuron.initial_potential, np.isfinite)]
    if balanced is not None:
        numbers += [
            ("balanced threshold", balanced.threshold, lambda values: values > 0),
            ("balanced amplitude", balanced.amplitude, lambda values: np.isfinite(values) & (values >= 0)),
            ("balanced V0", balanced.initial_potential, lambda values: (values >= 0) & (values < balanced.threshold)),
        ]
    require_numbers(layer.name, layer.synapse.channels, numbers)


def largest_pixel(poisson_seed: int | None, pixel_bits: int) -> int:
    """Return the input of a white pixel in one step: 2^pixel_bits - 1, or 1 with Poisson input."""
    return 2**pixel_bits - 1 if poisson_seed is None else 1


def with_pixel_bits(images: Array, pixel_bits: int) -> Array:
    """Return round(image / 255 x (2^pixel_bits - 1)) for uint8 images: uint8 of the same shape."""
    if pixel_bits == limits.MAX_PIXEL_BITS:
        return images
    # Ties cannot occur: 255 is odd.
    levels = 2**pixel_bits - 1
    return np.asarray((images.astype(np.uint16) * (2 * levels) + 255) // 510, np.uint8)


# Philox gives 4 words of 64 bits at each count; a pixel takes 16 bits.
_PIXELS_PER_COUNT: Final = 16


def poisson_spikes(images: Array, seed: int, first_image: int, first_step: int, steps: int) -> Array:
    """Return the Poisson spikes of ``images`` in consecutive steps: uint8 ``(N, steps, C, H, W)``, 0 or 1.

    In each time step t of image i, a pixel of value p (0..255) spikes with probability p / 255, independently of all
    others, as in Diehl et al. 2015 and Sengupta et al. 2019. Its rate is the value pixel / 255 that the CNN gets. The
    random numbers come from NumPy's counter-based generator Philox (Salmon et al., SC 2011), keyed by (seed, i) and
    counted from t. So `ref`, Lava's simulator and calibration see the same spikes for an image, whatever the batch. p
    spikes if floor(255 r / 65536), which is 0..254, is below p, for a 16-bit random number r: 0 never spikes,
    255 always does.

    Parameters
    ----------
    images
        uint8 ``(N, C, H, W)``.
    seed
        0..2^31 - 1.
    first_image
        Index of the first of ``images`` in the whole run, from 0.
    first_step
        Index of the first step, from 0.
    steps
        Number of steps.
    """
    pixels = math.prod(images.shape[1:])
    counts = -(-pixels // _PIXELS_PER_COUNT)
    spikes = np.empty((len(images), steps, pixels), np.uint8)
    for row, (image, found) in enumerate(zip(images, spikes, strict=True)):
        generator = np.random.Philox(key=[seed, first_image + row], counter=[first_step * counts, 0, 0, 0])
        # Each step starts at a whole count: its numbers do not depend on how many steps are drawn at once.
        words = generator.random_raw(steps * counts * 4).astype("<u8", copy=False)
        numbers = words.view("<u2").reshape(steps, -1)[:, :pixels].astype(np.uint32)
        np.less((numbers * 255) >> 16, image.reshape(1, -1), out=found.view(np.bool_))
    return spikes.reshape(len(images), steps, *images.shape[1:])


MAX_LOW_BITS: Final = 7
"""Largest b: the low digits then fit 8-bit weights."""


def split(synapse: Dense, low_bits: int) -> Dense:
    """Return the synapse as it is stored in two digits: the high digits of all outputs, then the low ones.

    An output potential grows over T steps and over all inputs (a whole map, after global average pooling) and must stay
    within +-131071. At T = 64 that leaves 2 or 3 bits for the weights. So each weight and bias w is split into::

        w = 2^b high + low        -2^(b-1) <= low < 2^(b-1)

    The file and the chip hold both populations, each with small weights and its own potential. Potentials are sums of
    weights, so the output is exactly ``V = 2^b V_high + V_low``.
    """
    base = 1 << low_bits
    bias = None if synapse.bias is None else _digits(synapse.bias, base)
    return replace(synapse, weight=_digits(synapse.weight, base), bias=bias)


def joined_digits(values: Array, low_bits: int) -> Array:
    """Return 2^b high + low for ``values`` whose last axis holds the high digits, then the low ones."""
    high, low = np.split(values, 2, axis=-1)
    return np.asarray(high * (1 << low_bits) + low)


def joined_synapse(synapse: Synapse, low_bits: int) -> Synapse:
    """Return the synapse whose digits are stored in ``synapse``, as read from a file."""
    weight, bias = synapse.weight, synapse.bias
    require(len(weight) % 2 == 0, "weight", f"found {len(weight)} outputs", "must be even: high and low digits")
    return replace(
        synapse,
        weight=joined_digits(weight.T, low_bits).T,
        bias=None if bias is None else joined_digits(bias, low_bits),
    )


def _digits(values: Array, base: int) -> Array:
    """High digits, then low digits, along the first axis: int32."""
    high = (values.astype(np.int64) + base // 2) // base
    return np.concatenate([high, values - high * base]).astype(np.int32)


# Candidate clipping points, as fractions of the largest weight.
_SHARES: Final = np.linspace(1.0, 0.3, 36)


def nearest_scales(weights: Array, largest: int) -> Array:
    """Return for each row of ``(channels, n)`` the scale s with the least squared error of ``s x rounded(weights, s)``.

    float64 ``(channels,)``; 0 where all weights are 0. With few bits one must choose between a coarse grid and a
    clipped tail: the scale of the largest weight, max |w| / ``largest``, clips nothing, but leaves others few levels.
    """
    peaks = np.abs(weights).max(axis=1, initial=0).astype(np.float64) / largest
    best, errors = peaks.copy(), np.full(len(weights), np.inf)
    for share in _SHARES:
        scales = share * peaks
        error = np.square(weights - rounded(weights, scales, largest) * scales[:, None]).sum(axis=1)
        is_better = error < errors
        best[is_better], errors[is_better] = scales[is_better], error[is_better]
    return np.asarray(best)


def rounded(weights: Array, scales: Array, largest: int) -> Array:
    """Return clip(round(weights / scales), -largest, largest) for ``(channels, n)``, 0 for scales of 0 or infinity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(scales[:, None] > 0, weights / scales[:, None], 0)
    return np.asarray(np.clip(np.rint(steps), -largest, largest))
