"""Networks of sigma-delta neurons, which send graded spikes: messages that carry integers.

A neuron sends a message only if its activation changes, and the message is the change. The neurons are Lava's ``Delta``
(input), ``SigmaDelta`` (hidden) and ``Sigma`` (output), in the integers of its CPU models (``lava/proc/sdn/models.py``
of lava-nc 0.10.0), as lava-dl's netx builds them for neurons of type ``SDNN``. With the input x(t), the weights W and
the biases b, sigma(0) = a(0) = r(0) = 0, and e = 6 (``state_exp``)::

    Delta        a(t) = x(t) << (spike_exp + e)
    SigmaDelta   sigma(t) = sigma(t-1) + W m_before        a(t) = max(0, sigma(t) + (b << (spike_exp + e)))
    both         d(t) = a(t) - a(t-1) + r(t-1)
                 s(t) = d(t) where |d(t)| >= vThMant << (spike_exp + e), else 0
                 r(t) = d(t) - s(t)
                 m(t) = s(t) >> e                             the message, rounded down
    Sigma        sigma(t) = sigma(t-1) + W m_before        the output

On Lava every synapse takes a step, so m_before is the message that the layer before sent one global step earlier.

**Settling.** A bias is there from the first step on, before any input: each layer sends it, and the layers after it
change once more. After as many steps as there are layers, with an input of 0, all is silent: the *settled state*, from
which images are counted and timed here.

**One step.** From the settled state each layer receives all changes of an image in one step, and sends each of its own
once. Without thresholds a neuron's messages then add up to a >> 6, in layer l at most l - 1 less, as each message sent
while settling is rounded down, too. The output, one step of each layer after the image, is that of a CNN with integer
weights and activations.

**Later steps.** r does not hold the e bits that ``>> e`` cuts off, so each further message of a neuron may lose up to
one unit. Lava resets none of these neurons (netx ignores its ``reset_interval`` for them); before a new image, the host
can write the settled state back.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

import numpy as np

from loihi_convert.ground.arrays import Array, Shape, freeze
from loihi_convert.ir.network import Spiking, is_positive, require, require_numbers, require_relays
from loihi_convert.ir.provenance import Provenance, as_provenance
from loihi_convert.ir.quantized import require_name
from loihi_convert.ir.synapse import Conv, Dense, PixelBias

STOCK_SPIKE_EXP: Final = 6
"""``spike_exp`` of lava-dl's netx unless its caller passes another; files do not hold it."""


MAX_SPIKE_EXP: Final = 8
"""Largest ``spike_exp``: an 8-bit pixel is then a message of 16 bits."""

INPUT: Final = "input"
"""Name of the input neurons of a network made from a CNN."""

OUT_OF_RANGE: Final = "a current or state exceeds 24 bits, or a message 16 bits"
"""The part of a note that says how values do not fit the chip."""


