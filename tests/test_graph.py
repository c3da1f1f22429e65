"""Graphs read from models; parts without a spiking equivalent are refused, with their place and an alternative."""

from __future__ import annotations

import errno
import math
import pickle
import random
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from support.modules import Of, outputs, prepared
from support.refusals import refused
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.errors import InputError, UnsupportedModelError, UsageError
from loihi_convert.ground.normalization import channel_normalization
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.lowering import obstacles, to_relu_network

SHAPE = (1, 6, 6)


class ControlFlow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x[:, 0])[0][:, -1])


def calls(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A convolution, ReLU, what a function does, and a dense layer."""
    return Of(
        lambda m, x: m.fc(function(m.conv(x).relu()).flatten(1)),
        conv=nn.Conv2d(1, 2, 3, padding=1), fc=nn.LazyLinear(2),
    )  # fmt: skip


def chain(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), *modules)


def returns(function: Callable[[Tensor], object]) -> nn.Module:
    return Of(lambda m, x: function(m.fc(x.flatten(1))), fc=nn.Linear(36, 2))  # type: ignore[arg-type, return-value]


REFUSED = [
    (chain(nn.Sigmoid(), nn.Conv2d(2, 2, 1)), "1: Sigmoid is before other layers"),
    (
        chain(nn.Tanh(), nn.Conv2d(2, 2, 1)),
        r"1: Tanh is before other layers",
    ),
    (chain(nn.Softplus()), "Softplus .* leave it out: .* to the outputs of a regression, apply it yourself"),
    (returns(torch.atan), "atan .* apply it yourself"),
    (calls(lambda x: x * float("inf")), "mul has no spiking equivalent"),
    (
        calls(lambda x: functional.rrelu(x, training=True)),
        r"rrelu \(after conv\): rrelu is not switched off in eval mode",
    ),
    (chain(nn.GELU()), r"1: GELU has no spiking equivalent.* Train with ReLU\.$"),
    (calls(functional.gelu), r"gelu \(after conv\): gelu has no spiking"),
    (
        calls(lambda x: x * x.mean((2, 3), keepdim=True)),
        r"mul \(after conv\): mul of two tensors",
    ),
    (calls(lambda x: x * x), r"mul \(after conv\): mul of two tensors"),
    (calls(lambda x: x.matmul(x)), r"matmul \(after conv\): matmul has no"),
    (
        calls(lambda x: functional.scaled_dot_product_attention(x, x, x)),
        "scaled_dot_product_attention",
    ),
    (Recurrent(), "lstm: LSTM has no spiking"),
    (chain(nn.ConvTranspose2d(2, 2, 2)), "1: ConvTranspose2d has no spiking"),
    (
        chain(nn.ReLU(), nn.Upsample(scale_factor=2)),
        "2: Upsample has no spiking equivalent",
    ),
    (
        calls(lambda x: functional.interpolate(x, size=(3, 4))),
        r"interpolate \(after conv\): interpolate has no spiking equivalent",
    ),
    (
        calls(lambda x: functional.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=True)),
        r"make the larger ones smaller, by a stride",
    ),
    (
        calls(lambda x: functional.interpolate(x, scale_factor=2)),
        r"interpolate \(after conv\):",
    ),
    (chain(nn.GroupNorm(1, 2)), "1: GroupNorm has no spiking equivalent"),
    (chain(nn.LayerNorm((2, 4, 4))), "1: LayerNorm has no spiking equivalent"),
    (chain(nn.BatchNorm2d(2, track_running_stats=False)), "1: BatchNorm2d has no running statistics"),
    (
        chain(nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True)),
        "2: AvgPool2d divides by 4 at the border and by 9 elsewhere",
    ),
    (
        chain(nn.ReLU(), nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)),
        "2: AvgPool2d divides by 4 at the border and by 9 elsewhere",
    ),
    (
        chain(nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 0)), nn.AdaptiveAvgPool2d(3)),
        r"3: AdaptiveAvgPool2d gives \(3, 3\) for \(4, 5\)",
    ),
    (
        calls(lambda x: functional.max_pool2d(x, 2, return_indices=True)[1].float()),
        "max_pool2d has no spiking equivalent here: it gives indices",
    ),
    (
        # Of numbers from -2,000.1 to 0; bounds have a margin of 1e-6 for rounding errors.
        Of(lambda m, x: m.fc(functional.max_pool2d(-2000 * x - 0.1, 3, 1, 1).flatten(1)), fc=nn.Linear(36, 2)),
        "max_pool2d: max_pool2d reads beyond the border of values that may be as low as -2e\\+03",
    ),
    (
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")),
        "0: Conv2d moves the pixels of a map in a way that is not a convolution",
    ),
    (
        calls(lambda x: functional.pad(-x, (1, 1, 1, 1), value=-math.inf)),
        "pads with -inf",
    ),
    (
        calls(lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect")),
        "reflection_pad2d has no spiking equivalent",
    ),
    (
        calls(lambda x: torch.cat([x, x])),
        r"cat \(after conv\): cat runs along axis 0",
    ),
    (
        calls(lambda x: torch.cat([x, torch.ones_like(x)])),
        r"cat \(after conv\): cat runs along axis 0",
    ),
    (
        calls(lambda x: torch.cat([x, torch.arange(len(x)).reshape(-1, 1, 1, 1).expand(-1, 1, 6, 6) + 1.0], 1)),
        r"cat \(after conv\): cat joins constants that differ between images",
    ),
    (
        calls(lambda x: functional.avg_pool2d(x.transpose(2, 3), 2)),
        "moves the pixels of a map in a way that is not a convolution",
    ),
    (
        calls(lambda x: functional.avg_pool1d(x.mean(3), 2)),
        r"moves the pixels of a map",
    ),
    (
        calls(lambda x: x + x.mean(2, keepdim=True)),
        r"add \(after conv\): add joins tensors of",
    ),
    (
        calls(lambda x: (x + x.amax((2, 3), keepdim=True)).relu()),
        r"add \(after conv\): add joins tensors of",
    ),
    (calls(lambda x: x / 0.0), r"truediv \(after conv\): truediv has no spiking equivalent"),
    (calls(lambda x: 1 / x), r"\(after conv\): mul has no spiking equivalent"),
    (
        calls(lambda x: x * torch.arange(6)),
        r"mul \(after conv\): mul has a factor that differs between pixels",
    ),
    (
        calls(lambda x: x + torch.arange(2).reshape(2, 1, 1, 1)),
        r"add \(after conv\): add has a constant that differs between images",
    ),
    (calls(lambda x: x + torch.randn_like(x)), "randn_like .* only if self.training"),
    (
        calls(lambda x: functional.avg_pool2d(functional.conv1d(x[:, 0], torch.ones(1, 6, 1)).view(-1, 1, 2, 3), 2)),
        r"moves the pixels of a map",
    ),
    (
        calls(lambda x: x.flatten(2).transpose(1, 2).reshape(-1, 2).relu().reshape(-1, 36, 2)),
        r"\(after conv\): relu mixes images:",
    ),
    (calls(functional.dropout), r"dropout: dropout is not switched off in eval mode"),
    (
        calls(lambda x: x.mean((1, 2))),
        r"mean \(after conv\): mean takes the mean over axes",
    ),
    (
        calls(lambda x: x - x.mean((-3, 2, 3), keepdim=True)),
        r"mean \(after conv\): mean takes the mean over axes",
    ),
    (
        calls(lambda x: x + x.mean((1, 2, 3), keepdim=True)),
        r"mean \(after conv\): mean takes the mean over axes",
    ),
    (calls(lambda x: x.amax(1)), r"amax \(after conv\): amax takes the amax over axes"),
    (calls(lambda x: functional.conv2d(x, x[:1])), r"conv2d \(after conv\): conv2d has no spiking equivalent here"),
    (
        calls(lambda x: torch.ones(3, x.shape[0]).matmul(x.flatten(1))),
        r"matmul \(after conv\): matmul has no spiking equivalent here",
    ),
    (calls(lambda x: x @ torch.ones(6, 6)), r"matmul \(after conv\): matmul is applied to feature maps"),
    (
        calls(lambda x: functional.batch_norm(x, None, None, training=True)),
        r"batch_norm \(after conv\): batch_norm has no running statistics",
    ),
    (
        chain(nn.ReLU(), nn.Flatten(2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)),
        r"3: MaxPool2d is applied to a tensor of shape \(2, 16\)",
    ),
    (calls(lambda x: functional.avg_pool2d(x.flatten(2), 2)), r"avg_pool2d is applied to a tensor of shape \(2, 36\)"),
    (
        calls(lambda x: functional.avg_pool1d(x.flatten(1), 2)),
        r"avg_pool2d is applied to a tensor of shape \(1, 72\)",
    ),
    (calls(lambda x: x.to(torch.int32).float()), r"to \(after conv\): to casts to torch.int32"),
    (
        calls(lambda x: x / (x.max() + 1)),
        r"max_1 \(after conv\): max takes the max over all axes",
    ),
    (
        calls(lambda x: x.max(1)[0]),
        r"max_1 \(after conv\): max takes the max over axes 1",
    ),
    (calls(lambda x: x.flatten(2).max(2).indices.float()), "max has no spiking equivalent here: it gives indices"),
    (
        calls(lambda x: torch.min(x, x.mean(3, keepdim=True))),
        r"minimum \(after conv\): minimum joins tensors of shapes \(2, 6, 1\) and \(2, 6, 6\)",
    ),
    (returns(lambda y: y.topk(1)), "Of: its forward returns a topk, not one tensor"),
    (returns(lambda y: y.mean(dim=())), r"mean \(after fc\): mean takes the mean over axes"),
    (returns(lambda y: y.sum().relu()), r"sum_1 \(after fc\): sum takes the sum over all axes"),
    (returns(lambda y: y - y.mean()), r"takes the mean over all axes"),
    (
        nn.Sequential(
            *(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Unflatten(1, (8, 1, 1)), nn.Conv2d(8, 2, 3, padding=2)),
            *(nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)),
        ),
        r"4: gives maps of \(3, 3\) after a dense layer",
    ),
    (
        chain(nn.Conv2d(2, 3, 4), nn.Softmax(-1), nn.Flatten()),
        r"2: Softmax runs over axis -1 of \(3, 1, 1\)",
    ),
    (ControlFlow(), "ControlFlow: its forward reads numbers of the image,"),
    (chain(nn.ReLU(), nn.Flatten(), nn.Linear(32, 2), nn.Softmax(0)), "4: Softmax runs over axis 0"),
    (
        chain(nn.ReLU(), nn.Flatten(), nn.Linear(32, 2), nn.Softmax(1), nn.ReLU()),
        "4: Softmax is before other layers",
    ),
    (chain(nn.ReLU(), nn.Linear(4, 2)), "2: Linear is applied to feature maps"),
    (
        calls(lambda x: functional.linear(x.transpose(2, 3), torch.ones(2, 6).to(x))),
        "matmul is applied to feature maps",
    ),
    (calls(lambda x: x + x[0, 0, 0, 0] * 2), "mul .* mixes images"),
    (calls(lambda x: x + x[0, 0, 0, 0].relu()), "mixes images"),
    (calls(lambda x: functional.pad(x, (1, 0), value=1e9)), "pad .* supported: numbers in -1,000..1,000"),
    (returns(lambda x: x.argmax(1)), "argmax .* return the scores of the classes"),
    (
        chain(nn.ReLU(), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(98, 2)),
        r"2: AdaptiveAvgPool2d gives \(7, 7\) for \(4, 4\)",
    ),
    (
        calls(lambda x: functional.adaptive_avg_pool2d(x, (4, 5))),
        r"gives \(4, 5\) for \(6, 6\)",
    ),
    (chain(), r"0: the model ends here, with \(2, 4, 4\)"),
    (chain(nn.ReLU(), nn.AvgPool2d(2)), r"2: the model ends here,"),
    (
        returns(lambda y: [y, y]),
        r"Of: its forward returns a list, not one tensor",
    ),
    (returns(lambda y: (y, y)), "Of: its forward returns a tuple, not one tensor"),
    (returns(lambda y: {"one": y, "other": y}), "Of: its forward returns a dict, not one tensor"),
    (returns(lambda y: {"logits": (y,), "other": y}), "Of: its forward returns a dict, not one tensor"),
    (
        Of(lambda m, x: torch.zeros(2, 3)),
        r"Of: its output does not depend on the image",
    ),
]


@pytest.mark.parametrize(("model", "message"), REFUSED)
@pytest.mark.filterwarnings("ignore:This overload of add is deprecated")
def test_everything_else_is_refused_by_name(model: nn.Module, message: str) -> None:
    with torch.no_grad():
        model.eval()(torch.zeros(1, *SHAPE))
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(model, SHAPE)
    assert re.search(message, str(raised.value)), str(raised.value)
    assert raised.value.where
    assert raised.value.expected


class StaysInTraining(nn.Sequential):
    """Switches the mode of its last two layers only."""

    def train(self, mode: bool = True) -> nn.Module:
        self.training = mode
        for layer in list(self)[2:]:
            layer.train(mode)
        return self


@pytest.mark.parametrize(
    ("layer", "found"),
    [
        (nn.Dropout(), "Dropout is not switched off in eval mode"),
        (nn.RReLU(), "RReLU is not switched off in eval mode"),
        (nn.BatchNorm2d(2), "BatchNorm2d takes its statistics from the batch"),
    ],
)
def test_a_layer_that_stays_in_training_mode_is_refused(layer: nn.Module, found: str) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(StaysInTraining(nn.Conv2d(1, 2, 3), layer, nn.Flatten(), nn.Linear(32, 2)), SHAPE)
    assert raised.value.where == "1"
    assert found in raised.value.found


@pytest.mark.parametrize(
    ("factor", "found"),
    [
        (random.random, "differ from call to call"),
        (lambda: torch.rand(2, 1, 1), "rand is not switched off"),
        (lambda: np.random.default_rng().random(), "differ from call to call"),
    ],
)
def test_random_outputs_are_refused(factor: Callable[[], float | Tensor], found: str) -> None:
    """They would be those of one call."""
    model = calls(lambda x: x * factor())
    model(torch.zeros(1, *SHAPE))
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(model, SHAPE)
    assert found in raised.value.found


@pytest.mark.parametrize("is_recorded", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
)
def test_a_full_memory_or_disk_is_no_fault_of_the_model(error: Exception, is_recorded: bool) -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if torch._is_functional_tensor(x) == is_recorded:
                raise error
            return x

    with pytest.raises(type(error)) as raised:
        to_relu_network(Fails(), SHAPE)
    assert raised.value is error


def test_every_obstacle_is_found() -> None:
    """In the order of computation; what comes after one is looked at as if it were known."""
    model = chain(
        nn.GELU(), nn.Conv2d(2, 2, 3, padding=1), nn.GroupNorm(1, 2), nn.ReLU(), nn.Upsample(scale_factor=2),
        nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Tanh(), nn.Linear(18, 2), nn.Tanh(),
    )  # fmt: skip
    found = obstacles(model.eval(), SHAPE)
    assert [obstacle.where for obstacle in found] == ["1", "3", "5", "6", "8"]
    kinds = ["GELU", "GroupNorm", "Upsample", "AdaptiveAvgPool2d", "Tanh"]
    assert [obstacle.found.split()[0] for obstacle in found] == kinds
    assert all(obstacle.expected for obstacle in found)
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(model, SHAPE)
    assert (raised.value.where, raised.value.found) == (found[0].where, found[0].found)
    assert [other.where for other in raised.value.others] == ["3", "5", "6", "8"]
    assert "4 more parts have no spiking equivalent" in str(raised.value)
    assert raised.value.hint == found[0].hint
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_a_users_file_may_be_named_after_quantization() -> None:
    class Own(nn.Linear):
        __module__ = "my_quantized_nets"

    model = chain(nn.ReLU(), nn.Flatten(), Own(32, 2)).eval()
    assert to_relu_network(model, SHAPE).shapes[-1] == (2,)


def test_weights_that_need_a_gradient() -> None:
    """As they do after a training, when a whole model is given."""
    zeros = nn.Parameter(torch.zeros(1, 1, 1, 1))
    model = calls(lambda x: torch.cat([x, zeros.expand(len(x), 1, 6, 6)], 1)).eval()
    model(torch.zeros(1, *SHAPE))
    assert to_relu_network(model, SHAPE).shapes[-1] == (2,)


def test_obstacles_of_the_end() -> None:
    assert [obstacle.where for obstacle in obstacles(chain().eval(), SHAPE)] == ["0"]
    assert obstacles(chain(nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)).eval(), SHAPE) == ()


@pytest.mark.parametrize(
    "is_as_expected",
    [
        lambda x: x.nelement() == x.numel() == 2 * 36,
        lambda x: x.is_contiguous() and x.is_contiguous(memory_format=torch.contiguous_format),
        lambda x: not x.is_cuda and not x.requires_grad and x.is_floating_point(),
        lambda x: x.size() == x.shape == (2, *SHAPE) and x.size(-1) == x.size(dim=3) == 6,
        lambda x: x.dim() == x.ndim == 4 and x.stride(3) == 1,
        lambda x: isinstance(x, Tensor) and torch.is_tensor(x.relu()),
        lambda x: not isinstance(x, list | tuple | nn.Parameter | int) and not isinstance(x.chunk(2), Tensor),
    ],
)
def test_a_forward_may_ask_about_its_image(is_as_expected: Callable[[Tensor], bool]) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        if not is_as_expected(x):
            raise ValueError
        return m.fc(x.flatten(1))

    assert obstacles(Of(forward, fc=nn.Linear(36, 2)), SHAPE) == ()


def test_a_forward_may_keep_its_values_in_attributes_and_buffers() -> None:
    """As of a model that records its features; the model is left with its own buffers."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        m.features, m.kept = x.relu(), x.flatten(1)
        return m.fc(m.kept)

    model, before = Of(forward, fc=nn.Linear(36, 2)), torch.zeros(1)
    model.register_buffer("kept", before)
    wanted, found, _ = both(model, SHAPE)
    torch.testing.assert_close(found, wanted)
    assert set(model.state_dict()) == {"kept", "fc.weight", "fc.bias"}
    assert all(type(tensor) is Tensor for tensor in model.state_dict().values())


def test_images_that_do_not_fit_the_model() -> None:
    with pytest.raises(InputError) as caught:
        to_relu_network(chain(nn.ReLU()), (3, 6, 6))
    assert caught.value.where == "Sequential"
    assert "images of shape (3, 6, 6) (" in caught.value.found
    assert "\n" not in str(caught.value)


class Checked(nn.Module):
    """Looks at its input's shape, as forwards do that are written with care."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != torch.Size(SHAPE) or x.dim() != 4 or len(x) < 1:
            raise ValueError("wrong images")
        if x.size(0) == 0 or x.dtype == torch.int64:
            return x
        x = functional.dropout(self.conv(x).relu(), training=self.training)
        return self.fc(x.view(x.size(0), -1))


class Modern(nn.Module):
    """Batch norm in front of padded convolutions, the mean over the map, a logarithm of softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0, self.conv1 = nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=(0, 1), stride=2, groups=2)
        self.norm2, self.fc = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, features: bool = False) -> Tensor:
        if mask is not None:
            x = x * mask
        x = self.norm1(functional.avg_pool2d(self.conv1(self.norm0(x)).relu(), kernel_size=2))
        x = torch.relu(self.conv2(x)).mean(dim=(2, 3))
        return x if features else functional.log_softmax(self.fc(self.norm2(x)), dim=1)


