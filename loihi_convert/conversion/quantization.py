"""SpikingNetwork -> QuantizedNetwork: Loihi's integers.

Layers are rounded in order, because the weights of a layer contain the amplitudes of the layer before after rounding:
`scales.py` chooses the scales of a layer and rounds it.

Scales must leave room for currents and output potentials. For Lava, those of the integers are measured with the layers
after the first at their finest scales, which most of them keep. For Loihi 2, those of the float SNN are measured,
because there the range of the potentials decides every scale.

The outputs of a regression often lie far from 0 compared with their spread. An offset outside the integers then leaves
the potential's range to the spread. Two are tried: the CNN's bias, and the middle of the outputs on calibration images.
The mean error of rounding is added to both.

With hard reset and for target loihi2, currents or potentials of the first layer are bounded for every image; if it is
the only layer, its potentials add up T currents. Pixel bits can then be traded for weight bits: by default p is the
value whose currents are nearest to those in floating point.

**Two digits** (`with_split_readout`, `quantized.split`) are used if one potential's range would cost weight bits.

After a global average the potential must hold T x window x rate, and the scale of `scales.lava_scales` leaves 2 or 3
weight bits at T = 64. In two digits the weights have the scale at which rounding changes them least, or twice that,
four times and so on, if the potentials of the digits would otherwise leave their range, up to the scale in one digit.
The low digit has the number of bits b for which the larger of both potentials, on calibration images, is smallest. One
simulation gives the potentials of all candidates.

**Largest T** (`max_timesteps`). The output potential grows by the last layer's current in each step. Its size at the T
of balancing means little if T is small, because hardly any spikes have arrived by then. In the long run a soft-reset
neuron with mean current a fires at the rate ``min(a / theta, 1)``, so that the current tends to that of the network
with activations clipped at the thresholds. A neuron with hard reset loses charge at each spike: with constant current
it fires every ceil(theta / a) steps. As this may lower negative contributions more than positive ones, both rates
count. The largest of these growth rates counts, of each output on calibration images, with headroom.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.conversion.agreement import (
    calibration_subset,
    explained_share,
    overflow,
    real_outputs,
    require_calibration,
)
from loihi_convert.conversion.options import QuantizeOptions
from loihi_convert.conversion.scales import (
    FOR_LARGER_WEIGHTS,
    HEADROOM,
    FloatLayer,
    ObservedRange,
    chip_layer,
    lava_scales,
    nearest,
)
from loihi_convert.errors import RangeError, require_kind
from loihi_convert.ground.arrays import Array, by_channel
from loihi_convert.ground.choices import MAX_TIMESTEPS, Reset
from loihi_convert.ground.progress import progress_part
from loihi_convert.ir.network import IntegrateAndFire, ReluLayer, ReluNetwork, SpikingLayer, SpikingNetwork, relayed
from loihi_convert.ir.quantized import MAX_LOW_BITS, QuantizedLayer, QuantizedNetwork, largest_pixel, with_pixel_bits
from loihi_convert.ir.synapse import without_input_factors
from loihi_convert.simulation.currents import MAX_PIXEL
from loihi_convert.simulation.image_shards import DividedImages, ImageArray, Shard
from loihi_convert.simulation.relu import Activation, ReluChain, clipped, currents, on_blocks, unchanged
from loihi_convert.simulation.simulator import Extremes, extremes

# Images used to choose the pixel bits.
_SAMPLE: Final = 200


def quantize(
    network: SpikingNetwork,
    images: ImageArray,
    options: QuantizeOptions = QuantizeOptions(),
    *,
    device: str = "cpu",
) -> QuantizedNetwork:
    """Return ``network`` in Loihi's integers.

    Parameters
    ----------
    network
        From `balancing.balance`.
    images
        Calibration images, uint8 ``(N, C, H, W)``; `calibration_subset` chooses the scales. For target loihi2 all do:
        the lowest potential of 10,000 images is far below that of 500, and wrapping is worse than clipping.
    options
        Bits, target and thresholds: see `QuantizeOptions`.
    device
        As in `balancing.balance`.

    Raises
    ------
    DataError
        If the images are not uint8 of ``(N, *input_shape)`` with N >= 1.
    UsageError
        If an argument is of another type, the target does not support the network's reset, or pixel bits are given for
        Poisson input.
    RangeError
        If a number does not fit Loihi at any scale, or no output can spike with readout ``spikes``.
    """
    require_kind("network", network, SpikingNetwork, "must be what `balance` returns")
    require_kind("options", options, QuantizeOptions, "must be QuantizeOptions, such as QuantizeOptions(weight_bits=6)")
    require_calibration(network, images)
    options.require_neurons(network.reset, network.poisson_seed, network.readout)
    last = network.layers[-1]
    if last.neuron is not None and not np.isfinite(last.neuron.threshold).any():
        found = "no output is above 0 on any calibration image, so none would ever spike"
        raise RangeError(found, where=last.name, hint="Use `readout='potential'`.")
    used = images if options.is_circuit else calibration_subset(images, network.timesteps)
    quantizing = _Quantizing(used, options, device)
    if network.task == "classification":
        return quantizing(network)
    real = real_outputs(network, used, device=device)
    bias, middle = last.synapse.bias, (real.min(axis=0) + real.max(axis=0)) / 2
    tried, refused = [], []
    offsets = (np.zeros_like(middle) if bias is None else bias, middle)
    for index, offset in enumerate(offsets):
        try:
            with progress_part(index, len(offsets)):
                tried.append(quantizing.with_offset(network, offset, real))
        except RangeError as error:
            refused.append(error)
    if not tried:
        raise refused[0]
    return max(tried, key=lambda trial: trial[0])[1]


@dataclass(frozen=True, eq=False)
class _Quantizing:
    """`quantize` on exactly these images, without an offset."""

    images: ImageArray
    options: QuantizeOptions
    device: str

    def __call__(self, network: SpikingNetwork) -> QuantizedNetwork:
        return (self._for_loihi2 if self.options.is_circuit else self._for_lava)(network)

    def with_offset(self, network: SpikingNetwork, offset: Array, real: Array) -> tuple[float, QuantizedNetwork]:
        """Return the network without the part ``offset`` of its outputs, which is added outside, after the share of the
        variance of ``real``, the outputs of the float SNN, that it explains."""
        last = network.layers[-1]
        # Outputs beyond float32 have no middle.
        synapse = last.synapse.with_added_bias(-np.where(np.isfinite(offset), offset, 0.0))
        if synapse.bias is not None and not synapse.bias.any():
            synapse = replace(synapse, bias=None)
        shifted = replace(network, layers=(*network.layers[:-1], replace(last, synapse=synapse)))
        quantized = self(shifted)
        found = real_outputs(quantized, self.images, device=self.device)
        error = (real - found).mean(axis=0)
        error = np.where(np.isfinite(error), error, 0.0)
        readout = replace(quantized.layers[-1], offset=error)
        return explained_share(found + error, real), replace(quantized, layers=(*quantized.layers[:-1], readout))

    def _for_loihi2(self, network: SpikingNetwork) -> QuantizedNetwork:
        """Scales leave room for the currents and potentials of the float SNN."""
        found = extremes(network, self.images, network.timesteps, potentials=True, device=self.device)
        rounding = _Rounding(network, found, self.options)
        quantized = rounding.rounded(_pixel_bits(rounding, self.images))
        _require_weights(quantized.layers[-1], rounding.readout(quantized), network.timesteps)
        return quantized

    def _for_lava(self, network: SpikingNetwork) -> QuantizedNetwork:
        """Scales leave room for the currents and outputs of the integers, measured at the finest scales."""
        mean = np.asarray(self.images[:_SAMPLE]).mean(axis=0, keepdims=True) / MAX_PIXEL
        alone = replace(network, layers=(replace(network.layers[0], neuron=None),))
        # Constant currents are those of the first step.
        steps = 1 if network.poisson_seed is None else network.timesteps
        entering = extremes(alone, self.images, steps, device=self.device).currents[0]
        later = tuple(np.zeros(layer.synapse.channels) for layer in network.layers[1:])
        first = Extremes((entering, *later), np.zeros(network.layers[-1].synapse.channels))
        rounding = limited = _Rounding(network, first, self.options, mean)
        if len(network.layers) == 1:
            real = extremes(network, self.images, network.timesteps, device=self.device)
            limited = _Rounding(network, real, self.options, mean)
        quantized = rounding.rounded(_pixel_bits(limited, self.images))
        finest = extremes(quantized, self.images, network.timesteps, device=self.device)
        scales = [layer.scale for layer in quantized.layers]
        received = (current * scale for current, scale in zip(finest.currents[1:], scales[1:], strict=True))
        found = Extremes((entering, *received), finest.outputs * scales[-1])
        rounding = _Rounding(network, found, self.options, mean)
        layers = rounding.layers(quantized.layers[0].largest_input)
        longest = max_timesteps(network, layers[-1], found.outputs, self.images)
        quantized = replace(quantized, layers=layers, max_timesteps=longest)
        readout = rounding.readout(quantized)
        if self.options.split_readout and layers[-1].neuron is None:
            quantized = with_split_readout(quantized, readout, network, self.images, device=self.device)
        _require_weights(quantized.layers[-1], readout, network.timesteps)
        return quantized


def _require_weights(layer: QuantizedLayer, real: FloatLayer, timesteps: int) -> None:
    """Raise a `RangeError` if all weights are rounded to 0, or all those of an output that has its own scale."""
    rows = 1 if real.one_scale else real.synapse.channels
    lost = real.magnitudes.reshape(rows, -1).any(axis=1) & ~layer.weight.reshape(rows, -1).any(axis=1)
    if lost.any():
        of_output = "" if real.one_scale else f" of output {int(np.flatnonzero(lost)[0])}"
        found = f"all weights{of_output} are rounded to 0: its potentials after T = {timesteps} need the whole range"
        raise RangeError(found, where=layer.name, hint=FOR_LARGER_WEIGHTS)


class _Rounding:
    """The layers of a float SNN, each rounded after the one before it.

    ``mean``: the mean calibration image, float64 0..1 ``(1, *input_shape)``, see `with_mean_current`.
    """

    def __init__(
        self, network: SpikingNetwork, found: Extremes, options: QuantizeOptions, mean: Array | None = None
    ) -> None:
        # NaN, from infinity minus infinity, would not show in the largest potential.
        if not (np.abs([found.outputs, found.currents[-1]]) <= np.finfo(np.float32).max).all():
            raise overflow("its potential exceeds", network.layers[-1].name)
        self.network, self.found, self.options, self.mean = network, found, options, mean

    def rounded(self, pixel_bits: int) -> QuantizedNetwork:
        """Return the network for pixels of ``pixel_bits``; the largest T is the one it was balanced for."""
        network, options = self.network, self.options
        task = {} if network.task == "classification" else {"model": {"task": network.task}}
        record = {
            "weight_bits": options.weight_bits,
            "pixel_bits": pixel_bits,
            "headroom": HEADROOM,
            # Defaults are left out, so that files made by earlier versions stay identical, byte for byte.
            **({} if options.target == "lava" else {"target": options.target}),
            **({} if options.thresholds == "channel" else {"thresholds": options.thresholds}),
        }
        return QuantizedNetwork(
            input_shape=network.input_shape,
            layers=self.layers(largest_pixel(network.poisson_seed, pixel_bits)),
            timesteps=network.timesteps,
            max_timesteps=network.timesteps,
            pixel_bits=pixel_bits,
            reset=network.reset,
            poisson_seed=network.poisson_seed,
            target=options.target,
            thresholds=options.thresholds,
            # Of the CNN, its source records the rest.
            provenance=network.provenance.with_parts(**task, quantize=record),
        )

    def layers(self, white: int) -> tuple[QuantizedLayer, ...]:
        """Return all layers; ``white`` is a white pixel."""
        found: list[QuantizedLayer] = []
        amplitude: Array | None = None
        for index in range(len(self.network.layers)):
            layer = self.layer(index, 1 if found else white, amplitude)
            used = layer.used_amplitude
            amplitude = used if used is None or amplitude is None else relayed(used, amplitude, layer.relay_of)
            found.append(layer)
        return tuple(found)

    def layer(self, index: int, largest_input: int, amplitude: Array | None) -> QuantizedLayer:
        """Return layer ``index`` in integers; ``amplitude`` is that of the layer before, see `FloatLayer`."""
        network, layer, current = self.network, self.network.layers[index], self.found.currents[index]
        real = self._real(index, largest_input, amplitude)
        if self.options.is_circuit:
            held = None if index == 0 else ObservedRange(current, *self.found.potentials[index])
            is_constant = index == 0 and network.poisson_seed is None
            return chip_layer(real, held, network.timesteps, is_constant=is_constant)
        reach = HEADROOM * np.maximum(self.found.outputs if layer.neuron is None else current, 0)
        is_scalar = self.options.thresholds == "scalar"
        rounded = real.quantize(lava_scales(real, reach, network.reset, is_scalar=is_scalar), is_scalar=is_scalar)
        return rounded if index or self.mean is None else with_mean_current(rounded, real, self.mean, network.reset)

    def readout(self, quantized: QuantizedNetwork) -> FloatLayer:
        """Return the last layer of ``quantized`` before rounding."""
        last = len(quantized.layers) - 1
        return self._real(last, quantized.layers[-1].largest_input, quantized.received_amplitudes[-1])

    def _real(self, index: int, largest_input: int, amplitude: Array | None) -> FloatLayer:
        """Layer ``index`` before rounding; parameters as in `layer`."""
        network, layer = self.network, self.network.layers[index]
        synapse = layer.synapse if amplitude is None else layer.synapse.with_input_factors(amplitude)
        are_classes = index == len(network.layers) - 1 and network.task == "classification"
        largest_weight = 2 ** (self.options.weight_bits - 1) - 1
        return FloatLayer(layer, synapse, largest_input, largest_weight, one_scale=are_classes)


_NOTICED: Final = 0.02
"""Root mean square over channels, as a fraction of the threshold, up to which mean rounding errors stay as they are."""


def with_mean_current(layer: QuantizedLayer, real: FloatLayer, mean: Array, reset: Reset) -> QuantizedLayer:
    """Return the first layer with the mean current of ``real``, its layer before rounding.

    Pixels have one sign, so that where most are bright the errors of a channel's rounded weights add up to a constant
    current. Its bias takes that of the ``mean`` image, float64 0..1 ``(1, *input_shape)``, at each position if it has
    one for each, if they exceed `_NOTICED` (Nagel et al., ICCV 2019, section 4.2).
    """
    alive = real.is_alive
    if real.layer.neuron is None or not alive.any():
        return layer
    wanted = currents(real.synapse, mean, averages=True)[0]
    found = currents(layer.synapse, mean * layer.largest_input, averages=False)[0]
    per_channel = by_channel(layer.scale, wanted.ndim)
    excess = found - wanted / per_channel
    each = excess.reshape(len(excess), -1).mean(axis=1)
    if np.square((each * layer.scale)[alive] / real.threshold[alive]).mean() <= _NOTICED**2:
        return layer
    bias = np.zeros(len(each), np.int32) if layer.bias is None else layer.bias
    excess = excess if bias.ndim == excess.ndim else each
    limit = limits.BIAS_LIMIT if reset == "soft" else limits.LIF_BIAS_LIMIT
    settled = np.clip(bias - np.rint(excess), -limit, limit).astype(np.int32)
    bias = np.where(by_channel(alive, bias.ndim), settled, bias)
    return replace(layer, synapse=replace(layer.synapse, bias=bias))


def _pixel_bits(rounding: _Rounding, images: ImageArray) -> int:
    """The bits of a pixel: those of the options, or those for which the first layer's currents are nearest to those in
    floating point."""
    network, options, most = rounding.network, rounding.options, limits.MAX_PIXEL_BITS
    if network.poisson_seed is not None:
        return most
    is_single = len(network.layers) == 1
    if options.pixel_bits is not None or (network.reset == "soft" and not options.is_circuit and not is_single):
        # All bits cost no weight bits.
        return options.pixel_bits or most
    least, sample = 1 if options.is_circuit or is_single else 4, np.asarray(images[:_SAMPLE])
    real = currents(network.layers[0].synapse, sample / MAX_PIXEL, averages=True)
    # Outputs of a regression may have different units.
    is_output = is_single and network.task == "regression"
    variance = real.var(axis=0) + np.finfo(np.float32).tiny if is_output else np.ones(1)
    errors = {}
    for bits in range(most, least - 1, -1):
        try:
            quantized = rounding.layer(0, 2**bits - 1, None)
        except RangeError:
            continue
        found = currents(quantized.synapse, with_pixel_bits(sample, bits), averages=False)
        per_channel = by_channel(quantized.scale, real.ndim - 1)
        errors[bits] = float((np.square(found * per_channel - real) / variance).mean())
    # If none fits, the fewest bits: `quantize` then reports which number does not fit.
    return min(errors, key=lambda bits: errors[bits], default=least)


def with_split_readout(
    network: QuantizedNetwork, real: FloatLayer, spiking: SpikingNetwork, images: ImageArray, *, device: str = "cpu"
) -> QuantizedNetwork:
    """Return ``network`` with a two-digit readout if that gains at least one weight bit, otherwise unchanged.

    Parameters
    ----------
    network
        The network with a one-digit readout.
    real
        Its readout before rounding.
    spiking
        The float SNN that ``network`` was rounded from.
    images, device
        As in `quantization.quantize`.
    """
    scale, used = nearest(real), network.layers[-1].scale / real.unit
    scale = np.where(scale > 0, scale, used)
    candidates: list[QuantizedLayer] = []
    while (2 * scale <= used).any():
        candidates += _candidates(network, real.quantize(scale))
        scale = np.minimum(2 * scale, used)
    peaks = _peaks(network, candidates, images, device)
    fits = [
        (float(layer.scale.sum()), float(peak.max()), index)
        for index, (layer, peak) in enumerate(zip(candidates, peaks, strict=True))
        if HEADROOM * peak.max() <= limits.POTENTIAL_LIMIT
    ]
    if not fits:
        return network
    # The finest scales, and at these scales the smallest potentials.
    *_, index = min(fits)
    return _replaced(network, candidates[index], spiking, peaks[index], images)


def _candidates(network: QuantizedNetwork, whole: QuantizedLayer) -> list[QuantizedLayer]:
    """``whole`` in two digits, for every b that satisfies the exactness rules."""
    found = []
    for low_bits in range(1, MAX_LOW_BITS + 1):
        layer = replace(whole, low_bits=low_bits)
        try:
            replace(network, layers=(*network.layers[:-1], layer))
        except RangeError:
            continue
        found.append(layer)
    return found


def _peaks(network: QuantizedNetwork, candidates: list[QuantizedLayer], images: ImageArray, device: str) -> Array:
    """The largest potentials of both digits in any step, for each of ``candidates``: float64 ``(N, digits)``."""
    if not candidates:
        return np.zeros((0, 0))
    layers = [layer.stored for layer in candidates]
    synapse, biases = layers[0].synapse, [layer.bias for layer in layers if layer.bias is not None]
    all_of_them = replace(
        layers[0],
        synapse=replace(
            synapse,
            weight=np.concatenate([layer.weight for layer in layers]),
            bias=np.concatenate(biases) if biases else None,
        ),
        scale=np.concatenate([layer.scale for layer in layers]),
    )
    probe = replace(network, layers=(*network.layers[:-1], all_of_them))
    return extremes(probe, images, network.timesteps, device=device).outputs.reshape(len(candidates), -1)


def _replaced(
    network: QuantizedNetwork, chosen: QuantizedLayer, spiking: SpikingNetwork, peaks: Array, images: ImageArray
) -> QuantizedNetwork:
    """``network`` with the readout ``chosen``, and the largest T for which both potentials stay in range."""
    stored = chosen.stored
    amplitude = network.received_amplitudes[-1]
    # Growth of the potentials per step due to the CNN's activations, in weight units.
    synapse = replace(stored.synapse, weight=stored.weight.astype(np.float64) * stored.largest_input_sum)
    if amplitude is not None:
        synapse = without_input_factors(synapse, amplitude)
    digits = replace(spiking, layers=(*spiking.layers[:-1], SpikingLayer(stored.name, synapse, None)))
    longest = max_timesteps(digits, replace(stored, scale=np.ones(len(stored.scale))), peaks, images)
    part = {**network.provenance["quantize"], "low_bits": chosen.low_bits}
    return replace(
        network,
        layers=(*network.layers[:-1], chosen),
        max_timesteps=longest,
        provenance=network.provenance.with_parts(quantize=part),
    )


def max_timesteps(
    network: SpikingNetwork, output: QuantizedLayer, largest_potentials: Array, images: ImageArray
) -> int:
    """Return the largest T for which the output potentials of calibration ``images`` stay in range.

    ``output`` is the last layer of ``network`` in integers; ``largest_potentials``, float64 ``(outputs,)``, are the
    largest magnitudes in the T steps of ``network``, in floating point.
    """
    if output.neuron is not None:
        return MAX_TIMESTEPS
    growth = np.maximum(largest_potentials / network.timesteps, _largest_in_the_long_run(network, images))
    grows = growth > 0
    steps = limits.POTENTIAL_LIMIT * output.scale[grows] / (HEADROOM * growth[grows])
    return max(network.timesteps, math.floor(float(steps.min(initial=MAX_TIMESTEPS))))


def _largest_in_the_long_run(network: SpikingNetwork, images: ImageArray | Shard) -> Array:
    """The largest magnitude of each output at the neurons' rates in the long run: float64 ``(outputs,)``."""
    if isinstance(images, DividedImages):
        return np.asarray(np.maximum.reduce(images.parts(_largest_in_the_long_run, network=network)))

    def activation(neuron: IntegrateAndFire | None, rate: Callable[[Array, IntegrateAndFire], Array]) -> Activation:
        return unchanged if neuron is None else lambda maps: rate(maps, neuron)

    synapses = ReluNetwork(network.input_shape, tuple(ReluLayer(layer.name, layer.synapse) for layer in network.layers))
    largest: list[Array] = []
    for rate in (clipped,) if network.reset == "soft" else (clipped, _of_hard_reset):
        chain = ReluChain(synapses, activations=[activation(layer.neuron, rate) for layer in network.layers])
        on_blocks(chain, np.asarray(images), lambda _, outputs: largest.append(_per_output(outputs[-1])))
    return np.asarray(np.maximum.reduce(largest), np.float64)


def _per_output(maps: Array) -> Array:
    """The largest magnitude of each output over all images."""
    return np.asarray(np.abs(maps).reshape(-1, maps.shape[-1]).max(axis=0))


def _of_hard_reset(maps: Array, neuron: IntegrateAndFire) -> Array:
    """Return the mean output per step of a neuron with hard reset whose current is the same in each step."""
    # In float64, as a threshold divided by a tiny current is beyond float32.
    steps = np.ceil(neuron.threshold / np.maximum(maps, np.finfo(np.float32).tiny))
    return np.where(maps > 0, neuron.amplitude / steps, 0).astype(np.float32)
