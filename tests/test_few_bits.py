"""Training with rounded weights: the weights are those that export will write."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from loihi_convert.cnn.models import RoundedWeights, build_model
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.lowering import to_relu_network


def qcfs_model() -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_model("digits-cnn", (1, 8, 8), 10, qcfs_levels=4)
    with torch.no_grad():
        for name in ("relu1", "relu2"):
            # Three times as large for some channels as for others.
            model.get_submodule(name).get_parameter("threshold").uniform_(0.3, 0.9)
    return model.eval()


def tensors_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters())


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_they_are_what_quantize_writes(bits: int) -> None:
    model = qcfs_model()
    rounding = RoundedWeights(model, bits)
    tensors = tensors_of(model)
    scales = rounding.scales(tensors)
    weights = rounding.weights(tensors, scales)
    images = np.random.default_rng(0).integers(0, 256, (50, 1, 8, 8)).astype(np.uint8)
    network = quantize(
        balance(to_relu_network(model, (1, 8, 8)), images, 4, BalanceOptions(method="qcfs")),
        images,
        QuantizeOptions(weight_bits=bits),
    )
    for name, layer in zip(("conv1", "conv2", "fc"), network.layers, strict=True):
        before = {"conv1": None, "conv2": "relu1", "fc": "relu2"}[name]
        worth = torch.ones(1) if before is None else model.get_submodule(before).get_parameter("threshold")
        weight = weights[f"{name}.weight"].detach()
        shape = (1, -1, *(1,) * (weight.ndim - 2))
        worth = worth.repeat_interleave(weight.shape[1] // len(worth)) if weight.ndim == 2 else worth
        steps = (weight * worth.reshape(shape)).flatten(1) / scales[f"{name}.weight"]
        assert torch.allclose(steps, steps.round(), atol=1e-3)
        written = torch.from_numpy(layer.weight.reshape(len(layer.weight), -1).astype(np.float32))
        # The first layer's scale may be larger, so that currents fit; thresholds are rounded there, too.
        if bits < 8:
            assert (steps.round() == written).float().mean() > (0.999 if before is None else 0.97)


def test_weights_on_a_gpu_are_rounded_there() -> None:
    with FakeTensorMode():
        with torch.device("cuda"):
            model = build_model("digits-cnn", (1, 8, 8), 10, qcfs_levels=4)
        tensors = tensors_of(model)
        # Finding scales needs numbers, which these tensors do not have.
        scales = {name: tensor.new_ones(len(tensor), 1) for name, tensor in tensors.items() if name.endswith("weight")}
        weights = RoundedWeights(model, 4).weights(tensors, scales)
    assert {weight.device.type for weight in weights.values()} == {"cuda"}


def test_gradients_pass_as_if_nothing_were_rounded() -> None:
    model = qcfs_model()
    rounding = RoundedWeights(model, 3)
    tensors = tensors_of(model)
    weights = rounding.weights(tensors, rounding.scales(tensors))
    assert not torch.equal(weights["fc.weight"], tensors["fc.weight"])
    (slope,) = torch.autograd.grad((2 * weights["fc.weight"]).sum(), tensors["fc.weight"])
    assert torch.equal(slope, torch.full_like(slope, 2))
