"""SpikingNetwork -> QuantizedNetwork: Loihi's integers, and an account of what they cost.

One unit of a channel's potential is worth ``m_k = s_k x``, where s_k is the real value of one weight unit and x the
real value of one input unit: 1 / (2^p - 1) for a p-bit pixel, 1 for a spike, each over ``k_h k_w`` behind a pooling,
which sums in integers. Then::

    w_q = round(w a / s_k)    theta_q = round(theta / m_k)    b_q = round(b / m_k)    v0_q = floor(theta_q v0 / theta)

with ``a`` the amplitude of the input channel, taken from the threshold that is *really used* after rounding there.

s_k is the scale on which rounding to ``|w_q| <= 127``, or less with fewer weight bits, changes the weights least
(`rounding.nearest_scales`), or, where that is too small, the smallest for which

- hidden layers: ``theta_q + headroom x I_max <= 131071``, else a spike would lose charge (I_max: the channel's largest
  current on the calibration images),
- a last layer that only integrates: ``headroom x |V| <= 131071`` for the potentials of the calibration images up to
  step T.

The last layer has ONE scale for all outputs, else potentials and spike counts of classes could not be compared.

The 8 bits of a weight are a bound, not the choice: with 8-bit pixels a first layer of full int8 weights clips.

With hard reset the neurons are Lava's own LIF, and the LIF rules of `loihi.py` are conditions on s_k as well: whatever
the image, ``sum |w_q| x largest input <= 131071``, and ``|b_q| <= 32767``. In the first layer that trades bits of
weights for bits of pixels: unless told otherwise, p is the one in 8..4 whose currents are nearest to the real ones.

With ``thresholds="scalar"`` all channels of a layer have one theta_q, see `scalar_threshold.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, get_args

import numpy as np

from loihi_convert import loihi
from loihi_convert.conversion.sample import sample
from loihi_convert.conversion.scalar_threshold import scalar_scales
from loihi_convert.errors import RangeError, UsageError
from loihi_convert.network import (
    MOST_TIMESTEPS,
    IntegerNeuron,
    QuantizedLayer,
    QuantizedNetwork,
    Reset,
    SpikingLayer,
    SpikingNetwork,
    Thresholds,
    largest_pixel,
    with_pixel_bits,
)
from loihi_convert.progress import Progress, silent
from loihi_convert.rounding import nearest_scales, rounded
from loihi_convert.simulation.inputs import LARGEST_PIXEL
from loihi_convert.simulation.relu import currents
from loihi_convert.simulation.simulate import clipped_images, extremes
from loihi_convert.synapse import Array, Synapse

HEADROOM: Final = 1.25
"""How much larger than on the calibration images a current or an output potential may be before it clips."""

_PIXEL_BITS: Final = (8, 7, 6, 5, 4)
# Images that choose the pixel bits.
_SAMPLE: Final = 200


@dataclass(frozen=True)
class LayerAccount:
    """What quantizing one layer cost.

    Parameters
    ----------
    name
        The layer.
    weight_bits
        Bits used by the widest weight of a channel, sign included: (smallest, median, largest) over the channels.
    weight_error
        What rounding changed: root mean square difference between rounded and real weights over the root mean square
        of these, of the channels that can fire.
    thresholds
        (smallest, largest) of the channels that can fire; ``None`` where none can, or the layer only integrates.
    dead_channels
        Channels that can never fire.
    low_clipped, high_clipped
        Calibration images on which some neuron ran into the lower / upper limit of the potential. The lower one is
        harmless in the first layer: a constant negative current never fires.
    """

    name: str
    weight_bits: tuple[int, int, int]
    weight_error: float
    thresholds: tuple[int, int] | None
    dead_channels: tuple[int, ...]
    low_clipped: int
    high_clipped: int


@dataclass(frozen=True)
class Account:
    """What quantizing cost, layer by layer.

    Parameters
    ----------
    layers
        One per layer.
    image_count
        Calibration images the clipping was counted on.
    timesteps
        Steps the clipping was counted over.
    proven_timesteps
        Largest T for which the output potentials stay in range.
    """

    layers: tuple[LayerAccount, ...]
    image_count: int
    timesteps: int
    proven_timesteps: int


def quantize(
    network: SpikingNetwork,
    images: Array,
    *,
    weight_bits: int = 8,
    pixel_bits: int | None = None,
    thresholds: Thresholds = "channel",
    device: str = "cpu",
    progress: Progress = silent,
) -> QuantizedNetwork:
    """Return ``network`` in Loihi's integers.

    Parameters
    ----------
    network
        From `balance.balance`.
    images
        Calibration images, uint8 ``(N, C, H, W)``: currents and potentials of those of `sample.sample`
        choose the scales; `account` counts what clips on all.
    weight_bits
        2..8, sign included.
    pixel_bits
        1..8; by default 8, or with hard reset the best of 8..4; not to be chosen with Poisson input.
    thresholds
        ``channel``: one per channel; ``scalar``: one per layer, folded into the weights.
    device
        Where it is simulated: ``"cpu"``, or another one of torch's.
    progress
        Counts images.

    Raises
    ------
    UsageError
        If a number of bits is out of range.
    RangeError
        If a number fits Loihi at no scale.
    """
    if not 2 <= weight_bits <= 8:
        raise UsageError(f"--weight-bits {weight_bits}: allowed are 2..8.")
    if pixel_bits is not None and not 1 <= pixel_bits <= loihi.MAX_PIXEL_BITS:
        raise UsageError(f"--pixel-bits {pixel_bits}: allowed are 1..{loihi.MAX_PIXEL_BITS}.")
    if thresholds not in get_args(Thresholds):
        raise UsageError(f"--thresholds {thresholds}: unknown; allowed are {', '.join(get_args(Thresholds))}.")
    largest_weight = 2 ** (weight_bits - 1) - 1
    images = sample(images, network.timesteps)
    largest = extremes(network, images, network.timesteps, device=device, progress=progress)
    # NaN, which is infinity less infinity, would not show in the largest potential.
    if not (math.isfinite(largest.output) and np.isfinite(largest.currents[-1]).all()):
        raise RangeError(
            f"{network.layers[-1].name}: its potential is beyond 3.4e38, the largest float32; the weights up to here "
            "are too large. Train it again."
        )
    if network.poisson_seed is not None:
        if pixel_bits is not None:
            raise UsageError(f"--pixel-bits {pixel_bits}: with --input poisson a pixel enters as spikes of one bit.")
        pixel_bits = loihi.MAX_PIXEL_BITS
    elif pixel_bits is None:
        pixel_bits = (
            8
            if network.reset == "soft"
            else _best_pixel_bits(network, images, largest.currents[0], largest_weight, thresholds)
        )
    white = largest_pixel(network.poisson_seed, pixel_bits)
    layers: list[QuantizedLayer] = []
    amplitude: Array | None = None
    for layer, current in zip(network.layers, largest.currents, strict=True):
        synapse = layer.synapse if amplitude is None else layer.synapse.with_input_factors(amplitude)
        reach = HEADROOM * (np.full(synapse.channels, largest.output) if layer.neuron is None else current)
        is_output = len(layers) == len(network.layers) - 1
        layers.append(
            _quantize_layer(
                layer,
                synapse,
                reach,
                1 if layers else white,
                largest_weight,
                network.reset,
                thresholds,
                one_scale=is_output,
            )
        )
        amplitude = layers[-1].used_amplitude
    proven = MOST_TIMESTEPS
    if layers[-1].neuron is None and largest.output > 0:
        # The output potential grows by its mean current at every step, so T may grow until it meets the limit.
        limit, largest_output = loihi.POTENTIAL_LIMIT * float(layers[-1].scale[0]), HEADROOM * largest.output
        proven = math.floor(network.timesteps * limit / largest_output)
    return QuantizedNetwork(
        input_shape=network.input_shape,
        layers=tuple(layers),
        timesteps=network.timesteps,
        proven_timesteps=max(network.timesteps, min(proven, MOST_TIMESTEPS)),
        pixel_bits=pixel_bits,
        reset=network.reset,
        poisson_seed=network.poisson_seed,
        thresholds=thresholds,
        provenance={
            **network.provenance,
            "quantize": {
                "weight_bits": weight_bits,
                "pixel_bits": pixel_bits,
                "headroom": HEADROOM,
                "thresholds": thresholds,
            },
        },
    )


def account(
    network: QuantizedNetwork,
    real: SpikingNetwork,
    images: Array,
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> Account:
    """Return what rounding ``real`` to ``network`` cost.

    What clips is counted on ``images``, uint8 ``(N, C, H, W)``, in ``network.timesteps`` steps.
    """
    clipped = clipped_images(network, images, network.timesteps, device=device, progress=progress)
    layers = []
    amplitude: Array | None = None
    for layer, before, (low, high) in zip(network.layers, real.layers, clipped, strict=True):
        synapse = before.synapse if amplitude is None else before.synapse.with_input_factors(amplitude)
        layers.append(_account_layer(layer, synapse.weight, int(low), int(high)))
        amplitude = layer.used_amplitude
    return Account(tuple(layers), len(images), network.timesteps, network.proven_timesteps)


def _best_pixel_bits(
    network: SpikingNetwork, images: Array, largest_current: Array, largest_weight: int, thresholds: Thresholds
) -> int:
    """The pixel bits in 8..4 for which the first layer's currents are nearest to those of the real numbers."""
    layer, sample = network.layers[0], images[:_SAMPLE]
    real = currents(layer.synapse, sample / LARGEST_PIXEL, averages=True)
    errors = {}
    for bits in _PIXEL_BITS:
        try:
            quantized = _quantize_layer(
                layer,
                layer.synapse,
                HEADROOM * largest_current,
                2**bits - 1,
                largest_weight,
                network.reset,
                thresholds,
                one_scale=len(network.layers) == 1,
            )
        except RangeError:
            continue
        found = currents(quantized.synapse, with_pixel_bits(sample, bits), averages=False)
        per_channel = quantized.scale.reshape(-1, *(1,) * (real.ndim - 2))
        errors[bits] = float(np.square(found * per_channel - real).mean())
    # Where none fits, the fewest bits: quantizing will say what does not.
    return min(errors, key=lambda bits: errors[bits], default=min(_PIXEL_BITS))


