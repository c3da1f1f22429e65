"""The choice of a balancing method: what is tried, on which images, and the sentence that says so."""

from __future__ import annotations

import numpy as np
import pytest
from test_balance import random_cnn

from loihi_convert.backends.reference import run_network
from loihi_convert.conversion import calibration, choice
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.choice import choose_method, reason
from loihi_convert.conversion.quantization import quantize
from loihi_convert.errors import DataError
from loihi_convert.ir.network import Readout
from loihi_convert.simulation.relu import cnn_scores


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8)).astype(np.uint8)


@pytest.mark.parametrize(("timesteps", "readout"), [(1, "potential"), (16, "potential"), (16, "spikes")])
def test_the_first_trial_is_the_best(timesteps: int, readout: Readout) -> None:
    network = random_cnn(0)
    trials = choose_method(network, images(60), timesteps, readout=readout, correct=False)
    more = set() if timesteps == 1 else {"percentile 99.9"}
    assert {trial.name for trial in trials} == {"least-squares", "percentile 99"} | more
    assert [(-trial.agreement, trial.error) for trial in trials] == sorted(
        (-trial.agreement, trial.error) for trial in trials
    )
    # What stands in a trial is what would be exported: balanced and rounded on the first, tried on four times as many.
    best = trials[0]
    options = {"method": best.method, "percentile": best.percentile, "readout": readout}
    spiking = balance(network, images(60)[:7], timesteps, **options)
    quantized = quantize(spiking, images(60)[:7])
    result = run_network(quantized, images(60)[30:], timesteps)
    scores = cnn_scores(network, images(60)[30:])
    assert best.agreement == (result.predictions[:, -1] == scores.argmax(axis=1)).mean()
    # The rate of a neuron of the last layer stands for its threshold.
    unit = quantized.layers[-1].scale if readout == "potential" else spiking.layers[-1].neuron.threshold
    assert best.error == pytest.approx(np.square(result.outputs[:, -1] * unit / timesteps - scores).mean(), rel=0.01)
    assert best.image_count == 30


def test_corrections_are_tried_on_the_two_best_unless_forbidden_or_wanted_everywhere() -> None:
    network = random_cnn(0)
    plain = choose_method(network, images(60), 1, correct=False)
    trials = choose_method(network, images(60), 1)
    assert [trial for trial in trials if not trial.corrected] == list(plain)
    corrected = {trial.name for trial in trials if trial.corrected}
    assert corrected == {f"{trial.name} corrected" for trial in plain[:2]}
    # A potential that was asked for stays.
    assert choose_method(network, images(60), 1, initial_potential="half") == plain
    everywhere = choose_method(network, images(60), 1, correct=True)
    assert len(everywhere) == len(plain)
    assert all(trial.corrected for trial in everywhere)


def test_no_more_images_than_needed_and_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MOST", 10)
    monkeypatch.setattr(calibration, "FEWEST", 4)
    monkeypatch.setattr(calibration, "STEPS", 40)
    assert choose_method(random_cnn(0), images(60), 5)[0].image_count == 8
    assert choose_method(random_cnn(0), images(60), 40)[0].image_count == 4
    assert choose_method(random_cnn(0), images(60), 2)[0].image_count == 10
    assert choose_method(random_cnn(0), images(7), 2)[0].image_count == 3


def test_literal_spikes_leave_one_method() -> None:
    trials = choose_method(random_cnn(0), images(20), 4, amplitude="literal")
    assert [trial.name for trial in trials] == ["ngu-lee"]
    assert reason(trials, 4).startswith("--balance auto: ngu-lee for T = 4, which agrees with the CNN on ")


def test_the_reason_names_all_that_was_tried() -> None:
    trials = (
        choice.Trial("least-squares", 99.0, True, 0.985, 0.1, 200),
        choice.Trial("percentile", 99.9, False, 0.97, 0.1, 200),
        choice.Trial("ngu-lee", 99.0, False, 0.5, 0.1, 200),
    )
    assert reason(trials, 2) == (
        "--balance auto: least-squares corrected for T = 2, which agrees with the CNN on 98.50 % of 200 calibration "
        "images (percentile 99.9 97.00 %, ngu-lee 50.00 %)."
    )


def test_no_images() -> None:
    with pytest.raises(DataError, match="calibration images"):
        choose_method(random_cnn(0), images(0), 4)
