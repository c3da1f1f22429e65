"""How a CNN is rounded for graded spikes: the unit of each channel, the messages of each layer, weights and biases.

With messages m, integer weights w and biases b, a layer computes ``max(0, w m + 64 b) >> 6`` (`ir.graded`, with
``spike_exp`` 0). Each channel k has a *unit* u_k, the real value of one message. With real weights W and biases B::

    w_kj = round(64 W_kj u_j / u_k)        b_k = round(B_k / u_k)        u = 1 / 255 for pixels

The division by 64 is fixed, so the sum of a channel's weights is the factor by which messages grow from layer to layer.
Messages have 16 bits, one of them the sign, and weights 8: u_k is the smallest unit with which |w| <= 127 and

    headroom x (largest activation of channel k on calibration images) <= M_l u_k
    headroom x (its largest current, of any sign) <= 2^23 u_k / 64

up to the factor `_FACTORS`, with which the weights round best. A message is the change from the settled state, the
answer to black pixels. If that is so large that a value leaves its range, activations and currents while the network
settles, and the changes of currents, count too. M_l, the largest message of layer l, divides the bits
among the layers: a large one leaves few weight bits to the next layer, a small one few bits to activations. With n_l
inputs, and <x> a mean square over the largest square, the rounding of weights and of messages in layer l adds an error,
relative to the square of its activations, of

    ((M_(l-1) / M_l)^2 n_l <input> / 64^2 + 1 / M_l^2) / (12 <output>)        M_0 = 255, of a pixel

The M_l with the smallest sum over layers are used; the sum is convex in log M_l. The last M_l, of which the last layer
with its 24 bits would leave no weight bits if it were large, is one of `_ENDS`, whichever gives the outputs nearest to
the CNN's.

Each weight is rounded so that later weights compensate its error (`compensated`). Rounding, and what is lost
while the network settles (`ir.graded`), also move the mean of each channel. The mean error on calibration images is
subtracted from the bias (Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV
2019).

Lava's Sigma, the output, has no bias. That of a regression is an offset, added outside, as the outputs often lie far
from 0 compared with their spread (`conversion.graded` does the same with what the biases of classes share). Otherwise
the last layer's bias is the weight of a synapse from a neuron of the layer before, in a channel without weights whose
bias makes it constant (`_with_constant`); of two such neurons if one bias is so large that it would round the others
coarsely.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from loihi_convert.chip import limits
from loihi_convert.conversion.agreement import overflow
from loihi_convert.conversion.scales import HEADROOM
from loihi_convert.errors import RangeError
from loihi_convert.ground.arrays import Array, all_but_channels, by_channel
from loihi_convert.ir.graded import INPUT, GradedLayer, GradedNetwork, with_constant_channel
from loihi_convert.ir.network import ReluNetwork, is_relay, relay_count, relayed
from loihi_convert.ir.synapse import Conv, Dense, PixelBias, Synapse
from loihi_convert.simulation.currents import MAX_PIXEL
from loihi_convert.simulation.graded import blank_step, layer_step, weighted
from loihi_convert.simulation.relu import currents, relu_outputs

CONSTANT: Final = 1
"""Real value of the constant channel."""

BATCH: Final = 64
"""Images computed at once."""

_SHIFT: Final = limits.SIGMA_DELTA_STATE_EXP
_FACTORS: Final = np.geomspace(1, 1.4, 13)
_NEGLIGIBLE: Final = 1 / 8
"""Error of an output's bias that needs no second channel: a fraction of the largest standard deviation of an output."""
_LEAST_MESSAGE: Final = 15.0
"""Smallest M_l: 4 bits for activations."""


class Reach(NamedTuple):
    """The largest values of each channel of a layer on calibration images, float64 ``(C,)``.

    Parameters
    ----------
    activation
        After the ReLU; of the last layer the largest magnitude.
    current
        Magnitude before the ReLU, with or without the bias; of an output of a regression without. Also its changes if
        what happens while the network settles counts.
    """

    activation: Array
    current: Array


