"""Words of synaptic memory that a neurocore of Loihi 2 takes for the synapses of its neurons.

Intel's compiler is not public. lava-dl's notebooks print what it did with five networks: 34 layers, with the words of
synaptic memory per core (`tests/golden/loihi2_compiler_cores.csv`; lava-dl d825ac5, ``tutorials/lava/lib/dl/netx``).
The formulas below were fitted to these figures. A *row* is what one input spike reads: one input channel at one tap of
a kernel, or one input of a dense layer.

===============================  =======================================================================================
synapses                         words of a row
===============================  =======================================================================================
convolution, c channels a core   ``ceil((5 c + 48) / 64)``: 12.8 weights a word, and 0.75 word a row
dense, n neurons a core          ``ceil((5 n + 3) / 16)``: 3.2 synapses a word, and 0.19 word a row
===============================  =======================================================================================

Of the 20 layers with a kernel, 15 take exactly these words. Four of 64 channels take 5 words a row, not 6: PilotNet's
three with weights of 5 bits, and one of YOLO-KP. YOLO-KP's last layer, of 48, takes 6, not 5. Of the 13 dense layers,
MNIST's three and PilotNet's last take exactly these words, the others 2 to 25 % fewer, most where weights have 5 bits.
Zeros are stored like other weights: PilotNet's two networks have different zeros, and the same words.

The tables say nothing about grouped convolutions and the stock circuit (`ir.neuron_model`). Groups are counted as rows
that reach the channels of their own group only. The circuit's recurrent synapse is counted as a row of one synapse for
each neuron, its bias source as one dense row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """The kernel of a convolution as netx stores it, with a pooling before it written out.

    Parameters
    ----------
    taps
        Height times width.
    inputs
        Input channels of one group.
    channels
        Output channels of all groups.
    groups
        Number of groups.
    """

    taps: int
    inputs: int
    channels: int
    groups: int = 1

    def words(self, channels: int) -> int:
        """Return the words for ``channels`` of its output channels, in one core."""
        per_group = self.channels // self.groups
        rows = self.taps * self.inputs * math.ceil(channels / per_group)
        return rows * _ceil_div(5 * min(channels, per_group) + 48, 64)


def dense_words(neurons: int, inputs: int) -> int:
    """Return the words for ``neurons`` of a dense layer in one core, each with a synapse from each of ``inputs``."""
    return inputs * _ceil_div(5 * neurons + 3, 16)


def packed_dense_words(neurons: float, inputs: int) -> float:
    """Return `dense_words` with rows that are not rounded up, but take at least a word.

    In the older tables rows are fractions of words on average: Oxford's 31.5 for 100 neurons, where this gives 31.4,
    and PilotNet's 2.83 for 8.3, where it gives 2.8.
    """
    return inputs * max(1.0, (5 * neurons + 3) / 16)


def circuit_words(neurons: int, *, has_reset: bool, has_bias: bool) -> int:
    """Return the words that the stock circuit takes for ``neurons`` in one core.

    ``has_reset``: each neuron inhibits itself; ``has_bias``: a source neuron reaches all of them.
    """
    return has_reset * neurons * dense_words(1, 1) + has_bias * dense_words(neurons, 1)


def _ceil_div(count: int, size: int) -> int:
    return -(-count // size)