def _quantize_layer(
    layer: SpikingLayer,
    synapse: Synapse,
    reach: Array,
    largest_input: int,
    largest_weight: int,
    reset: Reset,
    thresholds: Thresholds,
    *,
    one_scale: bool,
) -> QuantizedLayer:
    """``layer`` in integers; ``synapse`` is its synapse with amplitudes, ``reach`` what must fit beside a threshold."""
    unit = 1.0 / math.prod(synapse.pool) / largest_input
    scale = _scale(layer, synapse, np.maximum(reach, 0), unit, largest_weight, reset, thresholds, one_scale=one_scale)
    potential_unit = scale * unit
    alive = np.isfinite(layer.neuron.threshold) if layer.neuron is not None else np.ones(synapse.channels, np.bool_)
    # The weights of a dead channel are 0, so that it costs nothing and cannot drift anywhere.
    rows = synapse.weight.reshape(synapse.channels, -1)
    weight = rounded(rows, np.where(alive, scale, np.inf), largest_weight).astype(np.int32)
    weight = weight.reshape(synapse.weight.shape)
    bias = synapse.bias
    if bias is not None:
        per_channel = np.where(alive, potential_unit, np.inf).reshape(-1, *(1,) * (bias.ndim - 1))
        bias = np.rint(bias / per_channel).astype(np.int32)
    integers = replace(synapse, weight=weight, bias=bias)
    neuron = layer.neuron
    if neuron is None:
        return QuantizedLayer(layer.name, integers, None, potential_unit, largest_input, correction=layer.correction)
    finite = np.where(alive, neuron.threshold, 1.0)
    threshold = np.where(alive, np.maximum(np.rint(finite / potential_unit), 1), loihi.NEVER_FIRES).astype(np.int32)
    if thresholds == "scalar":
        # The one threshold of the living serves a dead channel, too: its weights and bias are 0.
        threshold = np.full_like(threshold, threshold.min())
    initial = np.floor(threshold * (neuron.initial_potential / finite)).astype(np.int32)
    return QuantizedLayer(
        name=layer.name,
        synapse=integers,
        neuron=IntegerNeuron(threshold, initial),
        scale=potential_unit,
        largest_input=largest_input,
        balanced=neuron,
        correction=layer.correction,
    )