def reaches_of(cnn: ReluNetwork, images: Array, *, while_settling: bool = False) -> list[Reach]:
    """The largest values on ``images`` and, if wanted, in each step while the network settles, and their changes."""
    found = [Reach(np.zeros(shape[0]), np.zeros(shape[0])) for shape in cnn.shapes]
    for first in range(0, len(images), BATCH):
        maps: Array = images[first : first + BATCH] / np.float32(MAX_PIXEL)
        count = len(maps)
        for index, (layer, reach) in enumerate(zip(cnn.layers, found, strict=True)):
            if while_settling:
                # A layer receives nothing until the layer before it has sent something.
                maps = np.concatenate([maps, np.zeros_like(maps[:1])])
            plain = _currents(layer.synapse, maps)
            if while_settling:
                # After the images: the settled state, then each step before it.
                changes = np.concatenate([plain[:count] - plain[count], np.diff(plain[count:], axis=0)])
                np.maximum(reach.current, _per_channel(changes), out=reach.current)
            bias = None if index == len(cnn.layers) - 1 and cnn.task == "regression" else layer.synapse.bias
            shape = (-1, *(1,) * (plain.ndim - 2)) if bias is None or bias.ndim == 1 else bias.shape
            before = plain if bias is None else plain + bias.astype(np.float32).reshape(shape)
            maps = before if index == len(cnn.layers) - 1 else np.maximum(before, 0)
            np.maximum(reach.activation, _per_channel(maps), out=reach.activation)
            np.maximum(reach.current, np.maximum(_per_channel(before), _per_channel(plain)), out=reach.current)
    for layer, reach in zip(cnn.layers, found, strict=True):
        if not np.isfinite(reach.current).all():
            raise overflow("its activations are NaN or exceed", layer.name)
    return found


def _currents(synapse: Synapse, maps: Array) -> Array:
    """The currents of real inputs, ``(B, C, H, W)`` or ``(B, N)``, averaged by a pooling, without the bias."""
    return currents(
        replace(synapse, bias=None), maps.reshape(*maps.shape, 1, 1) if maps.ndim == 2 else maps, averages=True
    )


def _per_channel(maps: Array) -> Array:
    """The largest magnitude of each channel of ``(B, C, ...)``."""
    return np.asarray(np.abs(maps).max(axis=all_but_channels(maps.ndim)))


