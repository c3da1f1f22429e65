"""The targets of an export, and all numbers of Loihi and of Lava's CPU models that this package relies on.

`tests/test_limits.py` fails if another file repeats one of their powers of two.

Units: membrane potentials, thresholds and biases are counted in *weight units*: one spike through a synapse of weight
1 adds 1. Lava's LIF keeps its state 64 times finer (``act_shift = vth_shift = 6`` in
``lava/proc/lif/models.py``), so 24 state bits are 17 bits and a sign here.

`chip.rules` holds the rules on these numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from loihi_convert.ground.choices import Target

WEIGHT_LIMIT: Final = 127
"""Largest magnitude of an 8-bit signed synaptic weight in a symmetric range (Loihi: -128..127)."""

POTENTIAL_LIMIT: Final = 2**17 - 1
"""Largest magnitude of a membrane potential: 24 state bits, 6 of them below one weight unit, one the sign
(``uv_bitwidth = 24`` in ``lava/proc/lif/models.py``)."""

LIF_POTENTIAL_LIMIT: Final = 2**17 - 2**-6
"""The same for Lava's LIF, which clips its 24-bit state: +-(2^23 - 1) / 64 (``subthr_dynamics``). Every potential
up to twice this limit is exact in float32."""

WRAPS_ABOVE: Final = 2**17
"""Where the current u of Lava's LIF wraps, in weight units: u stays in (-2^17, 2^17]; sums outside change by 2^18
(``wrapped_curr`` in ``subthr_dynamics``)."""

THRESHOLD_LIMIT: Final = 2**17
"""Largest threshold: ``vThMant`` has 17 bits and the neuron spikes *above* it, so ``vThMant = threshold - 1``."""

NEVER_FIRES: Final = THRESHOLD_LIMIT
"""Threshold of a dead channel: no potential of a soft-reset neuron reaches it. With hard reset one could, but the
channel's weights are 0."""

BIAS_LIMIT: Final = POTENTIAL_LIMIT
"""Largest magnitude of a bias of the SoftResetIF process, which adds it in weight units."""

LIF_BIAS_LIMIT: Final = 2**15 - 1
"""Largest magnitude of a bias of Lava's LIF on the CPU, which stores it as int16 and wraps beyond that
(``bias_mant: np.int16`` in ``lava/proc/lif/models.py``; netx sets ``bias_exp = 6``, so the unit is a weight unit)."""

CURRENT_LIMIT: Final = 2**23 - 1
"""Largest magnitude of the output of a Conv or Dense process: Lava wraps at 24 bits (``signed_clamp(x, bits=24)`` in
``lava/proc/conv/models.py``). Every partial sum of such a current is exact in float32."""

MAX_CONV_GEOMETRY: Final = 2**7 - 1
"""Largest stride, padding, dilation and number of groups of Lava's Conv on the CPU, which stores them as int8
(``lava/proc/conv/models.py``)."""

SELF_WEIGHT_LIMIT: Final = 255
"""Largest magnitude of a weight in a synapse whose weights are all <= 0 (``SignMode.INHIBITORY``: ``clip_weights`` in
``lava/utils/weightutils.py`` clips to -255..0 and ``truncate_weights`` keeps all 8 bits). With both signs
(``SignMode.MIXED``) the same 8 bits hold the even weights -256..254. Halved by a weight exponent of -1 these are
-128..127: this is how a network's weights and those of a bias source enter Lava's bit-accurate synapses."""

WEIGHT_EXP_LIMIT: Final = 7
"""Largest exponent of a synapse's weights. From Loihi 1 (nengo-loihi, ``hardware/validate.py``: -7 <= weight_exp <= 7);
no value is public for Loihi 2, and Lava's CPU models accept any."""

BIAS_MANT_RANGE: Final = (-(2**12), 2**12 - 1)
"""``bias_mant``: 13 bits, signed (docstring of ``PyLifModelBitAcc`` in ``lava/proc/lif/models.py``). v is increased by
``bias_mant << bias_exp``, in units of 1/64."""

BIAS_EXP_LIMIT: Final = 7
"""Largest ``bias_exp``: 3 bits, unsigned (the same docstring). The unit is one weight unit with 6, two with 7."""

