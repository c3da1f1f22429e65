"""A user's own CNN is trained further for few time steps: from Python, and from the command line."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.command_line import Invoke, invoker
from support.modules import Of
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as recomputed

import loihi_convert as lc
from loihi_convert import netx
from loihi_convert.cnn import checkpoint, trainer
from loihi_convert.cnn.design import pixels
from loihi_convert.cnn.models import multiply_adds
from loihi_convert.cnn.qcfs import Qcfs, SpikingCnn, _Spikes, fired
from loihi_convert.cnn.recipe import TrainOptions, chosen_recipe, own_recipe
from loihi_convert.cnn.trainer import drop_channels
from loihi_convert.cnn.training import resume_path, train_cnn, train_design
from loihi_convert.cnn.with_qcfs import WithQcfs
from loihi_convert.data import Dataset, load_data, split_for_training
from loihi_convert.data.dataset import DataSplits
from loihi_convert.errors import CheckpointError, DataError, InputError, UnsupportedModelError, UsageError
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ir.network import ReluNetwork, classes_of
from loihi_convert.lowering import to_relu_network
from loihi_convert.pipeline.opening import open_file
from loihi_convert.reading.own_cnn import copies_of, design_of, own_design, recorded_normalization, require_training
from loihi_convert.reading.source import before_fine_tuning, open_source
from loihi_convert.reading.users_code import build_cnn
from loihi_convert.simulation.relu import cnn_scores

# Some tests fine-tune CNNs that were not trained before, or on few images.
pytestmark = pytest.mark.filterwarnings("ignore:the CNN classifies:UserWarning")

MEAN, STD = 0.3, 0.4
NORMALIZATION = Normalization((MEAN,), (STD,))
TWO_LEVELS = TrainOptions(qcfs_levels=2)

CODE = """
import torch
from torch import nn
from torch.nn import functional

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.fc = nn.Conv2d(6, 8, 3, padding=1), nn.Linear(32, 10)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = functional.avg_pool2d(self.relu(self.norm(self.conv1(x))), 2)
        x = functional.avg_pool2d(self.relu(self.conv2(x)), 2)
        return self.fc(x.view(x.size(0), -1))
"""


class Calls(nn.Module):
    """A convolution, a ReLU spelled as ``relu``, and a dense layer."""

    def __init__(self, relu: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv, self.fc, self.relu = nn.Conv2d(1, 4, 3), nn.Linear(144, 3), relu

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        changed = self.relu(y)
        y = y if changed is None else changed
        scores: Tensor = self.fc(y.view(y.size(0), -1))
        return scores


class Shared(nn.Module):
    """A convolution and two dense layers with one ReLU."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 4, 3), nn.ReLU()
        self.hidden, self.fc = nn.Linear(144, 8), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.relu(self.hidden(self.relu(self.conv(x)).flatten(1))))
        return scores


def in_place(y: Tensor) -> None:
    functional.relu(y, inplace=True)


def method_in_place(y: Tensor) -> None:
    y.relu_()


SPELLINGS = [
    functional.relu,
    torch.relu,
    functional.relu6,
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.Hardtanh(0, 3),
    lambda y: y.relu(),
    lambda y: y.clamp(min=0),
    lambda y: torch.clamp(y, 0),
    lambda y: torch.clamp(input=y, min=0, max=3),
]


@pytest.mark.parametrize("relu", [*SPELLINGS, in_place, method_in_place])
def test_every_spelling_of_a_relu_is_replaced(relu: Callable[[Tensor], object]) -> None:
    torch.manual_seed(0)
    cnn = Calls(relu).eval()
    images = torch.rand(20, 1, 8, 8)
    model = WithQcfs(cnn, images, 4).eval()
    with torch.no_grad():
        found, (activation,) = model(images), model.activations
        maps = activation(cnn.conv(images))
        torch.testing.assert_close(found, cnn.fc(maps.flatten(1)))
    assert len(torch.unique(maps[:, 0])) <= 5
    assert any(isinstance(module, nn.ReLU | nn.Hardtanh) for module in cnn.modules()) == isinstance(relu, nn.Module)


@pytest.mark.parametrize("relu", SPELLINGS)
def test_the_front_end_reads_what_was_trained(relu: Callable[[Tensor], object]) -> None:
    model = WithQcfs(Calls(relu).eval(), torch.rand(20, 1, 8, 8), 4)
    layer = to_relu_network(model, (1, 8, 8)).layers[0]
    assert layer.levels == 4
    assert layer.threshold is not None
    assert layer.threshold.tolist() == pytest.approx(model.activations[0].get_parameter("threshold").tolist())


PADDED = {"c1": nn.Conv2d(1, 4, 3, padding=1), "c2": nn.Conv2d(4, 4, 3, padding=1), "fc": nn.Linear(256, 10)}
SHARED_RELU = nn.ReLU()
READ = {
    "a ReLU under two names": nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), SHARED_RELU),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), SHARED_RELU),
        nn.Flatten(),
        nn.Linear(256, 10),
    ),
    "the input of an in-place ReLU": Of(
        lambda m, x: m.fc((m.c2(m.relu(h := m.c1(x))).relu() + h).flatten(1)), relu=nn.ReLU(inplace=True), **PADDED
    ),
    "an in-place ReLU whose result is not used": Of(
        lambda m, x: m.fc(m.c2((h := m.c1(x), h.relu_())[0]).relu().flatten(1)), **PADDED
    ),
    "clamp_min, a method": Of(lambda m, x: m.fc(m.c2(m.c1(x).clamp_min(0)).clip(min=0).flatten(1)), **PADDED),
    "methods in place": Of(lambda m, x: m.fc(m.c2(m.c1(x).clamp_min_(0)).clip_(0).flatten(1)), **PADDED),
}


# With random weights, nearly equal scores.
@pytest.mark.filterwarnings("ignore:the quantized network only agrees")
@pytest.mark.parametrize("name", READ)
def test_the_network_that_is_trained_is_the_one_that_is_read(name: str, digits: DataSplits) -> None:
    images = digits.train.images[:40]
    shown = torch.from_numpy(images.copy()).float() / 255
    model = WithQcfs(READ[name], shown, 256).eval()
    network = to_relu_network(model, (1, 8, 8))
    assert [layer.levels for layer in network.layers if layer.levels is not None] == [256] * 2
    with torch.no_grad():
        expected = model(shown).numpy()
    np.testing.assert_allclose(cnn_scores(network, images), expected, atol=0.02 * np.abs(expected).max())
    tuned = few_steps(READ[name], digits)
    lc.convert(tuned, images, timesteps=2)
    if "result is not used" in name or "input of" in name:
        with pytest.raises(UsageError, match="what its in-place ReLUs return"):
            few_steps(tuned, digits, timesteps=2)
    else:
        few_steps(tuned, digits, timesteps=2)


