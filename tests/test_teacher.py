"""Distillation: the loss by hand, what is learned, and teachers that do not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.command_line import Invoke, invoker
from torch import Tensor, nn

import loihi_convert as lc
from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.design import TEACHER_SHARE, TEMPERATURE, teachers_loss
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.cnn.training import train_cnn
from loihi_convert.data import DataSplits, load_data
from loihi_convert.errors import CheckpointError, InputError, UsageError

# CNNs that are not trained before show what they learn.
pytestmark = pytest.mark.filterwarnings("ignore:the CNN classifies:UserWarning")

RECIPE = Recipe(epochs=8, batch_size=64, learning_rate=1e-2, averaging=0.9)
OPTIONS = lc.TrainOptions(recipe=RECIPE)

CODE = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10))
"""


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits")


@pytest.fixture(scope="module")
def trained(digits: DataSplits, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return train_cnn(digits, tmp_path_factory.mktemp("teacher") / "teacher.pt", OPTIONS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    return invoker(monkeypatch, capsys)


def own_cnn(*ending: nn.Module, clear: float = 1.0) -> nn.Sequential:
    """A CNN of 6 channels, the same weights each time, whose scores are multiplied by ``clear``."""
    torch.manual_seed(0)
    last = nn.Linear(216, 10)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter *= clear
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), last, *ending)


def taught(digits: DataSplits, teacher: nn.Module, epochs: int = 1) -> dict[str, Tensor]:
    found = lc.fine_tune(
        own_cnn(),
        digits.train.images,
        digits.train.known_labels,
        validation=(digits.validation.images, digits.validation.known_labels),
        qcfs_levels=2,
        teacher=teacher,
        epochs=epochs,
    )
    return found.state_dict()


def test_the_loss_by_hand() -> None:
    scores, wanted = torch.tensor([[8.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    # At temperature 4, p = softmax(2, 0) and q = softmax(0, 1).
    p, q = np.exp([2, 0]) / np.exp([2, 0]).sum(), np.exp([0, 1]) / np.exp([0, 1]).sum()
    expected = (1 - TEACHER_SHARE) * 3 + TEACHER_SHARE * TEMPERATURE**2 * float((q * np.log(q / p)).sum())
    assert teachers_loss(scores, wanted, torch.tensor(3.0)).item() == pytest.approx(expected)


def test_only_differences_of_scores_are_taught() -> None:
    scores = torch.randn(5, 4)
    loss = teachers_loss(scores, scores + torch.arange(5.0)[:, None], torch.tensor(0.0))
    assert loss.item() == pytest.approx(0, abs=1e-5)


def test_a_single_score_is_that_of_one_class_of_two() -> None:
    one, other = torch.randn(6, 1), torch.randn(6, 1)
    zero, labels = torch.zeros(6, 1), torch.tensor(0.5)
    both = teachers_loss(torch.cat([zero, one], 1), torch.cat([zero, other], 1), labels)
    torch.testing.assert_close(teachers_loss(one, other, labels), both)


def test_a_teacher_corrects_wrong_labels(digits: DataSplits, trained: Checkpoint, tmp_path: Path) -> None:
    """Labels shifted by one class: without a teacher, these are what is learned."""
    shifted = dataclasses.replace(digits.train, labels=(digits.train.known_labels + 1) % 10)
    wrong = dataclasses.replace(digits, train=shifted)
    alone = train_cnn(wrong, tmp_path / "alone.pt", OPTIONS)
    with_teacher = train_cnn(wrong, tmp_path / "taught.pt", OPTIONS, teacher=trained)
    assert alone.validation_accuracy < 0.1
    assert with_teacher.validation_accuracy > 0.8
    assert with_teacher.recipe["teacher"] == {
        "architecture": "digits-cnn",
        "sha256": checkpoint.digest(trained.state),
        "share": TEACHER_SHARE,
        "temperature": TEMPERATURE,
    }
    assert "teacher" not in alone.recipe


def test_it_is_resumed_with_the_same_teacher_only(
    digits: DataSplits, trained: Checkpoint, tmp_path: Path, folder: Path
) -> None:
    options = lc.TrainOptions(recipe=dataclasses.replace(RECIPE, epochs=3))
    straight = train_cnn(digits, tmp_path / "straight.pt", options, teacher=trained)

    def stop(epoch: int, found: float) -> None:
        raise KeyboardInterrupt

    output = tmp_path / "resumed.pt"
    with pytest.raises(KeyboardInterrupt):
        train_cnn(digits, output, options, teacher=trained, on_epoch=stop)
    for other in (None, straight):
        with pytest.raises(CheckpointError, match="belongs to another training: its teacher is"):
            train_cnn(digits, output, options, teacher=other, resume=True)
    resumed = train_cnn(digits, output, options, teacher=trained, resume=True)
    assert all(torch.equal(resumed.state[name], straight.state[name]) for name in straight.state)


def test_a_built_in_teacher_must_fit(digits: DataSplits, trained: Checkpoint, tmp_path: Path) -> None:
    for changed in (
        {"input_shape": (1, 28, 28)},
        {"classes": trained.classes[::-1]},
        {"classes": trained.classes[:9]},
    ):
        with pytest.raises(UsageError) as caught:
            train_cnn(digits, tmp_path / "a.pt", OPTIONS, teacher=dataclasses.replace(trained, **changed))  # type: ignore[arg-type]
        assert caught.value.where == "teacher"


@pytest.mark.parametrize("where", ["start", "teacher"])
@pytest.mark.parametrize("given", ["cnn.pt", nn.Linear(2, 2)])
def test_train_cnn_takes_checkpoints_alone(digits: DataSplits, tmp_path: Path, where: str, given: Any) -> None:
    with pytest.raises(UsageError) as caught:
        train_cnn(digits, tmp_path / "a.pt", OPTIONS, **{where: given})
    assert caught.value.where == where


class InTuple(nn.Module):
    """A pair of outputs, as of a CNN with a second head."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class InDict(nn.Module):
    """Scores in a dict, as Hugging Face's classifiers return them."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x}


@pytest.mark.parametrize("ending", [nn.Softmax(1), nn.LogSoftmax(1), InDict()])
def test_a_teacher_may_return_its_scores_in_other_forms(digits: DataSplits, ending: nn.Module) -> None:
    scores, probabilities = taught(digits, own_cnn(clear=30)), taught(digits, own_cnn(ending, clear=30))
    for name, expected in scores.items():
        torch.testing.assert_close(probabilities[name], expected, atol=2e-2, rtol=0)


def test_a_teacher_may_have_layers_that_do_not_convert(digits: DataSplits) -> None:
    teacher = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(108, 10)).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    taught(digits, teacher)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("teacher", "error"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), UsageError),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(65, 10)), InputError),
        (lambda: own_cnn(InTuple()), UsageError),
        (lambda: "teacher.pt", UsageError),
    ],
)
def test_an_own_teacher_must_fit(digits: DataSplits, teacher: Callable[[], nn.Module], error: type[Exception]) -> None:
    with pytest.raises(error):
        taught(digits, teacher())


