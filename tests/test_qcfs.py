"""The activation for few time steps: hand-derived values and gradients, and equality with a spiking neuron."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.checkpoint import Checkpoint, load_model
from loihi_convert.cnn.models import build_model
from loihi_convert.cnn.qcfs import Qcfs, covering_thresholds, set_thresholds
from loihi_convert.conversion.balancing import balance, choose_method
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.errors import UsageError
from loihi_convert.lowering import to_relu_network
from loihi_convert.simulation.relu import cnn_scores, relu_outputs
from loihi_convert.simulation.simulator import outputs


def activation(threshold: float, levels: int) -> Qcfs:
    module = Qcfs(1, levels)
    with torch.no_grad():
        module.threshold.fill_(threshold)
    return module


def test_values_by_hand() -> None:
    """Threshold 2, L = 4: steps of 0.5, rounded to nearest, between 0 and 2."""
    x = torch.tensor([[-1.0], [0.0], [0.24], [0.26], [0.74], [1.0], [1.76], [2.0], [9.0]])
    found = activation(2.0, 4)(x)
    assert found.ravel().tolist() == [0, 0, 0, 0.5, 0.5, 1.0, 2.0, 2.0, 2.0]


def test_gradients_pass_where_nothing_is_clipped() -> None:
    """dy/dx is 1 inside 0..threshold and 0 outside; above, dy/d threshold is 1."""
    module = activation(2.0, 4)
    x = torch.tensor([[-1.0], [0.9], [3.0]], requires_grad=True)
    module(x).sum().backward()
    assert x.grad.ravel().tolist() == [0, 1, 0]
    module.zero_grad()
    module(torch.tensor([[3.0]])).sum().backward()
    assert module.threshold.grad.tolist() == [1]


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1, 3), (2, 4, 3)])
def test_other_channels_than_those_of_the_thresholds_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 3 channels, found a tensor of shape"):
        Qcfs(3, 4)(torch.zeros(shape))


def test_thresholds_on_more_activations_than_torch_sorts() -> None:
    # torch.quantile takes up to 2^24.
    (found,) = covering_thresholds(torch.arange(1.0, 2**24 + 3).reshape(1, 1, -1))
    assert float(found) == pytest.approx(0.99 * 2**24, rel=1e-6)


def test_a_channel_that_is_hardly_ever_positive_gets_the_threshold_of_others() -> None:
    """Its own would be below the least threshold: without a gradient, and so it would stay there."""
    activations = torch.tensor([[1.0, 2.0, 4.0, 0.0, 1e-12]]).reshape(1, 5, 1, 1)
    assert covering_thresholds(activations).tolist() == [1, 2, 4, 2, 2]
    assert covering_thresholds(torch.zeros(3, 2, 4)).tolist() == [1, 1]
    # A layer of small activations only is left as it is: it is refused before a training.
    assert covering_thresholds(torch.tensor([[3.0, 2.0]]) * 2**-30).tolist() == [3 * 2**-30, 2 * 2**-30]


@given(threshold=st.integers(1, 32), current=st.integers(-16, 64), levels=st.integers(1, 9))
@settings(deadline=None)
def test_a_neuron_gives_the_same_value_in_l_steps(threshold: int, current: int, levels: int) -> None:
    """T = L, V0 = threshold / 2, constant current: threshold x spike count / T is the activation."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False), Qcfs(1, levels), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[1].weight.fill_(current / 4)
        model[2].threshold.fill_(threshold / 4)
        model[3].weight.fill_(1.0)
    images = np.full((1, 1, 1, 1), 255, np.uint8)
    network = to_relu_network(model, (1, 1, 1))
    spiking = balance(network, images, levels, BalanceOptions(method="qcfs"))
    expected = model(torch.ones(1, 1, 1, 1)).item()
    assert cnn_scores(network, images).item() == pytest.approx(expected)
    # Rounding in float32 may put a potential just below the threshold, which removes one spike.
    found = outputs(spiking, images, levels)[0, -1, 0] / levels
    exact = (2 * levels * current + threshold) % (2 * threshold) == 0
    assert found == pytest.approx(expected) or exact