def both(model: nn.Module, shape: tuple[int, ...], **options: object) -> tuple[Tensor, Tensor, ReluNetwork]:
    """What the model makes of images, and the chain."""
    model = prepared(model, shape)
    pixels = torch.from_numpy(np.random.default_rng(0).random((3, *shape)))
    network = to_relu_network(model, shape, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        return model(pixels), outputs(network, pixels), network


def test_a_forward_that_checks_shapes() -> None:
    wanted, found, network = both(Checked(), SHAPE)
    torch.testing.assert_close(found, wanted)
    assert [layer.name for layer in network.layers] == ["conv", "fc"]


class Takes(nn.Module):
    """A dense layer, whose forward may take more than the image."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(36, 2)

    def scores(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


class TakesKeywords(Takes):
    def forward(self, x: Tensor, **options: object) -> Tensor:
        return self.scores(x)


class TakesDefaults(Takes):
    def forward(
        self,
        x: Tensor,
        size: tuple[int, int] = (6, 6),
        layers: tuple[str, ...] = ("fc",),
        *,
        options: Mapping[str, object] = MappingProxyType({"return_features": False}),
        returns_both: bool = False,
    ) -> Tensor:
        assert x.shape[2:] == size
        scores = getattr(self, layers[0])(x.flatten(1))
        return (x, scores) if returns_both or options["return_features"] else scores


class TakesList(Takes):
    def forward(self, x: Tensor, layers: list[str] = []) -> Tensor:  # noqa: B006 (as users write it)
        return self.scores(x) if not layers else [self.scores(x)]


class PassesOn(Takes):
    def forward(self, *args: Tensor, **options: object) -> Tensor:
        return self.scores(*args, **options)


@pytest.mark.parametrize("model", [TakesKeywords(), TakesDefaults(), TakesList(), PassesOn()])
def test_arguments_other_than_the_image_have_their_default_values(model: nn.Module) -> None:
    wanted, found, network = both(model, SHAPE)
    torch.testing.assert_close(found, wanted)
    assert [layer.name for layer in network.layers] == ["fc"]


def test_a_dropped_softmax_is_noted() -> None:
    wanted, found, network = both(Modern(), (2, 12, 10))
    torch.testing.assert_close(found.log_softmax(1), wanted)
    assert network.notes == (
        "log_softmax (after fc): the log_softmax at the end is dropped; it does not change the argmax.",
    )


def test_classes_of_a_softmax_may_be_reordered_but_not_dropped() -> None:
    wanted, found, _ = both(returns(lambda y: y.softmax(1).flip(1)), SHAPE)
    torch.testing.assert_close(found.softmax(1), wanted)
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(returns(lambda y: y.softmax(1)[:, 1]), SHAPE)
    assert raised.value.where == "softmax (after fc)"
    assert raised.value.expected == "supported: softmax at the end, of all outputs; ReLU before it"


@pytest.mark.parametrize("ending", [nn.Sigmoid(), nn.LogSigmoid(), nn.Tanh()])
def test_a_trailing_sigmoid_is_dropped(ending: nn.Module) -> None:
    wanted, found, network = both(chain(nn.ReLU(), nn.Flatten(), nn.Linear(32, 1), ending), SHAPE)
    torch.testing.assert_close(ending(found), wanted)
    assert len(network.notes) == 1


def test_a_shift_in_front_of_padding_becomes_a_bias_per_neuron() -> None:
    """Weight 1 x 1 kernel 3, mean 0.5: inside the map all nine taps see the shift -0.5, at a corner only four do."""
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    model[0].weight.data.fill_(1)
    bias = to_relu_network(model, (1, 4, 4), mean=[0.5], std=[1]).layers[0].synapse.bias
    assert bias is not None
    assert bias[0].tolist() == [[-2, -3, -3, -2], [-3, -4.5, -4.5, -3], [-3, -4.5, -4.5, -3], [-2, -3, -3, -2]]
    model[0].padding = (0, 0)
    model[3] = nn.Linear(4, 2)
    uniform = to_relu_network(model, (1, 4, 4), mean=[0.5], std=[1]).layers[0].synapse.bias
    assert uniform is not None
    assert uniform.tolist() == [-4.5]


@pytest.mark.parametrize("one", [0.5, [0.5], np.float32(0.5), torch.tensor(0.5)])
def test_one_number_normalizes_all_channels(one: float | list[float]) -> None:
    model = Modern()
    each = to_relu_network(model, (2, 12, 10), mean=[0.5, 0.5], std=[0.25, 0.25]).layers[0].synapse
    for_all = to_relu_network(model, (2, 12, 10), mean=one, std=0.25).layers[0].synapse
    assert np.array_equal(for_all.weight, each.weight)
    assert for_all.bias is not None
    assert each.bias is not None
    assert np.array_equal(for_all.bias, each.bias)


def test_normalization_outside_the_model() -> None:
    mean, std = (0.3, 0.6), (0.2, 0.5)
    model = prepared(Modern(), (2, 12, 10))
    pixels = torch.from_numpy(np.random.default_rng(0).random((3, 2, 12, 10)))
    normalized = (pixels - torch.tensor(mean).double()[:, None, None]) / torch.tensor(std).double()[:, None, None]
    network = to_relu_network(model, (2, 12, 10), mean=mean, std=std)
    with torch.no_grad():
        torch.testing.assert_close(outputs(network, pixels).log_softmax(1), model(normalized), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "where", "found", "expected"),
    [
        ({"mean": [0.5, 0.5, 0.5], "std": [1, 1]}, "mean", "(0.5, 0.5, 0.5)", "one per channel (2)"),
        ({"mean": [0.5] * 9, "std": 1}, "mean", "9 numbers", "one per channel (2)"),
        ({"mean": np.zeros((2, 12, 10)), "std": 1}, "mean", "an array (2, 12, 10)", "one per channel (2)"),
        ({"mean": [0.5, None], "std": 1}, "mean", "[0.5, None]", "one per channel (2)"),
        ({"mean": [0, 0], "std": [1.0, float("nan")]}, "std", "(1.0, nan)", "finite and above 0"),
        ({"mean": [0, 0], "std": [1.0, 0.0]}, "std", "(1.0, 0.0)", "finite and above 0"),
    ],
)
def test_wrong_normalization(options: dict[str, Any], where: str, found: str, expected: str) -> None:
    with refused(where, found, expected):
        to_relu_network(Modern(), (2, 12, 10), **options)


def test_a_mean_for_each_channel_of_signals_needs_their_shape() -> None:
    with pytest.raises(UsageError) as caught:
        channel_normalization([0.5, 0.4, 0.3], 1.0, 1)
    assert (caught.value.where, caught.value.found) == ("mean", "found (0.5, 0.4, 0.3)")
    assert caught.value.hint == "Grey images have one mean. Signals (N, 3, L) need `input_shape`."
    with pytest.raises(UsageError) as caught:
        channel_normalization(0.5, [1.0, 0.9, 0.8], 1)
    assert (caught.value.where, caught.value.hint) == ("std", "")
    with pytest.raises(UsageError) as caught:
        channel_normalization([0.5, 0.4, 0.3], 1.0, 2)
    assert caught.value.hint == ""


@pytest.mark.parametrize(
    "mean",
    [
        np.array([[[0.25]], [[0.5]]]),
        torch.tensor([0.25, 0.5]).view(1, 2, 1, 1),
        [torch.tensor(0.25), torch.tensor(0.5)],
        {"red": 0.25, "green": 0.5}.values(),
        (value / 4 for value in (1, 2)),
    ],
)
def test_a_mean_may_have_the_forms_of_other_packages(mean: Any) -> None:
    assert channel_normalization(mean, torch.tensor(0.5), 2) == ((0.25, 0.5), (0.5, 0.5))


def test_layers_carry_names_geometry_and_pooling() -> None:
    network = to_relu_network(Modern(), (2, 12, 10))
    assert [layer.name for layer in network.layers] == ["conv1", "conv2", "fc"]
    conv2, fc = network.layers[1].synapse, network.layers[2].synapse
    assert isinstance(conv2, Conv)
    assert (conv2.pool, conv2.stride, conv2.padding, conv2.groups) == ((2, 2), (2, 2), (0, 1), 2)
    assert isinstance(fc, Dense)
    assert fc.pool == (2, 3)
    assert network.shapes == ((4, 12, 10), (6, 2, 3), (3,))


def test_a_number_that_is_not_finite_is_named_with_its_layer() -> None:
    model = chain(nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    model[3].weight.data[0, 0] = float("nan")
    with pytest.raises(InputError) as caught:
        to_relu_network(model, SHAPE)
    assert caught.value.where == "3"
    assert "NaN" in caught.value.found


def test_the_model_is_left_as_it_was() -> None:
    model = chain(nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten(), nn.Linear(32, 2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model[1].eval()  # A batch norm that is frozen while the rest is trained.
    modes = [module.training for module in model.modules()]
    to_relu_network(model, SHAPE)
    assert [module.training for module in model.modules()] == modes
    assert len(set(modes)) == 2
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
