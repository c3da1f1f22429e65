"""The ReLU network equals the CNN; everything that has no spiking equivalent is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

from loihi_convert.cnn.qcfs import Qcfs
from loihi_convert.errors import InputError, UnsupportedModelError, UsageError
from loihi_convert.frontend.lower import to_relu_network
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.simulation.relu import relu_outputs


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
    if network.notes:
        # The softmax that was dropped, or its logarithm.
        found = found.log_softmax(1)
        expected = expected.log() if bool((expected >= 0).all()) else expected
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


class Modern(nn.Module):
    """Batch norm in front of padded convolutions, the mean over the map, a logarithm of softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0, self.conv1 = nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=(0, 1), stride=2, groups=2)
        self.norm2, self.fc = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(functional.avg_pool2d(self.conv1(self.norm0(x)).relu(), 2))
        x = torch.relu(self.conv2(x)).mean(dim=(2, 3))
        return functional.log_softmax(self.fc(self.norm2(x)), dim=1)


class Arithmetic(nn.Module):
    """Constants in every spelling and place, an argument with a default, the same pooling twice, squeeze."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.6]))
        self.std = torch.tensor([0.2, 0.3]).reshape(1, 2, 1, 1)
        self.gain = nn.Parameter(torch.tensor([2.0, -1.0, 0.5, 3.0]).reshape(4, 1, 1))
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, padding="same"), nn.Conv2d(4, 5, 3, padding=1)
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(5, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, features: bool = False) -> Tensor:
        if mask is not None:
            x = x * mask
        x = x.reshape(-1, 2, 12, 12).sub(self.mean[None, :, None, None]) / self.std
        x = self.pool((self.conv1(x) * self.gain + 0.1).relu())
        x = self.pool(torch.relu(self.conv2(1 - 2 * x)))
        x = functional.avg_pool2d(x, kernel_size=(3, 3)).squeeze(-1).squeeze(-1)
        return x if features else self.fc(x) / 3.0


class SizedPool(nn.Module):
    """A size of the tensor as the window of a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        return self.fc(functional.avg_pool2d(x, kernel_size=x.shape[2:]).flatten(1))


class OwnConv(nn.Conv2d):
    """A name of its own, nothing else."""


CNNS = {
    "arithmetic": (Arithmetic(), (2, 12, 12)),
    "torchvision's normalization": (
        nn.Sequential(
            transforms.Normalize((0.4, 0.5), (0.2, 0.3)), OwnConv(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(48, 2),
        ),
        (2, 4, 4),
    ),
    "modern": (Modern(), (2, 12, 10)),
    "norms in a row": (
        nn.Sequential(
            nn.BatchNorm2d(1), nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3, padding=2, dilation=2), nn.BatchNorm2d(3),
            nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten(), nn.BatchNorm1d(75), nn.Linear(75, 2),
            nn.BatchNorm1d(2),
        ),
        (1, 5, 5),
    ),
    "two poolings": (
        nn.Sequential(
            nn.Conv2d(1, 2, 2), nn.ReLU(), nn.AvgPool2d(2), nn.AvgPool2d((1, 3)), nn.Conv2d(2, 3, 2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2), nn.Softmax(1),
        ),
        (1, 10, 16),
    ),
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
    "all convolutions": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1),
                      nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LogSoftmax(1)),
        (1, 9, 7),
    ),
    "network in network": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(), nn.AvgPool2d(2),
                      nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (1, 8, 9),
    ),
    "pooling behind a pointwise convolution": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 1, groups=2), nn.AvgPool2d(2),
                      nn.ReLU(), nn.Flatten(), nn.Linear(6, 2)),
        (1, 9, 8),
    ),
    "pointwise convolutions of maps of one pixel": (
        nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.AdaptiveAvgPool2d(1), nn.ReLU(),
                      nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1), nn.ReLU(), nn.Conv2d(5, 3, 1), nn.AdaptiveAvgPool2d(1),
                      nn.Flatten()),
        (1, 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CNNS)
def test_the_relu_network_equals_the_cnn(name: str) -> None:
    model, shape = CNNS[name]
    randomized(model)
    assert_equal_outputs(model, to_relu_network(model, shape), shape)


def test_a_size_as_the_window_of_a_pooling() -> None:
    """Torch 2.3 cannot trace it yet: there it is refused in a sentence, with newer ones it is converted."""
    if tuple(map(int, torch.__version__.split(".")[:2])) > (2, 3):
        model = SizedPool()
        assert_equal_outputs(model, to_relu_network(model, (2, 8, 6)), (2, 8, 6))
    else:
        with pytest.raises(UnsupportedModelError, match="SizedPool: its forward cannot be traced"):
            to_relu_network(SizedPool(), (2, 8, 6))


