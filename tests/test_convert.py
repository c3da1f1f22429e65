"""The ReLU network equals the CNN; everything that has no spiking equivalent is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.convert import convert
from loihi_convert.errors import InputError, UnsupportedModelError
from loihi_convert.network import ReluNetwork
from loihi_convert.simulate import relu_outputs
from loihi_convert.synapse import Conv, Dense


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch-norm statistics and affine parameters as after a training."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                if tensor is not None:
                    tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
            assert module.running_var is not None
            module.running_var.uniform_(0.3, 2, generator=generator)
    return model


def images(shape: tuple[int, ...], count: int = 7) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *shape)).astype(np.uint8)


def assert_equal_outputs(model: nn.Module, network: ReluNetwork, shape: tuple[int, ...]) -> None:
    pixels = images(shape)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(pixels).float() / 255)
    found = torch.cat([outputs[-1] for outputs in relu_outputs(network, pixels)])
    # Folding changes only the order of float32 operations.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


class Functional(nn.Module):
    """ReLU as function and method, pooling as function, view with computed sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1, groups=2)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, (3, 2), stride=(2, 1), bias=False)
        self.fc1 = nn.Linear(8 * 2 * 4, 12)
        self.norm2 = nn.BatchNorm1d(12, affine=False)
        self.fc2 = nn.Linear(12, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(functional.relu(self.norm1(self.conv1(x))), 2)
        x = functional.dropout(torch.relu(self.conv2(x)), training=self.training)
        x = x.view(x.size(0), -1)
        return self.fc2(self.norm2(self.fc1(x)).relu())


class OneRelu(nn.Module):
    """The same ReLU module between all layers, and a view of a size that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Linear(8, 2)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv2(self.relu(self.conv1(x))))
        return self.fc(x.reshape(x.shape[0], -1))


CNNS = {
    "one relu": (OneRelu(), (1, 6, 6)),
    "sequential": (
        nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Dropout2d(0.3),
            nn.Conv2d(4, 6, 3, dilation=2),
            nn.ReLU(inplace=True),
            nn.Identity(),
            nn.Flatten(),
            nn.Linear(6 * 1 * 2, 3),
        ),
        (1, 12, 14),
    ),
    "functional": (Functional(), (2, 10, 10)),
    "dense only": (nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), (1, 4, 4)),
    "pool first": (
        nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)),
        (1, 6, 6),
    ),
    "remainder": (
        nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 3, 2), nn.ReLU(), nn.AvgPool2d(2),
                      nn.Flatten(), nn.Linear(3, 2)),
        (1, 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CNNS)
def test_the_relu_network_equals_the_cnn(name: str) -> None:
    model, shape = CNNS[name]
    randomized(model)
    assert_equal_outputs(model, convert(model, shape), shape)


def test_layers_carry_names_geometry_and_pooling() -> None:
    network = convert(*CNNS["functional"])
    assert [layer.name for layer in network.layers] == ["conv1", "conv2", "fc1", "fc2"]
    conv2 = network.layers[1].synapse
    assert isinstance(conv2, Conv)
    assert (conv2.pool, conv2.stride, conv2.groups, conv2.bias) == ((2, 2), (2, 1), 1, None)
    assert isinstance(network.layers[-1].synapse, Dense)
    assert network.shapes == ((6, 10, 10), (8, 2, 4), (12,), (5,))


def test_the_model_is_left_as_it_was() -> None:
    model, shape = CNNS["sequential"]
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    convert(model, shape)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1), nn.Linear(36, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu()
        return self.fc((x + self.conv2(x).relu()).flatten(1))


class ControlFlow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(36, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(self.conv(x).relu()).relu().flatten(1))


def chain(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), *modules)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            chain(nn.ReLU(), nn.MaxPool2d(2)),
            "2: MaxPool2d has no spiking equivalent here; supported: Conv2d, .*AvgPool2d",
        ),
        (chain(nn.Sigmoid()), "1: Sigmoid has no spiking equivalent here"),
        (chain(nn.Conv2d(2, 2, 1)), "1: Conv2d follows 0 without ReLU between them"),
        (chain(nn.AvgPool2d(2), nn.ReLU()), "1: AvgPool2d stands between 0 and its ReLU"),
        (chain(nn.ReLU(), nn.BatchNorm2d(2)), "2: BatchNorm2d does not directly follow a Conv2d or Linear"),
        (chain(nn.ReLU(), nn.AvgPool2d(3, 1)), r"2: AvgPool2d has kernel \(3, 3\), stride \(1, 1\).*kernel = stride"),
        (chain(nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True)), "2: AvgPool2d .* ceil_mode True"),
        (chain(nn.ReLU(), nn.AvgPool2d(2), nn.AvgPool2d(2)), "3: AvgPool2d follows the pooling 2"),
        (
            chain(nn.ReLU(), nn.Flatten(), nn.Linear(32, 2), nn.ReLU()),
            "4: the model ends here; it must end with a Linear layer",
        ),
        (chain(nn.ReLU(), nn.Flatten(), nn.Linear(32, 2), nn.Softmax(1)), "4: Softmax has no .* End with the Linear"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")), "0: Conv2d pads with mode circular"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 2, 3, padding=1)),
            r"3: Conv2d is padded after 2, whose window \(2, 2\) does not divide its input \(5, 5\)",
        ),
        (Residual(), "add does not continue the chain: its inputs are not just the layer before it"),
        (Shared(), "conv: Conv2d is used twice"),
        (ControlFlow(), "ControlFlow: its forward cannot be traced"),
        (nn.Sequential(nn.Conv2d(1, 2, 3)), "0: the model ends here; it must end with a Linear layer"),
    ],
)
def test_everything_else_is_refused_by_name(model: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        convert(model, (1, 6, 6))


def test_images_that_do_not_fit_the_model() -> None:
    with pytest.raises(InputError, match=r"Sequential: does not take images of shape \(3, 6, 6\) \(.*\)\.$") as caught:
        convert(chain(nn.ReLU()), (3, 6, 6))
    assert "\n" not in str(caught.value)
