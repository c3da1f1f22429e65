"""Where the accuracy goes: hand-derived activations, losses that add up, and the right cause of spoilt networks."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from support.training import train

from loihi_convert import cli
from loihi_convert.backends.reference import run_network
from loihi_convert.chip import limits
from loihi_convert.cnn.checkpoint import load_model
from loihi_convert.cnn.recipe import default_recipe
from loihi_convert.conversion.balancing import balance, correct_biases
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.data import DataSplits, load_data
from loihi_convert.errors import InputError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.progress import progress_to
from loihi_convert.ir.network import IntegrateAndFire, ReluLayer, ReluNetwork, SpikingLayer, SpikingNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import Dense
from loihi_convert.lowering import to_relu_network
from loihi_convert.metrics import advice, diagnosis
from loihi_convert.metrics.diagnosis import Diagnosis
from loihi_convert.simulation.intermediate import intermediate_networks
from loihi_convert.simulation.simulator import clipped_images

pytestmark = pytest.mark.slow

WHITE = np.full((1, 1, 1, 1), 255, np.uint8)


def tiny_cnn() -> ReluNetwork:
    """A white pixel gives neurons D, E, A, B of the first layer 1.5, 0.8, 1 and 0.5; C of the second -A + 2 B = 0."""
    return ReluNetwork(
        input_shape=(1, 1, 1),
        layers=(
            ReluLayer("first", Dense(np.array([[1.5], [0.8], [1.0], [0.5]]))),
            ReluLayer("second", Dense(np.array([[0.0, 0.0, -1.0, 2.0]]))),
            ReluLayer("classes", Dense(np.array([[1.0], [-1.0]]))),
        ),
    )


def tiny_spiking(cnn: ReluNetwork) -> SpikingNetwork:
    """The same with thresholds of 1; all neurons start at 0.5 but E, which starts at 0."""
    first = IntegrateAndFire(np.ones(4), np.ones(4), np.array([0.5, 0.0, 0.5, 0.5]))
    second = IntegrateAndFire(np.ones(1), np.ones(1), np.array([0.5]))
    layers = tuple(
        SpikingLayer(layer.name, layer.synapse, neuron)
        for layer, neuron in zip(cnn.layers, (first, second, None), strict=True)
    )
    return SpikingNetwork((1, 1, 1), layers, timesteps=2, reset="soft")


def tiny_diagnosis() -> tuple[SpikingNetwork, Diagnosis]:
    cnn = tiny_cnn()
    spiking = tiny_spiking(cnn)
    return spiking, diagnosis.diagnose(cnn, spiking, quantize(spiking, WHITE), WHITE, np.zeros(1, int), 2)


def tiny_activations(cnn: ReluNetwork, spiking: SpikingNetwork) -> dict[str, list[list[float]]]:
    networks = intermediate_networks(cnn, spiking, quantize(spiking, WHITE), timesteps=2)
    return {network.cause: [maps.ravel().tolist() for maps in network.activations(WHITE, 0)] for network in networks}


def test_activations_derived_by_hand() -> None:
    cnn = tiny_cnn()
    found = tiny_activations(cnn, tiny_spiking(cnn))
    # D: min(1.5, 1). All others are below their thresholds.
    assert found["clipping"] == [pytest.approx([1, 0.8, 1, 0.5]), [0], [0, 0]]
    # T = 2: D floor(3 + 1/2) = 3 -> 2 of 2; E floor(1.6 + 1/2) = 2; A floor(2.5) = 2; B floor(1.5) = 1.
    assert found["levels"] == [[1, 1, 1, 0.5], [0], [0, 0]]
    # E from 0: floor(1.6) = 1.
    assert found["initial_potential"] == [[1, 0.5, 1, 0.5], [0], [0, 0]]
    # A spikes at both steps. B: 0.5 + 0.5 spikes, 0; then 0.5. So C receives -1 + 2 = 1, then -1, on average the 0 of
    # the CNN, but 0.5 + 1 spikes and leaves 0.5, which then falls to -0.5: one spike in two steps.
    assert found["timing"] == [[1, 0.5, 1, 0.5], [0.5], [0.5, -0.5]]
    assert list(found) == ["clipping", "levels", "initial_potential", "timing", "weights", "thresholds", "saturation"]


def test_a_hard_reset_comes_after_the_soft_one() -> None:
    cnn = tiny_cnn()
    soft = tiny_spiking(cnn)
    empty = tuple(
        replace(
            layer,
            neuron=None
            if layer.neuron is None
            else replace(layer.neuron, initial_potential=0 * layer.neuron.threshold),
        )
        for layer in soft.layers
    )
    # E gets 0.9: 0.9, 1.8 spikes. A spikes twice. B: 0.5, 1 spikes.
    found = tiny_activations(cnn, replace(soft, layers=empty, reset="hard"))
    assert found["timing"][0] == found["reset"][0] == [1, 0.5, 1, 0.5]
    # C receives -1, then 1: never 1.
    assert found["reset"][1] == [0]


def test_what_a_spike_is_worth_to_a_hard_reset_belongs_to_the_reset() -> None:
    """Worth 1.5 where thresholds are 1: no cause of its own, and no literal spikes."""
    cnn = tiny_cnn()
    soft = tiny_spiking(cnn)
    fitted = IntegrateAndFire(np.ones(4), np.full(4, 1.5), np.zeros(4))
    second = IntegrateAndFire(np.ones(1), np.ones(1), np.zeros(1))
    layers = tuple(
        replace(layer, neuron=neuron) for layer, neuron in zip(soft.layers, (fitted, second, None), strict=True)
    )
    found = tiny_activations(cnn, replace(soft, layers=layers, reset="hard"))
    assert "amplitude" not in found
    assert found["levels"][0] == [1, 1, 1, 0.5]
    # As above; then the same spikes, worth more.
    assert found["timing"][0] == [1, 0.5, 1, 0.5]
    assert found["reset"][0] == [1.5, 0.75, 1.5, 0.75]


def test_the_levels_of_a_qcfs_network_are_not_clipping() -> None:
    """With L = 1 the CNN itself says D 1, E 1, A 1, B floor(0.5 + 1/2) = 1, C floor(min(-1 + 2, 1) + 1/2) = 1."""
    plain = tiny_cnn()
    layers = tuple(
        replace(layer, threshold=np.ones(layer.synapse.channels), levels=1) if layer.name != "classes" else layer
        for layer in plain.layers
    )
    cnn = replace(plain, layers=layers)
    found = tiny_activations(cnn, tiny_spiking(plain))
    assert found["clipping"] == [[1, 1, 1, 1], [1], [1, -1]]
    assert found["levels"][0] == [1, 1, 1, 0.5]


class Digits(NamedTuple):
    splits: DataSplits
    cnn: ReluNetwork


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    path = tmp_path_factory.mktemp("diagnose") / "model.pt"
    splits = load_data("digits")
    train("digits-cnn", splits, replace(default_recipe("digits"), epochs=8), seed=0, output=path)
    model, checkpoint = load_model(path)
    return Digits(splits, to_relu_network(model, checkpoint.input_shape))


def rounded(
    digits: Digits, timesteps: int, *, factors: dict[str, float] | None = None, weight_bits: int = 8, **options: Any
) -> tuple[SpikingNetwork, QuantizedNetwork]:
    """The network in real numbers and in integers; thresholds of the named layers times ``factors``."""
    images = digits.splits.calibration_images()
    spiking = balance(digits.cnn, images, timesteps, BalanceOptions(**{"method": "percentile", **options}))
    layers = []
    for layer in spiking.layers:
        factor = (factors or {}).get(layer.name, 1.0)
        if layer.neuron is not None and factor != 1:
            neuron = layer.neuron
            scaled = IntegrateAndFire(
                factor * neuron.threshold, factor * neuron.amplitude, factor * neuron.initial_potential
            )
            layer = replace(layer, neuron=scaled)
        layers.append(layer)
    spiking = replace(spiking, layers=tuple(layers))
    return spiking, quantize(spiking, images, QuantizeOptions(weight_bits=weight_bits))


@pytest.mark.parametrize(("dead", "bits"), [((), 8), ((0, 1), 8), ((0, 1, 2), None)])
def test_channels_that_never_fire_have_no_weight_bits(dead: tuple[int, ...], bits: int | None) -> None:
    """Their weights are stored as 0."""
    first, last = Dense(np.ones((3, 1))), Dense(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    cnn = ReluNetwork((1, 1, 1), (ReluLayer("first", first), ReluLayer("classes", last)))
    threshold = np.ones(3)
    threshold[list(dead)] = np.inf
    neuron = IntegrateAndFire(threshold, np.ones(3), np.zeros(3))
    spiking = SpikingNetwork(
        (1, 1, 1), (SpikingLayer("first", first, neuron), SpikingLayer("classes", last, None)), 2, "soft"
    )
    network = quantize(spiking, WHITE)
    assert network.layers[0].neuron is not None
    assert np.flatnonzero(network.layers[0].neuron.threshold == limits.NEVER_FIRES).tolist() == list(dead)
    assert not network.layers[0].weight[list(dead)].any()
    found = diagnosis.diagnose(cnn, spiking, network, WHITE, None, 2)
    assert found.layers[0].weight_bits == bits


def diagnosed(
    digits: Digits, networks: tuple[SpikingNetwork, QuantizedNetwork], *, has_labels: bool = True
) -> Diagnosis:
    """On all 1,797 images: nothing is chosen by them here, and few images tell little."""
    spiking, network = networks
    parts = (digits.splits.train, digits.splits.validation, digits.splits.test)
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.known_labels for part in parts]) if has_labels else None
    found = diagnosis.diagnose(digits.cnn, spiking, network, images, labels, network.timesteps)
    # Losses by cause and by layer are each the whole loss, image for image.
    assert sum(stage.lost_images for stage in found.stages) == found.lost_images
    assert sum(layer.lost_images for layer in found.layers) == found.lost_images
    assert sum(stage.changed_images for stage in found.stages) == len(images) - found.stages[-1].agreement_count
    assert found.lost_images == found.newly_wrong - found.newly_right
    return found


HIDDEN = ("conv1", "conv2")


def test_a_good_network_has_nothing_to_mend(digits: Digits) -> None:
    spiking, network = rounded(digits, 64)
    found = diagnosed(digits, (spiking, network))
    assert (found.is_noteworthy, found.main_cause, found.first_layer) == (False, None, None)
    assert advice.verdict(found).startswith(("No problem found: ", "No cause is named: "))
    assert advice.advice(found, network) == ()
    for layer in found.stages[-1].layers:
        assert layer.correlation is not None
        assert layer.correlation > 0.98


@pytest.mark.parametrize(
    ("spoilt", "cause", "words"),
    [
        (
            {"timesteps": 4, "factors": dict.fromkeys(HIDDEN, 20.0)},
            "levels",
            r"thresholds are 1\d\.\d times the largest activation .*export with `method='auto'`",
        ),
        ({"timesteps": 16, "weight_bits": 2}, "weights", "rounded to 2 bits: export with `weight_bits=8`"),
        ({"timesteps": 1, "initial_potential": "zero"}, "initial_potential", "Export with `initial_potential='half'`"),
        (
            {"timesteps": 16, "factors": dict.fromkeys(HIDDEN, 0.03)},
            "clipping",
            r"\d\d\.\d % of the positive activations are above the threshold",
        ),
        (
            {"timesteps": 64, "reset": "hard", "factors": dict.fromkeys(HIDDEN, 0.8)},
            "reset",
            "export with `reset='soft'`",
        ),
        (
            {"timesteps": 16, "amplitude": "literal", "method": "ngu-lee"},
            "amplitude",
            "export with `amplitude='compensated'`",
        ),
    ],
)
def test_the_right_cause_is_named(digits: Digits, spoilt: dict[str, Any], cause: str, words: str) -> None:
    spiking, network = rounded(digits, **spoilt)
    found = diagnosed(digits, (spiking, network))
    assert found.main_cause == cause
    assert re.search(words, " ".join(advice.advice(found, network)))
    assert f"Main cause: {advice.CAUSES[found.main_cause]} (" in advice.verdict(found)


def test_saturation_is_named(digits: Digits) -> None:
    """Calibrated on black images: no current is expected."""
    spiking, _ = rounded(digits, 16)
    network = quantize(spiking, 0 * digits.splits.calibration_images())
    found = diagnosed(digits, (spiking, network))
    assert found.main_cause == "saturation"
    most = max(layer.saturated_images for layer in found.layers)
    assert f"on {most:,} of 1,797 images a potential reached +-131,071" in advice.advice(found, network)[0]


def test_only_clips_that_may_change_spikes_are_counted(digits: Digits) -> None:
    """The first layer's current is constant, and its thresholds are below half the range."""
    spiking, network = rounded(digits, 64)
    images = digits.splits.train.images
    found = diagnosis.diagnose(digits.cnn, spiking, network, images, None, 64)
    assert [(row > 0).tolist() for row in clipped_images(network, images, 64)[:2, :2]] == [[True, True], [True, False]]
    assert [layer.saturated_images > 0 for layer in found.layers] == [False, True, False]