class Rounding:
    """A CNN rounded to integers, layer by layer."""

    def __init__(self, cnn: ReluNetwork, sample: Array, reaches: list[Reach], *, compensates: bool = False) -> None:
        self._compensates = compensates
        self._cnn, self._sample, self._reaches = cnn, sample, reaches
        batches = list(relu_outputs(cnn, sample))
        self._real = [np.concatenate([batch[index].numpy() for batch in batches]) for index in range(len(cnn.layers))]

    def _messages(self, end: float) -> list[float]:
        """The largest message of each hidden layer, M_l, if that of the last is ``end``."""
        from scipy.optimize import minimize

        weights, messages = [], []
        power_before = np.array([np.square(self._sample / np.float64(MAX_PIXEL)).mean()])
        for layer, real, (reach, _) in zip(self._cnn.layers[:-1], self._real, self._reaches, strict=False):
            own = ~is_relay(layer.relay_of, len(reach))
            axes = all_but_channels(real.ndim)
            mean_square = np.square(real, dtype=np.float64).mean(axis=axes)
            power = np.divide(mean_square, np.square(reach), out=np.zeros(len(reach)), where=reach > 0)
            output = float(power[own].mean()) if own.any() else 0.0
            inputs = layer.synapse.weight[0].size * math.prod(layer.synapse.pool) ** 2
            weights.append(inputs * float(power_before.mean()) / 4**_SHIFT / output if output > 0 else 0.0)
            messages.append(1 / output if output > 0 else 0.0)
            power_before = power

        def error(logs: Array) -> float:
            before = np.concatenate([[math.log(MAX_PIXEL)], logs[:-1]])
            return float((weights * np.exp(2 * (before - logs)) + messages * np.exp(-2 * logs)).sum())

        low, high = math.log(_LEAST_MESSAGE), math.log(limits.MESSAGE_LIMIT / HEADROOM)
        last = min(max(math.log(end), low), high)
        bounds = [*[(low, high)] * (len(weights) - 1), (last, last)]
        start = np.linspace(math.log(MAX_PIXEL), last, len(weights) + 1)[1:]
        found: list[float] = np.exp(minimize(error, start, bounds=bounds, method="L-BFGS-B").x).tolist()
        return found

    def network(self, end: float) -> tuple[GradedNetwork, float]:
        """Return the network whose last hidden layer has messages up to ``end``, and the mean squared error of its
        outputs on the sample; that of a regression relative to the variance of each output."""
        cnn = self._cnn
        layers = [GradedLayer(INPUT, PixelBias(MAX_PIXEL, 0))]
        # What each layer sends while the network settles: its messages for an input of 0, step by step.
        settling: list[Array] = [np.zeros((1, *cnn.input_shape), np.int32)] * (len(cnn.layers) + 1)
        messages, units = self._sample.astype(np.int32), np.full(cnn.input_shape[0], 1 / MAX_PIXEL)
        real: Array = self._sample / np.float32(MAX_PIXEL)
        for index, most in enumerate(self._messages(end)):
            units_before, units = units, self._units(index, messages, units, most)
            layer = self._hidden(index, messages, real, units_before, units)
            layers.append(layer)
            messages, settling = _sent(layer, messages, settling)
            real = self._real[index]
        last, previous, messages = self._output(layers[-1], messages, real, units)
        layers[-1:] = [previous, last]
        network = GradedNetwork(cnn.input_shape, tuple(layers), spike_exp=0)
        assert not isinstance(last.synapse, PixelBias)
        found = network.real_outputs(weighted(last.synapse, messages))
        expected = self._real[-1].astype(np.float64)
        variance = expected.var(axis=0)
        unit = np.where(variance > 0, variance, 1.0) if cnn.task == "regression" else 1.0
        return network, float((np.square(found - expected) / unit).mean())

    def _units(self, index: int, messages: Array, before: Array, most: float) -> Array:
        """The unit of each channel of a hidden layer."""
        source = self._cnn.layers[index]
        weight, power = _in_units(source.synapse, before), _power(source.synapse, messages)
        reach = self._reaches[index]
        conditions = (
            largest_magnitudes(weight) * 2**_SHIFT / limits.WEIGHT_LIMIT,
            HEADROOM * reach.activation / most,
            HEADROOM * reach.current * 2**_SHIFT / limits.CURRENT_LIMIT,
        )
        least = np.max(conditions, axis=0)
        # A channel without weights and activations may have any unit.
        least = np.where(least > 0, least, 1.0)
        return relayed(_best_units(weight, power, least), before, source.relay_of)

    def _hidden(self, index: int, messages: Array, real: Array, before: Array, units: Array) -> GradedLayer:
        source = self._cnn.layers[index]
        synapse = source.synapse
        weight = self._rounded(
            synapse, _in_units(synapse, before) * 2**_SHIFT / by_channel(units, synapse.weight.ndim), messages
        )
        if source.relay_of is not None:
            passed_on = by_channel(source.relay_of >= 0, synapse.weight.ndim)
            weight = np.where(passed_on, synapse.weight * 2**_SHIFT, weight).astype(np.int32)
        relay_of = source.relay_of if relay_count(source.relay_of) else None
        unbiased = replace(synapse, weight=weight, bias=None)
        layer = GradedLayer(source.name, unbiased, scale=_state(units), relay_of=relay_of)
        bias = _shaped(synapse, units.shape) - self._mean_error(index, layer, messages, real)
        per_channel = by_channel(units, bias.ndim)
        # Messages are rounded down: half a message is added.
        rounded = np.rint(bias / per_channel + 0.5).astype(np.int32)
        relays = is_relay(source.relay_of, len(units)).reshape(per_channel.shape)
        return replace(layer, synapse=replace(synapse, weight=weight, bias=np.where(relays, np.int32(0), rounded)))

    def _rounded(self, synapse: Synapse, weight: Array, messages: Array) -> Array:
        if self._compensates:
            return compensated(synapse, weight, messages)
        return np.rint(weight).astype(np.int32)

    def _mean_error(self, index: int, layer: GradedLayer, messages: Array, real: Array) -> Array:
        """The mean error of each channel's current, in real units: float64, in the shape of the bias."""
        assert layer.scale is not None
        assert not isinstance(layer.synapse, PixelBias)
        synapse = self._cnn.layers[index].synapse
        shape = _shaped(synapse, layer.scale.shape).shape
        total, count = np.zeros(len(layer.scale)), 0
        for first in range(0, len(messages), BATCH):
            rows = slice(first, first + BATCH)
            found, expected = weighted(layer.synapse, messages[rows]), _currents(synapse, real[rows])
            axes = all_but_channels(found.ndim)
            total += found.sum(axis=axes, dtype=np.float64) * layer.scale - expected.sum(axis=axes, dtype=np.float64)
            count += found.size // found.shape[1]
        return np.broadcast_to(by_channel(total / count, len(shape)), shape)

    def _output(
        self, previous: GradedLayer, messages: Array, real: Array, units: Array
    ) -> tuple[GradedLayer, GradedLayer, Array]:
        """The last layer, the layer before with a constant channel if there is a bias to add, and its messages."""
        source, is_regression = self._cnn.layers[-1], self._cnn.task == "regression"
        synapse = source.synapse
        weight, power = _in_units(synapse, units), _power(synapse, messages)
        bias = _shaped(synapse, (len(weight),))
        assert isinstance(synapse, Dense)
        power = np.broadcast_to(power, weight.shape)
        # What the largest message of a constant channel can add, see `_with_constant`.
        largest_constant = limits.WEIGHT_LIMIT * limits.MESSAGE_LIMIT * math.prod(synapse.pool)
        conditions = (
            largest_magnitudes(weight) / limits.WEIGHT_LIMIT,
            HEADROOM * self._reaches[-1].current / limits.CURRENT_LIMIT,
            np.zeros(len(weight)) if is_regression else HEADROOM * np.abs(bias) / largest_constant,
        )
        # One scale for all classes, so that they can be compared: the real value of sigma = 1, times 2^6.
        rows = 1 if self._cnn.task == "classification" else len(weight)
        least = np.max(conditions, axis=0).reshape(rows, -1).max(axis=1)
        least = np.where(least > 0, least, 1.0) * 2**_SHIFT
        scale = _best_units(weight.reshape(rows, -1), power.reshape(rows, -1), least)
        integers = self._rounded(synapse, weight * 2**_SHIFT / scale[:, np.newaxis], messages)
        last = GradedLayer(
            source.name,
            replace(synapse, weight=integers, bias=None),
            sends=False,
            scale=np.broadcast_to(scale / 2**_SHIFT, len(weight)),
        )
        if synapse.bias is None and not is_regression:
            return last, previous, messages
        bias -= self._mean_error(len(self._cnn.layers) - 1, last, messages, real)
        if is_regression:
            return replace(last, offset=bias), previous, messages
        last, previous, messages, left = _with_constant(last, previous, messages, bias)
        outputs = self._real[-1].astype(np.float64)
        # Of equal images, the standard deviation is 0: then the smallest output.
        if np.abs(left).max() > _NEGLIGIBLE * (outputs.std(axis=0).max() or np.abs(outputs).min()):
            last, previous, messages, _ = _with_constant(last, previous, messages, left)
        return last, previous, messages


