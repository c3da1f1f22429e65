"""Skips are spread over as many relays as were asked for, and the file says so."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from loihi_convert.conversion.options import BalanceOptions, ConversionOptions, QuantizeOptions
from loihi_convert.errors import DataError, InputError, UnsupportedModelError, UsageError
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ir.network import relay_count
from loihi_convert.netx import read
from loihi_convert.pipeline import exporting
from loihi_convert.pipeline.converting import converted, copies_that_fit, require_same_outputs
from loihi_convert.reading.source import Source


class Block(nn.Module):
    """A skip whose values are large beside the convolution that it joins."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.stem, self.conv1 = nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2, self.fc = nn.Conv2d(channels, channels, 3, padding=1), nn.Linear(channels * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))) + x)
        return self.fc(x.flatten(1))


METHOD = BalanceOptions(method="percentile")


def source(channels: int = 4) -> Source:
    torch.manual_seed(0)
    return Source.from_module(Block(channels), (1, 8, 8))


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8)).astype(np.uint8)


@pytest.mark.parametrize(("copies", "relays"), [(1, 4), (2, 8), (4, 16)])
def test_as_many_relays_as_asked_for(copies: int, relays: int) -> None:
    made = converted(source(), pixels(), 4, ConversionOptions(METHOD, skip_copies=copies))
    assert sum(relay_count(layer.relay_of) for layer in made.quantized.layers) == relays
    assert made.quantized.provenance.model.skip_copies == copies
    assert ("skip_copies" in made.quantized.provenance["model"]) == (copies > 1)


def test_the_number_is_chosen_by_trials_and_said() -> None:
    made = converted(source(), pixels(), 4, ConversionOptions(METHOD))
    (note,) = [note for note in made.notes if "relay" in note]
    assert "1: " in note
    assert "2: " in note


class Misread(nn.Module):
    """Computes something else for many images than for the two that it is read with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(relu_of_many(self.conv(x)) + 0.1).flatten(1))


def relu_of_many(x: Tensor) -> Tensor:
    return x.relu() if len(x) > 2 else x


def test_a_network_that_was_misread_is_not_converted() -> None:
    misread = Source.from_module(Misread(), (1, 8, 8))
    with pytest.raises(UnsupportedModelError) as caught:
        converted(misread, pixels(), 4, ConversionOptions(METHOD))
    assert caught.value.where == "Misread"
    assert "hooks" in caught.value.expected


class MisreadInOneOutput(Misread):
    """The output that changes is far smaller than the others."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x).relu().flatten(1)
        return torch.cat([self.fc(features), self.fc(features) * (1e-4 if len(x) > 2 else 2e-4)], 1)


def test_each_output_of_a_regression_is_compared_with_its_own_size() -> None:
    torch.manual_seed(0)
    misread = Source.from_module(MisreadInOneOutput(), (1, 8, 8), task="regression")
    with pytest.raises(UnsupportedModelError, match="other outputs"):
        require_same_outputs(misread, pixels())


class Larger(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if len(x) > 64 else 1)


def test_a_forward_that_differs_in_large_batches_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="other outputs: on 40 images they differ by 50 %"):
        require_same_outputs(Source.from_module(Larger(nn.Flatten(), nn.Linear(64, 3)), (1, 8, 8)), pixels())