def test_a_network_that_would_be_read_as_another_is_refused_before_it_is_trained(digits: DataSplits) -> None:
    """A CNN that computes something else for many images than for the two that it is read with."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.fc(m.c2(m.c1(x).relu() * len(x)).relu().flatten(1))

    with pytest.raises(UnsupportedModelError, match="gives other outputs"):
        few_steps(Of(forward, **PADDED), digits)


@pytest.mark.parametrize(
    "relu_of_weights",
    [
        lambda m, x: functional.conv2d(x, m.c1.weight.clamp(min=0), m.c1.bias, padding=1),
        lambda m, x: m.c1(x) * m.gain.relu(),
    ],
)
def test_a_relu_of_weights_stays(relu_of_weights: Callable[[Any, Tensor], Tensor], digits: DataSplits) -> None:
    cnn = Of(lambda m, x: m.fc(m.c2(relu_of_weights(m, x).relu()).relu().flatten(1)), **PADDED)
    cnn.gain = nn.Parameter(torch.tensor(1.5))
    shown = torch.from_numpy(digits.train.images[:40].copy()).float() / 255
    model = WithQcfs(cnn, shown, 4).eval()
    assert [len(activation.get_parameter("threshold")) for activation in model.activations] == [4, 4]
    with torch.no_grad():
        first = model.activations[0](relu_of_weights(cnn, shown))
        expected = cnn.fc(model.activations[1](cnn.c2(first)).flatten(1))
        torch.testing.assert_close(model(shown), expected)
    lc.convert(few_steps(cnn, digits), digits.train.images[:40], timesteps=2)


def test_a_module_called_twice_has_two_activations() -> None:
    relu = nn.ReLU()
    cnn = nn.Sequential(nn.Conv2d(1, 4, 3), relu, nn.Conv2d(4, 6, 3), relu, nn.Flatten(), nn.Linear(96, 2))
    model = WithQcfs(cnn, torch.rand(4, 1, 8, 8), 2)
    assert [len(each.get_parameter("threshold")) for each in model.activations] == [4, 6]


def test_an_initial_threshold_covers_99_percent_of_the_positive_activations() -> None:
    cnn = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU())
    with torch.no_grad():
        cnn[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    model = WithQcfs(cnn, torch.arange(1.0, 102.0)[:, None], 4)
    # Of 1, 2, ..., 101, 99 % lie up to 100; the other channel is never positive.
    assert model.activations[0].get_parameter("threshold").tolist() == [100, 100]


def test_gradients_pass_an_activation_in_place() -> None:
    torch.manual_seed(0)
    images = torch.rand(20, 1, 8, 8)
    slopes = []
    for relu in (functional.relu, in_place):
        torch.manual_seed(1)
        model = WithQcfs(Calls(relu), images, 4)
        model(images).sum().backward()
        slopes.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other)


def test_a_forward_that_depends_on_the_image_is_refused() -> None:
    class Varying(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(functional.relu(x)) if x.sum() > 0 else functional.relu(x)

    model = WithQcfs(Varying(), torch.ones(2, 3), 4)
    with pytest.raises(UnsupportedModelError, match="called 1 ReLUs, and 2"):
        model(-torch.ones(2, 3))


class Scaled(nn.ReLU):
    """A user's own activation."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


