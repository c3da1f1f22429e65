"""A CNN -> Loihi's integers, with the number of relays per skip connection chosen by trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Final

import numpy as np

from loihi_convert.checks.network_rules import the_synapses_of_a_neuron_fit_one_core
from loihi_convert.chip.partition import span
from loihi_convert.chip.resources import Chips, network_resources
from loihi_convert.conversion.agreement import count_notes, require_calibration
from loihi_convert.conversion.copies import COPIES, CopiesTrial, choose_copies
from loihi_convert.conversion.flow import Conversion, to_integers
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions, QuantizeOptions, require_readout
from loihi_convert.errors import InputError, LoihiConvertError, UnsupportedModelError, UsageError, first_line
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Readout
from loihi_convert.ir.network import ReluNetwork, layer_words, relay_count
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.reading.source import Source
from loihi_convert.reading.users_code import require_not_of_machine
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.relu import cnn_scores

COMPARED: Final = 8
"""Calibration images on which the network read from a CNN is compared with the CNN."""

_LARGE_BATCH: Final = 65
_WORK: Final = 10**9
"""Multiplications of a batch for which its images are repeated up to `_LARGE_BATCH`: less than 0.1 s."""
_TOLERANCE: Final = 1e-3
# Least size of an output of a regression, relative to the largest output: that of its rounding errors.
_NOISE: Final = 1e-3
_QCFS_TOLERANCE: Final = 0.1


def require_same_outputs(
    source: Source, images: Array | None = None, *, qcfs_tolerance: float = _QCFS_TOLERANCE
) -> None:
    """Raise an error unless ``source.network`` has the CNN's own outputs for uint8 ``images``.

    Code that torch.fx reads as something else than what it computes would otherwise be converted into a different
    network. They are compared on ``images``, if there are any, and on black, white and random ones, repeated up to
    `_LARGE_BATCH` if that costs little, because a forward may compute something else for many. The latter except for
    QCFS, whose outputs may differ by ``qcfs_tolerance`` of the largest one. Outputs of a regression may have different
    units, so each is compared with its own largest value. A function at the end of the CNN that was left
    out, such as a softmax, is applied first.

    Raises
    ------
    UnsupportedModelError
        If the outputs differ, or the CNN does not take as many images at once.
    InputError
        If those of the CNN are NaN or infinite.
    """
    name = type(source.model).__name__
    # A rounding error may move a QCFS activation by a whole level.
    has_levels = any(layer.levels is not None for layer in source.network.layers)
    given = [] if images is None else [images]
    for shown in given if has_levels else [*given, _probes(source.network.input_shape)]:
        count = min(_LARGE_BATCH, _WORK // (source.network.multiply_accumulates or _WORK))
        batch = np.resize(shown, (max(len(shown), count), *shown.shape[1:]))
        expected = _outputs(source, batch, name)[: len(shown)]
        if not np.isfinite(expected).all():
            if shown is not images:
                continue
            raise InputError(f"its outputs are NaN or infinite on {len(images)} calibration images", where=name)
        found = _ended(cnn_scores(source.network, shown).reshape(len(shown), -1), source.network.ending)
        size = np.abs(expected).max()
        if source.network.task == "regression" and not has_levels:
            # An output far smaller than the others may itself be the rest of larger terms.
            size = np.maximum(np.abs(expected).max(axis=0), _NOISE * size)
        share = _difference(found, expected, size)
        # Not "share > ...", which is false for NaN.
        if not share <= (qcfs_tolerance if has_levels else _TOLERANCE):
            raise UnsupportedModelError(
                f"the network read from its forward gives other outputs: on {len(shown)} images they differ by "
                f"{100 * share:.3g} % of the largest",
                where=name,
                expected="must compute the same in every call in eval mode: no random numbers, kept values or hooks",
                hint="If it does, loihi-convert reads it wrongly: please report it.",
            )


def _outputs(source: Source, images: Array, name: str) -> Array:
    """The CNN's own outputs for ``images``."""
    try:
        return source.module_outputs(images)
    except LoihiConvertError:
        raise
    except Exception as error:
        require_not_of_machine(error)
        raise UnsupportedModelError(
            f"its forward fails on {len(images)} images at once ({first_line(error)})",
            where=name,
            expected="must take any number of images",
        ) from error


