"""The floating-point networks and their layers; the network in Loihi's integers is in `quantized.py`.

==================  ==========================  ================================================================
network             made by                     between two layers
==================  ==========================  ================================================================
`ReluNetwork`       `lowering.to_relu_network`  ReLU; equals the CNN, batch norm folded
`SpikingNetwork`    `balancing.balance`         integrate-and-fire neurons with real-valued thresholds
`QuantizedNetwork`  `quantization.quantize`     integrate-and-fire neurons in Loihi's integers; can be exported
==================  ==========================  ================================================================

A layer is a synapse (`synapse.py`) and a neuron.

The last layer is the readout. Without neurons it only integrates, and its membrane potential is the output; with
neurons the spike counts are the output. Arrays are read-only copies; shapes are computed, not stored.

What outputs mean depends on the task:

==============  ==========  ========================================================================================
task            outputs     prediction
==============  ==========  ========================================================================================
classification  2 or more   the class of the largest output
classification  1           class 1 where it is above 0, else class 0: the sign of a logit
regression      any         the outputs themselves: membrane potential x scale / T + offset
==============  ==========  ========================================================================================

**Relays.** If the CNN is not a chain, values that skip a layer pass it in extra channels: neurons that repeat each
spike of one neuron of the layer before, one synapse later. A relay has one synapse, whose weight is its threshold
theta. As V0 + theta >= theta, it fires when its source does, and V returns to V0 (soft reset) or 0 (hard reset). It
therefore repeats a spike train exactly, for any initial potential below theta. On Lava every layer responds one step
later, and so does a relay, so the spikes of all sources of a layer arrive together.

How relays are counted throughout this package:

=============================================  =======================================================================
number                                         relays
=============================================  =======================================================================
firing rates, activation sparsity, silent and  left out: a relay repeats another neuron, already counted
saturated channels, ranges of thresholds
correlation with the CNN, errors, weight bits  left out: a relay adds no error and causes no loss
of a layer, share of clipped activations
the CNN's multiplications                      left out: the CNN does not multiply values it only passes on
neurons, spikes, synaptic operations, updates  included, and their share is given: a relay does the same work
energy, time, memory, neurocores               included, and their share is given
equality of backends, exactness and chip       included: a relay must be exact and fit the chip like any neuron
rules, clipped potentials
=============================================  =======================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from loihi_convert.errors import DataError, RangeError
from loihi_convert.ground.arrays import Array, Shape, arrays_digest, by_channel, freeze
from loihi_convert.ground.choices import Readout, Reset, Task
from loihi_convert.ir.provenance import Provenance, as_provenance
from loihi_convert.ir.synapse import Conv, PixelBias, Synapse

if TYPE_CHECKING:
    from typing_extensions import Self


def is_relay(relay_of: Array | None, channels: int) -> Array:
    """Return which channels are relays: bool ``(channels,)``."""
    return np.zeros(channels, np.bool_) if relay_of is None else np.asarray(relay_of >= 0)


def relay_count(relay_of: Array | None) -> int:
    """Return how many channels of a layer are relays."""
    return 0 if relay_of is None else int(np.count_nonzero(relay_of >= 0))


def relayed(values: Array, before: Array, relay_of: Array | None) -> Array:
    """Return ``values``, ``(C_out,)``, with the value of each relay replaced by its source's in ``before``."""
    if relay_of is None:
        return values
    return np.where(relay_of >= 0, before[relay_of], values)


def only_relays(relay_of: Array | None) -> bool:
    """Return whether all channels of a layer are relays."""
    return relay_of is not None and bool((relay_of >= 0).all())


def own_channels(relay_of: Array | None) -> slice | Array:
    """Return an index of the channels that are not relays; all, as a slice, if there are none or only relays."""
    # A slice makes no copy.
    if relay_of is None or only_relays(relay_of) or not (relay_of >= 0).any():
        return slice(None)
    return np.flatnonzero(relay_of < 0)