class AsksForReLU(nn.Module):
    """Pools after each of its ReLUs."""

    def __init__(self, relu: type[nn.Module]) -> None:
        super().__init__()
        convolutions = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.layers = nn.ModuleList([convolutions[0], relu(), convolutions[1], relu(), nn.Flatten(), nn.Linear(16, 3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU | nn.ReLU6):
                x = functional.avg_pool2d(x, 2)
        return x


@pytest.mark.parametrize("relu", [nn.ReLU, nn.ReLU6, Scaled])
def test_a_forward_may_ask_for_its_relus_and_a_class_of_the_user_stays(relu: type[nn.Module]) -> None:
    torch.manual_seed(0)
    cnn, images = AsksForReLU(relu).eval(), torch.rand(40, 1, 8, 8)
    model = WithQcfs(cnn, images, 256).eval()
    with torch.no_grad():
        for activation in model.activations:
            activation.get_parameter("threshold").mul_(2)
        torch.testing.assert_close(model(images), cnn(images), rtol=0, atol=0.02)
    assert ("cnn.layers.1.gain" in dict(model.named_parameters())) == (relu is Scaled)
    assert len(to_relu_network(model, (1, 8, 8)).layers) == 3


def test_a_relu_of_the_pixels_is_none() -> None:
    cnn = Of(lambda m, x: m.fc(m.c2(m.c1(x.clamp(0, 1)).relu()).relu().flatten(1)), **PADDED).eval()
    model = WithQcfs(cnn, torch.rand(20, 1, 8, 8), 4)
    assert len(model.activations) == 2
    for each in (cnn, model):
        assert len(to_relu_network(each, (1, 8, 8)).layers) == 3


class FreezesNorm(nn.Sequential):
    """As in mmcls: its `train` returns nothing."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.training = False


def test_a_train_that_returns_nothing(digits: DataSplits) -> None:
    cnn = FreezesNorm(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    images, labels = digits.train.images[:40], digits.train.known_labels[:40]
    options = {"qcfs_levels": 2, "epochs": 1, "device": "cpu"}
    tuned = lc.fine_tune(cnn, images, labels, validation=(images, labels), teacher=cnn, **options)  # type: ignore[arg-type]
    assert lc.convert(tuned, images, timesteps=2).run(images, labels).cnn_accuracy is not None
    design = design_of(lambda: cnn, "own", digits)
    require_training(design, digits)
    assert multiply_adds(cnn, (1, 8, 8)) == 36 * 36 + 1440


def test_what_is_returned_in_training_is_checked_before(digits: DataSplits) -> None:
    def with_auxiliary(m: nn.Module, x: Tensor) -> Any:
        scores = m.fc(m.c2(m.c1(x).relu()).relu().flatten(1))
        return (scores, scores) if m.training else scores

    with pytest.raises(UsageError, match="returns a tuple in training"):
        few_steps(Of(with_auxiliary, **PADDED), digits)


def test_a_forward_that_fails_in_training_is_told_before(digits: DataSplits) -> None:
    def forward(m: nn.Module, x: Tensor) -> Any:
        maps = m.c2(m.c1(x).relu()).relu()
        return m.fc(maps.flatten(1) if not m.training else maps)

    for levels in (2, None):
        design = design_of(lambda: Of(forward, **PADDED), "own", digits, options=TrainOptions(qcfs_levels=levels))
        with pytest.raises(UsageError) as raised:
            require_training(design, digits)
        assert raised.value.where == "own"
        assert re.search(r"train mode \(test_own_training.py, line \d+, 'return m.fc.*': mat1 ", raised.value.found)


@pytest.mark.parametrize("is_reentrant", [True, False])
def test_gradient_checkpointing_is_refused_for_qcfs(is_reentrant: bool, digits: DataSplits) -> None:
    def forward(m: nn.Module, x: Tensor) -> Any:
        h = m.c1(x)
        if not m.training:
            return m.fc(m.c2(h.relu()).relu().flatten(1))
        maps = recomputed(lambda y: m.c2(y.relu()).relu(), h, use_reentrant=is_reentrant)
        return m.fc(maps.flatten(1))

    with pytest.raises(UsageError, match=r"torch\.utils\.checkpoint|fails in train mode"):
        few_steps(Of(forward, **PADDED), digits)


def test_a_cnn_without_relu_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        WithQcfs(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()), torch.ones(2, 2), 4)
    assert caught.value.where == "qcfs_levels"


@pytest.mark.parametrize("constant", [False, True])
def test_spikes_on_a_gpu_are_those_on_the_cpu(constant: bool) -> None:
    """The operations of the GPU, here on the CPU, against the compiled loops: values and gradients."""
    random = torch.Generator().manual_seed(0)
    currents = torch.randn(1 if constant else 5, 7, 4, 3, generator=random)
    threshold = torch.rand(3, generator=random) + 0.5
    weights = torch.randn(5, 7, 4, 3, generator=random)
    results = []
    for function in (_Spikes.apply, fired):
        x, limit = currents.clone().requires_grad_(), threshold.clone().requires_grad_()
        spikes = function(x, limit, 5)
        (spikes * weights).sum().backward()
        results.append((spikes.detach(), x.grad, limit.grad))
    assert torch.equal(results[0][0], results[1][0])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_tenth_is_held_out_and_there_are_no_test_images() -> None:
    labels = np.repeat(np.arange(4), 10)
    images = Dataset(np.arange(40, dtype=np.uint8).reshape(-1, 1, 1, 1), labels)
    splits = split_for_training(DataSplits("mine", (), images, images[:0], images, images))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 4, 0)
    assert np.bincount(splits.validation.known_labels).tolist() == [1, 1, 1, 1]
    both = np.concatenate([splits.train.images, splits.validation.images])
    assert sorted(both.ravel().tolist()) == list(range(40))
    # They came in the order of their classes; the first of them set the initial thresholds.
    assert sorted(splits.train.known_labels[:4].tolist()) == [0, 1, 2, 3]
    assert np.array_equal(splits.train.images.ravel() // 10, splits.train.known_labels)
    with pytest.raises(DataError):
        split_for_training(DataSplits("mine", (), images, images[:0], images, images[:9]))


@pytest.mark.parametrize(("count", "epochs", "batch"), [(3_000, 128, 128), (1_000_000, 1, 128), (100, 200, 32)])
def test_the_number_of_epochs_follows_from_the_number_of_steps(count: int, epochs: int, batch: int) -> None:
    recipe = own_recipe(count, is_fine_tuning=True, is_spiking=False)
    assert (recipe.epochs, recipe.batch_size) == (epochs, batch)
    assert not recipe.is_affine


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits")


@pytest.fixture(scope="module")
def own(digits: DataSplits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A folder with a user's code, weights and data, and the CNN, trained on normalized digits."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "fine_tuned_nets.py").write_text(CODE)
    namespace: dict[str, type[nn.Module]] = {}
    exec(CODE, namespace)
    torch.manual_seed(0)
    cnn = namespace["Net"]()
    images = (torch.from_numpy(digits.train.images.copy()).float() / 255 - MEAN) / STD
    labels = torch.from_numpy(digits.train.known_labels.copy())
    optimizer = torch.optim.Adam(cnn.parameters(), 3e-3)
    for _ in range(15):
        for chosen in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(cnn(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    torch.save(cnn.state_dict(), folder / "own.pt")
    np.savez(folder / "own.npz", images=digits.train.images, labels=digits.train.known_labels)
    np.savez(folder / "test.npz", images=digits.test.images, labels=digits.test.known_labels)
    return folder, cnn.eval()


def accuracy(model: nn.Module, digits: DataSplits, timesteps: int) -> float:
    # One method for both: what is compared is the training.
    is_tuned = isinstance(model, WithQcfs)
    balancing = lc.BalanceOptions(method="qcfs" if is_tuned else "percentile", bias_correction=False)
    snn = lc.convert(model, digits.train.images[:300], timesteps=timesteps, mean=MEAN, std=STD, balancing=balancing)
    found = snn.run(digits.test.images, digits.test.known_labels).accuracy
    assert found is not None
    return found


def test_fine_tuning_in_memory(own: tuple[Path, nn.Module], digits: DataSplits) -> None:
    _, cnn = own
    before = {name: tensor.clone() for name, tensor in cnn.state_dict().items()}
    tuned = lc.fine_tune(
        cnn, digits.train.images, digits.train.known_labels, qcfs_levels=1, mean=MEAN, std=STD, epochs=20
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in cnn.state_dict().items())
    assert not tuned.training
    assert [module.levels for module in tuned.modules() if isinstance(module, Qcfs)] == [1, 1]
    spiking = lc.fine_tune(
        tuned, digits.train.images, digits.train.known_labels, timesteps=1, mean=MEAN, std=STD, epochs=10
    )
    # Trained thresholds are kept without trials, and the user is told.
    converted = lc.convert(spiking, digits.train.images[:100], timesteps=1, mean=MEAN, std=STD)
    assert converted.network.provenance["balance"]["method"] == "qcfs"
    assert "calibration" not in converted.network.provenance
    assert [note for note in converted.notes if "trained as a spiking network for T = 1" in note]
    assert "Compared with the CNN before fine-tuning." in converted.run(digits.test.images[:9]).notes
    # Both are compared with the CNN that was given first, on the images of the run.
    shown, labels = digits.test.images, digits.test.known_labels
    with torch.no_grad():
        classes = cnn.eval()((torch.from_numpy(shown.copy()) / 255 - MEAN) / STD).argmax(1).numpy()
    for module in (tuned, spiking):
        ran = lc.convert(module, shown[:100], timesteps=1, mean=MEAN, std=STD).run(shown, labels)
        assert ran.cnn_accuracy == np.mean(classes == labels)
    # 78 % without training, 88 % with it; 400 test images have a standard error of 2 points.
    assert accuracy(spiking, digits, 1) > accuracy(cnn, digits, 1) + 0.04


def test_a_last_batch_of_one_image_does_not_stop_batch_norm(digits: DataSplits) -> None:
    cnn = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    images, labels = digits.train.images[:33], digits.train.known_labels[:33]
    held_out = (digits.train.images[33:53], digits.train.known_labels[33:53])
    tuned = lc.fine_tune(cnn, images, labels, qcfs_levels=2, validation=held_out, epochs=1)
    assert isinstance(tuned, WithQcfs)
    assert not torch.equal(tuned.cnn.get_parameter("4.weight"), cnn[4].weight)


def test_batches_of_one_image_are_trained_on(digits: DataSplits) -> None:
    cnn = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10))
    images, labels = digits.train.images[:5], digits.train.known_labels[:5]
    recipe = replace(own_recipe(5, is_fine_tuning=True, is_spiking=False), batch_size=1, epochs=1)
    tuned = lc.fine_tune(cnn, images, labels, qcfs_levels=2, validation=(images, labels), recipe=recipe)
    assert isinstance(tuned, WithQcfs)
    assert not torch.equal(tuned.cnn.get_parameter("3.weight"), cnn[3].weight)


def few_steps(model: nn.Module, digits: DataSplits, count: int = 40, **options: float) -> WithQcfs:
    """Return ``model`` after two epochs with two levels; ``options`` are those of the recipe."""
    images, labels = digits.train.images[:count], digits.train.known_labels[:count]
    recipe = replace(own_recipe(40, is_fine_tuning=True, is_spiking=False), **{"epochs": 2, **options})  # type: ignore[arg-type]
    tuned = lc.fine_tune(model, images, labels, qcfs_levels=2, validation=(images, labels), recipe=recipe, device="cpu")
    assert isinstance(tuned, WithQcfs)
    return tuned


def test_dropout_in_the_users_code_follows_the_seed(digits: DataSplits) -> None:
    torch.manual_seed(0)
    cnn = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10))
    weights = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        weights.append(few_steps(cnn, digits).cnn.get_parameter("4.weight"))
        assert torch.equal(torch.random.get_rng_state(), state), "the caller's random state is not touched"
    assert torch.equal(*weights)


def test_dropout_of_the_recipe_is_refused_where_it_cannot_be_applied(digits: DataSplits) -> None:
    with pytest.raises(UsageError) as caught:
        few_steps(Shared(10), digits, dropout=0.5)
    assert (caught.value.where, caught.value.expected) == ("dropout", "must be 0 for this CNN")
    # The recipe of fashion-mnist has dropout for built-in CNNs.
    fashion = replace(digits, name="fashion-mnist")
    assert chosen_recipe(fashion, "fashion-mnist-cnn", TrainOptions(), is_fine_tuning=False).dropout > 0
    assert chosen_recipe(fashion, "nets:Net", TrainOptions(), is_fine_tuning=False).dropout == 0


def test_dropout_skips_a_dense_layer_with_the_same_relu() -> None:
    cnn = Shared(10).train()
    drop_channels(cnn, 0.5, torch.Generator().manual_seed(0))
    assert cnn(torch.rand(4, 1, 8, 8)).shape == (4, 10)


def test_a_diverged_training_is_refused_after_the_first_epoch_in_memory_too(digits: DataSplits) -> None:
    with pytest.raises(CheckpointError, match="contains NaN or infinity"):
        few_steps(Shared(10), digits, learning_rate=1e30)


@pytest.mark.parametrize(
    ("ending", "outputs", "function"),
    [
        (nn.Softmax(1), 10, lambda scores: scores.softmax(1)),
        (nn.LogSoftmax(1), 10, lambda scores: scores.log_softmax(1)),
        (nn.Sigmoid(), 1, torch.sigmoid),
        (nn.LogSigmoid(), 1, functional.logsigmoid),
        (nn.Tanh(), 10, torch.tanh),
    ],
)
def test_a_function_at_the_end_does_not_change_the_training(
    digits: DataSplits,
    monkeypatch: pytest.MonkeyPatch,
    ending: nn.Module,
    outputs: int,
    function: Callable[[Tensor], Tensor],
) -> None:
    monkeypatch.setattr(trainer, "uses_bfloat16", lambda device: False)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, outputs))
    images = digits.train.images[:100]
    labels = digits.train.known_labels[:100] % max(outputs, 2)
    inputs = torch.from_numpy(images.copy()).float() / 255
    options = {"qcfs_levels": 4, "epochs": 2, "validation": (images, labels)}
    expected = lc.fine_tune(plain, images, labels, **options)
    found = lc.fine_tune(nn.Sequential(*plain, ending), images, labels, **options)
    assert found.validation_accuracy == expected.validation_accuracy
    torch.testing.assert_close(found(inputs), function(expected(inputs)), rtol=1e-3, atol=1e-3)


class Mean(nn.Module):
    """A last convolution and the mean of its maps: scores of shape ``shape``, such as (N, 10, 1, 1)."""

    def __init__(self, outputs: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.last, self.shape = nn.Conv2d(1, 4, 3), nn.Conv2d(4, outputs, 1), shape

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu()).mean((2, 3), keepdim=True).reshape(self.shape)


@pytest.mark.parametrize(("outputs", "shape"), [(10, (-1, 10, 1, 1)), (1, (-1,))])
def test_scores_of_any_shape_are_trained(digits: DataSplits, outputs: int, shape: tuple[int, ...]) -> None:
    images = digits.train.images[:40]
    labels = digits.train.known_labels[:40] % max(outputs, 2)
    tuned = lc.fine_tune(Mean(outputs, shape), images, labels, qcfs_levels=2, epochs=1, validation=(images, labels))
    scores = tuned(torch.from_numpy(images.copy()).float() / 255).reshape(40, outputs).detach().numpy()
    assert tuned.validation_accuracy == np.mean(classes_of(scores) == labels)


def test_what_convert_takes_is_fine_tuned(digits: DataSplits) -> None:
    with warnings.catch_warnings():
        # Deprecated, by another kind of warning in each version of torch.
        warnings.simplefilter("ignore")
        first = nn.utils.weight_norm(nn.Conv2d(1, 4, 3))
    cnn = nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    cnn(torch.zeros(1, 1, 8, 8))
    part = nn.DataParallel(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()))
    # As on a machine with GPUs.
    part.device_ids, part.src_device_obj = [0, 1], torch.device("cuda:0")
    for model in (cnn, nn.DataParallel(cnn), nn.Sequential(part, nn.Flatten(), nn.Linear(144, 10))):
        tuned = lc.fine_tune(model, digits.train.images[:64], digits.train.known_labels[:64], qcfs_levels=2, epochs=1)
        assert isinstance(tuned, WithQcfs)


def test_weights_that_are_computed_and_weights_with_two_names_are_trained(digits: DataSplits) -> None:
    first = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))
    few_steps(nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)), digits)
    twice = nn.Conv2d(4, 4, 3, padding=1)
    cnn = Of(
        lambda self, x: self.fc(self.again(self.twice(self.conv(x).relu()).relu()).relu().flatten(1)),
        conv=nn.Conv2d(1, 4, 3),
        twice=twice,
        again=twice,
        fc=nn.Linear(144, 10),
    )
    tuned = few_steps(cnn, digits)
    assert torch.equal(tuned.cnn.get_parameter("twice.weight"), tuned.cnn.get_parameter("again.weight"))
    assert not torch.equal(tuned.cnn.get_parameter("twice.weight"), twice.weight)


def test_a_skip_from_the_image_is_not_trained_through_spikes(digits: DataSplits) -> None:
    images, labels = digits.train.images[:40], digits.train.known_labels[:40]
    convolutions = {"conv": nn.Conv2d(1, 4, 3, padding=1), "skip": nn.Conv2d(1, 4, 1)}
    for forward, fc, is_trained in (
        (lambda self, x: self.fc((self.conv(x).relu() + self.skip(x)).relu().flatten(1)), 256, False),
        (lambda self, x: self.fc(torch.cat([x, self.conv(x).relu()], 1).flatten(1)), 320, False),
        (lambda self, x: self.fc((self.conv(x).relu() + self.skip(x).relu()).flatten(1)), 256, True),
    ):
        tuned = few_steps(Of(forward, **convolutions, fc=nn.Linear(fc, 10)), digits)
        if is_trained:
            lc.fine_tune(tuned, images, labels, timesteps=2, epochs=1)
            continue
        with pytest.raises(UsageError, match="no skip from the image") as caught:
            lc.fine_tune(tuned, images, labels, timesteps=2, epochs=1)
        assert caught.value.where == "timesteps"


def test_one_number_normalizes_all_channels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = Dataset(random.integers(0, 256, (20, 3, 4, 4)).astype(np.uint8), np.arange(20) % 2)
    splits = split_for_training(DataSplits("mine", (), images, images[:0], images, images))
    given = Normalization((0.5,), (0.2,))
    made = copies_of(nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 2)))
    design = design_of(made, "nets:make", splits, options=TWO_LEVELS, normalization=given, start={"sha256": None})
    recipe = replace(own_recipe(20, is_fine_tuning=True, is_spiking=False), epochs=1)
    train_design(design, splits, recipe, TrainOptions(), tmp_path / "own.pt")
    found = checkpoint.load(tmp_path / "own.pt")
    assert found.normalization == ((0.5,) * 3, (0.2,) * 3)
    assert recorded_normalization(found, given) == found.normalization
    with pytest.raises(UsageError) as refused:
        recorded_normalization(found, given._replace(mean=(0.4,)))
    assert (refused.value.where, refused.value.found) == ("mean", "found (0.4,)")


def test_fine_tuning_needs_something_to_do(own: tuple[Path, nn.Module], digits: DataSplits) -> None:
    _, cnn = own
    images, labels = digits.train.images[:50], digits.train.known_labels[:50]
    for options, where in (({}, "qcfs_levels"), ({"timesteps": 2}, "model"), ({"qcfs_levels": 0}, "qcfs_levels")):
        with pytest.raises(UsageError) as caught:
            lc.fine_tune(cnn, images, labels, **options)  # type: ignore[arg-type]
        assert caught.value.where == where
    with pytest.raises(UsageError) as paper:
        lc.fine_tune(cnn, images, labels, qcfs_levels=2, recipe="paper")  # type: ignore[arg-type]
    assert paper.value.where == "recipe"
    with pytest.raises(DataError) as missing:
        lc.fine_tune(cnn, images, qcfs_levels=2)
    assert missing.value.where == "labels"
    # Before the images are read, which may take long.
    with pytest.raises(UsageError) as one:
        lc.fine_tune(cnn, images, qcfs_levels=2, mean=0.5)
    assert one.value.where == "std"


def test_a_tuned_cnn_keeps_its_levels(own: tuple[Path, nn.Module], digits: DataSplits) -> None:
    images, labels = digits.train.images[:40], digits.train.known_labels[:40]
    tuned = few_steps(own[1], digits)
    assert tuned.levels == 2
    again = lc.fine_tune(tuned, images, labels, qcfs_levels=np.int64(2), epochs=np.int64(1), seed=np.int64(1))
    assert isinstance(again, WithQcfs)
    assert again.levels == 2
    with pytest.raises(UsageError) as caught:
        lc.fine_tune(tuned, images, labels, qcfs_levels=8, epochs=1)
    assert (caught.value.where, caught.value.expected) == ("qcfs_levels", "the CNN was trained with 2 levels")


def test_a_recipe_may_name_the_steps_to_train_through(own: tuple[Path, nn.Module], digits: DataSplits) -> None:
    with pytest.raises(UsageError) as caught:
        few_steps(own[1], digits, timesteps=3)
    assert caught.value.where == "start"
    assert few_steps(few_steps(own[1], digits), digits, timesteps=3).timesteps == 3


def test_the_accuracy_of_the_spiking_network_is_told(
    own: tuple[Path, nn.Module], digits: DataSplits, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = pixels(digits.train.images[:40]), digits.train.known_labels[:40]

    def accuracy(scores: Tensor) -> float:
        return float(np.mean(scores.argmax(1).numpy() == labels))

    def spiking_accuracy(tuned: WithQcfs) -> float:
        return accuracy(SpikingCnn(deepcopy(tuned), 1)(images, {}))

    tuned = few_steps(own[1], digits)
    assert (tuned.spiking_accuracy, "spiking" in capsys.readouterr().err) == (None, False)
    spiking = few_steps(tuned, digits, timesteps=1)
    assert (spiking.spiking_accuracy, spiking.validation_accuracy) == (
        spiking_accuracy(spiking),
        accuracy(spiking(images)),
    )
    shown = re.findall(r", as a spiking network after 1 step ([\d.]+) %", capsys.readouterr().err)
    assert [float(percent) for percent in shown] == [100 * spiking_accuracy(one) for one in (tuned, spiking)]


@pytest.mark.parametrize("setting", ["no_grad", "inference_mode", "float64"])
def test_torchs_settings_change_nothing(
    own: tuple[Path, nn.Module], folder: Path, digits: DataSplits, tmp_path: Path, setting: str
) -> None:
    few = replace(digits, train=digits.train[:64], validation=digits.validation[:10], test=digits.test[:10])

    def trained() -> list[WithQcfs]:
        tuned = few_steps(own[1], digits, epochs=1)
        return [tuned, few_steps(tuned, digits, epochs=1, timesteps=2)]

    expected = trained()
    if setting == "float64":
        torch.set_default_dtype(torch.float64)
    try:
        with getattr(torch, setting)() if setting != "float64" else contextlib.nullcontext():
            found = trained()
            train_cnn(few, tmp_path / "built-in.pt", TrainOptions(epochs=1, qcfs_levels=2))
            design = own_design("fine_tuned_nets:Net", folder / "own.pt", few, options=TWO_LEVELS)
            recipe = own_recipe(64, is_fine_tuning=True, is_spiking=False)
            train_design(design, few, replace(recipe, epochs=1), TrainOptions(), tmp_path / "own.pt")
            open_source(tmp_path / "built-in.pt")
            open_source(tmp_path / "own.pt", arch="fine_tuned_nets:Net", input_shape=(1, 8, 8))
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
        assert not any(tensor.is_inference() for tensor in one.state_dict().values())


def test_activations_too_small_for_a_training_step_are_refused(own: tuple[Path, nn.Module], digits: DataSplits) -> None:
    cnn = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    with torch.no_grad():
        for parameter in cnn[0].parameters():
            parameter *= 1e-6
        cnn[3].weight *= 1e6
    with pytest.raises(UsageError) as caught:
        few_steps(cnn, digits)
    assert re.fullmatch(r"found activations of at most about [\d.]+e-07 after ReLU 1", caught.value.found)


def test_the_random_numbers_of_gpus_are_not_touched(
    digits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", None)
    few = replace(digits, train=digits.train[:64], validation=digits.validation[:10], test=digits.test[:10])
    train_cnn(few, tmp_path / "model.pt", TrainOptions(epochs=1, device="cpu"))


@pytest.fixture
def folder(own: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(own[0])
    return own[0]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    return invoker(monkeypatch, capsys)


TRAIN = ("train", "--arch", "fine_tuned_nets:Net", "--data", "own.npz", "--epochs", 2)


def test_from_own_weights_to_spikes_on_the_command_line(folder: Path, invoke: Invoke) -> None:
    done = invoke(*TRAIN, "--from", "own.pt", "--qcfs", 2, "--mean", MEAN, "--std", STD, "-o", "tuned.pt")
    assert done.code == 0, done.err
    assert "fine_tuned_nets:Net on own.npz: 2 epochs, batches of 32, AdamW" in done.err
    assert re.search(r"epoch 2 of 2: validation accuracy \d+\.\d\d %", done.err)
    assert re.search(r"trained in \d+ (s|min)", done.err)
    assert "test accuracy" not in done.out
    assert "next: loihi-convert export tuned.pt --arch fine_tuned_nets:Net --data own.npz" in done.out
    found = checkpoint.load("tuned.pt")
    assert (found.architecture, found.qcfs_levels, found.normalization) == ("fine_tuned_nets:Net", 2, NORMALIZATION)
    assert (found.test_accuracy, found.data, found.classes) == (None, "own.npz", tuple("0123456789"))
    assert found.recipe["start"]["file"] == "own.pt"  # type: ignore[index,call-overload]

    done = invoke(*TRAIN, "--from", "tuned.pt", "-T", 2, "-o", "spiking.safetensors")
    assert done.code == 0, done.err
    assert "as a spiking network after 2 steps: validation" in done.out
    read = checkpoint.load("spiking.safetensors")
    assert (read.qcfs_levels, read.normalization) == (2, NORMALIZATION)

    # The normalization is recorded: it need not be given again, and another one is refused.
    exporting = ("export", "spiking.safetensors", "--arch", "fine_tuned_nets:Net", "--data", "own.npz", "-T", 2)
    done = invoke(*exporting, "-o", "spiking.net")
    assert done.code == 0, done.err
    assert "trained as a spiking network for T = 2" in done.out
    assert lc.read("spiking.net").provenance.model.mean == (MEAN,)
    assert lc.read("spiking.net").provenance["balance"]["method"] == "qcfs"
    done = invoke(*exporting, "--overwrite", "--mean", 0.5, "--std", 0.5)
    assert done.code == 2
    assert "--mean: found (0.5,); the checkpoint was trained with (0.3,)" in done.err
    done = invoke("run", "spiking.net", "--data", "test.npz", "--arch", "fine_tuned_nets:Net", "--json")
    assert done.code == 0, done.err
    assert done.json["spiking"]["cnn_accuracy"] is not None
    assert not done.json["spiking"]["notes"]

    # The loss is that to the CNN before both trainings, which lies beside the file.
    def compared(net: str) -> ReluNetwork:
        cnn = open_file(net, arch="fine_tuned_nets:Net").cnn
        assert cnn is not None
        return cnn

    own = open_source("own.pt", arch="fine_tuned_nets:Net", input_shape=(1, 8, 8), normalization=NORMALIZATION).network
    images = load_data("test.npz").test.images
    np.testing.assert_array_equal(cnn_scores(compared("spiking.net"), images), cnn_scores(own, images))
    for file in ("spiking.net", "spiking.safetensors"):
        Path("alone", file).parent.mkdir(exist_ok=True)
        Path(file).rename(Path("alone", file))
    assert (cnn_scores(compared("alone/spiking.net"), images) != cnn_scores(own, images)).any()
    (note,) = open_file("alone/spiking.net", arch="fine_tuned_nets:Net").notes
    assert "spiking.safetensors" in note


@pytest.mark.parametrize(
    ("code", "layers", "shape", "given"),
    [
        ("signal_nets", "nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(56, 3)", (2, 1, 16), "2,16"),
        ("vector_nets", "nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3)", (1, 1, 16), "1,16"),
    ],
)
def test_the_next_command_converts_signals_too(
    code: str, layers: str, shape: Shape, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Invoke
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"{code}.py").write_text(f"from torch import nn\ndef make():\n    return nn.Sequential({layers})\n")
    rng = np.random.default_rng(0)
    np.savez("signals.npz", images=rng.random((40, shape[0], 16), np.float32), labels=np.arange(40) % 3)
    words = ("--arch", f"{code}:make", "--data", "signals.npz", "--input-shape", given, "--epochs", 1)
    done = invoke("train", *words, "--qcfs", 2, "-o", "low.pt")
    assert done.code == 0, done.err
    _, _, command = done.out.partition("next: loihi-convert ")
    done = invoke(*shlex.split(command))
    assert done.code == 0, done.err
    assert netx.read(Path("low.net")).input_shape == shape


def test_the_next_command_after_training_on_a_benchmark(folder: Path, invoke: Invoke) -> None:
    words = ("--arch", "fine_tuned_nets:Net", "--data", "digits", "--epochs", 1)
    done = invoke("train", *words, "--from", "own.pt", "--qcfs", 2, "-o", "low.pt")
    assert done.code == 0, done.err
    _, _, command = done.out.partition("next: loihi-convert ")
    assert "--data" not in command
    done = invoke(*shlex.split(command), "-T", 2, "--calibration", 50)
    assert done.code == 0, done.err
    assert netx.read(Path("low.net")).provenance.model.data == "digits"


def test_a_checkpoint_of_own_code_needs_the_code(folder: Path, invoke: Invoke) -> None:
    assert invoke(*TRAIN, "--from", "own.pt", "--qcfs", 2, "-o", "a.pt").code == 0
    done = invoke("export", "a.pt", "--data", "own.npz")
    assert done.code == 2
    assert "error: --arch: not given; a.pt holds your own CNN, trained as fine_tuned_nets:Net" in done.err
    with pytest.raises(UsageError) as caught:
        open_source("a.pt")
    assert caught.value.where == "arch"
    done = invoke(*TRAIN, "--from", "a.pt", "--qcfs", 4, "-o", "b.pt")
    assert (done.code, "--qcfs: found 4; the CNN was trained with 2 levels" in done.err) == (2, True)


def test_a_fine_tuned_cnn_is_written(folder: Path, digits: DataSplits, capsys: pytest.CaptureFixture[str]) -> None:
    kind = type(build_cnn("fine_tuned_nets:Net"))
    cnn = kind()
    cnn.load_state_dict(torch.load("own.pt"))
    images, labels = digits.train.images[:100], digits.train.known_labels[:100]
    held_out = [(torch.from_numpy(image.copy()), label) for image, label in zip(images, labels, strict=True)]
    options = {"qcfs_levels": 2, "mean": MEAN, "std": STD, "epochs": 1}
    pair = lc.fine_tune(cnn, images, labels, validation=(images, labels), **options)
    tuned = lc.fine_tune(cnn, images, labels, validation=held_out, output="written.pt", **options)
    assert tuned.validation_accuracy == pair.validation_accuracy
    shown = f"after training: validation accuracy {100 * tuned.validation_accuracy:.2f} %"
    assert shown in capsys.readouterr().err
    found = checkpoint.load("written.pt")
    assert (found.architecture, found.qcfs_levels, found.normalization) == ("fine_tuned_nets:Net", 2, NORMALIZATION)
    assert found.validation_accuracy == tuned.validation_accuracy
    snn = lc.convert("written.pt", images, timesteps=2, arch=kind)
    assert snn.network.provenance.model.arch == "fine_tuned_nets:Net"
    assert snn.network.provenance.balance.method in ("qcfs", "least-squares", "percentile")
    inputs = (torch.from_numpy(images.copy()) / 255 - MEAN) / STD
    assert torch.equal(snn.source.model(inputs), tuned(inputs))
    with pytest.raises(InputError) as caught:
        lc.fine_tune(cnn, images, labels, output="written.pt", **options)
    assert caught.value.where == "written.pt"
    spiking = lc.fine_tune(tuned, images, labels, **{**options, "qcfs_levels": None}, timesteps=2, output="spiking.pt")
    assert checkpoint.load("spiking.pt").qcfs_levels == 2
    snn = lc.convert("spiking.pt", images, timesteps=2, arch=kind)
    assert torch.equal(snn.source.model(inputs), spiking(inputs))
    # The CNN that it began with is found under any name, and without the file in between.
    apart = Path("apart")
    apart.mkdir()
    for name, copy in (("own.pt", "another name.pt"), ("written.pt", "written.pt"), ("spiking.pt", "spiking.pt")):
        shutil.copy(name, apart / copy)
    for name in ("written.pt", "spiking.pt"):
        source = open_source(apart / name, arch="fine_tuned_nets:Net", input_shape=(1, 8, 8))
        assert source.notes_on_compared == ()
        np.testing.assert_array_equal(
            cnn_scores(source.compared, images), cnn_scores(to_relu_network(cnn, (1, 8, 8), mean=MEAN, std=STD), images)
        )
    (apart / "written.pt").unlink()
    assert before_fine_tuning(apart / "spiking.pt", "fine_tuned_nets:Net") == apart / "another name.pt"


def test_thresholds_without_their_levels_are_refused(folder: Path, digits: DataSplits) -> None:
    tuned = few_steps(build_cnn("fine_tuned_nets:Net"), digits)
    torch.save({"model": tuned.state_dict()}, "thresholds.pt")
    with pytest.raises(CheckpointError) as caught:
        open_source("thresholds.pt", arch="fine_tuned_nets:Net", input_shape=(1, 8, 8))
    assert "levels" in caught.value.found
    assert "`output`" in caught.value.hint


def test_an_implausible_cnn_is_not_fine_tuned_in_silence(
    own: tuple[Path, nn.Module], folder: Path, digits: DataSplits, invoke: Invoke
) -> None:
    images, labels = digits.train.images[:100], digits.train.known_labels[:100]
    with pytest.warns(UserWarning, match="the CNN classifies"):
        lc.fine_tune(own[1], images, labels, validation=(images, labels), qcfs_levels=2, epochs=1)
    given = ("--from", "own.pt", "--qcfs", 2, "--arch", "fine_tuned_nets:Net", "--data", "own.npz", "--epochs", 1)
    done = invoke("train", *given, "-o", "wrong.pt")
    assert "warning: the CNN classifies" in done.err
    done = invoke("train", *given, "--mean", MEAN, "--std", STD, "-o", "right.pt")
    assert "the CNN classifies" in done.err
    assert "warning" not in done.err


def test_a_changed_forward_is_not_resumed(folder: Path, digits: DataSplits, tmp_path: Path) -> None:
    splits = split_for_training(DataSplits("mine", (), *[digits.train[:60]] * 4))
    recipe = replace(own_recipe(60, is_fine_tuning=True, is_spiking=False), epochs=2)
    kind, output = type(build_cnn("fine_tuned_nets:Net")), tmp_path / "own.pt"
    design = own_design("fine_tuned_nets:Net", folder / "own.pt", splits, options=TWO_LEVELS)

    def stop(epoch: int, accuracy: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_design(design, splits, recipe, TrainOptions(), output, on_epoch=stop)
    with pytest.MonkeyPatch.context() as patched:
        forward = kind.forward
        patched.setattr(kind, "forward", lambda self, x: forward(self, x.flip(3)))
        with pytest.raises(CheckpointError) as caught:
            train_design(design, splits, recipe, TrainOptions(), output, resume=True)
    assert caught.value.where == str(resume_path(output))
    # The state may be deleted in the meantime.
    train_design(
        design, splits, recipe, TrainOptions(), output, resume=True, on_epoch=lambda *_: resume_path(output).unlink()
    )
    assert output.exists()


def test_a_training_of_an_own_cnn_is_resumed(folder: Path, digits: DataSplits, tmp_path: Path) -> None:
    splits = split_for_training(load_data(folder / "own.npz"))
    splits = replace(splits, train=splits.train[:100], validation=splits.validation[:40])
    recipe = replace(own_recipe(100, is_fine_tuning=True, is_spiking=False), epochs=3)
    design = own_design(
        "fine_tuned_nets:Net", folder / "own.pt", splits, options=TWO_LEVELS, normalization=NORMALIZATION
    )
    straight = train_design(design, splits, recipe, TrainOptions(), tmp_path / "straight.pt")

    def stop(epoch: int, found: float) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    output = tmp_path / "resumed.pt"
    with pytest.raises(KeyboardInterrupt):
        train_design(design, splits, recipe, TrainOptions(), output, on_epoch=stop)
    for name, other in {
        "normalization": replace(design, normalization=NORMALIZATION._replace(std=(0.5,))),
        "classes": replace(design, classes=tuple("9876543210")),
    }.items():
        with pytest.raises(CheckpointError, match=f"belongs to another training: its {name} is"):
            train_design(other, splits, recipe, TrainOptions(), output, resume=True)

    def edited() -> nn.Module:
        """The CNN after a change of its code; tensors have the same shapes."""
        model = design.build()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.padding = module.dilation = (2, 2)
        return model

    with pytest.raises(CheckpointError, match="belongs to another training: its CNN computes something else"):
        train_design(replace(design, build=edited), splits, recipe, TrainOptions(), output, resume=True)
    resumed = train_design(design, splits, recipe, TrainOptions(), output, resume=True)
    assert all(torch.equal(resumed.state[name], straight.state[name]) for name in straight.state)


def test_a_built_in_cnn_is_trained_on_own_images(folder: Path, invoke: Invoke, digits: DataSplits) -> None:
    training = ("train", "--data", "own.npz", "--epochs", 1)
    done = invoke(*training)
    assert done.code == 2
    assert "--architecture: not given; must be given for your own images" in done.err
    done = invoke(*training, "--architecture", "digits-cnn", "-o", "mine.pt")
    assert done.code == 0, done.err
    done = invoke(*training, "--from", "mine.pt", "--qcfs", 2, "--validation", "test.npz", "-o", "mine2.pt")
    assert done.code == 0, done.err
    assert "also training images" not in done.err
    np.savez("both.npz", images=np.concatenate([digits.test.images[:5], digits.train.images[:3]]), labels=[0] * 8)
    done = invoke(*training, "--from", "mine.pt", "--validation", "both.npz", "-o", "mine3.pt")
    assert "3 of the 8 validation images are also training images" in done.err
    assert invoke("export", "mine2.pt", "--data", "own.npz", "-T", 2).code == 0
    # Other images may have that path here.
    code = ("--arch", "fine_tuned_nets:Net")
    assert invoke("train", "--data", "own.npz", *code, "--epochs", 1, "-o", "own1.pt").code == 0
    for words in (("mine2.pt", "-T", 2), ("own1.pt", *code)):
        for command in (("export", "-o", "again.net"), ("train", "-o", "again.pt", "--from")):
            done = invoke(*command, *words)
            assert done.code == 2
            assert f"{words[0]} was trained on your own images" in done.err


def test_a_class_map_is_for_folders_alone(folder: Path, invoke: Invoke, digits: DataSplits) -> None:
    def save(parent: str, name: str, labels: int) -> None:
        part = digits.train[:40]
        for number, (image, label) in enumerate(zip(part.images, part.known_labels, strict=True)):
            path = folder / parent / f"{name}{label}" / f"{number}.png"
            if label < labels:
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[0]).save(path)

    save("photos", "digit", 10)
    save("fewer", "digit", 8)
    save("others", "number", 10)
    names, others = (",".join(f"{name}{label}={label}" for label in range(10)) for name in ("digit", "number"))
    training = ("train", "--arch", "fine_tuned_nets:Net", "--epochs", 1, "-o", "mapped.pt", "--overwrite")
    for data, validation, class_map in (
        ("photos", "test.npz", names),
        ("own.npz", "photos", names),
        ("photos", "fewer", names),
        ("photos", "others", f"{names},{others}"),
    ):
        done = invoke(*training, "--data", data, "--validation", validation, "--class-map", class_map)
        assert done.code == 0, done.err
    for data, validation, error in (
        ("own.npz", "test.npz", "--class-map: own.npz has no class folders"),
        ("photos", "fewer", "--class-map: found 'number0'; must name folders of photos: "),
        ("own.npz", "fewer", "--class-map: found 'digit8'; must name folders of fewer: "),
    ):
        done = invoke(*training, "--data", data, "--validation", validation, "--class-map", f"{names},{others}")
        assert (done.code, error in done.err) == (2, True), done.err
    # The names of the folders say nothing about the numbers in own.npz.
    done = invoke(*training, "--data", "own.npz", "--validation", "photos")
    assert "validation: class folders are assigned to outputs of the network, in sorted order" in done.err


def test_fine_tuning_keeps_the_order_of_classes(folder: Path, invoke: Invoke, digits: DataSplits) -> None:
    """The same images with the names in another order, then without two of them."""
    part, names = digits.train[:200], np.array(list("abcdefghij"))
    np.savez("named.npz", images=part.images, labels=part.known_labels, classes=names)
    np.savez("turned.npz", images=part.images, labels=9 - part.known_labels, classes=names[::-1])
    some = part[np.flatnonzero(part.known_labels < 8)]
    np.savez("some.npz", images=some.images, labels=some.known_labels, classes=names[:8])
    for number, words in enumerate((("--arch", "fine_tuned_nets:Net"), ("--architecture", "digits-cnn"))):
        begun = f"named{number}.pt"
        assert invoke("train", *words, "--data", "named.npz", "--epochs", 12, "-o", begun).code == 0
        code = words if words[0] == "--arch" else ()
        done = invoke("export", begun, *code, "--data", "turned.npz", "-T", 2, "-o", "x.net", "--overwrite")
        assert done.code == 0, done.err
        assert netx.read(Path("x.net")).provenance.model.classes == tuple(names)
        for data in ("turned.npz", "some.npz"):
            done = invoke("train", *code, "--from", begun, "--data", data, "--epochs", 1, "-o", "x.pt", "--overwrite")
            assert done.code == 0, done.err
            found, before = checkpoint.load("x.pt"), checkpoint.load(begun)
            assert found.classes == tuple(names)
            assert found.validation_accuracy > before.validation_accuracy - 0.2
    assert "export x.pt --data some.npz" in done.out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--mean", 0.3), "--std: not given"),
        (("--arch", "fine_tuned_nets:Net", "--architecture", "digits-cnn"), "--architecture: given with --arch"),
        (("--mean", 0.3, "--std", 0.4), "--mean: given without --arch"),
        (("--arch", "vgg-small"), "--arch: found 'vgg-small'; must be package.module:factory"),
        (
            ("--arch", "fine_tuned_nets:Net", "--qcfs", 2, "--weight-bits", 4),
            "--weight-bits: found 4; must be unset without --qcfs, and for your own CNN",
        ),
        (("--arch", "fine_tuned_nets:Net", "-T", 2), "--from: found no trained CNN with QCFS activations"),
        (("--validation", "own.npz", "--data", "digits"), "--validation: given for digits"),
        (("--input-shape", "3,32,32", "--data", "digits"), "--data: found digits, images of (1, 8, 8)"),
        (("--arch", "fine_tuned_nets:Net", "--device", "cuda"), "--device: torch finds no GPU"),
    ],
)
def test_mistakes(folder: Path, invoke: Invoke, words: tuple[object, ...], error: str) -> None:
    if error.startswith("--device") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    data = () if "--data" in words else ("--data", "own.npz")
    done = invoke("train", *data, *words, "-o", "mistake.pt")
    assert done.code == (3 if error.startswith("--data") else 2)
    assert error in done.err
    assert not list(folder.glob("mistake*"))


def test_labels_beyond_the_outputs_are_refused(folder: Path, invoke: Invoke, digits: DataSplits) -> None:
    np.savez("wrong.npz", images=digits.train.images[:40], labels=np.arange(40) % 11)
    done = invoke("train", "--arch", "fine_tuned_nets:Net", "--data", "wrong.npz", "--epochs", 1, "-o", "mistake.pt")
    assert done.code == 3
    assert "found the class 10; must be 0..9: the CNN has 10 classes" in done.err
