"""Weights rounded to float16: their values, their accuracies, and values that are too large."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training import train

from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.accuracy import in_float16
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.models import build_model
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.cnn.training import resume_path
from loihi_convert.data import DataSplits, load_data
from loihi_convert.errors import CheckpointError

RECIPE = Recipe(epochs=3, batch_size=64, learning_rate=1e-2, averaging=0.9)
OUTPUT = Path("model.pt")


@pytest.fixture(scope="module")
def few() -> DataSplits:
    digits = load_data("digits")
    return dataclasses.replace(digits, train=digits.train[:200], calibration=digits.train[:200])


def run(splits: DataSplits, output: Path, **options: Any) -> Checkpoint:
    return train("digits-cnn", splits, options.pop("recipe", RECIPE), seed=0, output=output, **options)


def rounded(trained: Checkpoint, splits: DataSplits) -> Checkpoint:
    model = build_model(trained.architecture, trained.input_shape, 10, qcfs_levels=trained.qcfs_levels)
    return in_float16(trained, splits, OUTPUT, model)


@pytest.fixture(scope="module")
def full(few: DataSplits, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return run(few, tmp_path_factory.mktemp("full") / "model.pt")


def test_training_stores_the_nearest_halves_and_their_accuracies(
    few: DataSplits, full: Checkpoint, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    random_state = torch.random.get_rng_state()
    half = run(few, tmp_path / "model.safetensors", store="float16")
    assert torch.equal(torch.random.get_rng_state(), random_state), "the caller's random state is not touched"
    assert not resume_path(tmp_path / "model.safetensors").exists()
    for name, weights in full.state.items():
        assert torch.equal(half.state[name], weights.half().float())
        assert not torch.equal(half.state[name], weights)
    model, read = checkpoint.load_model(tmp_path / "model.safetensors")
    assert read.stored_as == half.stored_as == "float16"
    for images, accuracy in ((few.validation, read.validation_accuracy), (few.test, read.test_accuracy)):
        predictions = model(torch.from_numpy(images.images / np.float32(255))).argmax(1).numpy()
        assert np.mean(predictions == images.labels) == accuracy
    again = rounded(full, few)
    assert (again.test_accuracy, again.validation_accuracy) == (read.test_accuracy, read.validation_accuracy)


def test_accuracies_are_measured_again(few: DataSplits, full: Checkpoint) -> None:
    wrong = dataclasses.replace(full, validation_accuracy=0.0, test_accuracy=0.0)
    assert rounded(wrong, few).test_accuracy == pytest.approx(full.test_accuracy, abs=0.02)
    assert rounded(wrong, few).validation_accuracy == pytest.approx(full.validation_accuracy, abs=0.02)


def test_weights_of_few_bits_are_measured_as_such(few: DataSplits, full: Checkpoint, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1, learning_rate=1e-3, weight_bits=2)
    tuned = run(few, tmp_path / "model.pt", recipe=recipe, qcfs_levels=2, start=full)
    real = dataclasses.replace(tuned, recipe={**tuned.recipe, "weight_bits": None})
    found, found_real = rounded(tuned, few), rounded(real, few)
    assert found.test_accuracy == pytest.approx(tuned.test_accuracy, abs=0.02)
    assert found.test_accuracy != found_real.test_accuracy


def test_halves_are_gone_on_with(few: DataSplits, full: Checkpoint, tmp_path: Path) -> None:
    half = rounded(full, few)
    checkpoint.save(half, tmp_path / "half.pt")
    tuned = run(few, tmp_path / "tuned.pt", qcfs_levels=4, start=checkpoint.load(tmp_path / "half.pt"))
    assert isinstance(tuned.recipe["start"], dict)
    assert tuned.recipe["start"]["sha256"] == checkpoint.digest(half.state)
    assert tuned.stored_as == "float32"


def test_what_is_beyond_float16_is_refused(few: DataSplits, full: Checkpoint) -> None:
    for value, fits in ((65_504.0, True), (-65_519.0, True), (65_520.0, False), (-1e5, False)):
        state = {**full.state, "fc.weight": torch.full_like(full.state["fc.weight"], value)}
        large = dataclasses.replace(full, state=state)
        if fits:
            assert float(rounded(large, few).state["fc.weight"].abs().max()) == 65_504
            continue
        with pytest.raises(CheckpointError) as caught:
            rounded(large, few)
        assert caught.value.where == str(OUTPUT)
        assert caught.value.found.startswith("fc.weight holds ")