def with_constant_channel(
    before: Conv | Dense, last: Dense, constant: int, weights: Array
) -> tuple[Conv | Dense, Dense]:
    """Return two layers with one more channel between them, whose neurons are always ``constant``, its bias.

    Lava's ``Sigma`` neurons add no bias, so this channel takes the place of the biases of ``last``. It has no weights;
    groups of ``before`` are written out, as one of them would be larger. ``weights``, ``(N_out,)``, are those of
    ``last`` from the channel's first neuron, or the first window of a pooling; those from its others are 0.
    """
    if isinstance(before, Conv):
        before = before.without_groups()
    bias = np.zeros(before.channels, before.weight.dtype) if before.bias is None else before.bias
    added = np.full((1, *bias.shape[1:]), constant, bias.dtype)
    columns = np.zeros((last.channels, last.weight.shape[1] // before.channels), last.weight.dtype)
    columns[:, 0] = weights
    wider = np.concatenate([before.weight, np.zeros_like(before.weight[:1])])
    return (
        replace(before, weight=wider, bias=np.concatenate([bias, added])),
        replace(last, weight=np.concatenate([last.weight, columns], axis=1), bias=None),
    )


@dataclass(frozen=True, eq=False)
class GradedLayer:
    """A synapse and its sigma-delta neurons.

    Parameters
    ----------
    name
        The module's name in the CNN, or the layer's place in a file of another tool.
    synapse
        Integer weights and biases, each bias in units of ``1 << spike_exp`` messages. For the input neurons, which are
        ``Delta``: how a pixel is scaled.
    threshold
        ``vThMant``, 0 or more, in the unit of a bias.
    sends
        Whether the neurons send messages: ``Delta`` or ``SigmaDelta``, not ``Sigma``.
    scale
        For networks made from a CNN: the real value of sigma = 1, float64 ``(C_out,)``. A message counts 64 times as
        much. None for input neurons.
    offset
        For outputs of a CNN: added to sigma x scale, float64 ``(C_out,)``. None: 0.
    relay_of
        As in `network.ReluLayer`: a relay repeats each message.
    """

    name: str
    synapse: Conv | Dense | PixelBias
    threshold: int = 0
    sends: bool = True
    scale: Array | None = None
    offset: Array | None = None
    relay_of: Array | None = None

    def __post_init__(self) -> None:
        freeze(self, "scale", "offset", "relay_of")
        if not isinstance(self.synapse, PixelBias):
            require_relays(self.name, self.synapse, self.relay_of)


@dataclass(frozen=True, eq=False, repr=False)
class GradedNetwork(Spiking[GradedLayer]):
    """A chain of layers of sigma-delta neurons.

    Parameters
    ----------
    input_shape
        ``(C, H, W)`` or ``(N,)``.
    layers
        The input neurons, then at least one layer with a synapse. Only the last may be without messages; its output is
        then sigma, otherwise the activation a.
    spike_exp
        See the docstring of this module; 0..`MAX_SPIKE_EXP`.
    provenance
        How it was made; empty for files of other tools.

    Raises
    ------
    RangeError
        If the chain is not one that netx can build.
    """

    is_graded: ClassVar[bool] = True

    input_shape: Shape
    layers: tuple[GradedLayer, ...]
    spike_exp: int = STOCK_SPIKE_EXP
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        object.__setattr__(self, "provenance", as_provenance(self.provenance))
        kinds = [isinstance(layer.synapse, PixelBias) for layer in self.layers]
        found = f"found {len(kinds)} layers, {sum(kinds)} of them input neurons"
        is_chain = len(kinds) > 1 and kinds == [True, *[False] * (len(kinds) - 1)]
        require(is_chain, "layers", found, "must be input neurons, then layers with synapses")
        fits = 0 <= self.spike_exp <= MAX_SPIKE_EXP
        require(fits, "spike_exp", f"found {self.spike_exp}", f"must be in 0..{MAX_SPIKE_EXP}")
        for layer in self.layers:
            name, is_last = layer.name, layer is self.layers[-1]
            require_name(name)
            require(layer.threshold >= 0, name, f"threshold {layer.threshold}", "must be 0 or more")
            require(layer.sends or is_last, name, "sends no messages", "must send some unless it is the last layer")
            require(layer.offset is None or is_last, name, "has an offset", "must have none: it is not the last layer")
            if isinstance(layer.synapse, PixelBias):
                continue
            bias = layer.synapse.bias
            numbers = (("scale", layer.scale, is_positive), ("offset", layer.offset, np.isfinite))
            require_numbers(name, layer.synapse.channels, numbers)
            require(layer.sends or bias is None, name, "has a bias", "must have none: Lava's Sigma adds no bias")
        # Raises if a layer does not fit the one before it.
        _ = self.shapes

    @property
    def timesteps(self) -> int:
        """Time steps for an image, in each layer: 1."""
        return 1

    @property
    def is_converted(self) -> bool:
        """Whether it was made from a CNN, so that its numbers have scales."""
        return all(layer.scale is not None for layer in self.layers[1:])

    @property
    def summary(self) -> str:
        """One line: architecture (see `Layered.architecture`, relays included), and the task if not classification."""
        task = f", {self.task}" if self.task != "classification" else ""
        return f"{self.architecture}, graded spikes{task}"

    @property
    def spiking_layers(self) -> tuple[GradedLayer, ...]:
        """The layers that send messages, the input neurons among them."""
        return tuple(layer for layer in self.layers if layer.sends)

    def real_outputs(self, outputs: Array, timesteps: int | Array = 1) -> Array:
        """Return ``outputs``, ``(..., N_out)``, sigma of the last layer, in the CNN's units, float64; the same after
        any number of ``timesteps``."""
        last = self.layers[-1]
        found = np.asarray(outputs, np.float64) if last.scale is None else np.asarray(outputs * last.scale)
        return found if last.offset is None else found + last.offset