def test_a_dropped_softmax_is_noted() -> None:
    assert to_relu_network(*CNNS["modern"]).notes == (
        "log_softmax (after fc): the log_softmax at the end is dropped; arg max is the same without it.",
    )
    assert to_relu_network(*CNNS["functional"]).notes == ()


def test_a_shift_in_front_of_padding_becomes_a_bias_per_neuron() -> None:
    """Weight 1 x 1 kernel 3, mean 0.5: inside the map all nine taps see the shift -0.5, at a corner only four do."""
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    model[0].weight.data.fill_(1)
    bias = to_relu_network(model, (1, 4, 4), mean=[0.5]).layers[0].synapse.bias
    assert bias is not None
    assert bias[0].tolist() == [[-2, -3, -3, -2], [-3, -4.5, -4.5, -3], [-3, -4.5, -4.5, -3], [-2, -3, -3, -2]]
    model[0].padding = (0, 0)
    model[3] = nn.Linear(4, 2)
    uniform = to_relu_network(model, (1, 4, 4), mean=[0.5]).layers[0].synapse.bias
    assert uniform is not None
    assert uniform.tolist() == [-4.5]


@pytest.mark.parametrize("one", [0.5, [0.5]])
def test_one_number_normalizes_all_channels(one: float | list[float]) -> None:
    model, shape = CNNS["functional"]
    each = to_relu_network(model, shape, mean=[0.5, 0.5], std=[0.25, 0.25]).layers[0].synapse
    for_all = to_relu_network(model, shape, mean=one, std=0.25).layers[0].synapse
    assert np.array_equal(for_all.weight, each.weight)
    assert for_all.bias is not None
    assert each.bias is not None
    assert np.array_equal(for_all.bias, each.bias)


def test_normalization_outside_the_model() -> None:
    model, shape = CNNS["functional"]
    mean, std = (0.3, 0.6), (0.2, 0.5)
    pixels = images(shape)
    normalized = (torch.from_numpy(pixels).float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
        :, None, None
    ]
    with torch.no_grad():
        expected = randomized(model).eval()(normalized)
    found = torch.cat(
        [outputs[-1] for outputs in relu_outputs(to_relu_network(model, shape, mean=mean, std=std), pixels)]
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "where", "found", "expected"),
    [
        ({"mean": [0.5, 0.5, 0.5]}, "mean", "(0.5, 0.5, 0.5)", "one number per channel"),
        ({"std": [1.0, float("nan")]}, "std", "(1.0, nan)", "finite and above 0"),
        ({"std": [1.0, 0.0]}, "std", "(1.0, 0.0)", "finite and above 0"),
    ],
)
def test_wrong_normalization(options: dict[str, list[float]], where: str, found: str, expected: str) -> None:
    with pytest.raises(UsageError) as raised:
        to_relu_network(*CNNS["functional"], **options)
    assert raised.value.where == where
    assert found in raised.value.found
    assert expected in raised.value.expected


def test_layers_carry_names_geometry_and_pooling() -> None:
    network = to_relu_network(*CNNS["functional"])
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
    model[1].eval()  # A batch norm that is frozen while the rest is trained.
    modes = [module.training for module in model.modules()]
    to_relu_network(model, shape)
    assert [module.training for module in model.modules()] == modes
    assert len(set(modes)) == 2
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