def test_uneven_timing_is_named() -> None:
    """The CNN of above says 0 and 0, so class 0; the spike of C makes it -0.5 and 0.5."""
    plain = tiny_cnn()
    cnn = replace(plain, layers=(*plain.layers[:2], ReluLayer("classes", Dense(np.array([[-1.0], [1.0]])))))
    spiking = tiny_spiking(cnn)
    network = quantize(spiking, WHITE)
    found = diagnosis.diagnose(cnn, spiking, network, np.repeat(WHITE, 20, axis=0), np.zeros(20, int), 2)
    assert (found.main_cause, found.first_layer, found.lost_images) == ("timing", "second", 20)
    assert [(layer.name, layer.lost_images) for layer in found.layers] == [("first", 0), ("second", 20), ("classes", 0)]
    # D, E, A, B: 1, 0.5, 1, 0.5 against 1.5, 0.8, 1, 0.5: squares 0.25 + 0.09 of 4, beside 2.25 + 0.64 + 1 + 0.25.
    (timing,) = (stage for stage in found.stages if stage.cause == "timing")
    first = timing.layers[0]
    assert first.mean_squared_error == pytest.approx(0.34 / 4)
    assert first.relative_error == pytest.approx(0.34 / 4.14)
    # Deviations from 0.75: 0.25, -0.25, 0.25, -0.25; from 0.95: 0.55, -0.15, 0.05, -0.45.
    assert first.correlation == pytest.approx(0.25 * 1.2 / np.sqrt(0.25 * (0.3025 + 0.0225 + 0.0025 + 0.2025)))
    assert found.layers[0].share_above_threshold == 0.25
    # Of 1 / 1.5, 1 / 0.8, 1 and 1 / 0.5.
    assert found.layers[0].threshold_to_largest == pytest.approx((1 + 1 / 0.8) / 2)


