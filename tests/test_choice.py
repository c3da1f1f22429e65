"""The choice of a balancing method: the trials, their images, and the sentence that reports them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_balance import random_cnn
from torch import nn

from loihi_convert.backends.reference import run_network
from loihi_convert.conversion import agreement, balancing
from loihi_convert.conversion.agreement import Agreement, agreement_of, measure_of, real_outputs
from loihi_convert.conversion.balancing import balance, choose_method
from loihi_convert.conversion.flow import to_integers
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.data import load_data
from loihi_convert.errors import DataError
from loihi_convert.ground.choices import Readout, Target
from loihi_convert.ground.progress import progress_to
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.lowering import to_relu_network
from loihi_convert.simulation.relu import cnn_scores


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8)).astype(np.uint8)


@pytest.mark.parametrize(("timesteps", "readout"), [(1, "potential"), (16, "potential"), (16, "spikes")])
def test_the_first_trial_is_the_best(timesteps: int, readout: Readout) -> None:
    network = random_cnn(0)
    trials = choose_method(network, images(60), timesteps, BalanceOptions(readout=readout, bias_correction=False))
    more = set() if timesteps == 1 else {"percentile 99.9"}
    assert {trial.name for trial in trials} == {"least-squares", "percentile 99"} | more
    assert [(-trial.agreement, trial.error) for trial in trials] == sorted(
        (-trial.agreement, trial.error) for trial in trials
    )
    # What stands in a trial is what would be exported: balanced and rounded on the first, tried on four times as many.
    best = trials[0]
    spiking = balance(network, images(60)[:7], timesteps, best.chosen(BalanceOptions(readout=readout)))
    quantized = quantize(spiking, images(60)[:7])
    result = run_network(quantized, images(60)[30:], timesteps)
    scores = cnn_scores(network, images(60)[30:])
    assert best.agreement == (result.predictions[:, -1] == scores.argmax(axis=1)).mean()
    # The rate of a neuron of the last layer stands for its threshold.
    unit = quantized.layers[-1].scale if readout == "potential" else spiking.layers[-1].neuron.threshold
    assert best.error == pytest.approx(np.square(result.outputs[:, -1] * unit / timesteps - scores).mean(), rel=0.01)
    assert best.image_count == 30


@pytest.mark.parametrize("correction", [None, False, True])
def test_progress_never_goes_back(correction: bool | None) -> None:
    reported: list[tuple[int, int]] = []
    options = BalanceOptions(bias_correction=correction)
    with progress_to(lambda done, total: reported.append((done, total))):
        choose_method(random_cnn(0), images(60), 4, options)
    shares = [done / total for done, total in reported]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_corrections_are_tried_on_the_two_best_unless_forbidden_or_wanted_everywhere() -> None:
    network = random_cnn(0)
    plain = choose_method(network, images(60), 1, BalanceOptions(bias_correction=False))
    trials = choose_method(network, images(60), 1)
    assert [trial for trial in trials if not trial.corrected] == list(plain)
    corrected = {trial.name for trial in trials if trial.corrected}
    assert corrected == {f"{trial.name} corrected" for trial in plain[:2]}
    # A requested potential is kept.
    assert choose_method(network, images(60), 1, BalanceOptions(initial_potential="half")) == plain
    everywhere = choose_method(network, images(60), 1, BalanceOptions(bias_correction=True))
    assert len(everywhere) == len(plain)
    assert all(trial.corrected for trial in everywhere)


def test_no_more_images_than_needed_and_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "MOST", 10)
    monkeypatch.setattr(agreement, "FEWEST", 4)
    monkeypatch.setattr(agreement, "STEPS", 40)
    assert choose_method(random_cnn(0), images(60), 5)[0].image_count == 8
    assert choose_method(random_cnn(0), images(60), 40)[0].image_count == 4
    assert choose_method(random_cnn(0), images(60), 2)[0].image_count == 10
    assert choose_method(random_cnn(0), images(7), 2)[0].image_count == 3


def test_literal_spikes_leave_one_method() -> None:
    trials = choose_method(random_cnn(0), images(20), 4, BalanceOptions(amplitude="literal"))
    assert [trial.name for trial in trials] == ["ngu-lee"]
    assert trials[0].chosen(BalanceOptions(amplitude="literal")) == BalanceOptions(
        method="ngu-lee", amplitude="literal", bias_correction=False
    )


def test_the_note_names_what_was_chosen_measured_and_tried() -> None:
    made = to_integers(random_cnn(0), images(60), 16)
    tried = images(60)[30:]
    scores = cnn_scores(random_cnn(0), tried)
    agreement = agreement_of(real_outputs(made.quantized, tried), scores, measure_of("classification"))
    assert made.agreement == agreement
    note = made.notes[0]
    assert note.startswith(f"`method='auto'`: {made.trials[0].name} for T = 16; the quantized network agrees with ")
    assert f"on {100 * agreement.agreement:.2f} % of 30 calibration images" in note
    assert all(f"{trial.name} {100 * trial.agreement:.2f} %" in note for trial in made.trials)
    given = to_integers(random_cnn(0), images(60), 16, ConversionOptions(made.trials[0].chosen(BalanceOptions())))
    assert (given.trials, given.agreement) == ((), agreement)


def depthwise_cnn() -> ReluNetwork:
    """Four layers, two of them depthwise, of untrained weights; channels differ in size, classes are balanced."""
    torch.manual_seed(8)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU()),
        *(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16, 10)),
    )
    with torch.no_grad():
        for layer in (model[0], model[2], model[4], model[6]):
            layer.weight *= torch.exp(0.5 * torch.randn(len(layer.weight), 1, 1, 1))
            layer.bias *= 0.1
        pixels = load_data("digits").calibration_images()[:200] / np.float32(255)
        model[-1].bias -= model(torch.from_numpy(pixels)).mean(0)
    return to_relu_network(model, (1, 8, 8))


def test_where_all_images_give_another_network_than_the_trial_the_two_best_are_compared_as_written() -> None:
    """A trial on 25 images promises twice the agreement that is left with 200."""
    cnn, calibration = depthwise_cnn(), load_data("digits").calibration_images()[:200]
    made = to_integers(cnn, calibration, 8)
    best, second = sorted(made.trials, key=balancing._rank)[:2]
    written = [
        to_integers(cnn, calibration, 8, ConversionOptions(trial.chosen(BalanceOptions()))) for trial in (best, second)
    ]
    assert measure_of("classification").falls_short(written[0].agreement, best)
    by_agreement = sorted(zip(written, (best, second), strict=True), key=lambda one: -one[0].agreement.agreement)
    assert made.trials[0] == by_agreement[0][1]
    assert made.agreement == by_agreement[0][0].agreement
    assert np.array_equal(made.quantized.layers[0].weight, by_agreement[0][0].quantized.layers[0].weight)
    assert made.notes[0].startswith(f"`method='auto'`: {made.trials[0].name} ")
    assert f"{100 * made.agreement.agreement:.2f} % of 100 calibration images" in made.notes[0]
    assert f"the agreement of {best.name} falls to {100 * written[0].agreement.agreement:.2f} %" in made.notes[1]


@pytest.mark.parametrize(("target", "counted"), [("lava", 100), ("loihi2", 200)])
def test_clipping_is_counted_on_the_images_of_the_trials_and_on_a_chip_on_all(target: Target, counted: int) -> None:
    chosen = ConversionOptions(BalanceOptions(method="percentile"), QuantizeOptions(target=target))
    made = to_integers(random_cnn(0), images(200), 4, chosen)
    assert made.report.image_count == counted


def test_chance_is_not_a_fall() -> None:
    """Of 98 in 100 the 95 % interval begins at 93.0."""
    trial = balancing.Trial(
        method="percentile", percentile=99.0, corrected=False, agreement=0.98, error=0.1, image_count=100
    )
    falls_short = measure_of("classification").falls_short
    found = [falls_short(Agreement(agreement=share, error=0.1, image_count=100), trial) for share in (0.94, 0.92)]
    assert found == [False, True]


def test_no_images() -> None:
    with pytest.raises(DataError, match="calibration images"):
        choose_method(random_cnn(0), images(0), 4)


def test_a_low_agreement_of_a_given_method_is_noted() -> None:
    cnn, calibration = random_cnn(0), images(60)
    agreements = []
    for percentile in (0.5, 99.0):
        done = to_integers(
            cnn, calibration, 8, ConversionOptions(BalanceOptions(method="percentile", percentile=percentile))
        )
        assert any("only agrees with the CNN" in note for note in done.notes) == (done.agreement.agreement < 0.9)
        agreements.append(done.agreement.agreement)
    assert agreements[0] < 0.9