def _with_constant(
    last: GradedLayer, previous: GradedLayer, messages: Array, bias: Array
) -> tuple[GradedLayer, GradedLayer, Array, Array]:
    """Add to ``previous`` a channel without weights whose bias is the message B, and to ``last`` weights from the first
    of its neurons, or its window of a pooling of k inputs: B k x weight is the bias, up to rounding. Return them, the
    messages, and the part of the bias that rounding leaves."""
    before, after = previous.synapse, last.synapse
    assert isinstance(before, Conv | Dense)
    assert isinstance(after, Dense)
    assert last.scale is not None
    assert previous.scale is not None
    wanted = bias / last.scale
    inputs = math.prod(after.pool)
    message = max(1, math.ceil(float(np.abs(wanted).max()) / (limits.WEIGHT_LIMIT * inputs)))
    if message > limits.MESSAGE_LIMIT:
        found = f"a bias of {float(np.abs(bias).max()):.3g} is {message / limits.MESSAGE_LIMIT:.3g} times too large"
        expected = "must be within the reach of 8-bit weights and a 16-bit message"
        raise RangeError(found, where=last.name, expected=expected)
    weights = np.rint(wanted / (message * inputs))
    before, after = with_constant_channel(before, after, message, weights)
    previous = replace(
        previous,
        synapse=before,
        scale=np.append(previous.scale, _state(CONSTANT / message)),
        relay_of=None if previous.relay_of is None else np.append(previous.relay_of, -1),
    )
    last = replace(last, synapse=after)
    wide = np.full((len(messages), 1, *messages.shape[2:]), message, np.int32)
    left = bias - weights * (message * inputs) * last.scale
    return last, previous, np.concatenate([messages, wide], axis=1), left


