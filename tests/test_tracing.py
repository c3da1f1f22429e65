"""What a forward may do while torch.fx traces it; what it may not is an error that says what to do."""

from __future__ import annotations

import contextlib
import operator
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from support.modules import Of, outputs, prepared
from torch import Tensor, nn
from torch.autograd import Variable
from torch.utils.checkpoint import checkpoint

from loihi_convert.errors import InputError, UnsupportedModelError
from loihi_convert.lowering import obstacles, to_relu_network
from loihi_convert.reading.source import Source

SHAPE = (1, 6, 6)


class Straight(torch.autograd.Function):
    """A ReLU with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(x)
        return x.relu() * factor

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return *gradients, None


def calls(function: Callable[[Tensor], Any]) -> nn.Module:
    """A convolution, ``function``, and a dense layer."""
    return Of(lambda m, x: m.fc(function(m.conv(x)).flatten(1)), conv=nn.Conv2d(1, 2, 3), fc=nn.Linear(32, 3))


def assert_is_read(model: nn.Module) -> None:
    model = prepared(model, SHAPE)
    images = torch.rand(4, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(outputs(to_relu_network(model, SHAPE), images), model(images))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: Straight.apply(x, 2.0),
        lambda x: checkpoint(torch.relu, x, use_reentrant=False),
    ],
)
def test_a_forward_may_give_its_values_to_autograd(function: Callable[[Tensor], Tensor]) -> None:
    assert_is_read(calls(function))


def by_an_array_set_later(m: Any, x: Tensor) -> Tensor:
    index = np.array([1, 0])
    y = x[:, index]
    index[:] = 0
    return y


def with_an_error_that_it_catches(m: Any, x: Tensor) -> Tensor:
    with contextlib.suppress(RuntimeError):
        return x.reshape(7)
    return x * 2


@pytest.mark.parametrize(
    "function",
    [
        by_an_array_set_later,
        lambda m, x: x[:, np.array([True, False])].expand(-1, 2, -1, -1),
        lambda m, x: torch.cat([x[:, : np.int64(1)], x[:, np.int64(1) :]], 1) * np.float32(0.5),
        lambda m, x: np.float32(0.5) * x + np.float64(0.25) * x,
        lambda m, x: np.sqrt(m.one.item()) * x - m.pair[np.array([[1], [0]])].reshape(2, 1, 1),
        lambda m, x: x * float(m.pair[1]) + int(m.one) / 2,
        lambda m, x: x * np.clip(m.pair[1].item(), 0, 1.5) + np.round(m.pair[1].item() + 0.2),
        lambda m, x: x[:, m.pair.long().clamp(max=1).tolist()],
        with_an_error_that_it_catches,
        lambda m, x: x[:, np.argwhere(m.pair.data.cpu().numpy() > 1)[:, 0]].expand(-1, 2, -1, -1),
        lambda m, x: x[:, np.squeeze(np.argwhere(np.asarray(m.pair.detach()) > 1))].unsqueeze(1).repeat(1, 2, 1, 1),
        lambda m, x: sum(x * each for each in range(m.one.long() + 1)),
    ],
)
def test_a_forward_may_use_numpy_and_read_its_parameters(function: Callable[[Any, Tensor], Tensor]) -> None:
    model = Of(lambda m, x: m.fc(function(m, m.conv(x)).flatten(1)), conv=nn.Conv2d(1, 2, 3), fc=nn.Linear(32, 3))
    model.pair = nn.Parameter(torch.tensor([0.5, 2.5]), requires_grad=True)
    model.register_buffer("one", torch.tensor(1.0))
    assert_is_read(model)


OF_DTYPE = {torch.float32: torch.FloatTensor, torch.float64: torch.DoubleTensor}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.cpu() if x.is_cuda or x.is_xpu or x.is_mps else x.relu(),
        lambda x: x.relu() if torch.is_floating_point(x) and not torch.is_complex(x) else x,
        lambda x: x if torch.isnan(x).any() or x.isinf().any().item() or not torch.isfinite(x).all() else x.relu(),
        lambda x: x.relu() if "cuda" not in x.type() else x.cpu(),
        lambda x: x.type(OF_DTYPE[x.dtype]).type(x.type()).type(x.dtype).relu(),
        lambda x: Variable(x, requires_grad=False).relu() if isinstance(x, Variable) else x,
        lambda x: x.relu() if nn.Parameter(torch.ones(1)) > 0 else x,
    ],
)
def test_a_forward_may_ask_what_is_the_same_for_all_images(function: Callable[[Tensor], Tensor]) -> None:
    assert_is_read(calls(function))
    assert type(Variable(torch.ones(1))) is Tensor


class CompiledForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(32, 3)

    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().flatten(1))


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="PyTorch 2.3 compiles it nevertheless")
def test_a_compiled_forward_is_read_as_it_is_written() -> None:
    assert_is_read(CompiledForward())


class OwnParameters(nn.Sequential):
    """As in MAML, where it gives those of one task."""

    def parameters(self, task: int) -> Any:  # type: ignore[override]
        return [task]


def test_a_model_may_have_a_method_parameters_of_its_own() -> None:
    network = to_relu_network(OwnParameters(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)), SHAPE)
    assert len(network.layers) == 2


def test_places_are_named_by_what_they_take() -> None:
    """Not by the module that was called before; also those where a module is called again."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.act(m.second(m.act(m.first(x)))).flatten(1)
        policy, value = m.policy(x), m.value(x)
        return torch.cat([torch.erf(policy), m.wave(value)], 1)

    model = Of(
        forward,
        act=nn.ELU(),
        first=nn.Conv2d(1, 1, 1),
        second=nn.Conv2d(1, 1, 1),
        policy=nn.Linear(36, 2),
        value=nn.Linear(36, 1),
        wave=Of(lambda m, x: m.fc(x.sin()).cos(), fc=nn.Linear(1, 1)),
    )
    expected = ["act", "act (after second)", "sin (in wave)", "erf (after policy)", "cos (after wave.fc)"]
    assert [each.where for each in obstacles(model, SHAPE)] == expected