def _probes(shape: Sequence[int]) -> Array:
    """Images unlike any in a data set, which show differences that real images hide: uint8 ``(6, *shape)``."""
    noise = np.random.default_rng(0).random((4, *shape))
    sparse = [(noise[:2] < 0.05), (noise[2:] < 0.5)]
    probes = np.concatenate([np.zeros((1, *shape)), np.ones((1, *shape)), *sparse])
    return np.asarray(255 * probes, np.uint8)


def _difference(found: Array, expected: Array, size: Array) -> float:
    """The largest difference of two arrays as a share of ``size``; infinite if their shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    lost = np.abs(found - expected)
    # No difference from an output of 0 is allowed.
    return float(np.divide(lost, size, out=np.where(lost == 0, 0, np.inf), where=size > 0).max())


def _ended(scores: Array, ending: str) -> Array:
    """``scores`` after the function ``ending``, see `ReluNetwork`."""
    if not ending:
        return scores
    from scipy import special

    is_softmax = ending.endswith("softmax")
    function = {
        "softmax": special.softmax,
        "logsoftmax": special.log_softmax,
        "sigmoid": special.expit,
        "logsigmoid": special.log_expit,
        "tanh": np.tanh,
    }[ending]
    return np.asarray(function(scores, axis=1) if is_softmax else function(scores))


def converted(
    source: Source,
    images: ImageArray,
    timesteps: int,
    options: ConversionOptions = ConversionOptions(),
) -> Conversion:
    """Return ``source`` in Loihi's integers, with the CNN recorded in its provenance.

    Parameters
    ----------
    source
        The CNN.
    images, timesteps
        As in `to_integers`.
    """
    require_convertible(source, images, options)
    balancing, trained_notes = _as_trained(source, stored_neurons(source, options.balance))
    options, notes = correction_that_fits(source, replace(options, balance=balancing))
    skip_copies = options.skip_copies
    if skip_copies is None and any(relay_count(layer.relay_of) for layer in source.network.layers):
        fitting = copies_that_fit(source, options.quantize, may_correct=options.balance.may_correct)
        trials = choose_copies(
            lambda copies: source.with_skip_copies(copies).network, images, timesteps, options, fitting
        )
        skip_copies, notes = trials[0].copies, (*notes, *_copies_notes(trials))
    chosen = source.with_skip_copies(skip_copies or 1)
    done = to_integers(chosen.network, images, timesteps, options)
    provenance = done.quantized.provenance.with_parts(model=dict(chosen.provenance))
    # The readout may be split: the network is what will be written.
    cores = core_notes(done.quantized, options.quantize)
    return replace(
        done,
        quantized=replace(done.quantized, provenance=provenance),
        notes=(
            *count_notes(images),
            *trained_notes,
            *notes,
            *done.notes,
            *(_raised(done) if source.neurons else ()),
            *cores,
        ),
    )


def require_convertible(source: Source, images: ImageArray, options: ConversionOptions) -> None:
    """Raise the errors of `converted` that need no balancing; called before the CNN's own accuracy is measured.

    A misread network would not have that accuracy.
    """
    balancing = stored_neurons(source, options.balance)
    require_readout(source.network.task, balancing.output)
    options.quantize.require_neurons(balancing.neuron_reset, balancing.input_seed, balancing.output)
    require_skip_copies(options.skip_copies)
    require_cores(source, options)
    require_calibration(source.network, images)
    require_same_outputs(source, np.asarray(images[:COMPARED]))


def _as_trained(source: Source, options: BalanceOptions) -> tuple[BalanceOptions, tuple[str, ...]]:
    """Return ``options``, and a note if ``"auto"`` is replaced by trained thresholds.

    Trials choose what agrees best with the CNN, but the spiking network was trained, not the CNN.
    """
    if source.neurons is not None:
        return _as_stored(source, source.neurons, options)
    if options.method != "auto" or source.spiking_timesteps is None:
        return options, ()
    chosen = replace(options, method="qcfs", bias_correction=bool(options.bias_correction))
    note = (
        f"the CNN was trained as a spiking network for T = {source.spiking_timesteps}: its trained thresholds (qcfs) "
        "are used. Choose others with `method`."
    )
    return chosen, (note,)


def _as_stored(source: Source, readout: Readout, options: BalanceOptions) -> tuple[BalanceOptions, tuple[str, ...]]:
    """Return ``options`` for a file that holds a spiking network, such as NIR: its thresholds are kept."""
    for name, given, kept in (
        ("method", options.method, ("auto", "qcfs")),
        ("alpha", options.alpha, (1.0,)),
        ("amplitude", options.amplitude, ("compensated",)),
    ):
        if given not in kept:
            expected = f"must be {kept[0]}, which keeps its thresholds"
            raise UsageError(f"found {given!r} for a file that holds a spiking network", where=name, expected=expected)
    chosen = replace(
        options,
        method="qcfs",
        initial_potential=options.initial_potential or "zero",
        bias_correction=bool(options.bias_correction),
    )
    dropped = ""
    if options.readout != readout:
        dropped = f" The file itself ends with `readout='{readout}'`"
        dropped += (
            "; potentials are divided by its thresholds: the expected spike counts." if readout == "spikes" else "."
        )
    note = (
        "the file holds a spiking network: its thresholds are kept, up to rounding; neurons start at "
        f"{chosen.first_potential}, {chosen.neuron_reset} reset. Accuracy and agreement are compared with its firing "
        f"rates.{dropped}"
    )
    added = [layer_words(layer.name) for layer in source.network.layers[:-1] if layer.threshold is None]
    if not added:
        return chosen, (note,)
    return chosen, (
        note,
        "layers without neurons in the file are given neurons, whose thresholds are balanced: "
        f"{', '.join(added)}. They cannot be part of the next layer's weights: for example, a pooling that drops the "
        "border before a convolution with padding. Other sizes of maps avoid this.",
    )


def _raised(done: Conversion) -> tuple[str, ...]:
    """Thresholds of a file with a spiking network that are below half a unit of its integers, which become 1."""
    # An error above 100 % has no other cause: thresholds from half a unit on are rounded to the nearest integer.
    raised = [(layer.name, 1 + layer.threshold_error) for layer in done.report.layers if layer.threshold_error > 1]
    if not raised:
        return ()
    layers = ", ".join(f"{layer_words(name)} up to {factor:.3g} times" for name, factor in raised)
    return (
        f"thresholds too small for the weights were raised to 1: {layers}. A spike of these channels adds that many "
        "times as much to the next layer as in the file. Larger thresholds, or smaller weights, avoid this.",
    )


def stored_neurons(source: Source, options: BalanceOptions) -> BalanceOptions:
    """Return ``options`` with the reset and readout of the spiking network in ``source``, if it holds one.

    NIR's neurons reset to 0, and those of the output are counted; what the user chose is kept.
    """
    if source.neurons is None:
        return options
    return replace(options, reset=options.reset or "hard", readout=options.readout or source.neurons)


def require_skip_copies(skip_copies: int | None) -> None:
    """Raise the `UsageError` of `converted` about ``skip_copies``; called before any work."""
    if skip_copies is None:
        return
    if not isinstance(skip_copies, Integral) or not 1 <= skip_copies <= 2 * max(COPIES):
        expected = f"must be a whole number in 1..{2 * max(COPIES)}"
        raise UsageError(f"found {skip_copies!r}", where="skip_copies", expected=expected)


def _copies_notes(trials: tuple[CopiesTrial, ...]) -> tuple[str, ...]:
    """The choice and the results of the other trials; empty if skips cost no bits."""
    best, *others = trials
    if not others:
        return ()
    by_copies = sorted(trials, key=lambda trial: trial.copies)
    found = ", ".join(f"{trial.copies}: {100 * trial.agreement:.2f} %" for trial in by_copies)
    return (
        f"each skip uses {best.copies} relay{'s' * (best.copies > 1)}; with one relay, its weight costs the "
        f"convolution it enters {by_copies[0].identity_bits:.1f} weight bits. Agreement with the CNN by number of "
        f"relays, in trials on {best.image_count} images that were held out of the balancing: {found}. Set it with "
        "`skip_copies`.",
    )


_NAMED_LAYERS: Final = 3


def require_cores(source: Source, options: ConversionOptions) -> None:
    """Raise the `InputError` of `converted` about ``max_cores``; called before any work.

    For the fewest relays, if their number is chosen by trials, and without bias correction, if trials choose it.
    """
    if options.quantize.max_cores is not None:
        has_correction = bool(options.balance.bias_correction)
        core_notes(_network(source, options.skip_copies or 1, has_correction=has_correction), options.quantize)


def correction_that_fits(source: Source, options: ConversionOptions) -> tuple[ConversionOptions, tuple[str, ...]]:
    """Return ``options``, without the choice of a bias correction that exceeds ``max_cores``, and a note."""
    most, balancing = options.quantize.max_cores, options.balance
    if most is None or balancing.bias_correction or not balancing.may_correct:
        return options, ()
    cores = _resources(_network(source, options.skip_copies or 1, has_correction=True), options.quantize).cores
    if cores[0] <= most:
        return options, ()
    note = (
        f"without bias correction: with more biases the network would need {span(cores)} neurocores, and the limit is "
        f"{most:,}"
    )
    return replace(options, balance=replace(balancing, bias_correction=False)), (note,)


def copies_that_fit(source: Source, options: QuantizeOptions, *, may_correct: bool) -> tuple[int, ...]:
    """Return those numbers of relays of `COPIES` that certainly do not exceed ``max_cores``, and the smallest."""
    if options.max_cores is None:
        return COPIES
    least, *others = COPIES
    found = {count: _resources(_network(source, count, has_correction=may_correct), options) for count in others}
    return least, *(count for count, chips in found.items() if chips.cores[1] <= options.max_cores)


def core_notes(network: ReluNetwork | QuantizedNetwork, options: QuantizeOptions) -> tuple[str, ...]:
    """Refuse a network that takes more than ``max_cores`` neurocores; return a note if it may take more."""
    if options.max_cores is None:
        return ()
    chips = _resources(network, options)
    for layer in chips.layers:
        for violation in the_synapses_of_a_neuron_fit_one_core(layer):
            hint = f"{violation.fix} {_remedies(chips)}"
            raise InputError(violation.found, where=layer.name, expected=violation.allowed, hint=hint)
    low, high = chips.cores
    if low > options.max_cores:
        expected = f"must be at most {options.max_cores:,}"
        raise InputError(
            f"the network needs {span(chips.cores)} neurocores",
            expected=expected,
            hint=_remedies(chips),
        )
    if high > options.max_cores:
        return (
            f"the network needs {span(chips.cores)} neurocores, so it may exceed the limit of {options.max_cores:,}",
        )
    return ()


def _network(source: Source, skip_copies: int, *, has_correction: bool) -> ReluNetwork:
    """Return the network of ``source``; with a bias in every layer but the first after a bias correction."""
    network = source.with_skip_copies(skip_copies).network
    if not has_correction:
        return network
    first, *others = network.layers
    biased = (
        replace(layer, synapse=layer.synapse.with_added_bias(np.zeros(layer.synapse.channels))) for layer in others
    )
    return replace(network, layers=(first, *biased))


def _resources(network: ReluNetwork | QuantizedNetwork, options: QuantizeOptions) -> Chips:
    return network_resources(network, has_circuit=options.is_circuit)


def _remedies(chips: Chips) -> str:
    """Return the largest layers, what saves most, and the chips needed."""
    largest = ", ".join(f"{layer_words(layer.name)} ({span(layer.cores)})" for layer in chips.largest[:_NAMED_LAYERS])
    sources = f"; sources of biases: {chips.source_cores:,}" if chips.source_cores else ""
    sentences = [f"The largest layers: {largest}{sources}."]
    sentences += [f"Saves most: {saving.sentence}." for saving in chips.savings[:1]]
    if chips.needed is not None:
        sentences.append(f"As it is, it needs {chips.needed:,} chip{'s' * (chips.needed > 1)}.")
    return " ".join(sentences)