def _state(units: Array | float) -> Array:
    """The real value of 1 in the state, 64 of which are a message."""
    return np.asarray(units / 2**_SHIFT)


def _in_units(synapse: Synapse, units: Array) -> Array:
    """The real weights for messages instead of real inputs, summed and not averaged by a pooling: float64."""
    weight = synapse.weight.astype(np.float64)
    scaled = replace(synapse, weight=weight).with_input_factors(units).weight
    return np.asarray(scaled / math.prod(synapse.pool))


def _power(synapse: Synapse, messages: Array) -> Array:
    """Mean square of the messages that each weight receives, in the shape of the weights or one that broadcasts."""
    axes = all_but_channels(messages.ndim)
    power = np.square(messages, dtype=np.float64).mean(axis=axes)
    if isinstance(synapse, Dense):
        return np.repeat(power, synapse.weight.shape[1] // len(power))[np.newaxis]
    grouped = power.reshape(synapse.groups, -1).repeat(synapse.channels // synapse.groups, axis=0)
    return np.asarray(grouped[:, :, np.newaxis, np.newaxis])


def largest_magnitudes(weight: Array) -> Array:
    return np.asarray(np.abs(weight).reshape(len(weight), -1).max(axis=1))


def _best_units(weight: Array, power: Array, least: Array) -> Array:
    """The units, ``least`` times one of `_FACTORS`, with the smallest mean squared error of the currents."""
    errors = []
    for factor in _FACTORS:
        step = by_channel(least * factor / 2**_SHIFT, weight.ndim)
        lost = np.square(weight - np.rint(weight / step) * step) * power
        errors.append(lost.reshape(len(weight), -1).sum(axis=1))
    return np.asarray(least * _FACTORS[np.argmin(errors, axis=0)])


def _shaped(synapse: Synapse, channels: tuple[int, ...]) -> Array:
    """The bias, float64, zeros if there is none."""
    return np.zeros(channels) if synapse.bias is None else synapse.bias.astype(np.float64)


def _sent(layer: GradedLayer, messages: Array, settling: list[Array]) -> tuple[Array, list[Array]]:
    """All that a hidden layer has sent after its step for each image: int32 ``(N, *shape)``; and while it settled.

    ``messages`` are all that it has received, and ``settling`` what it received in each step of settling.
    """
    shape = layer.synapse.output_shape(messages.shape[1:])
    state = blank_step(shape)
    sent = []
    # A synapse takes a step: nothing arrives in the first.
    for received in (np.zeros_like(settling[0]), *settling[:-1]):
        state = layer_step(layer, state, received, spike_exp=0)
        sent.append(state.messages)
    total, arrived = np.sum(sent, axis=0), np.sum(settling, axis=0)
    found = np.empty((len(messages), *shape), np.int32)
    for first in range(0, len(messages), BATCH):
        rows = slice(first, first + BATCH)
        found[rows] = total + layer_step(layer, state, messages[rows] - arrived, spike_exp=0).messages
    return found, sent


_MOST_SAMPLES: Final = 8_192
_MOST_INPUTS: Final = 4_100
"""Larger layers are rounded to the nearest integer: the decomposition takes time and memory with the third power."""
_DAMPING: Final = 0.01
"""Part of the mean variance that is added to each: inputs that hardly vary on the sample must not take all errors."""


def compensated(synapse: Synapse, weight: Array, messages: Array) -> Array:
    """Return ``weight``, in units of one integer, as 8-bit integers: int32. ``messages`` are inputs before the pooling.

    Each rounding error is compensated by the weights that are still to be rounded. With the inputs x of a neuron and
    their covariance H, rounding weights w to q changes the current by an error of variance ``(w - q) H (w - q)``; its
    mean is left to the bias. If weight j is rounded, the change of all later weights that keeps this variance smallest
    is known in closed form (Hassibi and Stork, NIPS 1992). Frantar et al. (GPTQ, ICLR 2023) give all of them by one
    Cholesky decomposition of the inverse of H, which is the same for all neurons of a layer.
    """
    groups = synapse.groups if isinstance(synapse, Conv) else 1
    rows = weight.reshape(groups, len(weight) // groups, -1)
    if rows.shape[2] > _MOST_INPUTS:
        return _as_integers(weight)
    inputs = _inputs(synapse, messages)
    found = np.stack(
        [
            _rounded(group, inputs[:, first : first + group.shape[1]])
            for group, first in zip(rows, range(0, inputs.shape[1], rows.shape[2]), strict=True)
        ]
    )
    return found.reshape(weight.shape)


def _inputs(synapse: Synapse, messages: Array) -> Array:
    """Samples of the inputs of one neuron, float64 ``(samples, inputs of all groups)``."""
    per_image = 1 if not isinstance(synapse, Conv) else math.prod(synapse.output_shape(messages.shape[1:])[1:])
    images = messages[: max(1, math.ceil(_MOST_SAMPLES / min(per_image, 64)))]
    maps = torch.from_numpy(images.astype(np.float64))
    if synapse.pool != (1, 1):
        maps = functional.avg_pool2d(maps, synapse.pool, divisor_override=1)
    if not isinstance(synapse, Conv):
        return maps.flatten(1).numpy()
    found, rng = [], np.random.default_rng(0)
    for index in range(len(maps)):
        image = maps[index : index + 1]
        patches = functional.unfold(image, synapse.weight.shape[2:], synapse.dilation, synapse.padding, synapse.stride)
        places = rng.choice(per_image, min(per_image, math.ceil(_MOST_SAMPLES / len(images))), replace=False)
        found.append(patches[0][:, torch.from_numpy(places)].T.numpy())
    return np.concatenate(found)


def _rounded(weight: Array, inputs: Array) -> Array:
    centred = inputs - inputs.mean(axis=0)
    covariance = centred.T @ centred / len(centred)
    variances = np.diagonal(covariance)
    if not variances.any():
        return _as_integers(weight)
    # The inputs that vary most are rounded first, while there are others to compensate.
    order = np.argsort(-variances)
    covariance = covariance[np.ix_(order, order)] + np.eye(len(order)) * _DAMPING * variances.mean()
    upper = np.linalg.cholesky(np.linalg.inv(covariance)).T
    left, found = weight[:, order].astype(np.float64), np.empty(weight.shape, np.int32)
    for column in range(len(order)):
        integers = _as_integers(left[:, column])
        error = (left[:, column] - integers) / upper[column, column]
        left[:, column + 1 :] -= np.outer(error, upper[column, column + 1 :])
        found[:, order[column]] = integers
    return found


def _as_integers(weight: Array) -> Array:
    return np.asarray(np.clip(np.rint(weight), -limits.WEIGHT_LIMIT, limits.WEIGHT_LIMIT), np.int32)
