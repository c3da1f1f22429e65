"""Options of the conversion: immutable, validated when created."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, get_args

from loihi_convert.arrays import plain_numbers
from loihi_convert.chip import limits
from loihi_convert.choices import (
    Amplitude,
    AnyMethod,
    Granularity,
    InitialPotential,
    InputCoding,
    Method,
    Readout,
    Reset,
    Target,
    Task,
)
from loihi_convert.errors import UsageError, one_of
from loihi_convert.ir.poisson import MAX_SEED
from loihi_convert.ir.quantized import MAX_TIMESTEPS

METHODS: Final[tuple[Method, ...]] = get_args(Method)
AUTO: Final = "auto"

WEIGHT_BITS: Final = (2, 8)
"""Smallest and largest number of bits of a weight, sign included."""

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


@dataclass(frozen=True)
class BalanceOptions:
    """Options for balancing firing thresholds.

    ========================  ==========================================================================================
    method                    threshold of channel k in layer l
    ========================  ==========================================================================================
    ``auto``                  the method that agrees best with the CNN on calibration images, see `choice`
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
    The threshold of a relay (`ir.relays`) is the amplitude of its source, for every method.

    Parameters
    ----------
    method
        See the table.
    amplitude
        Value that a spike adds to the next layer's input. ``compensated``: its threshold, so that rate x threshold
        approximates the activation, and the SNN converges to the CNN. A hard reset discards the potential above the
        threshold and restarts at 0: with ``least-squares`` the amplitude is then the threshold times a fitted factor, 2
        for T = 1. ``literal``: 1, as algorithm 2 is printed; channels keep their rates but lose their relative scale.
    alpha
        Factor on the thresholds of every method, in (0, 1]. It is applied layer by layer, so that later layers are
        balanced for the spikes of the scaled thresholds.
    percentile
        For method ``percentile``, in percent, in (0, 100]; default: 99.
    initial_potential
        Potential before the first step. ``half``: threshold / 2, which rounds spike counts to nearest instead of down;
        the default with soft reset. ``zero`` (paper): the only choice with hard reset, which returns to 0.
    reset
        After a spike: ``soft`` (subtract the threshold) or ``hard`` (to 0, as Lava's LIF does). Default: that of the
        method's paper; for a file that holds a spiking network, ``hard``.
    readout
        The last layer. ``potential``: it only integrates; the class is the argmax of its membrane potential (paper,
        algorithm 3). ``spikes``: it has neurons with one threshold for all classes, the largest that the method gives
        for any class, so that spike counts are comparable; the class is the one with the most spikes. Default:
        ``potential``; for a file that holds a spiking network, what the file ends with.
    input_coding
        How pixels enter: ``constant``, as a current, or ``poisson``, as random spikes (`ir.poisson`). Default: Poisson
        if ``poisson_seed`` is given, otherwise that of the method's paper.
    poisson_seed
        Seed of Poisson input; default: 0.
    bias_correction
        Whether to apply `bias_correction.correct_biases`, which sets initial potentials, too, unless
        ``initial_potential`` is given. ``None``: with ``auto`` if it agrees better and no ``initial_potential`` is
        given, otherwise no.

    Raises
    ------
    UsageError
        If a value is out of range, or two of them contradict each other; ``where`` is the parameter.
    """

    method: AnyMethod = "auto"
    amplitude: Amplitude = "compensated"
    alpha: float = 1.0
    percentile: float | None = None
    initial_potential: InitialPotential | None = None
    reset: Reset | None = None
    readout: Readout | None = None
    input_coding: InputCoding | None = None
    poisson_seed: int | None = None
    bias_correction: bool | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        _require_choice("method", self.method, get_args(AnyMethod))
        _require_choice("amplitude", self.amplitude, get_args(Amplitude))
        _require_choice("initial_potential", self.initial_potential, (None, *get_args(InitialPotential)))
        _require_choice("reset", self.reset, (None, *get_args(Reset)))
        _require_choice("readout", self.readout, (None, *get_args(Readout)))
        _require_choice("input_coding", self.input_coding, (None, *get_args(InputCoding)))
        _require_choice("bias_correction", self.bias_correction, (None, True, False))
        _require_share("alpha", self.alpha, 1)
        if self.percentile is not None:
            _require_share("percentile", self.percentile, 100)
        if self.poisson_seed is not None:
            _require_integer("poisson_seed", self.poisson_seed, 0, MAX_SEED)
        self._require_consistent()

    def _require_consistent(self) -> None:
        if self.percentile is not None and self.method != "percentile":
            raise UsageError(
                f"found {self.percentile!r} with `method={self.method!r}`",
                where="percentile",
                expected="is only for `method='percentile'`",
            )
        if self.poisson_seed is not None and self.input_coding == "constant":
            raise UsageError("given", where="poisson_seed", expected="is only for `input_coding='poisson'`")
        if self.neuron_reset == "hard" and self.initial_potential == "half":
            raise UsageError(
                "found 'half'",
                where="initial_potential",
                expected="must be zero with `reset='hard'`, which resets to 0",
            )
        if self.method == "rmp" and self.neuron_reset != "soft":
            raise UsageError(
                f"found {self.reset!r}",
                where="reset",
                expected="must be soft with `method='rmp'`",
                hint="For hard reset use `method='spike-norm'`.",
            )
        if self.amplitude == "literal" and (self.method == "least-squares" or self.bias_correction):
            cause = "`method='least-squares'`" if self.method == "least-squares" else "`bias_correction`"
            raise UsageError(
                "found 'literal'",
                where="amplitude",
                expected=f"must be compensated with {cause}",
            )

    @property
    def key(self) -> dict[str, object]:
        """All that determines thresholds, for `cells.cell.Cell.key`: the same for a default and for its value."""
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


@dataclass(frozen=True)
class QuantizeOptions:
    """Options for rounding a balanced network to Loihi's integers.

    Parameters
    ----------
    weight_bits
        Bits of a weight, 2..8, sign included.
    pixel_bits
        Bits of a pixel, 1..8. ``None``: 8; the best of 8..4 with hard reset, and of 8..1 for target loihi2 and for a
        network of one layer.
    target
        ``lava``: with soft reset, for the simulator only. ``loihi2``: restrict parameters to what stock Loihi 2 neurons
        can represent (`ir.circuit`); needs soft reset, and leaves fewer weight bits.
    thresholds
        ``channel``: one per channel, which only Lava's CPU models support. ``scalar``: one per layer, with the
        differences between channels moved into the weights (`scalar_threshold`); for target lava.
    split_readout
        Whether to store a last layer that only integrates as two populations, the high and the low digits of its
        weights (`ir.digits`), if the range of one potential would cost weight bits, as after a global average. For
        target lava; lava-dl then shows both digits.
    max_cores
        Largest number of Loihi 2 neurocores (estimated; 128 per chip); a larger network is refused before any long
        computation, except if only a split readout makes it too large. ``None``: no limit. For target loihi2 the
        estimate includes the stock circuit, also with the biases of a bias correction.

    Raises
    ------
    UsageError
        If a value is out of range, or two of them contradict each other; ``where`` is the parameter.
    """

    weight_bits: int = 8
    pixel_bits: int | None = None
    target: Target = "lava"
    thresholds: Granularity = "channel"
    split_readout: bool = False
    max_cores: int | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        if self.max_cores is not None:
            _require_integer("max_cores", self.max_cores, 1, MOST_CORES)
        _require_integer("weight_bits", self.weight_bits, *WEIGHT_BITS)
        if self.pixel_bits is not None:
            _require_integer("pixel_bits", self.pixel_bits, 1, limits.MAX_PIXEL_BITS)
        _require_choice("target", self.target, get_args(Target))
        _require_choice("thresholds", self.thresholds, get_args(Granularity))
        _require_choice("split_readout", self.split_readout, (True, False))
        if self.target == "loihi2" and self.thresholds == "scalar":
            raise UsageError(
                "found 'scalar'",
                where="thresholds",
                expected="must be channel with `target='loihi2'`: the circuit derives all thresholds from one vth",
            )

    def require_neurons(self, reset: Reset, poisson_seed: int | None, readout: Readout = "potential") -> None:
        """Raise a `UsageError` if these options do not allow this reset, input or readout; called before any work."""
        if self.split_readout and (self.target == "loihi2" or readout == "spikes"):
            what = "target loihi2" if self.target == "loihi2" else "classes from spike counts"
            raise UsageError(f"given for {what}", where="split_readout", expected="is for potentials on target lava")
        if self.target == "loihi2" and reset == "hard":
            raise UsageError(
                "found 'loihi2' for neurons with hard reset",
                where="target",
                expected="must be lava with `reset='hard'`",
                hint="Stock LIF neurons run files of target lava with `reset='hard'` and `thresholds='scalar'`; target "
                "loihi2 needs `reset='soft'`.",
            )
        if poisson_seed is not None and self.pixel_bits is not None:
            raise UsageError(
                f"found {self.pixel_bits} for Poisson input",
                where="pixel_bits",
                expected="must not be set, because pixels enter as one-bit spikes",
            )


def require_options(balancing: object, quantization: object) -> None:
    """Raise a `UsageError` for a word, which the command line would take."""
    if not isinstance(balancing, BalanceOptions | None):
        expected = "must be BalanceOptions, such as BalanceOptions(method='percentile')"
        raise UsageError(f"found {balancing!r}", where="balancing", expected=expected)
    if not isinstance(quantization, QuantizeOptions):
        expected = "must be QuantizeOptions, such as QuantizeOptions(target='loihi2')"
        raise UsageError(f"found {quantization!r}", where="quantization", expected=expected)


def require_readout(task: Task, readout: Readout) -> None:
    """Raise a `UsageError` if the outputs of ``task`` cannot be read from ``readout``."""
    if task == "regression" and readout != "potential":
        raise UsageError(
            f"found {readout!r} for a regression",
            where="readout",
            expected="must be potential, because spike counts cannot be negative",
        )


def require_timesteps(timesteps: Sequence[int]) -> None:
    """Raise a `UsageError` unless ``timesteps`` are valid latencies without repeats."""
    for steps in timesteps:
        _require_integer("timesteps", steps, 1, MAX_TIMESTEPS)
    if not timesteps or len(set(timesteps)) < len(timesteps):
        raise UsageError(
            f"found {tuple(timesteps)}", where="timesteps", expected="must be one or more numbers, without repeats"
        )


def _require_choice(where: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise UsageError(f"found {value!r}", where=where, expected=one_of(one for one in allowed if one is not None))


def _require_share(where: str, value: float, whole: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= whole or math.isnan(value):
        raise UsageError(f"found {value!r}", where=where, expected=f"must be in (0, {whole}]")


def _require_integer(where: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"found {value!r}", where=where, expected=f"must be a whole number in {least}..{most:,}")