def test_a_teacher_that_is_worse_is_not_taken_in_silence(digits: DataSplits) -> None:
    images, labels = digits.train.images, digits.train.known_labels
    good = lc.fine_tune(own_cnn(), images, labels, qcfs_levels=8, epochs=10)
    with pytest.warns(UserWarning, match="the teacher classifies"):
        lc.fine_tune(good, images, labels, qcfs_levels=8, teacher=own_cnn(), epochs=1)


def test_on_the_command_line(folder: Path, invoke: Invoke, digits: DataSplits) -> None:
    assert invoke("train", "--data", "digits", "--epochs", 8, "-o", "cnn.pt").code == 0
    low = ("train", "--from", "cnn.pt", "--qcfs", 2, "--epochs", 1)
    done = invoke(*low, "--teacher", "cnn.pt", "-o", "low.pt", "--json")
    assert done.code == 0, done.err
    assert "the teacher classifies" in done.err
    assert done.json["recipe"]["teacher"]["architecture"] == "digits-cnn"
    assert invoke(*low, "-o", "plain.pt").code == 0
    one, other = checkpoint.load("low.pt"), checkpoint.load("plain.pt")
    assert any(not torch.equal(one.state[name], other.state[name]) for name in one.state)
    done = invoke(*low, "--teacher", "low.pt", "-o", "low.pt", "--overwrite")
    assert done.code == 2
    assert "low.pt" in done.err


def test_an_own_cnn_is_taught_by_its_weights_or_by_a_built_in_one(
    folder: Path, invoke: Invoke, digits: DataSplits
) -> None:
    Path("taught_nets.py").write_text(CODE)
    np.savez("own.npz", images=digits.train.images, labels=digits.train.known_labels)
    own = ("train", "--data", "own.npz", "--arch", "taught_nets:make", "--epochs", 1)
    torch.save(own_cnn().state_dict(), "own.pt")
    assert invoke("train", "--data", "own.npz", "--architecture", "digits-cnn", "--epochs", 1, "-o", "cnn.pt").code == 0
    assert invoke(*own, "--from", "own.pt", "--qcfs", 2, "--mean", 0.3, "--std", 0.4, "-o", "low.pt").code == 0
    for teacher in ("own.pt", "cnn.pt"):
        done = invoke(*own, "--from", "low.pt", "--teacher", teacher, "-o", f"by-{teacher}")
        assert done.code == 0, done.err
    # A checkpoint records its normalization.
    done = invoke(*own, "--from", "own.pt", "--qcfs", 2, "--teacher", "low.pt", "-o", "by-low.pt")
    assert done.code == 0, done.err
    found = checkpoint.load("by-low.pt").recipe["teacher"]
    assert found["architecture"] == "taught_nets:make"  # type: ignore[index,call-overload]
    known = 100 * checkpoint.load("low.pt").validation_accuracy
    assert f"the teacher classifies {known:.2f} % of" in done.err
    done = invoke("train", "--data", "own.npz", "--architecture", "digits-cnn", "--teacher", "own.pt", "-o", "new.pt")
    assert done.code == 2
    assert "own.pt: does not hold a CNN that `train` builds" in done.err