@pytest.mark.parametrize(
    ("provenance", "cause", "said", "not_said"),
    [
        ({"method": "percentile", "percentile": 99.9}, "clipping", "ngu-lee", "percentile"),
        ({"method": "percentile", "percentile": 99}, "clipping", "percentile=99.9`", "percentile=99`"),
        ({"method": "ngu-lee"}, "clipping", "method='auto'", "ngu-lee|percentile"),
        ({"method": "qcfs"}, "clipping", "ngu-lee", "auto"),
        ({"method": "percentile", "percentile": 99}, "levels", "method='auto'", "percentile"),
        ({"method": "percentile", "percentile": 99.9}, "levels", "percentile=99`", "ngu-lee"),
        ({"method": "qcfs"}, "levels", "percentile=99`", "auto"),
    ],
)
def test_the_options_that_made_a_file_are_not_advised(
    provenance: dict[str, object], cause: str, said: str, not_said: str
) -> None:
    spiking, plain = tiny_diagnosis()
    network = replace(quantize(spiking, WHITE), provenance={"balance": provenance})
    layers = tuple(layer.model_copy(update={"threshold_to_largest": 9.0}) for layer in plain.layers)
    found = plain.model_copy(update={"main_cause": cause, "layers": layers, "balanced_timesteps": plain.timesteps})
    text = " ".join(advice.advice(found, network))
    assert re.search(said, text)
    assert not re.search(not_said, text)
    chosen = replace(network, provenance={"balance": provenance, "choice": [{"method": "percentile"}]})
    assert "auto" not in " ".join(advice.advice(found, chosen))