UNIT_EXP: Final = 6
"""Bits of Lava's LIF below one weight unit (``act_shift = vth_shift = 6``)."""

LIF_STATE_LIMIT: Final = WRAPS_ABOVE << UNIT_EXP
"""Range of u and v of Lava's LIF, in units of 1/64: u stays in (-2^23, 2^23], v clips at +-(2^23 - 1)."""

SIGMA_DELTA_STATE_EXP: Final = 6
"""``state_exp`` of Lava's sigma-delta neurons in netx: bits of their state below one unit of a message
(``get_neuron_params`` in ``lava/lib/dl/netx/hdf5.py``)."""

MESSAGE_LIMIT: Final = 2**15 - 1
"""Largest magnitude of a graded spike of 16 message bits, one of them the sign: what netx gives the synapses after
sigma-delta neurons (``num_message_bits`` in ``get_neuron_params``). Lava's CPU models do not check it."""

LEVEL_SPANS: Final = (BIAS_MANT_RANGE[1] - BIAS_MANT_RANGE[0], 2 * (BIAS_MANT_RANGE[1] - BIAS_MANT_RANGE[0]))
"""Largest distance between the firing levels of a layer: with ``bias_exp`` 6, and with 7 (steps of 2)."""

MAX_PIXEL_BITS: Final = 8
"""Pixels are graded spikes of at most 8 bits, the bits of an image."""

DECAY_BITS: Final = 12
"""Decays are fractions of 2^12 (``decay_unity`` in ``lava/proc/lif/models.py``)."""

MAX_DECAY: Final = 1 << DECAY_BITS
"""Largest ``iDecay`` and ``vDecay``: the state lasts one step."""

I_DECAY: Final = MAX_DECAY
"""netx ``iDecay`` of a neuron whose current lasts one step (Lava: ``du = iDecay - 1``)."""

V_DECAY: Final = 0
"""netx ``vDecay`` of a neuron without leak."""

NO_MEMORY: Final = MAX_DECAY
"""``dv`` of a LIF whose v is u + bias, and, minus one, ``du`` of a LIF whose u is the current of one step. Lava's
network exchange uses ``dv`` in this way for its integrators."""

SYNAPSE_LIMITS: Final = (-256, 254)
"""Smallest and largest weight of a synapse with both signs, whose 8 bits are in steps of 2 (``optimize_weight_bits`` in
``lava/lib/dl/netx/utils.py`` clips there)."""

UNSIGNED_SYNAPSE_LIMITS: Final = (-255, 255)
"""The same if all weights of the layer have one sign (``clip_weights`` in ``lava/utils/weightutils.py``)."""

MAX_DELAY_STEPS: Final = 62
"""Longest delay, in steps; longer ones are shortened to it (``create_dense`` in ``lava/lib/dl/netx/hdf5.py``)."""

NEUROCORES: Final = 128
"""Neurocores of a Loihi 2 chip (Intel, technology brief "Taking Neuromorphic Computing to the Next Level with Loihi 2",
2021)."""

NEURONS_PER_CORE: Final = 2**12 - 1
"""Most neurons of a neurocore in the tables of Intel's compiler (`chip.partition`): 3,584 neurons are printed as
87.52 % and 2,688 as 65.64 %. Of 4,096 these would be 87.50 and 65.63 %. The brief's 1 million neurons on 128 cores are
8,192 a core; no table shows that many."""

SYNAPSE_WORDS: Final = 16_000
"""Words of synaptic memory of a neurocore, in the unit of the tables of Intel's compiler. Only with this capacity does
each percentage of the tables give a whole number of words for each row of a kernel (`chip.partition`).
If a word has 96 bits, these are the brief's 192 KB."""

AXONS_PER_CORE: Final = 16_000
"""Axons into a neurocore in the tables of Intel's compiler: 784 inputs are printed as 4.90 %."""


class Platform(NamedTuple):
    """A target in words, and whether soft reset needs the circuit of stock neurons there.

    The potentials of that circuit (`ir.neuron_model`) wrap, and do not clip, and its layers satisfy `rules.CHIP_RULES`.
    """

    place: str
    is_circuit: bool


TARGETS: Final[Mapping[Target, Platform]] = {
    "lava": Platform("Lava on a CPU", is_circuit=False),
    "loihi2": Platform("Loihi 2", is_circuit=True),
}