class Called(nn.Module):
    """A convolution, ReLU, and then what a function does."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(72, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.function(self.conv(x).relu()).flatten(1))


class StandardizedConv(nn.Conv2d):
    """Computes something else than a convolution with its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight / self.weight.std())


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
        (chain(nn.ReLU(), nn.BatchNorm2d(2), nn.ReLU()), "3: ReLU is a ReLU without a Conv2d or Linear before it"),
        (chain(nn.BatchNorm2d(2, track_running_stats=False)), "1: BatchNorm2d keeps no running statistics"),
        (chain(nn.ReLU(), nn.AvgPool2d(3, 1)), r"2: AvgPool2d has kernel \(3, 3\), stride \(1, 1\).*kernel = stride"),
        (chain(nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True)), "2: AvgPool2d .* ceil_mode True"),
        (chain(nn.ReLU(), nn.AdaptiveAvgPool2d(2)), "2: AdaptiveAvgPool2d has output size 2; supported: 1"),
        (
            chain(nn.ReLU(), nn.Flatten(), nn.Linear(32, 2), nn.ReLU()),
            "4: the model ends here; must end with a Linear layer",
        ),
        (
            chain(nn.ReLU(), nn.Flatten(), nn.Linear(32, 2), nn.Softmax(1), nn.ReLU()),
            "5: ReLU follows a softmax; supported: a softmax at the end",
        ),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")), "0: Conv2d pads with mode circular"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 2, 3, padding=1)),
            r"3: Conv2d is padded after 2, whose window \(2, 2\) does not divide its input \(5, 5\)",
        ),
        (
            Residual(),
            r"add \(after conv2\): add does not continue the chain: its inputs are not",
        ),
        (Shared(), "conv: Conv2d is used twice"),
        (chain(nn.GELU()), r"1: GELU has no spiking equivalent.* Train with ReLU\.$"),
        (chain(nn.ConvTranspose2d(2, 2, 2)), "1: ConvTranspose2d has no spiking .* needs no upsampling; leave it out"),
        (chain(nn.ReLU(), nn.Upsample(scale_factor=2)), "2: Upsample has no spiking equivalent .* needs no upsampling"),
        (chain(nn.GroupNorm(1, 2)), "1: GroupNorm has no spiking equivalent .* Train with BatchNorm2d, or without"),
        (
            chain(nn.LayerNorm((2, 4, 4))),
            "1: LayerNorm has no spiking equivalent .* Train with BatchNorm2d, or without",
        ),
        (
            Called(lambda x: torch.cat([x, x], 1)[:, :2]),
            r"^cat \(after conv\): cat has no .* Branches are not supported; train",
        ),
        (Called(lambda x: x.chunk(1, 1)[0]), r"getitem \(after conv\): getitem does not continue the chain"),
        (Called(torch.sigmoid), r"^sigmoid \(after conv\): sigmoid has no spiking equivalent here.* Train with ReLU"),
        (Called(lambda x: functional.max_pool2d(x, 3, 1, 1)), r"max_pool2d \(after conv\).* Train with AvgPool2d or"),
        (
            Called(functional.dropout),
            r"dropout \(after conv\): dropout is not told that training is over",
        ),
        (Called(lambda x: x + x), r"add \(after conv\): add does not join the layer before it with one constant"),
        (
            Called(lambda x: x / 0.0),
            r"truediv \(after conv\): truediv has a constant that is NaN, infinite, or 0",
        ),
        (Called(lambda x: 1 / x), r"truediv \(after conv\): truediv divides a constant by the layer before it"),
        (Called(lambda x: x * torch.rand(6)), r"mul \(after conv\): mul has a constant that differs between pixels"),
        (
            Called(lambda x: x.squeeze(1)),
            r"squeeze \(after conv\): squeeze squeezes \(2, 6, 6\); supported: squeezing maps of one",
        ),
        (chain(nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.Flatten(), nn.Linear(32, 2), nn.Softmax(0)), "2: MaxPool2d"),
        (chain(nn.ReLU(), nn.Flatten(), nn.Linear(32, 2), nn.Softmax(0)), "4: Softmax runs over axis 0; supported: "),
        (
            nn.Sequential(nn.Conv2d(1, 2, 2, padding="same")),
            r"0: Conv2d pads kernel \(2, 2\) to the same size by one more",
        ),
        (nn.Sequential(StandardizedConv(1, 2, 3)), "conv2d.* Use the modules nn.Conv2d"),
        (ControlFlow(), "ControlFlow: its forward cannot be traced"),
        (nn.Sequential(nn.Conv2d(1, 2, 3)), "0: the model ends here; must end with a Linear layer"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2)), "2: the model ends here; .* of whole maps"),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.AvgPool2d(2)), "1: the model ends here; must end with"),
        (
            chain(nn.ReLU(), nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Conv2d(2, 4, 3, padding=1)),
            "5: Conv2d is a convolution of maps of one pixel; make it 1 x 1",
        ),
        (chain(nn.ReLU(), Qcfs(2, 4), nn.Flatten(), nn.Linear(32, 2)), "2: Qcfs is a second activation behind 0"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1)), "1: AdaptiveAvgPool2d stands between 0 and its"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_everything_else_is_refused_by_name(model: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(model, (1, 6, 6))
    assert re.search(message, str(raised.value)), str(raised.value)
    assert raised.value.where
    assert raised.value.expected


@pytest.mark.parametrize(
    ("model", "has_advice"),
    [
        (chain(nn.Conv2d(2, 2, 1)), False),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")), False),
        (Shared(), False),
        (chain(nn.BatchNorm2d(2, track_running_stats=False)), False),
        (chain(nn.ReLU(), nn.Linear(4, 2)), False),
        (nn.Sequential(StandardizedConv(1, 2, 3)), True),
        (Called(lambda x: functional.linear(x, torch.ones(6, 6))), True),
    ],
)
def test_only_functions_of_weights_are_told_to_use_modules(model: nn.Module, has_advice: bool) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(model, (1, 6, 6))
    assert ("Use the modules nn.Conv2d" in raised.value.hint) == has_advice


def test_images_that_do_not_fit_the_model() -> None:
    with pytest.raises(InputError) as caught:
        to_relu_network(chain(nn.ReLU()), (3, 6, 6))
    assert caught.value.where == "Sequential"
    assert "images of shape (3, 6, 6) (" in caught.value.found
    assert "\n" not in str(caught.value)