@pytest.mark.parametrize(("pixel_bits", "advised"), [(8, "`pixel_bits=7`"), (4, "`pixel_bits=3`"), (1, None)])
def test_fewer_pixel_bits_are_advised_than_the_file_has(pixel_bits: int, advised: str | None) -> None:
    spiking, plain = tiny_diagnosis()
    network = quantize(spiking, WHITE, QuantizeOptions(pixel_bits=pixel_bits))
    layers = [layer.model_copy(update={"weight_bits": 3 + index}) for index, layer in enumerate(plain.layers)]
    text = " ".join(advice.advice(plain.model_copy(update={"main_cause": "weights", "layers": tuple(layers)}), network))
    assert "use 3 of 8 bits" in text
    assert ("pixel_bits" in text) == (advised is not None)
    assert advised is None or advised in text
    later = tuple(layer.model_copy(update={"weight_bits": 7 - index}) for index, layer in enumerate(plain.layers))
    text = " ".join(advice.advice(plain.model_copy(update={"main_cause": "weights", "layers": later}), network))
    assert "pixel_bits" not in text


def test_a_network_without_neurons_is_advised_without_thresholds() -> None:
    """One layer. Pixels 200 and 201 are the same with 4 bits, and the lower class wins."""
    cnn = ReluNetwork((2, 1, 1), (ReluLayer("classes", Dense(np.eye(2))),))
    spiking = SpikingNetwork((2, 1, 1), (SpikingLayer("classes", cnn.layers[0].synapse, None),), 2, "soft")
    images = np.tile(np.array([200, 201], np.uint8).reshape(1, 2, 1, 1), (20, 1, 1, 1))
    network = quantize(spiking, images, QuantizeOptions(pixel_bits=4))
    found = diagnosis.diagnose(cnn, spiking, network, images, np.ones(20, int), 4)
    assert (found.main_cause, found.first_layer, found.lost_images) == ("thresholds", "classes", 20)
    assert advice.advice(found, network) == ("Pixels enter with 4 bits: export with `pixel_bits=5`.",)
    assert "threshold" not in " ".join(advice.advice(found.model_copy(update={"main_cause": "weights"}), network))


