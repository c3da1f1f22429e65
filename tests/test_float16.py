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
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.cnn.training import resume_path
from loihi_convert.data import DataSplits, load_data
from loihi_convert.errors import CheckpointError

RECIPE = Recipe(epochs=3, batch_size=64, learning_rate=1e-2, averaging=0.9)


@pytest.fixture(scope="module")
def few() -> DataSplits:
    digits = load_data("digits")
    return dataclasses.replace(digits, train=digits.train[:200], calibration=digits.train[:200])


def run(splits: DataSplits, output: Path, **options: Any) -> Checkpoint:
    return train("digits-cnn", splits, options.pop("recipe", RECIPE), seed=0, output=output, **options)


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


def test_halves_are_gone_on_with(few: DataSplits, full: Checkpoint, tmp_path: Path) -> None:
    state = {name: tensor.half().float() for name, tensor in full.state.items()}
    half = dataclasses.replace(full, state=state, stored_as="float16")
    checkpoint.save(half, tmp_path / "half.pt")
    tuned = run(few, tmp_path / "tuned.pt", qcfs_levels=4, start=checkpoint.load(tmp_path / "half.pt"))
    assert isinstance(tuned.recipe["start"], dict)
    assert tuned.recipe["start"]["sha256"] == checkpoint.digest(half.state)
    assert tuned.stored_as == "float32"


def test_weights_of_few_bits_are_measured_as_such(few: DataSplits, full: Checkpoint, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1, learning_rate=1e-3, weight_bits=2)
    options = {"recipe": recipe, "qcfs_levels": 2, "start": full}
    real = run(few, tmp_path / "real.pt", **options)
    half = run(few, tmp_path / "half.pt", store="float16", **options)
    assert half.test_accuracy == pytest.approx(real.test_accuracy, abs=0.02)


def test_what_is_beyond_float16_is_refused(few: DataSplits, full: Checkpoint, tmp_path: Path) -> None:
    still = dataclasses.replace(RECIPE, epochs=1, learning_rate=1e-9, averaging=0.0)
    for value, fits in ((65_504.0, True), (65_520.0, False)):
        state = {**full.state, "fc.weight": torch.full_like(full.state["fc.weight"], value)}
        options = {"recipe": still, "start": dataclasses.replace(full, state=state), "store": "float16"}
        if fits:
            assert float(run(few, tmp_path / "fits.pt", **options).state["fc.weight"].abs().max()) == 65_504
            continue
        with pytest.raises(CheckpointError, match=r"fc\.weight contains NaN or infinity"):
            run(few, tmp_path / "model.pt", **options)