def without_relays(synapse: Synapse, relay_of: Array | None) -> Synapse:
    """Return the synapse with the weights of relays set to 0."""
    if relay_of is None:
        return synapse
    own = by_channel(~is_relay(relay_of, synapse.channels), synapse.weight.ndim)
    return replace(synapse, weight=synapse.weight * own)


def require(holds: bool, where: str, found: str, expected: str) -> None:
    """Raise a `RangeError` about a layer, or a part of a network, unless a rule ``holds``."""
    if not holds:
        raise RangeError(found, where=where, expected=expected)


def brief(value: Array) -> str:
    """Return up to four numbers, or the dtype and shape of a larger array, for an error message."""
    return f"{value.dtype} {value.shape}" if value.size > 4 else f"{value.dtype} {value.tolist()}"


def is_positive(values: Array) -> Array:
    """Return which numbers are finite and above 0."""
    return np.asarray(np.isfinite(values) & (values > 0))


def require_numbers(
    name: str, channels: int, numbers: Iterable[tuple[str, Array | None, Callable[[Array], Array]]]
) -> None:
    """Raise a `RangeError` unless ``numbers`` of layer ``name``, and which of them are valid, have one per channel."""
    for what, array, are_valid in numbers:
        holds = array is None or (array.shape == (channels,) and bool(are_valid(array).all()))
        require(holds, name, f"{what} {'' if array is None else brief(array)}", "must be one valid number per channel")


def require_relays(name: str, synapse: Synapse, relay_of: Array | None) -> None:
    """Raise a `RangeError` unless each relay of layer ``name`` has one positive weight, at its source.

    ``relay_of`` is as in `network.ReluLayer`. A layer with relays must not pool, and its relays must not have a bias.
    """
    if relay_of is None:
        return
    fits = relay_of.shape == (synapse.channels,) and np.issubdtype(relay_of.dtype, np.integer)
    expected = f"relay_of must be int ({synapse.channels},), a channel index or -1 for each"
    require(fits and bool((relay_of >= -1).all()), name, f"found {relay_of.dtype} {relay_of.shape}", expected)
    relays = np.flatnonzero(relay_of >= 0)
    if not relays.size:
        return
    require(synapse.pool == (1, 1), name, f"has relays after a pooling of {synapse.pool}", "must not pool")
    weight = synapse.weight.reshape(synapse.channels, -1)
    has_bias = synapse.bias is not None and synapse.bias[relays].any()
    require(not has_bias, name, "a relay has a bias", "must not have one")
    # One row at a time: a copy of all may not fit into memory.
    for relay in relays:
        taps = np.flatnonzero(weight[relay])
        is_single = taps.size < 2 and (weight[relay, taps] >= 0).all()
        require(is_single, name, "a relay has more than one weight, or a negative one", "must have one")
        if isinstance(synapse, Conv) and taps.size:
            _, inputs, *kernel = synapse.weight.shape
            group = relay // (synapse.channels // synapse.groups)
            found, wanted = group * inputs + taps[0] // math.prod(kernel), relay_of[relay]
            require(
                found == wanted, name, f"channel {relay} repeats {found}", f"must repeat {wanted}, as relay_of says"
            )


def layer_words(name: str) -> str:
    """Return ``name`` of a layer for a sentence: ``layer 9`` for the 9 of an `nn.Sequential`."""
    return f"layer {name}" if name[:1].isdigit() else name


class HasSynapse(Protocol):
    """The part of a layer that the geometry of its network needs."""

    @property
    def synapse(self) -> Synapse | PixelBias: ...

    @property
    def relay_of(self) -> Array | None: ...


AnyLayer = TypeVar("AnyLayer", bound=HasSynapse)


