"""ReluNetwork -> SpikingNetwork: firing thresholds balanced for a latency T.

``auto`` chooses by trials on calibration images, never test images. Each candidate is balanced and quantized on one
part of the calibration images and simulated in integers on another part, because with few weight bits some thresholds
are better than others. Methods are ranked by their agreement with the CNN (`agreement.py`: in classes, or in numbers).
Among equals a method without corrections (`bias_correction.py`) wins, then the one whose output is nearest to the
CNN's. `flow.to_integers` then converts with all calibration images and measures again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Final

from loihi_convert.choices import Method
from loihi_convert.conversion.agreement import Agreement, agreement_with, measure_of
from loihi_convert.conversion.bias_correction import correct_biases
from loihi_convert.conversion.calibration import calibration_subset, require_calibration
from loihi_convert.conversion.methods import balance_each, has_learned_thresholds
from loihi_convert.conversion.options import AUTO, BalanceOptions, QuantizeOptions, require_timesteps
from loihi_convert.conversion.quantization import quantize
from loihi_convert.errors import require_kind
from loihi_convert.ir.network import ReluNetwork, SpikingNetwork
from loihi_convert.progress import Progress, no_progress
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.relu import Activations, cnn_scores


def balance(
    network: ReluNetwork,
    images: ImageArray,
    timesteps: int,
    options: BalanceOptions = BalanceOptions(),
    *,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> SpikingNetwork:
    """Return ``network`` with integrate-and-fire neurons and thresholds balanced for ``timesteps`` steps.

    Parameters
    ----------
    network
        From `lower.to_relu_network`.
    images
        Calibration images, uint8 ``(N, C, H, W)``; training images, never test images.
    timesteps
        The latency T.
    options
        The method and its parameters: see `BalanceOptions`. Here ``auto`` chooses with the default `QuantizeOptions`;
        `convert` uses those given to it.
    device
        Where to simulate: ``"cpu"`` or another torch device.
    progress
        Counts images, separately for the choice, the balancing and the correction.

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
        best, *_ = choose_method(network, images, timesteps, options, device=device, progress=progress)
        options = best.chosen(options)
    (balanced,) = balance_each(network, images, (timesteps,), options, device=device, progress=progress)
    if not options.bias_correction:
        return balanced
    is_given = options.initial_potential is not None
    return correct_biases(network, balanced, images, keeps_potentials=is_given, device=device, progress=progress)


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
        Whether `bias_correction.correct_biases` was applied.
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
    progress: Progress = no_progress,
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
    scaling = balancing if quantize_options.target == "loihi2" else balancing[:_SCALING]
    candidates = _candidates(network, timesteps, options)
    activations = Activations(network, balancing)
    scores, measure = cnn_scores(network, trying), measure_of(network.task)
    is_open = options.bias_correction is None and options.amplitude == "compensated"
    more = _CORRECTED if is_open and options.initial_potential is None else 0
    balanced: list[SpikingNetwork] = []
    trials: list[Trial] = []

    def report(done: int, total: int) -> None:
        # In images of a trial, whatever a stage counts: one total, and never back.
        progress(len(trials) * len(trying) + len(trying) * done // total, (len(candidates) + more) * len(trying))

    def tried(spiking: SpikingNetwork, chosen: BalanceOptions, *, corrected: bool) -> Trial:
        if corrected:
            is_given = options.initial_potential is not None
            spiking = correct_biases(network, spiking, balancing, keeps_potentials=is_given, device=device)
        quantized = quantize(spiking, scaling, quantize_options, device=device)
        found = agreement_with(scores, measure, quantized, trying, device=device)
        assert chosen.method != AUTO
        return Trial(**asdict(found), method=chosen.method, percentile=chosen.percent, corrected=corrected)

    for method, percentile in candidates:
        chosen = replace(options, method=method, percentile=percentile)
        balanced += balance_each(
            network, balancing, (timesteps,), chosen, activations=activations, device=device, progress=report
        )
        trials.append(tried(balanced[-1], chosen, corrected=bool(options.bias_correction)))
        report(0, 1)
    for trial in sorted(trials, key=_rank)[:more]:
        spiking = balanced[trials.index(trial)]
        trials.append(tried(spiking, trial.chosen(options), corrected=True))
        report(0, 1)
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
