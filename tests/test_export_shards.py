"""Files exported with calibration images in shards: the same bytes in any split, without Dask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.modules import Of, prepared
from support.shard_runs import Elsewhere
from torch import Tensor, nn

from loihi_convert.conversion.options import BalanceOptions, ConversionOptions, QuantizeOptions
from loihi_convert.errors import PlatformError
from loihi_convert.ground.arrays import Array
from loihi_convert.pipeline import exporting
from loihi_convert.reading.source import Source
from loihi_convert.simulation import image_shards, layerwise
from loihi_convert.simulation.image_shards import DividedImages, Shard

SHAPE = (2, 12, 12)


def images(count: int = 440) -> Array:
    """Seven blocks of 64, the last one smaller."""
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE)).astype(np.uint8)


def block(network: Of, x: Tensor) -> Tensor:
    y = network.relu(network.norm1(network.conv1(x)))
    z = network.relu(network.norm2(network.conv2(y)) + y)
    return network.fc(torch.flatten(network.pool(z), 1))


def source() -> Source:
    """A residual network: its skip passes through relays."""
    torch.manual_seed(0)
    layers = {
        "conv1": nn.Conv2d(2, 5, 3, padding=1),
        "norm1": nn.BatchNorm2d(5),
        "conv2": nn.Conv2d(5, 5, 3, padding=1),
        "norm2": nn.BatchNorm2d(5),
        "relu": nn.ReLU(),
        "pool": nn.AvgPool2d(3),
        "fc": nn.Linear(5 * 4 * 4, 3),
    }
    return Source.from_module(prepared(Of(block, **layers), SHAPE), SHAPE)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_shards, "SHARDS_PER_WORKER", 1)


CASES: list[tuple[str, BalanceOptions, QuantizeOptions]] = [
    ("auto", BalanceOptions(), QuantizeOptions()),
    ("least-squares", BalanceOptions(method="least-squares", reset="hard"), QuantizeOptions(thresholds="scalar")),
    ("ngu-lee", BalanceOptions(method="ngu-lee", bias_correction=True), QuantizeOptions(weight_bits=5)),
    ("poisson", BalanceOptions(method="ngu-lee", poisson_seed=3, bias_correction=True), QuantizeOptions()),
    ("per layer", BalanceOptions(method="robust-norm"), QuantizeOptions(split_readout=True)),
    ("chip", BalanceOptions(method="percentile", percentile=99.9), QuantizeOptions(target="loihi2")),
    ("spikes", BalanceOptions(method="rmp", readout="spikes", input_coding="constant"), QuantizeOptions()),
]


@pytest.mark.parametrize(("balance", "quantize"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.usefixtures("small_shards")
def test_a_file_is_the_same_in_every_split(tmp_path: Path, balance: BalanceOptions, quantize: QuantizeOptions) -> None:
    found = {}
    for count in (0, 1, 2, 7):
        workers = Elsewhere(count) if count else None
        shown = images() if workers is None else DividedImages(images(), workers)
        options = ConversionOptions(balance, quantize)
        (done,) = exporting.export(source(), tmp_path / f"{count}.net", (6,), shown, options)
        found[count] = (tmp_path / f"{count}.net").read_bytes(), done.report, done.agreement, done.notes
        assert workers is None or workers.computed > count
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert found[7] == found[0]


@pytest.mark.usefixtures("small_shards")
def test_what_a_worker_keeps_may_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each shard came to another worker every time, or to one that has seen it long ago."""
    options = BalanceOptions(method="least-squares", bias_correction=True)

    def content(name: str) -> bytes:
        shown = DividedImages(images(), Elsewhere(7))
        exporting.export(source(), tmp_path / name, (6,), shown, ConversionOptions(options))
        return (tmp_path / name).read_bytes()

    simulated: list[int] = []
    part = layerwise.LayerwisePart.__init__

    def counted(self: Any, plan: Any, shard: Shard) -> None:
        simulated.append(shard.first)
        part(self, plan, shard)

    monkeypatch.setattr(layerwise.LayerwisePart, "__init__", counted)
    kept = content("kept.net")
    # Two simulations: to balance, and to correct.
    assert len(simulated) == 2 * 7
    simulated.clear()
    monkeypatch.setattr(layerwise, "_MOST_KEPT", 2)
    assert content("lost.net") == kept
    assert len(simulated) > 2 * 7


def test_divided_images_look_like_images() -> None:
    divided = DividedImages(images(), Elsewhere(2))
    assert (divided.shape, divided.dtype, len(divided)) == ((440, *SHAPE), np.dtype(np.uint8), 440)
    tail = divided[100:]
    assert np.array_equal(np.asarray(tail), images()[100:])
    assert tail.shards[0].first == 0
    assert sum(len(shard.images) for shard in tail.shards) == 340


def test_an_error_of_workers_leaves_no_file(tmp_path: Path) -> None:
    class Dead(Elsewhere):
        def map(self, *_: Any, **__: Any) -> Any:
            raise PlatformError("no worker is left", where="Dask")

    with pytest.raises(PlatformError, match="no worker is left"):
        exporting.export(source(), tmp_path / "model.net", (4,), DividedImages(images(), Dead(2)))
    assert not list(tmp_path.iterdir())
