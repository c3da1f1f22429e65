"""CNNs that were quantized, or prepared for it, are refused with the advice to convert them as they were before."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from support.modules import Of, outputs, prepared
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.nn.quantized import FloatFunctional

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.lowering import to_relu_network

SHAPE = (1, 6, 6)

# torch announces that its quantization moves to another package.
pytestmark = pytest.mark.filterwarnings("ignore")


class Residual(nn.Module):
    """A CNN written for torch's static quantization; in floating point it is an ordinary one."""

    def __init__(self) -> None:
        super().__init__()
        self.stub, self.back = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.fc, self.joined = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 5), FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stub(x))
        return self.back(self.fc(self.joined.add_relu(x, x).mean((2, 3))))


def sequential() -> nn.Module:
    stub, back = quantization.QuantStub(), quantization.DeQuantStub()
    return nn.Sequential(stub, nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), back).eval()


def observed(model: nn.Module) -> nn.Module:
    model.qconfig = quantization.get_default_qconfig("x86")
    quantization.prepare(model, inplace=True)
    model(torch.rand(8, *SHAPE))
    return model


def prepared_for_training(model: nn.Module) -> nn.Module:
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    quantization.prepare_qat(model.train(), inplace=True)
    model(torch.rand(8, *SHAPE))
    return model.eval()


def refused(model: nn.Module) -> UnsupportedModelError:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(model, SHAPE)
    assert "as it was before its quantization" in raised.value.hint
    return raised.value


@pytest.mark.skipif("x86" not in torch.backends.quantized.supported_engines, reason="needs torch's x86 int8 kernels")
@pytest.mark.parametrize(("model", "first"), [(sequential(), "0"), (Residual(), "stub")])
def test_an_int8_cnn_is_refused_at_its_first_quantized_layer(model: nn.Module, first: str) -> None:
    error = refused(quantization.convert(observed(copy.deepcopy(model).eval())))
    assert (error.where, error.found) == (first, "is quantized, or prepared for it")


def test_a_cnn_prepared_for_quantization_is_refused() -> None:
    refused(observed(sequential()))
    refused(prepared_for_training(sequential()))


@pytest.mark.parametrize(
    "quantize",
    [
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8).dequantize(),
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255),
    ],
)
def test_functions_that_quantize_are_refused(quantize: Callable[[Tensor], Tensor]) -> None:
    refused(Of(lambda m, x: m.fc(quantize(x).flatten(1)), fc=nn.Linear(36, 2)))


def test_a_cnn_that_is_only_written_for_quantization_converts() -> None:
    model, images = prepared(Residual(), SHAPE), torch.rand(3, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(outputs(to_relu_network(model, SHAPE), images), model(images))


def test_rounding_gets_a_hint() -> None:
    assert "`fine_tune`" in refused(Of(lambda m, x: m.fc(x.flatten(1)).round(), fc=nn.Linear(36, 2))).hint
