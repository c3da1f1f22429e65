"""Networks of CUBA neurons, as lava-dl builds them from external netx files.

A CUBA neuron (current-based; netx also calls it LOIHI) is Lava's ``LIF``: its current and its potential both leak, and
its reset is hard. At each step, in units of 1/64 weight (``lava/proc/lif/models.py``)::

    u = wrap(u (4096 - iDecay) / 4096 + 64 I)            current; the quotient is rounded towards 0, 24 bits wrap
    v = clip(v (4096 - vDecay) / 4096 + u + 64 bias)     membrane potential; clips at +-(2^23 - 1)
    s = [v > 64 vThMant], then v = 0 where s             spike

Lava does not simulate the refractory delay stored in netx files, and neither does this package. These networks have no
scales, no balanced thresholds, and no known CNN. Axes C H W and shapes as in `ir.network`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array, Shape, freeze
from loihi_convert.ground.choices import Readout
from loihi_convert.ir.network import Spiking
from loihi_convert.ir.provenance import Provenance
from loihi_convert.ir.synapse import Conv, Dense, PixelBias


@dataclass(frozen=True, eq=False)
class CubaNeuron:
    """Neurons of one layer.

    Parameters
    ----------
    i_decay, v_decay
        netx's iDecay and vDecay, 0..4096: 0 never leaks, 4096 keeps nothing.
    v_th_mant
        netx's vThMant, int32, 0..2^17, of a shape that broadcasts to the layer's ``(C, H, W)`` or ``(N,)``.
    """

    i_decay: int
    v_decay: int
    v_th_mant: Array

    def __post_init__(self) -> None:
        freeze(self, "v_th_mant")


INTEGRATOR: Final = CubaNeuron(i_decay=0, v_decay=limits.MAX_DECAY, v_th_mant=np.array(limits.NEVER_FIRES, np.int32))
"""Neuron of a dense layer without a neuron group in lava-dl: u never leaks, v = u + bias, and it never fires."""


@dataclass(frozen=True, eq=False)
class CubaLayer:
    """One layer of CUBA neurons.

    Parameters
    ----------
    name
        Its place in the file, such as ``layer 3``.
    synapse
        Integer weights and biases. The weights of a dense layer are those of Lava's synapse: 8 bits and a sign mode,
        shifted left as far as possible (`readers.dense_weights`).
    neuron
        Its neurons.
    weight_shift
        Bits by which the weighted sum is shifted right again.
    """

    relay_of: ClassVar[None] = None
    """No other tool has relays."""

    name: str
    synapse: Conv | Dense | PixelBias
    neuron: CubaNeuron
    weight_shift: int = 0


@dataclass(frozen=True, eq=False)
class CubaNetwork(Spiking[CubaLayer]):
    """A chain of layers of CUBA neurons.

    Parameters
    ----------
    input_shape
        ``(C, H, W)`` or ``(N,)``.
    layers
        In order.
    timesteps
        Time steps per sample (``simulation/tSample``); None if not in the file.
    provenance
        Empty: other tools record none.
    """

    input_shape: Shape
    layers: tuple[CubaLayer, ...]
    timesteps: int | None = None
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def readout(self) -> Readout:
        """The output: the spikes of the last layer, or its potential if it only integrates."""
        fires = int(self.layers[-1].neuron.v_th_mant.min()) < limits.POTENTIAL_LIMIT
        return "spikes" if fires else "potential"

    @property
    def task(self) -> Literal["classification"]:
        """Meaning of the outputs: always classes, as the file does not record units for numbers."""
        return "classification"