def test_without_labels_the_classes_of_the_cnn_count(digits: Digits) -> None:
    found = diagnosed(digits, rounded(digits, 16, weight_bits=3), has_labels=False)
    assert (found.measure, found.main_cause) == ("agreement", "weights")
    assert {stage.accuracy for stage in found.stages} == {None}
    assert re.match(r"The file loses the CNN's class on \d+ of 1,797 images\. ", advice.verdict(found))


def test_corrections_are_a_stage_of_their_own(digits: Digits) -> None:
    images = digits.splits.calibration_images()
    spiking = correct_biases(digits.cnn, rounded(digits, 2)[0], images)
    found = diagnosed(digits, (spiking, quantize(spiking, images)))
    causes = [stage.cause for stage in found.stages]
    assert causes[3:6] == ["initial_potential", "timing", "correction"]
    # They are made to bring the output nearer to the CNN's.
    before, after = (stage.layers[-1].mean_squared_error for stage in found.stages[4:6])
    assert after < before


def test_a_gain_takes_back_the_nearest_loss_first() -> None:
    assert diagnosis.remaining_losses([0, 42, 11, -39, 3, 2, -4, -1]) == [0, 14, 0, 0, 0, 0, 0, 0]
    assert diagnosis.remaining_losses([0, -5, 7]) == [0, 0, 7]


def test_a_cause_that_loses_nothing_is_not_the_main_one() -> None:
    """A single lost image: 0 is within its standard deviation, 1, and `levels` changes more classes."""
    labels = np.array([0, 0, 0, 1])
    # The CNN, then: image 0 is lost; image 1 is lost and image 3 gained; nothing changes.
    classes = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 0, 1]])
    stages = diagnosis.stages_of((None, "clipping", "levels", "weights"), classes, [[], [], []], labels)
    assert [stage.remaining_images for stage in stages] == [0, 1, 0, 0]
    assert [stage.changed_images for stage in stages] == [0, 1, 2, 0]
    assert diagnosis.main_cause(stages) == "clipping"