def sequence() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.layers[2:](m.layers[:2](x)),
        lambda m, x: m.layers[3:](checkpoint(m.layers[:3], x, use_reentrant=False)),
        lambda m, x: nn.Sequential(*m.layers.children())(x),
        lambda m, x: m.layers[4](nn.Flatten()(nn.ReLU()(m.layers[0](x)))),
    ],
)
def test_a_forward_may_make_modules_of_its_layers(forward: Callable[[Any, Tensor], Tensor]) -> None:
    assert_is_read(Of(forward, layers=sequence()))


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 2, 3), nn.Linear(6, 2)])
def test_a_cast_to_another_dtype_is_not_called_a_wrong_shape(layer: nn.Module) -> None:
    with pytest.raises(InputError) as raised:
        to_relu_network(Of(lambda m, x: m.layer(x.double()), layer=layer), SHAPE)
    assert "x.double()" in raised.value.found
    assert "float32" in raised.value.hint


def test_a_shape_that_a_forward_does_not_take_is_said_with_its_line() -> None:
    with pytest.raises(InputError) as raised:
        to_relu_network(Of(lambda m, x: m.fc(x.flatten(1)), fc=nn.Linear(35, 3)), SHAPE)
    place = r"\(test_tracing\.py, line \d+, 'to_relu_network\(Of\(lambda .+': mat1 and mat2"
    assert re.search(f"does not accept images of shape .* {place}", raised.value.found)


def changed(constant: Tensor, x: Tensor) -> Tensor:
    constant.copy_(x.amax())
    return constant


def of_a_changed_view(x: Tensor) -> Tensor:
    zeros = x.new_zeros(2)
    first = zeros[0]
    operator.iadd(zeros, x.amax((0, 2, 3)))
    return first


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * float(x.mean()),
        lambda x: x * float(changed(x.new_zeros(()), x).sqrt()),
        # Of black images, too, that is 0.
        lambda x: x * float(changed(x.new_zeros(()), 0 * x)),
        lambda x: x * float(of_a_changed_view(x)),
        lambda x: x * float(changed(torch.ones(()).to(x), x).numpy()),
        lambda x: torch.from_numpy(x.numpy()),
        lambda x: torch.from_numpy(np.sort(x)),
        lambda x: x * x.amax().item(),
        lambda x: x * x.amax((2, 3)).tolist()[0][0],
        lambda x: x if x.mean() > 0 else -x,
    ],
)
def test_numbers_of_the_image_are_not_told(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(calls(function), SHAPE)
    assert "reads numbers of the image" in raised.value.found
    assert "test_tracing.py, line" in raised.value.found


def assigned(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 0
    return y


def assigned_to_zeros(x: Tensor) -> Tensor:
    y = x.new_zeros(x.shape)
    y[:, :1] = x[:, 1:]
    return y


def assigned_to_images(x: Tensor) -> Tensor:
    y = x.clone()
    y[y.mean((1, 2, 3)) > 0] = 0
    return y


@pytest.mark.parametrize("function", [assigned, assigned_to_zeros])
def test_parts_may_be_assigned(function: Callable[[Tensor], Tensor]) -> None:
    assert_is_read(calls(function))


def test_parts_are_not_chosen_by_the_image() -> None:
    with pytest.raises(UnsupportedModelError):
        to_relu_network(calls(assigned_to_images), SHAPE)


@pytest.mark.parametrize(
    ("shape", "swap"), [((8, 3), lambda x: x.transpose(1, 2)), ((1, 8, 3), lambda x: x.squeeze(1).permute(0, 2, 1))]
)
def test_sensor_data_with_the_channels_last_is_to_be_given_with_the_channels_first(
    shape: tuple[int, ...], swap: Callable[[Tensor], Tensor]
) -> None:
    model = Of(lambda m, x: m.fc(m.conv(swap(x)).flatten(1)), conv=nn.Conv1d(3, 2, 3), fc=nn.Linear(12, 3))
    with pytest.raises(UnsupportedModelError) as raised:
        Source.from_module(model, shape)
    assert "(C, L)" in raised.value.hint


def test_threads_convert_at_the_same_time() -> None:
    """Standard output and the hooks of modules belong to all threads."""
    before = sys.stdout, nn.Module.__call__
    models = [calls(torch.relu) for _ in range(24)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda model: Source.from_module(model, SHAPE).network, models))
    assert [network.layers[0].synapse.weight.tolist() for network in found] == [
        to_relu_network(model, SHAPE).layers[0].synapse.weight.tolist() for model in models
    ]
    assert (sys.stdout, nn.Module.__call__) == before