class Layered(Generic[AnyLayer]):
    """Base of the networks, with their fields ``input_shape``, ``(C, H, W)`` or ``(N,)``, and ``layers``, in order."""

    input_shape: Shape
    layers: tuple[AnyLayer, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Output shape of each layer."""
        shapes = [self.input_shape]
        for layer in self.layers:
            shapes.append(layer.synapse.output_shape(shapes[-1]))
        return tuple(shapes[1:])

    @property
    def architecture(self) -> str:
        """The architecture in one line, in the notation of papers: ``1x28x28-12c5-2p-64c5-2p-10``.

        ``12c5`` is a convolution with 12 channels and a 5 x 5 kernel, ``2p`` an average pooling of 2 x 2, ``10`` a
        dense layer. Relays are counted separately: ``32c3+16r`` is a layer of 48 channels, 16 of which are relays.
        """
        parts = ["x".join(map(str, self.input_shape))]
        for layer in self.layers:
            synapse, relays = layer.synapse, relay_count(layer.relay_of)
            if isinstance(synapse, PixelBias):
                continue
            if synapse.pool != (1, 1):
                parts.append(f"{_extent(synapse.pool)}p")
            kernel = f"c{_extent(synapse.weight.shape[2:])}" if isinstance(synapse, Conv) else ""
            parts.append(f"{synapse.channels - relays}{kernel}{f'+{relays}r' if relays else ''}")
        return "-".join(parts)

    @property
    def summary(self) -> str:
        """One line: what the network is."""
        return self.architecture

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary})"


def _extent(size: tuple[int, ...]) -> str:
    """The side of a square; height x width of any other rectangle."""
    return str(size[0]) if len(set(size)) == 1 else "x".join(map(str, size))


class Spiking(Layered[AnyLayer]):
    """Base of the networks whose layers all spike, or all but the last."""

    poisson_seed: int | None = None
    """Seed of Poisson input; None: pixels enter as a constant current."""

    provenance: Provenance

    is_graded: ClassVar[bool] = False
    """Whether spikes carry integers, see `ir.graded`."""

    @property
    def task(self) -> Task:
        """Meaning of the outputs, as recorded for the CNN; see `ir.network`."""
        return self.provenance.model.task

    @property
    def depth(self) -> int:
        """Number of synapses, each of which takes a step on Lava; input neurons have none."""
        return sum(not isinstance(layer.synapse, PixelBias) for layer in self.layers)

    @property
    def stored(self) -> Self:
        """The network as it is stored in a file."""
        return self

    def pixels(self, images: Array) -> Array:
        """Return uint8 images as they enter the network."""
        return images

    @property
    def readout(self) -> Readout:
        """The output: the last layer's membrane potential or, if it has integrate-and-fire neurons, spike counts."""
        return "potential" if getattr(self.layers[-1], "neuron", None) is None else "spikes"

    @property
    def spiking_layers(self) -> tuple[AnyLayer, ...]:
        """The layers whose spikes are counted: all, or all but the last."""
        return self.layers if self.readout == "spikes" else self.layers[:-1]

    @property
    def fan_outs(self) -> tuple[Array, ...]:
        """Number of nonzero synapses from each neuron, per spiking layer: int64 in the layer's shape."""
        shapes = self.shapes
        after = [layer.synapse.fan_out(shape) for layer, shape in zip(self.layers[1:], shapes[:-1], strict=True)]
        # The spikes of the last layer reach none.
        return (*after, np.zeros(shapes[-1], np.int64))[: len(self.spiking_layers)]


@dataclass(frozen=True, eq=False)
class ReluLayer:
    """One synapse of the CNN; every layer but the last is followed by ReLU.

    Parameters
    ----------
    name
        The module's name in the CNN.
    synapse
        Its weights, batch norm folded.
    threshold, levels
        If the activation is `qcfs.Qcfs`: its thresholds, float64 ``(C_out,)``, NaN for channels with ReLU, and L;
        ``None`` if all channels have ReLU. Thresholds without L are those of the neurons of a NIR file; the activation
        is then ReLU with the same ``ceiling``.
    ceiling
        If the activation is clipped, as ReLU6 at 6: the upper bounds, float64 ``(C_out,)``, infinite for channels
        without one; ``None`` if no channel is clipped.
    relay_of
        For relays: the channel of the layer before whose values this channel repeats, -1 for all other channels, int64
        ``(C_out,)``; ``None`` without relays. See `require_relays`.
    """

    name: str
    synapse: Synapse
    threshold: Array | None = None
    levels: int | None = None
    ceiling: Array | None = None
    relay_of: Array | None = None

    def __post_init__(self) -> None:
        freeze(self, "threshold", "ceiling", "relay_of")
        require_relays(self.name, self.synapse, self.relay_of)


@dataclass(frozen=True, eq=False, repr=False)
class ReluNetwork(Layered[ReluLayer]):
    """The CNN as a chain of synapses with ReLU between them.

    Parameters
    ----------
    input_shape
        ``(C, H, W)``.
    layers
        In order; the last one is `Dense` and has no ReLU; its threshold is that of output neurons. Inputs are pixels /
        255, in 0..1.
    notes
        Parts of the CNN that were left out, one sentence each.
    task
        Meaning of the outputs, see `ir.network`.
    ending
        The function at the end of the CNN that was left out: ``softmax``, ``logsoftmax``, ``sigmoid``,
        ``logsigmoid`` or ``tanh``; empty if there was none.
    multiply_accumulates
        Multiplications by a nonzero weight in the CNN's own layers, for one image; ``None`` if unknown. These layers
        may have more: those of max pooling, for example.
    """

    input_shape: Shape
    layers: tuple[ReluLayer, ...]
    notes: tuple[str, ...] = ()
    task: Task = "classification"
    ending: str = ""
    multiply_accumulates: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of task and layers, hexadecimal: code that builds a CNN may change, and its checkpoint not."""
        values = [
            (one.name, getattr(part, one.name))
            for layer in self.layers
            for part in (layer, layer.synapse)
            for one in fields(part)
            if one.name != "synapse"
        ]
        arrays = [value for _, value in values if isinstance(value, np.ndarray)]
        others = [name if isinstance(value, np.ndarray) else (name, value) for name, value in values]
        return arrays_digest([np.frombuffer(repr((self.task, others)).encode(), np.uint8), *arrays])


@dataclass(frozen=True, eq=False)
class IntegrateAndFire:
    """Floating-point integrate-and-fire neurons, one set of parameters per channel: float64, each ``(C_out,)``.

    At each step ``V += I; s = [V >= threshold]``, then ``V -= threshold * s`` (soft reset; paper, eq. 1) or ``V = 0``
    where s = 1 (hard reset). The next layer receives ``amplitude * s``.

    Parameters
    ----------
    threshold
        Positive; infinite for a channel that can never fire.
    amplitude
        Value that one spike adds to the next layer's input: the threshold (compensated), with hard reset more than that
        if it is fitted, or 1 (literal).
    initial_potential
        V before the first step; 0 <= V0 < threshold.
    """

    threshold: Array
    amplitude: Array
    initial_potential: Array

    def __post_init__(self) -> None:
        freeze(self, "threshold", "amplitude", "initial_potential")

    @property
    def is_literal(self) -> bool:
        """Whether, in the channels that can fire, amplitudes are 1 and thresholds are not."""
        alive = np.isfinite(self.threshold)
        return bool((self.amplitude == 1)[alive].all() and (self.threshold != 1)[alive].any())

    def with_relays(self, before: IntegrateAndFire | None, relay_of: Array | None) -> IntegrateAndFire:
        """Return the neurons with those of relays set: amplitude and threshold are the source's amplitude, V0 is 0.

        ``before`` is the layer of the sources, ``relay_of`` as in `ReluLayer`.
        """
        if relay_of is None or before is None:
            return self
        amplitude = relayed(self.amplitude, before.amplitude, relay_of)
        relays = is_relay(relay_of, len(amplitude))
        return IntegrateAndFire(
            threshold=np.where(relays, np.where(amplitude > 0, amplitude, np.inf), self.threshold),
            amplitude=amplitude,
            initial_potential=np.where(relays, 0.0, self.initial_potential),
        )


@dataclass(frozen=True, eq=False)
class SpikingLayer:
    """A synapse with the CNN's weights, and its neurons.

    Parameters
    ----------
    name
        The module's name in the CNN.
    synapse
        The CNN's weights, whose inputs are spike amplitudes, and its biases.
    neuron
        ``None`` for a last layer that only integrates.
    correction
        Correction that `balancing.correct_biases` added to the CNN's bias; already included in ``synapse``:
        float64 ``(C_out,)``.
    relay_of
        As in `ReluLayer`. A relay's threshold and amplitude equal its source's amplitude.
    """

    name: str
    synapse: Synapse
    neuron: IntegrateAndFire | None
    correction: Array | None = None
    relay_of: Array | None = None

    def __post_init__(self) -> None:
        freeze(self, "correction", "relay_of")
        require_relays(self.name, self.synapse, self.relay_of)


@dataclass(frozen=True, eq=False, repr=False)
class SpikingNetwork(Spiking[SpikingLayer]):
    """The CNN with spiking neurons in floating point, thresholds balanced for ``timesteps``.

    Parameters
    ----------
    input_shape
        ``(C, H, W)``; inputs are pixels / 255.
    layers
        In order; only the last one may be without neurons.
    timesteps
        The latency T the thresholds were balanced for.
    reset
        ``"soft"`` or ``"hard"``.
    poisson_seed
        Seed of Poisson input (`ir.quantized.poisson_spikes`); ``None``: pixels enter as a constant current.
    provenance
        How it was made; carried into the exported file.
    task
        Meaning of the outputs, see `ir.network`.
    """

    input_shape: Shape
    layers: tuple[SpikingLayer, ...]
    timesteps: int
    reset: Reset
    provenance: Provenance = field(default_factory=Provenance)
    poisson_seed: int | None = None
    task: Task = "classification"

    def __post_init__(self) -> None:
        object.__setattr__(self, "provenance", as_provenance(self.provenance))

    @property
    def summary(self) -> str:
        """One line: architecture, T and reset."""
        return f"{self.architecture}, T = {self.timesteps}, {self.reset} reset"


def classes_of(outputs: Array) -> Array:
    """Return the first largest class of each row of ``outputs``, or if a single one is above 0: int64 ``(...)``."""
    if outputs.shape[-1] == 1:
        return np.asarray(outputs[..., 0] > 0, np.int64)
    return np.asarray(outputs.argmax(axis=-1))


def class_count(outputs: int) -> int:
    """Return the number of classes of a classification with ``outputs`` outputs: 2 for a single output."""
    return max(outputs, 2)


def name_count(outputs: int, task: Task) -> int:
    """Return the number of names that predictions need: one per class, or one per output of a regression."""
    return outputs if task == "regression" else class_count(outputs)


class ImagesLike(Protocol):
    """An array of images, or something that stands for one."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...


def require_images(input_shape: Shape, images: ImagesLike, where: str = "images") -> None:
    """Raise a `DataError` unless ``images`` are uint8 ``(N, *input_shape)``, N >= 1."""
    shape = f"uint8 of shape (N, {', '.join(map(str, input_shape))}), N >= 1"
    if not isinstance(getattr(images, "dtype", None), np.dtype):
        found, expected = f"found an object of type {type(images).__name__}", f"must be a NumPy array, {shape}"
        raise DataError(found, where=where, expected=expected)
    if images.dtype != np.uint8 or images.shape[1:] != input_shape or len(images) < 1:
        raise DataError(f"found {images.dtype} of shape {images.shape}", where=where, expected=f"must be {shape}")