def _scale(
    layer: SpikingLayer,
    synapse: Synapse,
    reach: Array,
    unit: float,
    largest_weight: int,
    reset: Reset,
    thresholds: Thresholds,
    *,
    one_scale: bool,
) -> Array:
    """float64 ``(C_out,)``: the s_k of this module's docstring; with ``one_scale`` the same for all."""
    weights = np.abs(synapse.weight).reshape(synapse.channels, -1)
    if one_scale:
        conditions = [np.repeat(nearest_scales(weights.reshape(1, -1), largest_weight), synapse.channels)]
    else:
        conditions = [nearest_scales(weights, largest_weight)]
    if layer.neuron is not None:
        threshold = np.where(np.isfinite(layer.neuron.threshold), layer.neuron.threshold, 0)
        # A hard reset forgets what a spike leaves: only the threshold itself must fit.
        reach = reach + threshold if reset == "soft" else threshold
    conditions.append(reach / unit / loihi.POTENTIAL_LIMIT)
    if reset == "hard":
        # Each rounded weight may be half a unit larger than the real one.
        room = loihi.POTENTIAL_LIMIT * unit - np.count_nonzero(weights, axis=1) / 2
        if room.min() <= 0:
            raise RangeError(
                f"{layer.name}: {weights.shape[1]} inputs of up to {round(1 / unit)} can exceed "
                f"{loihi.POTENTIAL_LIMIT}, where Lava's own LIF wraps, at any scale; use --reset soft, or "
                "fewer --pixel-bits in the first layer."
            )
        conditions.append(weights.sum(axis=1) / room)
    if synapse.bias is not None:
        limit = loihi.BIAS_LIMIT if reset == "soft" else loihi.LIF_BIAS_LIMIT
        conditions.append(np.abs(synapse.bias).reshape(synapse.channels, -1).max(axis=1) / unit / limit)
    if thresholds == "scalar" and layer.neuron is not None:
        least = np.max(conditions[1:], axis=0)
        return scalar_scales(layer.name, layer.neuron.threshold, weights, least, unit, largest_weight)
    scale = np.max(conditions, axis=0)
    if one_scale:
        scale = np.full_like(scale, scale.max())
    return np.where(scale > 0, scale, 1.0)