@pytest.mark.parametrize("readout", ["potential", "spikes"])
@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_the_last_network_is_what_ref_runs(digits: Digits, readout: str, reset: str) -> None:
    spiking, network = rounded(digits, 5, readout=readout, reset=reset)
    images = digits.splits.test.images[:40]
    last = intermediate_networks(digits.cnn, spiking, network, 5)[-1]
    expected = run_network(network, images, 5, trace=True)
    found = last.activations(images, 0)
    for layer, trace, maps in zip(network.layers, expected.traces, found, strict=True):
        of_integers = trace.potentials[:, -1] if trace.spikes is None else trace.spikes.sum(axis=1)
        unit = layer.scale if layer.used_amplitude is None else layer.used_amplitude
        shape = (-1, *(1,) * (of_integers.ndim - 2))
        assert _in_torch_order(maps, of_integers.shape) == pytest.approx(
            of_integers * unit.reshape(shape) / 5, rel=1e-6
        )
    assert np.array_equal(found[-1].reshape(len(images), -1).argmax(axis=1), expected.predictions[:, -1])


def _in_torch_order(maps: Array, shape: tuple[int, ...]) -> Array:
    return maps.transpose(0, 3, 1, 2).reshape(shape)


def test_a_gpu_finds_the_same(digits: Digits) -> None:
    """On torch's CPU by another name, which takes the code of a GPU."""
    spiking, network = rounded(digits, 3)
    images = digits.splits.test.images[:50]
    found = diagnosis.diagnose(digits.cnn, spiking, network, images, None, 3, device="cpu:0")
    expected = diagnosis.diagnose(digits.cnn, spiking, network, images, None, 3)
    assert found.stages[-2:] == expected.stages[-2:]
    assert found.layers == expected.layers


