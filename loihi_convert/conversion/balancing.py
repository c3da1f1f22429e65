"""ReluNetwork -> SpikingNetwork: firing thresholds balanced for a latency T.

``auto`` chooses by trials on calibration images, never test images. Each candidate is balanced and quantized on one
part of the calibration images and simulated in integers on another part, because with few weight bits some thresholds
are better than others. Methods are ranked by their agreement with the CNN (`agreement.py`: in classes, or in numbers).
Among equals a method without corrections wins, then the one whose output is nearest to the CNN's. `flow.to_integers`
then converts with all calibration images and measures again.

**Corrections** (`correct_biases`) are for the error at few time steps. With few steps the spikes of a layer arrive
unevenly, unlike a constant current, and their counts are rounded and clipped. The mean current of the next layer then
differs from the CNN's, and the differences add up over layers. The correction goes layer by layer, each time simulating
the layers corrected so far on calibration images (after Li et al., ICML 2021, "light" calibration):

1. bias: the mean difference between the input currents of the SNN and of the CNN is subtracted, per channel;
2. initial potential: of `SHARES` x threshold, the one whose firing rates have the least squared difference from the
   CNN's activations, per channel.

Relays (`ir.network`) are not corrected. The bias of the last layer is corrected too, since its potential is the output.
The corrections are exported as biases and initial potentials, which cost nothing on the chip.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np

from loihi_convert.conversion.agreement import (
    Agreement,
    agreement_of,
    calibration_subset,
    fitted_images,
    measure_of,
    real_outputs,
    require_calibration,
)
from loihi_convert.conversion.methods import balance_by_method, has_learned_thresholds
from loihi_convert.conversion.options import AUTO, BalanceOptions, QuantizeOptions, require_timesteps
from loihi_convert.conversion.quantization import quantize
from loihi_convert.errors import UsageError, require_kind
from loihi_convert.ground.choices import Method
from loihi_convert.ground.progress import current_progress, progress_part, quiet
from loihi_convert.ir.network import ReluNetwork, SpikingLayer, SpikingNetwork, is_relay
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.layerwise import GrowingSimulation
from loihi_convert.simulation.relu import Activations, cnn_scores


def balance(
    network: ReluNetwork,
    images: ImageArray,
    timesteps: int,
    options: BalanceOptions = BalanceOptions(),
    *,
    device: str = "cpu",
) -> SpikingNetwork:
    """Return ``network`` with integrate-and-fire neurons and thresholds balanced for ``timesteps`` steps.

    Parameters
    ----------
    network
        From `lowering.to_relu_network`.
    images
        Calibration images, uint8 ``(N, C, H, W)``; training images, never test images.
    timesteps
        The latency T.
    options
        The method and its parameters: see `BalanceOptions`. Here ``auto`` chooses with the default `QuantizeOptions`;
        `convert` uses those given to it.
    device
        Where to simulate: ``"cpu"`` or another torch device.

    Raises
    ------
    UsageError
        If an argument is of another type, the number of steps is out of range, the method needs a CNN trained with
        thresholds, or a regression is to be read from spikes.
    RangeError
        If activations overflow float32.
    DataError
        If the images do not fit the network, or there are none.
    """
    require_kind("network", network, ReluNetwork, "must be what `to_relu_network` returns")
    require_kind("options", options, BalanceOptions, "must be BalanceOptions, such as BalanceOptions(method='rmp')")
    require_timesteps((timesteps,))
    require_calibration(network, images)
    if options.method == AUTO:
        best, *_ = choose_method(network, images, timesteps, options, device=device)
        options = best.chosen(options)
    balanced = balance_by_method(network, images, timesteps, options, device=device)
    if not options.bias_correction:
        return balanced
    is_given = options.initial_potential is not None
    return correct_biases(network, balanced, images, keeps_potentials=is_given, device=device)


_BALANCING_SHARE: Final = 4

# Images of a trial that choose the scales of its integers; on a chip, where potentials wrap, all of them do.
_SCALING: Final = 64

# Number of best methods that are also tried with corrections.
_CORRECTED: Final = 2

# Method, percentile, smallest T: with few steps, thresholds near the largest activation are far from the best. ngu-lee
# is left out: its thresholds are not much higher than these, and it must simulate all calibration images.
_CANDIDATES: Final[tuple[tuple[Method, float | None, int], ...]] = (
    ("qcfs", None, 1),
    ("least-squares", None, 1),
    ("percentile", 99.0, 1),
    ("percentile", 99.9, 8),
    ("percentile", 100.0, 32),
)


@dataclass(frozen=True, kw_only=True)
class Trial(Agreement):
    """A balancing method tried on the second part of the calibration images.

    Parameters
    ----------
    method, percentile
        As in `BalanceOptions`.
    corrected
        Whether `balancing.correct_biases` was applied.
    agreement, error, image_count
        As in `Agreement`.
    """

    method: Method
    percentile: float
    corrected: bool

    @property
    def name(self) -> str:
        method = f"{self.method} {self.percentile:g}" if self.method == "percentile" else self.method
        return f"{method} corrected" if self.corrected else method

    def chosen(self, options: BalanceOptions) -> BalanceOptions:
        """Return ``options`` with the method of this trial."""
        percentile = self.percentile if self.method == "percentile" else None
        return replace(options, method=self.method, percentile=percentile, bias_correction=self.corrected)


def trial_images(images: ImageArray, timesteps: int) -> ImageArray:
    """Return the calibration images used to test methods: `calibration_subset` of the second half."""
    return calibration_subset(images[-max(1, len(images) // 2) :], timesteps)


def balancing_images(images: ImageArray, trying: ImageArray) -> ImageArray:
    """Return the calibration images that balance for a test on ``trying``: the first ones, a quarter as many."""
    return images[: max(1, len(trying) // _BALANCING_SHARE)]


def choose_method(
    network: ReluNetwork,
    images: ImageArray,
    timesteps: int,
    options: BalanceOptions = BalanceOptions(),
    quantize_options: QuantizeOptions = QuantizeOptions(),
    *,
    device: str = "cpu",
) -> tuple[Trial, ...]:
    """Return the trials of all methods that the options allow, best first.

    Parameters are those of `balancing.balance` and `quantization.quantize`; the method and the percentile of
    ``options`` are ignored. Its ``bias_correction`` says whether all methods are corrected or none; with ``None``, the
    two best methods are also tried with corrections, unless initial potentials are given or amplitudes are literal.

    Raises
    ------
    DataError
        If the images do not fit the network, or there are none.
    """
    require_calibration(network, images)
    trying = trial_images(images, timesteps)
    balancing = balancing_images(images, trying)
    scaling = balancing if quantize_options.is_circuit else balancing[:_SCALING]
    candidates = _candidates(network, timesteps, options)
    activations = Activations(network, balancing)
    with quiet():
        scores, measure = cnn_scores(network, trying), measure_of(network.task)
    is_open = options.bias_correction is None and options.amplitude == "compensated"
    more = _CORRECTED if is_open and options.initial_potential is None else 0
    count, progress = len(candidates) + more, current_progress()
    balanced: list[SpikingNetwork] = []
    trials: list[Trial] = []

    def tried(spiking: SpikingNetwork, chosen: BalanceOptions, *, corrected: bool) -> Trial:
        if corrected:
            is_given = options.initial_potential is not None
            spiking = correct_biases(network, spiking, balancing, keeps_potentials=is_given, device=device)
        with quiet():
            quantized = quantize(spiking, scaling, quantize_options, device=device)
            found = agreement_of(real_outputs(quantized, trying, device=device), scores, measure)
        assert chosen.method != AUTO
        return Trial(**asdict(found), method=chosen.method, percentile=chosen.percent, corrected=corrected)

    for method, percentile in candidates:
        chosen = replace(options, method=method, percentile=percentile)
        with progress_part(len(trials), count):
            balanced.append(
                balance_by_method(network, balancing, timesteps, chosen, activations=activations, device=device)
            )
        with quiet():
            trials.append(tried(balanced[-1], chosen, corrected=bool(options.bias_correction)))
        progress(len(trials), count)
    for trial in sorted(trials, key=_rank)[:more]:
        spiking = balanced[trials.index(trial)]
        with progress_part(len(trials), count):
            trials.append(tried(spiking, trial.chosen(options), corrected=True))
        progress(len(trials), count)
    return tuple(sorted(trials, key=_rank))


def _candidates(network: ReluNetwork, timesteps: int, options: BalanceOptions) -> list[tuple[Method, float | None]]:
    if options.amplitude == "literal":
        # The other methods assume that the amplitude is the threshold.
        return [("ngu-lee", None)]
    return [
        (method, percentile)
        for method, percentile, least in _CANDIDATES
        if timesteps >= least and (method != "qcfs" or has_learned_thresholds(network))
    ]


def _rank(trial: Trial) -> tuple[float, bool, float]:
    return -trial.agreement, trial.corrected, trial.error


SHARES: Final = (0.5, 0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
"""Initial potentials to try, as fractions of the threshold; the first of equally good ones is used."""


def correct_biases(
    cnn: ReluNetwork,
    network: SpikingNetwork,
    images: ImageArray,
    *,
    keeps_potentials: bool = False,
    device: str = "cpu",
) -> SpikingNetwork:
    """Return ``network`` with corrected biases and, with soft reset, initial potentials.

    Parameters
    ----------
    cnn, network
        The CNN, and what `balance` made of it, with compensated amplitudes.
    images
        Calibration images; `calibration_subset` is used, and in each layer `fitted_images`.
    keeps_potentials
        Whether to leave the initial potentials as they are.
    """
    require_calibration(cnn, images)
    for layer in network.layers:
        if layer.neuron is not None and layer.neuron.is_literal:
            expected = "must be compensated with `bias_correction`"
            raise UsageError("found literal spikes", where="amplitude", expected=expected)
    images = calibration_subset(images, network.timesteps)
    fits_initial = network.reset == "soft" and not keeps_potentials
    simulation = GrowingSimulation(
        cnn,
        images,
        network.timesteps,
        network.reset,
        poisson_seed=network.poisson_seed,
        device=device,
        whole=fits_initial,
        most_images=fitted_images(cnn),
    )
    layers: list[SpikingLayer] = []
    passes = 2 * len(network.layers) - 1
    for layer in network.layers:
        # The first layer's current equals the CNN's, with Poisson input on average.
        with progress_part(2 * len(layers), passes):
            correction = None if not layers else -simulation.mean_excess(layers)
        relays = is_relay(layer.relay_of, layer.synapse.channels)
        if correction is not None:
            correction = np.where(relays, 0.0, correction)
        synapse = layer.synapse if correction is None else layer.synapse.with_added_bias(correction)
        neuron = layer.neuron
        if neuron is not None and fits_initial and len(layers) < len(network.layers) - 1:
            alive = np.isfinite(neuron.threshold)
            thresholds = np.tile(np.where(alive, neuron.threshold, 1.0), (len(SHARES), 1))
            potentials = np.array(SHARES)[:, None] * thresholds
            with progress_part(2 * len(layers) + 1, passes):
                errors = simulation.rate_errors(layers, thresholds, potentials, correction=correction).errors
            best = np.take_along_axis(potentials, errors.argmin(axis=0)[None], axis=0)[0]
            neuron = replace(neuron, initial_potential=np.where(alive & ~relays, best, 0.0))
        layers.append(replace(layer, synapse=synapse, neuron=neuron, correction=correction))
    return replace(network, layers=tuple(layers), provenance=network.provenance.with_parts(calibration=len(images)))