class OfTwoImages(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.ones(2, 1)


def test_a_forward_that_takes_only_two_images_is_refused() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        require_same_outputs(Source.from_module(OfTwoImages(nn.Flatten(), nn.Linear(64, 3)), (1, 8, 8)), pixels())
    assert caught.value.found.startswith("its forward fails on 65 images at once (The size of tensor")
    assert caught.value.expected == "must take any number of images"
    assert caught.value.where == "OfTwoImages"


class MisreadIfDark(Misread):
    """The values that change are negative only on dark images."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(relu_of_many(x - 0.3))).flatten(1))


def test_calibration_images_need_not_show_a_misreading() -> None:
    torch.manual_seed(0)
    bright = np.random.default_rng(0).integers(128, 256, (8, 1, 8, 8)).astype(np.uint8)
    with pytest.raises(UnsupportedModelError, match="other outputs"):
        require_same_outputs(Source.from_module(MisreadIfDark(), (1, 8, 8)), bright)


@pytest.mark.parametrize("ending", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid(), nn.LogSigmoid(), nn.Tanh()])
def test_outputs_are_compared_after_a_softmax_or_sigmoid(ending: nn.Module) -> None:
    torch.manual_seed(0)
    ended = Source.from_module(nn.Sequential(Block(), ending), (1, 8, 8), normalization=Normalization((0.3,), (0.2,)))
    require_same_outputs(ended, pixels())
    with pytest.raises(UnsupportedModelError):
        require_same_outputs(replace(ended, provenance=source().provenance), pixels())


def test_a_cnn_whose_outputs_overflow_is_refused() -> None:
    cnn = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for layer in (cnn[1], cnn[3]):
            layer.weight.fill_(1e30)
    with pytest.raises(InputError) as caught:
        require_same_outputs(Source.from_module(cnn, (1, 8, 8)), pixels())
    assert caught.value.where == "Sequential"
    assert "NaN or infinite" in caught.value.found


def test_normalization_is_part_of_the_comparison() -> None:
    torch.manual_seed(0)
    normalized = Source.from_module(Block(), (1, 8, 8), normalization=Normalization((0.3,), (0.2,)))
    require_same_outputs(normalized, pixels())
    with pytest.raises(UnsupportedModelError):
        require_same_outputs(replace(normalized, provenance=source().provenance), pixels())


def test_a_file_is_compared_with_the_network_of_its_copies(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "block.pt"
    torch.save(Block().state_dict(), path)
    opened = Source.from_module(Block(), (1, 8, 8))
    (done,) = exporting.export(opened, tmp_path / "block.net", (4,), pixels(), ConversionOptions(METHOD, skip_copies=2))
    network = read(done.path)
    assert done.verified_images == 32
    assert opened.with_skip_copies(network.provenance.model.skip_copies).network.shapes == network.shapes


@pytest.mark.parametrize("copies", [0, 9])
def test_too_few_or_too_many(copies: int) -> None:
    with pytest.raises(UsageError) as raised:
        converted(source(), pixels(), 4, ConversionOptions(BalanceOptions(), QuantizeOptions(), copies))
    assert raised.value.where == "skip_copies"


def chain(*sizes: int, bias: bool = True) -> Source:
    """Dense layers with these numbers of inputs and outputs, on images of one row."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias), nn.ReLU()]
    return Source.from_module(nn.Sequential(*layers[:-1]), (1, 1, sizes[0]))


def test_a_network_of_too_many_neurocores_is_refused_before_any_work(tmp_path: Path) -> None:
    """Four layers of 8 x 8 pixels, one core each; for the chip three more, which pass on the spike of the bias source.

    The images do not fit the network, which is found only later.
    """
    wrong, three = pixels()[:, :, :4], QuantizeOptions(max_cores=3)
    with pytest.raises(InputError) as raised:
        exporting.export(source(), tmp_path / "block.net", (4, 8), wrong, ConversionOptions(quantize=three))
    assert raised.value.found == "the network needs 4 neurocores"
    assert raised.value.expected == "must be at most 3"
    assert "The largest layers: stem (1), conv1 (1), conv2 (1)." in raised.value.hint
    assert "As it is, it needs 1 chip." in raised.value.hint
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"needs 7 neurocores.* sources of biases: 3\."):
        converted(source(), wrong, 4, ConversionOptions(quantize=QuantizeOptions(target="loihi2", max_cores=6)))


def test_biases_of_a_correction_are_counted_before_any_work() -> None:
    """Three layers of one core each, and two cores for the bias source's spike, if the other two layers get a bias."""
    plain, limit = chain(8, 8, 8, 4, bias=False), QuantizeOptions(target="loihi2", max_cores=4)
    images = np.random.default_rng(0).integers(0, 256, (32, 1, 1, 8)).astype(np.uint8)
    with pytest.raises(InputError, match=r"needs 5 neurocores.* sources of biases: 2\."):
        converted(plain, images[..., :4], 4, ConversionOptions(replace(METHOD, bias_correction=True), limit))
    made = converted(plain, images, 4, ConversionOptions(BalanceOptions(), limit))
    assert not any(layer.bias is not None for layer in made.quantized.layers)
    note = "without bias correction: with more biases the network would need 5 neurocores, and the limit is 4"
    assert note in made.notes
    assert note not in converted(plain, images, 4, ConversionOptions(METHOD, limit)).notes