def _account_layer(layer: QuantizedLayer, real: Array, low: int, high: int) -> LayerAccount:
    """``real`` are the weights that were rounded, with amplitudes."""
    rows = layer.weight.reshape(layer.synapse.channels, -1)
    bits = np.ceil(np.log2(np.abs(rows).max(axis=1).astype(np.float64) + 1)).astype(np.int64) + 1
    fires = None if layer.threshold is None else layer.threshold[layer.threshold < loihi.NEVER_FIRES]
    dead = np.zeros(len(rows), np.bool_) if layer.balanced is None else ~np.isfinite(layer.balanced.threshold)
    scale = layer.scale * math.prod(layer.synapse.pool) * layer.largest_input
    wanted = real.reshape(len(rows), -1)[~dead]
    lost = float(np.square(wanted - rows[~dead] * scale[~dead, None]).sum())
    return LayerAccount(
        name=layer.name,
        weight_bits=(int(bits.min()), int(np.median(bits)), int(bits.max())),
        weight_error=math.sqrt(lost / (float(np.square(wanted).sum()) or 1.0)),
        thresholds=None if fires is None or fires.size == 0 else (int(fires.min()), int(fires.max())),
        dead_channels=tuple(int(channel) for channel in np.flatnonzero(dead)),
        low_clipped=low,
        high_clipped=high,
    )