def test_images_are_taken_in_blocks(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    spiking, network = rounded(digits, 3)
    test = digits.splits.test
    arguments = (digits.cnn, spiking, network, test.images, test.known_labels, 3)
    whole = diagnosis.diagnose(*arguments)
    # 1024 + 512 + 10 neurons: 7 images.
    monkeypatch.setattr(diagnosis, "_BLOCK", 7 * 1546)
    seen: list[tuple[int, int]] = []
    with progress_to(lambda *done: seen.append(done)):
        parts = diagnosis.diagnose(*arguments)
    assert seen[:2] == [(7, 400), (14, 400)]
    assert seen[-1] == (400, 400)
    assert [stage.lost_images for stage in parts.stages] == [stage.lost_images for stage in whole.stages]
    found, expected = parts.stages[-1].layers[1], whole.stages[-1].layers[1]
    assert found.correlation == pytest.approx(expected.correlation)
    assert found.mean_squared_error == pytest.approx(expected.mean_squared_error)


def test_a_file_without_its_float_thresholds_is_refused(digits: Digits) -> None:
    spiking, network = rounded(digits, 3)
    bare = replace(network, layers=(replace(network.layers[0], balanced=None), *network.layers[1:]))
    with pytest.raises(InputError, match="float thresholds") as caught:
        diagnosis.diagnose(digits.cnn, spiking, bare, digits.splits.test.images, None, 3)
    assert caught.value.where == "conv1"


def test_all_that_is_advised_exists() -> None:
    """Each cause, with each thing that changes its advice: parameters are those of Python and of `export`."""
    group = typer.main.get_command(cli.app)
    parameters = {each.name for kind in (BalanceOptions, QuantizeOptions) for each in fields(kind)} | {"timesteps"}
    spiking, plain = tiny_diagnosis()
    spoken = 0
    trained = {"architecture": "mnist-cnn", "data": "mnist"}
    for provenance in (
        {"model": trained},
        {"balance": {"alpha": 0.5, "initial_potential": "half"}, "quantize": {"weight_bits": 4}, "model": trained},
        {"balance": {"method": "least-squares", "initial_potential": "zero"}},
    ):
        network = replace(quantize(spiking, WHITE, QuantizeOptions(pixel_bits=4)), provenance=provenance)
        for cause in advice.CAUSES:
            for steps in (2, 5):
                found = plain.model_copy(update={"main_cause": cause, "timesteps": steps})
                for quoted in re.findall(r"`([^`]+)`", " ".join(advice.advice(found, network))):
                    spoken += 1
                    command, *words = quoted.split()
                    if words:
                        known = {option for p in group.commands[command].params for option in p.opts}  # type: ignore[attr-defined]
                        assert {word for word in words if word.startswith("-")} <= known, quoted
                        continue
                    name = quoted.partition("=")[0]
                    assert name in parameters
                    assert name in cli.verb_flags(["export"])
    assert spoken > 50


@pytest.mark.parametrize(
    ("model", "is_trainable", "is_ours"),
    [
        ({"architecture": "mnist-cnn", "data": "mnist"}, True, True),
        ({"architecture": "mnist-cnn", "data": "my-folder"}, False, True),
        ({"arch": "nets:make", "data": "mnist"}, False, False),
        ({}, False, False),
    ],
)
def test_training_is_advised_only_where_train_can_do_it(
    model: dict[str, str], is_trainable: bool, is_ours: bool
) -> None:
    """And what is known of the images: `train` leaves the validation images out, other programs may not."""
    spiking, plain = tiny_diagnosis()
    for bits in (4, 8):
        provenance = {"model": model, "quantize": {"weight_bits": bits}}
        network = replace(quantize(spiking, WHITE), provenance=provenance)
        for cause in ("levels", "timing", "weights"):
            text = " ".join(advice.advice(plain.model_copy(update={"main_cause": cause}), network))
            assert ("train --qcfs" in text) == is_trainable
    for recorded, is_same in (
        ({}, True),
        ({"data_fingerprint": "a", "calibration_fingerprint": "b"}, True),
        ({"calibration_fingerprint": "a"}, True),
        ({"data_fingerprint": "c", "calibration_fingerprint": "b"}, False),
    ):
        network = replace(network, provenance={"model": {**model, **recorded}})
        assert (advice.image_notes(network, "a") == ()) == (is_ours or not is_same)


def test_a_loss_below_twice_its_standard_error_has_no_cause() -> None:
    """8 newly wrong and 2 newly right: 6 images are lost, and 2 sqrt(8 + 2) = 6.3."""
    _, plain = tiny_diagnosis()
    found = plain.model_copy(
        update={"image_count": 200, "lost_images": 6, "loss_points": 3.0, "newly_wrong": 8, "newly_right": 2}
        | {"is_small": False, "is_noteworthy": False, "main_cause": None}
    )
    verdict = advice.verdict(found)
    assert "3.00 points of accuracy on 200 images (8 newly wrong, 2 newly right)" in verdict
    assert "less than twice the standard error" in verdict


@pytest.mark.parametrize(
    ("image_count", "changed", "margin", "begins"),
    [
        (1, 0, 100, "Too few images: 1 image cannot show a loss of less than about 100 points."),
        (10, 0, 30, "Too few images: 10 images cannot show a loss of less than about 30 points."),
        (300, 0, 1, "No problem found: "),
        (1000, 49, 1.4, "Too few images: 1,000 images cannot show a loss of less than about 1.4 points."),
        (1000, 16, 0.8, "No problem found: "),
    ],
)
def test_a_loss_that_the_images_cannot_show(image_count: int, changed: int, margin: float, begins: str) -> None:
    """3 / N if no class changes, else 2 sqrt(changed) / N."""
    _, plain = tiny_diagnosis()
    found = plain.model_copy(
        update={"image_count": image_count, "lost_images": 0, "loss_points": 0.0, "newly_wrong": 0}
        | {"newly_right": changed, "is_small": True, "is_noteworthy": False, "main_cause": None}
    )
    assert found.margin_points == pytest.approx(margin)
    assert advice.verdict(found).startswith(begins)


def test_images_of_one_class_cannot_show_a_loss() -> None:
    cnn = tiny_cnn()
    spiking = tiny_spiking(cnn)
    black = np.repeat(0 * WHITE, 400, axis=0)
    found = diagnosis.diagnose(cnn, spiking, quantize(spiking, WHITE), black, None, 2)
    (sentence,) = found.same_class_notes
    assert found.lost_images == 0
    assert found.margin_points < advice.LARGE_MARGIN
    assert sentence in advice.verdict(found)
    assert "No problem found" not in advice.verdict(found)
