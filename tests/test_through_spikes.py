"""Fine-tuning through the spiking network: it equals the exported network, and training improves it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training import train

from loihi_convert.cnn.checkpoint import Checkpoint, load, load_model
from loihi_convert.cnn.models import build_model
from loihi_convert.cnn.qcfs import Qcfs, SpikingCnn
from loihi_convert.cnn.recipe import TrainOptions, default_recipe, spiking_recipe
from loihi_convert.cnn.training import train_cnn
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.data import DataSplits, load_data
from loihi_convert.errors import UsageError
from loihi_convert.ground.devices import torch_threads
from loihi_convert.lowering import to_relu_network
from loihi_convert.simulation.simulator import outputs


@pytest.mark.parametrize(("architecture", "shape"), [("digits-cnn", (1, 8, 8)), ("resnet20", (3, 8, 8))])
@pytest.mark.parametrize("timesteps", [1, 3])
def test_the_trained_network_is_the_exported_one(
    architecture: str, shape: tuple[int, int, int], timesteps: int
) -> None:
    torch.manual_seed(0)
    model = build_model(architecture, shape, 10, qcfs_levels=4).eval()
    for module in model.modules():
        if isinstance(module, Qcfs):
            module.threshold.data.uniform_(0.2, 0.6)
    images = np.random.default_rng(0).integers(0, 256, (6, *shape)).astype(np.uint8)
    network = balance(to_relu_network(model, shape), images, timesteps, BalanceOptions(method="qcfs"))
    expected = outputs(network, images, timesteps)[:, -1] / timesteps
    found = SpikingCnn(model, timesteps)(torch.from_numpy(images) / 255, {}).detach()
    assert np.abs(expected).max() > 0.01
    # A different order of sums may move a spike if a potential equals the threshold; none does here.
    assert np.allclose(found.numpy(), expected, rtol=0, atol=1e-4)


def test_spikes_and_gradients_by_hand() -> None:
    """Threshold 2, T = 2, V0 = 1; a spike passes its gradient if the potential is within 1 of the threshold.

    Current -1.5: potentials -0.5, -2: no spike, no gradient. Current 0.6: 1.6, 2.2: a spike in step 2. Step 2 is
    near: its current gets 1/2, the half of the mean; so does that of step 1, which is near itself. Current 3: 4, 5:
    spikes in both steps, none near.
    """
    model = torch.nn.Sequential(Qcfs(1, 4))
    model[0].threshold.data.fill_(2.0)
    x = torch.tensor([[-1.5], [0.6], [3.0]], requires_grad=True)
    means = SpikingCnn(model, 2)(x, {})
    assert means.ravel().tolist() == [0, 1, 2]
    means.sum().backward()
    assert x.grad.ravel().tolist() == [0, 1, 0]
    # Image 2: step 2 fires, near: 0; step 1 does not fire, near: -(1/2 - 1/2); half of what reaches the start, 1/4.
    # Image 3: both steps fire: 1/2 each.
    assert model[0].threshold.grad.tolist() == pytest.approx([0.25 + 1.0])


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits", Path())


@pytest.fixture(scope="module")
def start(digits: DataSplits, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    output = tmp_path_factory.mktemp("start") / "q4.pt"
    recipe = replace(default_recipe("digits"), epochs=8)
    return train("digits-cnn", digits, recipe, seed=0, output=output, qcfs_levels=4)


@pytest.mark.parametrize("timesteps", [None, 3])
def test_threads_share_the_rows(timesteps: int | None) -> None:
    """Of the activation and of the neurons: multiples of 1/8, whose sums are exact in any order."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(-16, 32, (5, 2, 3, 3), generator=draw) / 8

    def computed(threads: int) -> list[torch.Tensor]:
        model = torch.nn.Sequential(Qcfs(2, 4), Qcfs(2, 4))
        for module, threshold in zip(model, (2.0, 4.0), strict=True):
            module.threshold.data.fill_(threshold)
        inputs = x.clone().requires_grad_()
        with torch_threads(threads):
            output = model(inputs) if timesteps is None else SpikingCnn(model, timesteps)(inputs, {})
            output.sum().mul(timesteps or 1).backward()
        return [output, *(tensor.grad for tensor in (inputs, *model.parameters()) if tensor.grad is not None)]

    expected = computed(1)
    assert len(expected) == 4
    assert all(tensor.count_nonzero() for tensor in expected)
    for threads in (2, 50):
        for one, other in zip(computed(threads), expected, strict=True):
            assert torch.equal(one, other)


def test_training_improves_the_spiking_network(digits: DataSplits, start: Checkpoint, tmp_path: Path) -> None:
    # Thresholds at which few neurons fire within a step.
    state = {name: 2 * value if name.endswith("threshold") else value for name, value in start.state.items()}
    start = replace(start, state=state)
    model = build_model("digits-cnn", (1, 8, 8), 10, qcfs_levels=4)
    model.load_state_dict(state)
    network = SpikingCnn(model, 1)
    images = torch.from_numpy(digits.validation.images.copy()) / 255
    before = float((network(images, {}).argmax(1).numpy() == digits.validation.known_labels).mean())
    tuned = train_cnn(digits, tmp_path / "t1.pt", TrainOptions(timesteps=1, epochs=4), start=start)
    found = tuned.recipe["spiking_accuracy"]
    assert float(str(found["validation"])) > before + 0.2
    assert tuned.recipe["timesteps"] == 1
    assert tuned.qcfs_levels == 4
    # The stored file is an ordinary checkpoint; its accuracy is that of the CNN.
    assert load(tmp_path / "t1.pt").validation_accuracy == tuned.validation_accuracy
    load_model(tmp_path / "t1.pt")


def test_it_starts_from_learned_thresholds(digits: DataSplits, start: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refusal:
        train_cnn(digits, tmp_path / "x.pt", TrainOptions(timesteps=2, qcfs_levels=4))
    assert refusal.value.where == "start"
    with pytest.raises(UsageError) as refusal:
        train_cnn(digits, tmp_path / "x.pt", TrainOptions(timesteps=0), start=start)
    assert refusal.value.where == "timesteps"


def test_max_pooling_is_refused() -> None:
    with pytest.raises(UsageError) as refusal:
        SpikingCnn(build_model("conv3-max", (1, 8, 8), 10, qcfs_levels=4), 2)
    assert refusal.value.where == "timesteps"


def test_the_recipe_is_short() -> None:
    for data in ("digits", "mnist", "fashion-mnist", "cifar10"):
        assert spiking_recipe(data).epochs <= default_recipe(data).epochs / 7
