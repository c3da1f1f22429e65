"""Options of the conversion: immutable, validated when created."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Final

from pydantic import Field

from loihi_convert.chip import limits
from loihi_convert.chip.limits import TARGETS
from loihi_convert.errors import UsageError, require_kind
from loihi_convert.ground.choices import (
    MAX_SEED,
    MAX_TIMESTEPS,
    Amplitude,
    AnyMethod,
    Granularity,
    InitialPotential,
    InputCoding,
    Readout,
    Reset,
    Target,
    Task,
)
from loihi_convert.ground.options import BASICS, Flag, WeightBits, declared

AUTO: Final = "auto"

NEURONS: Final = "Neurons and input"
"""Heading of the options of neurons and pixels."""

PERCENTILE: Final = 99.0
"""Default of ``percentile``."""

MOST_CORES: Final = 2**30
"""Largest ``max_cores``; far more than any board has."""

_PUBLISHED: Final[dict[str, tuple[Reset, InputCoding]]] = {
    "spike-norm": ("hard", "poisson"),
    "rmp": ("soft", "poisson"),
}


def published_neurons(method: str) -> tuple[Reset, InputCoding]:
    """Return the reset and input coding with which ``method`` was published; soft and constant for most."""
    return _PUBLISHED.get(method, ("soft", "constant"))


@declared("Balancing")
class BalanceOptions:
    """Options for balancing firing thresholds.

    ========================  ==========================================================================================
    method                    threshold of channel k in layer l
    ========================  ==========================================================================================
    ``auto``                  the method that agrees best with the CNN on calibration images, see `choose_method`
    ``ngu-lee``               alpha x the largest input current of the channel over all calibration images, positions
                              and steps 1..T, while the layers before it spike with their balanced thresholds (Ngu & Lee
                              2022, algorithm 2, alpha of section 4.1.3)
    ``spike-norm``, ``rmp``   the same, with one threshold per layer (Sengupta et al., Front. Neurosci. 2019, with hard
                              reset; Han et al., CVPR 2020, "RMP-SNN", with soft reset; both with Poisson input)
    ``act-norm``              the layer's largest ReLU activation in the CNN (Diehl et al., IJCNN 2015)
    ``robust-norm``           the 99.9th percentile of the layer's positive activations (Rueckauer et al., Front.
                              Neurosci. 2017)
    ``act-norm-channelwise``  the channel's largest activation (Kim et al., AAAI 2020, "Spiking-YOLO")
    ``percentile``            a percentile of the channel's positive activations (after Rueckauer et al. 2017, there per
                              layer); below 100, that of the first 2,000 images
    ``least-squares``         of 24 thresholds, up to a little above the channel's largest activation, the one whose
                              firing rates over T steps have the least squared difference from the CNN's activations,
                              over images and positions, while the layers before it spike
                              with their balanced thresholds. The smaller T, the lower the threshold (after Li et al.,
                              ICML 2021, who do this per layer and without simulation). With hard reset the amplitude is
                              fitted together with the threshold
    ``qcfs``                  the threshold that the CNN was trained with, if its activations are `qcfs.Qcfs` (Bu et
                              al., ICLR 2022); channels with plain ReLU get that of ``least-squares``
    ========================  ==========================================================================================

    If the CNN clips an activation, as ReLU6 does, the threshold is at most that ceiling, and clips it exactly.
    The threshold of a relay (`ir.network`) is the amplitude of its source, for every method.

    Parameters
    ----------
    method
        Balancing method. auto tries several and takes the one that agrees best with the CNN on calibration images, for
        each T.
    amplitude
        Amplitude of a spike, which is added to the next layer's input: its threshold (compensated), or 1 (literal).

        With ``compensated``, rate x threshold approximates the activation, and the SNN converges to the CNN. A hard
        reset discards the potential above the threshold and restarts at 0: with ``least-squares`` the amplitude is then
        the threshold times a fitted factor, 2 for T = 1. ``literal`` is algorithm 2 as printed: channels keep their
        rates but lose their relative scale.
    alpha
        Factor on the thresholds.

        It is applied layer by layer, so that later layers are balanced for the spikes of the scaled thresholds.
    percentile
        With `method='percentile'`: the percentile of the activations. Default: 99.
    initial_potential
        Potential before the first step. Default: half of the threshold with soft reset, zero with hard reset.

        ``half`` rounds spike counts to nearest instead of down; ``zero`` is the paper's.
    reset
        Reset after a spike: soft (subtract the threshold) or hard (to 0, as Lava's LIF does). Default: soft, but hard
        for spike-norm and for NIR files, whose neurons reset to 0 by definition.
    readout
        Read the class from the last layer's potential or spikes. Default: potential, but spikes for a NIR file that
        ends with neurons.

        ``potential``: the last layer only integrates; the class is the argmax of its membrane potential (paper,
        algorithm 3). ``spikes``: it has neurons with one threshold for all classes, the largest that the method gives
        for any class, so that spike counts are comparable; the class is the one with the most spikes.
    input_coding
        How pixels enter: constant (the same current in each step) or poisson (random spikes). Default: constant, but
        poisson for spike-norm and rmp.

        Also Poisson if ``poisson_seed`` is given. See `ir.quantized.poisson_spikes`.
    poisson_seed
        Seed of the Poisson input. Default: 0.
    bias_correction
        Correct biases and initial potentials for the error of few time steps (Li et al., 2021). Default: chosen by
        `method='auto'`.

        See `balancing.correct_biases`. It sets initial potentials only if ``initial_potential`` is not given, and
        ``auto`` chooses it only then.

    Raises
    ------
    UsageError
        If a value is out of range, or two of them contradict each other; ``where`` is the parameter.
    """

    method: Annotated[AnyMethod, Flag("METHOD", "--balance")] = "auto"
    amplitude: Annotated[Amplitude, Flag(panel=NEURONS)] = "compensated"
    alpha: Annotated[float, Field(gt=0, le=1), Flag("FACTOR")] = 1.0
    percentile: Annotated[float | None, Field(gt=0, le=100), Flag("PERCENT")] = None
    initial_potential: Annotated[InitialPotential | None, Flag(panel=NEURONS)] = None
    reset: Annotated[Reset | None, Flag(panel=NEURONS)] = None
    readout: Annotated[Readout | None, Flag(panel=NEURONS)] = None
    input_coding: Annotated[InputCoding | None, Flag(name="--input", panel=NEURONS)] = None
    poisson_seed: Annotated[int | None, Field(ge=0, le=MAX_SEED), Flag(name="--seed", panel=NEURONS)] = None
    bias_correction: bool | None = None

    def __post_init__(self) -> None:
        if self.percentile is not None and self.method != "percentile":
            found = f"found {self.percentile!r} with `method={self.method!r}`"
            raise UsageError(found, where="percentile", expected="is only for `method='percentile'`")
        if self.poisson_seed is not None and self.input_coding == "constant":
            raise UsageError("given", where="poisson_seed", expected="is only for `input_coding='poisson'`")
        if self.neuron_reset == "hard" and self.initial_potential == "half":
            expected = "must be zero with `reset='hard'`, which resets to 0"
            raise UsageError("found 'half'", where="initial_potential", expected=expected)
        if self.method == "rmp" and self.neuron_reset != "soft":
            expected, hint = "must be soft with `method='rmp'`", "For hard reset use `method='spike-norm'`."
            raise UsageError(f"found {self.reset!r}", where="reset", expected=expected, hint=hint)
        if self.amplitude == "literal" and (self.method == "least-squares" or self.bias_correction):
            cause = "`method='least-squares'`" if self.method == "least-squares" else "`bias_correction`"
            expected = f"must be compensated with {cause}"
            raise UsageError("found 'literal'", where="amplitude", expected=expected)

    @property
    def key(self) -> dict[str, object]:
        """All that determines thresholds, for `Computation.key`: the same for a default and for its value."""
        given = asdict(self)
        # The seed says it.
        del given["input_coding"]
        defaults = {"percentile": self.percent, "reset": self.neuron_reset, "readout": self.output}
        return {**given, **defaults, "poisson_seed": self.input_seed}

    @property
    def first_potential(self) -> InitialPotential:
        """``initial_potential``, or its default for this reset."""
        return self.initial_potential or ("half" if self.neuron_reset == "soft" else "zero")

    @property
    def neuron_reset(self) -> Reset:
        """``reset``, or its default for this method."""
        return self.reset or published_neurons(self.method)[0]

    @property
    def output(self) -> Readout:
        """``readout``, or its default."""
        return self.readout or "potential"

    @property
    def input_seed(self) -> int | None:
        """The seed of Poisson input; None if pixels enter as a constant current."""
        if self.poisson_seed is not None:
            return self.poisson_seed
        return 0 if (self.input_coding or published_neurons(self.method)[1]) == "poisson" else None

    @property
    def may_correct(self) -> bool:
        """Whether biases are corrected, or ``auto`` may choose so."""
        is_plain = self.initial_potential is None and self.amplitude == "compensated"
        return bool(self.bias_correction) or (self.method == AUTO and self.bias_correction is None and is_plain)

    @property
    def percent(self) -> float:
        """``percentile``, or its default."""
        return PERCENTILE if self.percentile is None else self.percentile


@declared("Balancing")
class QuantizeOptions:
    """Options for rounding a balanced network to Loihi's integers.

    Parameters
    ----------
    weight_bits
        Bits of a weight, sign included.
    pixel_bits
        Bits of a pixel. Default: 8, but chosen automatically with hard reset, for target loihi2, and for a network of
        one layer.

        The best of 8..4 with hard reset; of 8..1 for target loihi2 and for a network of one layer.
    target
        lava: with soft reset, for the simulator only. loihi2: restrict parameters to what stock Loihi 2 neurons can
        represent (fewer bits).

        ``loihi2`` (`ir.neuron_model`) needs soft reset.
    thresholds
        channel: one threshold per channel. scalar: one per layer, with the differences moved into the weights;
        unmodified lava-dl needs it on a chip.

        Only Lava's CPU models support ``channel``. ``scalar`` (`scales.scalar_scales`) is for target lava.
    split_readout
        Store the last layer as high and low digits of its weights. Useful if the range of its potential costs weight
        bits, as after a global average with many steps. Other tools see both digits. Default: chosen by
        `method='auto'`.

        A last layer that only integrates is then two populations (`ir.quantized.split`); for target lava. ``auto`` does
        so with soft reset and without ``max_cores``, if the squared error of the outputs falls by a quarter.
    max_cores
        Refuse a network that needs more than N Loihi 2 neurocores (estimated, see `check`), and say what would fit.

        It is refused before any long computation, except if only a split readout makes it too large. 128 cores are a
        chip. For target loihi2 the estimate includes the stock circuit, also with the biases of a bias correction.

    Raises
    ------
    UsageError
        If a value is out of range, or two of them contradict each other; ``where`` is the parameter.
    """

    weight_bits: Annotated[WeightBits, Flag("BITS", panel=BASICS)] = 8
    pixel_bits: Annotated[int | None, Field(ge=1, le=limits.MAX_PIXEL_BITS), Flag("BITS", panel=NEURONS)] = None
    target: Annotated[Target, Flag(panel=BASICS)] = "lava"
    thresholds: Granularity = "channel"
    split_readout: bool | None = None
    max_cores: Annotated[int | None, Field(ge=1, le=MOST_CORES), Flag(panel=BASICS)] = None

    def __post_init__(self) -> None:
        if self.is_circuit and self.thresholds == "scalar":
            expected = f"must be channel with `target='{self.target}'`: the circuit derives all thresholds from one vth"
            raise UsageError("found 'scalar'", where="thresholds", expected=expected)

    def may_split(self, balancing: BalanceOptions) -> bool:
        """Return whether ``auto`` may choose `split_readout`."""
        is_open = self.split_readout is None and self.max_cores is None and not self.is_circuit
        return is_open and balancing.neuron_reset == "soft" and balancing.output == "potential"

    @property
    def is_circuit(self) -> bool:
        """Whether the target's neurons are the circuit of stock neurons, whose potentials wrap."""
        return TARGETS[self.target].is_circuit

    def require_neurons(self, reset: Reset, poisson_seed: int | None, readout: Readout = "potential") -> None:
        """Raise a `UsageError` if these options do not allow this reset, input or readout; called before any work."""
        if self.split_readout and (self.is_circuit or readout == "spikes"):
            what = f"target {self.target}" if self.is_circuit else "classes from spike counts"
            raise UsageError(f"given for {what}", where="split_readout", expected="is for potentials on target lava")
        if self.is_circuit and reset == "hard":
            found, expected = f"found {self.target!r} for neurons with hard reset", "must be lava with `reset='hard'`"
            raise UsageError(found, where="target", expected=expected)
        if poisson_seed is not None and self.pixel_bits is not None:
            expected = "must not be set, because pixels enter as one-bit spikes"
            raise UsageError(f"found {self.pixel_bits} for Poisson input", where="pixel_bits", expected=expected)


@dataclass(frozen=True)
class ConversionOptions:
    """How a CNN becomes integers, and where that is simulated.

    Parameters
    ----------
    balance, quantize
        How thresholds are balanced and numbers rounded.
    skip_copies
        Relays that carry each value of a skip connection, 1..8; None: as few of `copies.COPIES` as the agreement with
        the CNN on calibration images allows, and no more than fit ``max_cores`` of ``quantize``.
    device
        ``"cpu"`` or another torch device.
    """

    balance: BalanceOptions = BalanceOptions()
    quantize: QuantizeOptions = QuantizeOptions()
    skip_copies: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        # Not a word, which the command line would take.
        expected = "must be BalanceOptions, such as BalanceOptions(method='percentile')"
        require_kind("balancing", self.balance, BalanceOptions, expected)
        expected = "must be QuantizeOptions, such as QuantizeOptions(target='loihi2')"
        require_kind("quantization", self.quantize, QuantizeOptions, expected)


def require_readout(task: Task, readout: Readout) -> None:
    """Raise a `UsageError` if the outputs of ``task`` cannot be read from ``readout``."""
    if task == "regression" and readout != "potential":
        expected = "must be potential, because spike counts cannot be negative"
        raise UsageError(f"found {readout!r} for a regression", where="readout", expected=expected)


def require_timesteps(timesteps: Sequence[int]) -> None:
    """Raise a `UsageError` unless ``timesteps`` are valid latencies without repeats."""
    for steps in timesteps:
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_TIMESTEPS:
            expected = f"must be a whole number in 1..{MAX_TIMESTEPS:,}"
            raise UsageError(f"found {steps!r}", where="timesteps", expected=expected)
    if not timesteps or len(set(timesteps)) < len(timesteps):
        raise UsageError(
            f"found {tuple(timesteps)}", where="timesteps", expected="must be one or more numbers, without repeats"
        )