@pytest.mark.parametrize(
    ("options", "may_correct"),
    [
        ({}, True),
        ({"bias_correction": False}, False),
        ({"initial_potential": "zero"}, False),
        ({"amplitude": "literal"}, False),
        ({"method": "percentile"}, False),
        ({"method": "percentile", "bias_correction": True}, True),
    ],
)
def test_when_biases_may_be_corrected(options: dict[str, Any], may_correct: bool) -> None:
    assert BalanceOptions(**options).may_correct is may_correct


def test_what_fits_is_said() -> None:
    """For 1,024 inputs a core has 15 words a row, for 47 neurons, and half of the memory holds 24: 3 to 5 cores."""
    with pytest.raises(InputError) as raised:
        converted(chain(1024, 120, 10), pixels(), 4, ConversionOptions(BalanceOptions(), QuantizeOptions(max_cores=3)))
    assert "(3 to 5), " in raised.value.hint
    assert "Saves most: " in raised.value.hint


def test_a_network_that_may_not_fit_gets_a_note() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 1, 1024)).astype(np.uint8)
    options = BalanceOptions(method="robust-norm")
    for most, is_noted in ((4, True), (6, False)):
        made = converted(chain(1024, 120, 10), images, 2, ConversionOptions(options, QuantizeOptions(max_cores=most)))
        notes = [note for note in made.notes if "neurocores" in note]
        assert notes == (["the network needs 4 to 6 neurocores, so it may exceed the limit of 4"] if is_noted else [])


def test_a_layer_that_no_core_holds_is_refused_for_any_number() -> None:
    with pytest.raises(InputError) as raised:
        converted(chain(16_001, 2), pixels(), 4, ConversionOptions(BalanceOptions(), QuantizeOptions(max_cores=10**6)))
    assert (raised.value.found, raised.value.expected) == ("16,001 inputs", "a neurocore has 16,000 axons in")
    assert "chip" not in raised.value.hint


def test_no_more_relays_are_tried_than_fit() -> None:
    """With 96 channels the network takes 9 neurocores with one relay per skip, 13 with two, and 15 with four."""
    wide = source(96)
    for most, copies in ((None, (1, 2, 4)), (15, (1, 2, 4)), (14, (1, 2)), (13, (1, 2)), (12, (1,)), (9, (1,))):
        assert copies_that_fit(wide, QuantizeOptions(max_cores=most), may_correct=False) == copies
    made = converted(wide, pixels(), 2, ConversionOptions(METHOD, QuantizeOptions(max_cores=12)))
    assert made.quantized.provenance.model.skip_copies == 1
    assert not any("relay" in note for note in made.notes)


@pytest.mark.parametrize("most", [0, -1, 2**31])
def test_max_cores_out_of_range(most: int) -> None:
    with pytest.raises(UsageError) as raised:
        QuantizeOptions(max_cores=most)
    assert raised.value.where == "max_cores"


@pytest.mark.parametrize(("count", "words"), [(1, "1 calibration image:"), (99, "99 calibration images:"), (100, "")])
def test_few_calibration_images_are_noted(count: int, words: str) -> None:
    flat = Source.from_module(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), (1, 8, 8))
    images = np.tile(pixels(), (3, 1, 1, 1))[:count]
    made = converted(flat, images, 4, ConversionOptions(METHOD))
    assert [note.split(" the results ")[0] for note in made.notes if "calibration image" in note] == [
        f"only {words}"
    ] * bool(words)


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (4, 1, 7, 7), (4, 2, 8, 8)])
def test_calibration_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError) as caught:
        converted(source(), np.zeros(shape, np.uint8), 4, ConversionOptions(METHOD))
    assert caught.value.where == "calibration images"
