"""Networks whose outputs are numbers, or one logit: trained on generated images, converted, run and reported."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.own_cnns import blobs, fitted
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import loihi_convert as lc
from loihi_convert.conversion.agreement import Agreement, explained_share, measure_of
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.flow import to_integers
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions
from loihi_convert.errors import DataError, InputError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.network import ReluNetwork, class_count, classes_of
from loihi_convert.ir.provenance import ModelRecord, read_record
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.lowering import to_relu_network
from loihi_convert.metrics.regression import errors
from loihi_convert.netx.native import encode
from loihi_convert.pipeline.opening import notes_on_images
from loihi_convert.simulation.relu import cnn_scores

pytestmark = pytest.mark.slow

SIZE = 8
TRAINING, TEST = blobs(600, SIZE), blobs(200, SIZE, seed=1)


@pytest.fixture(scope="module")
def position() -> nn.Module:
    """Two outputs: row and column."""
    return fitted(*TRAINING, nn.MSELoss(), steps=300, size=SIZE)


def scores(model: nn.Module, images: Array) -> Array:
    with torch.no_grad():
        return model(torch.from_numpy(images[:, np.newaxis] / np.float32(255))).numpy()


def as_regression(model: nn.Module) -> ReluNetwork:
    return replace(to_relu_network(model, (1, SIZE, SIZE)), task="regression")


def test_one_output_is_a_threshold_at_zero() -> None:
    assert classes_of(np.array([[-1.5], [0.0], [2.0]])).tolist() == [0, 0, 1]
    assert classes_of(np.array([[[1, 3, 3]], [[2, 2, 0]]])).tolist() == [[1], [0]]
    assert [class_count(outputs) for outputs in (1, 2, 10)] == [2, 2, 10]


def test_explained_share() -> None:
    expected = np.array([[0.0, 10], [2, 10], [4, 10]])
    assert explained_share(expected, expected) == 1
    # The sum of squares is 8; the second output does not vary.
    assert explained_share(expected + np.array([1, 5]), expected) == pytest.approx(1 - 3 / 8)
    assert explained_share(expected + np.array([9, 0]), expected) == 0
    constant = np.full((3, 2), 0.1, np.float32)
    assert [explained_share(found, constant) for found in (constant, constant + 1)] == [1, 0]
    # Of one image: the share of its square, 1 - 0.03^2 / 0.3^2.
    assert explained_share(np.array([[0.33]]), np.array([[0.3]])) == pytest.approx(0.99)
    assert [explained_share(np.array([[found]]), np.zeros((1, 1))) for found in (0.0, 0.1)] == [1, 0]


def test_a_shortfall_is_larger_than_chance_and_not_negligible() -> None:
    def falls_short(written: float, trial: float) -> bool:
        found = [Agreement(agreement=share, error=0.1, image_count=200) for share in (written, trial)]
        return measure_of("regression").falls_short(*found)

    # With 200 images the interval ends 19.6 % above the unexplained share.
    assert [falls_short(share, 0.9) for share in (0.89, 0.882, 0.878)] == [False, False, True]
    assert [falls_short(share, 0.9999) for share in (0.999, 0.998)] == [False, True]


def test_auto_compares_outputs(position: nn.Module) -> None:
    cnn = as_regression(position)
    calibration = TRAINING[0][:, np.newaxis]
    made = to_integers(cnn, calibration, 16)
    assert 0.98 < made.agreement.agreement < 1
    ranks = [-trial.agreement for trial in made.trials]
    assert ranks == sorted(ranks)
    assert f"the quantized network explains {100 * made.agreement.agreement:.3f} % of the variance" in made.notes[0]
    coarse = to_integers(cnn, calibration, 1, ConversionOptions(BalanceOptions(method="percentile")))
    assert coarse.agreement.agreement < 0.9


@pytest.mark.parametrize(("task", "worse"), [("classification", "a lower accuracy"), ("regression", "a larger error")])
def test_what_other_images_may_have(task: str, worse: str) -> None:
    record = SimpleNamespace(model=SimpleNamespace(calibration_fingerprint="f"))
    network: Any = SimpleNamespace(task=task, provenance=record)
    assert [note.endswith(f"other images may have {worse}") for note in notes_on_images(network, "f")] == [True]


def test_a_spiking_readout_is_refused_for_regressions(position: nn.Module) -> None:
    options = BalanceOptions(method="percentile", readout="spikes")
    with pytest.raises(UsageError) as caught:
        balance(as_regression(position), TRAINING[0][:, np.newaxis], 4, options)
    assert caught.value.where == "readout"


def test_a_regression_is_not_sent_to_diagnose(position: nn.Module) -> None:
    """Which is for classifications, as is fine-tuning for few steps."""
    with pytest.warns(UserWarning, match="only explains .*; see its `notes`$"):
        snn = lc.convert(position, TRAINING[0], timesteps=1, task="regression")
    (note,) = (note for note in snn.notes if "`timesteps`" in note)
    assert "diagnose" not in note


def r2_by_hand(found: Array, expected: Array) -> Array:
    """Equal to `sklearn.metrics.r2_score`, for each output."""
    return 1 - np.square(found - expected).sum(axis=0) / np.square(expected - expected.mean(axis=0)).sum(axis=0)


@pytest.fixture(scope="module")
def converted(position: nn.Module) -> lc.Converted:
    return lc.convert(position, TRAINING[0], timesteps=16, task="regression", classes=["row", "column"])


@pytest.fixture(scope="module")
def result(converted: lc.Converted) -> lc.Result:
    return converted.run(*TEST[:1], targets=TEST[1])


def test_errors_are_computed_from_potential_x_scale_over_t_plus_offset(
    position: nn.Module, converted: lc.Converted, result: lc.Result
) -> None:
    images, targets = TEST
    # In the arithmetic of the run: torch sums in another order, and the errors below are small differences.
    expected = cnn_scores(as_regression(position), images[:, np.newaxis])
    assert expected == pytest.approx(scores(position, images), rel=1e-5, abs=1e-5)
    regression = result.evaluation.regression
    assert regression.output_names == ("row", "column")
    readout = converted.network.layers[-1]
    for point in regression.points:
        found = result.run.potentials[:, point.timesteps - 1] * readout.scale / point.timesteps + readout.offset
        for judged, wanted in ((point.to_targets, targets), (point.to_cnn, expected)):
            rmse = np.sqrt(np.square(found - wanted).mean(axis=0))
            assert [one.rmse for one in judged.outputs] == pytest.approx(rmse)
            assert [one.r2 for one in judged.outputs] == pytest.approx(r2_by_hand(found, wanted), rel=1e-4)
            assert judged.mean.rmse == pytest.approx(rmse.mean())
    assert np.array_equal(result.outputs, found)
    assert np.array_equal(result.predictions, found)
    assert result.cnn_rmse == pytest.approx(np.sqrt(np.square(expected - targets).mean(axis=0)).mean())
    # CNN and spiking network have learned something: the targets' standard deviation is more than 1 pixel.
    assert result.cnn_rmse < 0.5
    assert result.rmse < 0.5
    assert result.r2 > 0.8
    assert result.rmse_to_cnn < 0.3
    assert regression.points[-1].to_cnn.mean.rmse < regression.points[0].to_cnn.mean.rmse / 2


class Frame:
    """The used part of a data frame, without pandas."""

    def __init__(self, rows: list[dict[str, float]]) -> None:
        self.rows = rows

    def set_index(self, name: str) -> Frame:
        assert name == "timesteps"
        return self


def test_errors_in_python(result: lc.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (result.accuracy, result.agreement_with_cnn, result.evaluation.early_exit) == (None, None, None)
    assert f"RMSE {result.rmse:.4g}, CNN {result.cnn_rmse:.4g}" in repr(result)
    table = result.table()
    assert "CNN\nRMSE" in table.headers
    assert not any("%" in header for header in table.headers)
    last = dict(zip(table.headers, table.rows[-1], strict=True))
    assert last["fixed\nRMSE"] == f"{result.rmse:.4g}"
    errors = result.evaluation.regression.points[-1].to_targets
    assert last["worst\nR²"] == f"{min(one.r2 for one in errors.outputs):.4f}"
    assert f"worst output: {('row', 'column')[errors.worst]}, RMSE " in table.caption
    assert "means over 2 outputs" in table.caption
    outputs = result.output_table()
    assert [row[0] for row in outputs.rows] == ["row", "column", "mean"]
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=Frame))
    frame = result.to_dataframe()
    assert frame.rows[-1]["rmse"] == result.rmse
    assert frame.rows[-1]["r2_to_cnn"] > 0.95
    assert [row["timesteps"] for row in frame.rows] == [1, 2, 4, 8, 16]
    assert "RMSE" in result.plot().axes[0].get_ylabel()


def test_one_output_and_without_targets(position: nn.Module) -> None:
    model = fitted(TRAINING[0], TRAINING[1][:, :1], nn.MSELoss(), steps=300, size=SIZE)
    snn = lc.convert(model, TRAINING[0], timesteps=16, task="regression")
    done = snn.run(TEST[0], targets=TEST[1][:, 0])
    assert done.outputs.shape == (200, 1)
    assert done.r2 > 0.8
    assert not any("worst" in header for header in done.table().headers)
    unknown = snn.run(TEST[0])
    assert (unknown.rmse, unknown.r2, unknown.cnn_rmse) == (None, None, None)
    assert unknown.rmse_to_cnn == done.rmse_to_cnn
    assert unknown.plot().axes[0].get_ylabel() == "RMSE to the CNN's outputs"


def test_targets_far_from_zero_have_an_r2() -> None:
    far = 1e7 + np.array([-2.0, 0.0, 2.0])
    found = errors(np.stack([far + 1, np.full(3, 1e7)], axis=1), np.stack([far, np.full(3, 0.1)], axis=1))
    assert found.outputs[0].r2 == pytest.approx(1 - 3 / 8)
    assert found.outputs[1].r2 is None
    # Outputs of a CNN, in float32, differ by rounding errors.
    noisy = 1 + 1e-7 * np.array([[-1.0], [0.0], [1.0]])
    computed = errors(noisy, noisy, relative_noise=1e-6)
    assert computed.mean.r2 is None
    # Smaller than the values by far, but not noise.
    small = 1 + 1e-4 * np.array([[-1.0], [0.0], [1.0]])
    computed = errors(small, small, relative_noise=1e-6)
    assert computed.mean.r2 == 1


def test_constant_targets_have_no_r2(converted: lc.Converted) -> None:
    done = converted.run(TEST[0], targets=np.ones((200, 2)))
    assert done.r2 is None
    assert done.rmse > 0
    assert "All 200 images have the same target (row, column), for which R^2 is undefined." in done.table().caption


def test_labels_are_for_classes_and_targets_for_numbers(converted: lc.Converted, position: nn.Module) -> None:
    classes = lc.convert(position, TRAINING[0], timesteps=2)
    for network, arguments, where in (
        (converted, {"labels": [0] * 200}, "labels"),
        (classes, {"targets": TEST[1]}, "targets"),
    ):
        with pytest.raises(UsageError) as caught:
            network.run(TEST[0], **arguments)
        assert caught.value.where == where
    for given in (TRAINING[1][:, 0].astype(int), TRAINING[1][:, 0]):
        with pytest.raises(UsageError) as caught:
            lc.convert(position, TRAINING[0], given, task="regression")
        assert (caught.value.where, caught.value.hint) == ("labels", "Pass `targets`.")
    with pytest.raises(DataError) as wrong:
        lc.convert(position, TRAINING[0], targets=TRAINING[1][:, 0], task="regression")
    assert wrong.value.where == "targets"
    for labels in (None, [0] * 200):
        with pytest.raises(UsageError) as caught:
            converted.diagnose(TEST[0], labels)
        assert caught.value.where == "network"
    with pytest.raises(UsageError) as caught:
        lc.convert(position, TRAINING[0], task="ranking")
    assert caught.value.where == "task"


def test_a_loader_supplies_targets(position: nn.Module) -> None:
    pairs = TensorDataset(torch.from_numpy(TRAINING[0]), torch.from_numpy(TRAINING[1]))
    snn = lc.convert(position, DataLoader(pairs, batch_size=50), timesteps=2, task="regression")
    assert snn.notes[0].startswith("the CNN has an RMSE of")


def test_the_file_records_a_regression_and_not_a_classification(
    tmp_path: Path, converted: lc.Converted, position: nn.Module
) -> None:
    assert lc.load(converted.save(tmp_path / "numbers.net")).network.task == "regression"
    classes = lc.convert(position, TRAINING[0], timesteps=2)
    assert lc.load(classes.save(tmp_path / "classes.net")).network.task == "classification"
    assert "task" not in classes.network.provenance["model"]
    # The networks of both files differ in the task and in the readout: the scale and offset of each output.
    same = lc.convert(position, TRAINING[0], timesteps=2, balancing=BalanceOptions(method="least-squares"))
    numbers = lc.convert(
        position, TRAINING[0], timesteps=2, task="regression", balancing=BalanceOptions(method="least-squares")
    )
    differences = {
        name for name in first_network_difference(same.network, numbers.network) if not name.startswith("layer/5/")
    }
    assert differences <= {f"loihi_convert/{name}" for name in ("layer/3/scale", "layer/3/offset", "proven_timesteps")}
    assert len(set(same.network.layers[-1].scale)) == 1
    assert len(set(numbers.network.layers[-1].scale)) == 2
    with pytest.raises(InputError) as caught:
        read_record(ModelRecord, {"task": "ranking"})
    assert caught.value.where == "task"


def test_control_characters_in_names_are_escaped(position: nn.Module) -> None:
    snn = lc.convert(position, TRAINING[0], timesteps=2, task="regression", classes=["row", "\x1b[2J"])
    assert snn.run(TEST[0], targets=TEST[1]).evaluation.regression.output_names == ("row", "\\x1b[2J")


def test_a_network_of_signals() -> None:
    """A regression of the position of a bump in a signal of 24 values."""
    place = np.random.default_rng(0).uniform(4, 20, 700)
    signals = np.exp(-((np.arange(24) - place[:, np.newaxis]) ** 2) / 8)
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, (1, 5), padding=(0, 2)), nn.ReLU(), nn.AvgPool2d((1, 2))),
        *(nn.Flatten(), nn.Linear(96, 1)),
    )
    x, y = torch.from_numpy(signals[:, None, None]).float(), torch.from_numpy(place[:, None]).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[:500]), y[:500]).backward()
        optimizer.step()
    snn = lc.convert(model, signals[:500], timesteps=32, task="regression", input_shape=(1, 24))
    assert snn.network.input_shape == (1, 1, 24)
    done = snn.run(signals[500:, np.newaxis], targets=place[500:])
    assert done.r2 > 0.95
    assert "regression" in repr(snn)


def first_network_difference(one: QuantizedNetwork, other: QuantizedNetwork) -> list[str]:
    """Return the datasets in which the files of two networks differ, without provenance."""
    encoded = [dict(encode(network)) for network in (one, other)]
    return [
        name
        for name in encoded[0] | encoded[1]
        if not np.array_equal(*(found.get(name) for found in encoded)) and not name.endswith("provenance")
    ]