def trained(levels: int | None = 4) -> Checkpoint:
    torch.manual_seed(0)
    model = build_model("digits-cnn", (1, 8, 8), 10, qcfs_levels=levels)
    return Checkpoint(
        "digits-cnn", model.state_dict(), "digits", (1, 8, 8), tuple("0123456789"), 0, 0.5, 0.5, {}, levels
    )


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_checkpoints_keep_levels_and_thresholds(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    checkpoint.save(trained(), path)
    model, loaded = load_model(path)
    assert loaded.qcfs_levels == 4
    network = to_relu_network(model, (1, 8, 8))
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8)).astype(np.uint8)
    assert [layer.levels for layer in network.layers] == [4, 4, None]
    by_torch = model(torch.from_numpy(images / 255).float()).numpy()
    assert np.abs(next(iter(relu_outputs(network, images)))[-1].numpy() - by_torch).max() < 1e-5
    spiking = balance(network, images, 2, BalanceOptions(method="qcfs"))
    assert spiking.layers[0].neuron.threshold == pytest.approx(model.relu1.thresholds.numpy())


def test_levels_out_of_range_are_refused() -> None:
    for levels in (0, -1, 10**9):
        with pytest.raises(UsageError, match="qcfs_levels"):
            Checkpoint(**{**vars(trained()), "qcfs_levels": levels})


def test_first_thresholds_lie_at_the_99th_percentile() -> None:
    plain = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU())
    model = nn.Sequential(nn.Linear(1, 2, bias=False), Qcfs(2, 4))
    with torch.no_grad():
        plain[0].weight.copy_(torch.tensor([[2.0], [-1.0]]))
    set_thresholds(model, plain, torch.linspace(0, 1, 101)[:, None])
    # 2 x 0.01..1.00. The other channel is never positive and gets the same threshold.
    assert model[1].threshold.tolist() == pytest.approx([2 * 0.9901, 2 * 0.9901], abs=1e-4)


def test_the_choice_tries_the_trained_thresholds_first(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    checkpoint.save(trained(), path)
    network = to_relu_network(load_model(path)[0], (1, 8, 8))
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8)).astype(np.uint8)
    assert "qcfs" in {trial.name for trial in choose_method(network, images, 2)}


def test_plain_cnns_do_not_have_trained_thresholds(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    checkpoint.save(trained(None), path)
    network = to_relu_network(load_model(path)[0], (1, 8, 8))
    with pytest.raises(UsageError) as raised:
        balance(network, np.zeros((1, 1, 8, 8), np.uint8), 2, BalanceOptions(method="qcfs"))
    assert raised.value.where == "method"
    assert "not trained with thresholds" in raised.value.found
    assert "`loihi-convert train --qcfs 4`" in raised.value.hint


@pytest.mark.parametrize("shape", [(5, 7), (3, 7, 4, 6)])
@pytest.mark.parametrize("levels", [1, 2, 3, 16])
def test_compiled_loops_and_gradients_equal_the_formula(shape: tuple[int, ...], levels: int) -> None:
    """The formula of the module's docstring, floor differentiated as the identity."""
    generator = torch.Generator().manual_seed(0)
    module = Qcfs(shape[1], levels)
    with torch.no_grad():
        module.threshold.copy_(torch.rand(shape[1], generator=generator) + 0.1)
    x = torch.randn(shape, generator=generator).requires_grad_()
    upstream = torch.randn(shape, generator=generator)
    threshold = module.threshold.detach().clone().requires_grad_()
    share = (x / threshold.reshape(-1, *(1,) * (x.ndim - 2))).clamp(0, 1) * levels + 0.5
    stepped = share + (share.floor() - share).detach()
    expected = stepped.clamp(max=levels) / levels * threshold.reshape(-1, *(1,) * (x.ndim - 2))
    wanted = torch.autograd.grad(expected, (x, threshold), upstream)
    found = module(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, (x, module.threshold), upstream), wanted)
