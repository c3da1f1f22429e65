"""`damage.py`, which `.ci/run` calls, sees what it looks for; numbers that no training should give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.networks import random_network
from torch import nn

from loihi_convert import netx
from loihi_convert.arrays import Array
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.request import check_run
from loihi_convert.cnn.checkpoint import Checkpoint, save
from loihi_convert.cnn.models import build_model
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.errors import InputError, LoihiConvertError, NetxError, RangeError, UsageError
from loihi_convert.frontend.lower import to_relu_network
from loihi_convert.ir.quantized import MAX_TIMESTEPS
from loihi_convert.pipeline import exporting
from loihi_convert.simulation.simulator import outputs

HERE = Path(__file__).parent


# The sweep forks; a fork beside the threads that torch starts in a test run may wait for ever. So it gets a process.
JUDGE = """
import ctypes, json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import damage, numpy as np
damage.SECONDS = 2
folder = pathlib.Path(sys.argv[2])
reader = damage._Reader(folder, ".pt")
original = reader.original

def outcome(read):
    reader._result = read
    return str(next(iter(reader.row("kind", iter([("name", original)])).counts)))

def hang(path):
    while True:
        pass

def victim(path):
    (folder / "victim").touch()
    return {}

readers = {
    "itself": reader._result,
    "other": lambda path: {},
    "victim": victim,
    "segmentation fault": lambda path: ctypes.string_at(0),
    "hang": hang,
    "fat": lambda path: np.ones(600 << 20, np.uint8),
    "error of another kind": lambda path: 1 / 0,
}
print(json.dumps({name: outcome(read) for name, read in readers.items()}))
"""


def in_a_process_of_its_own(program: str, *words: object) -> Any:
    """What ``program`` prints last, as JSON."""
    command = [sys.executable, "-c", program, str(HERE), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_sweep_would_see_a_crash_and_a_difference(tmp_path: Path) -> None:
    """A judge that never condemns is worth nothing: readers that fail in every way it must notice."""
    assert in_a_process_of_its_own(JUDGE, tmp_path) == {
        "itself": "unchanged",
        "other": "silent difference",
        "victim": "silent difference",
        "segmentation fault": "crash",
        "hang": "crash",
        "fat": "crash",
        "error of another kind": "crash",
    }


def cnn() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)),
        )
    return model.eval().requires_grad_(False)


def digits(count: int = 24) -> Array:
    # Not the data set, so that no file is read: blobs are as good.
    return np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8)).astype(np.uint8)


def fill(layer: int, value: float, part: str = "weight") -> Callable[[nn.Sequential], object]:
    return lambda model: getattr(model[layer], part).view(-1)[:1].fill_(value)


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        (fill(4, float("nan")), "4"),
        (fill(0, float("inf")), "0"),
        (fill(7, float("-inf"), "bias"), "7"),
        (fill(1, -1.0, "running_var"), "0"),
    ],
)
def test_numbers_that_are_none_name_the_layer(change: Callable[[nn.Sequential], object], layer: str) -> None:
    model = cnn()
    change(model)
    with pytest.raises(InputError, match=f"^{layer}: a weight or bias is NaN or infinite"):
        to_relu_network(model, (1, 8, 8))


@pytest.mark.parametrize(("layers", "named"), [((0, 4), "4"), ((0, 4, 7), "4|7"), ((4, 7), "7")])
def test_weights_beyond_float32_name_the_layer(layers: tuple[int, ...], named: str) -> None:
    model = cnn()
    for layer in layers:
        model[layer].weight.mul_(1e25)
    network = to_relu_network(model, (1, 8, 8))
    with pytest.raises(RangeError, match=rf"^({named}): its (input|potential) exceeds 3\.4e38"):
        quantize(balance(network, digits(), 4, BalanceOptions(method="ngu-lee")), digits())


def nothing(model: nn.Sequential) -> None:
    """As it is."""


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "as it is": nothing,
    "no weights in the first layer": lambda model: model[0].weight.zero_(),
    "no weights in a hidden layer": lambda model: model[4].weight.zero_(),
    "a hidden layer of zeros": lambda model: (model[4].weight.zero_(), model[4].bias.zero_()),
    "a last layer of zeros": lambda model: (model[7].weight.zero_(), model[7].bias.zero_()),
    "only biases in the last layer": lambda model: model[7].weight.zero_(),
    "all zeros": lambda model: [parameter.zero_() for parameter in model.parameters()],
    "dead channels": lambda model: model[4].bias[:4].fill_(-1e3),
    "all channels dead": lambda model: model[4].bias.fill_(-1e3),
    "one outlier in the first layer": fill(0, 1e5),
    "one negative outlier in the first layer": fill(0, -1e5),
    "one outlier in a hidden layer": fill(4, 1e5),
    "one outlier in the last layer": fill(7, 1e5),
    "positive dense": lambda model: model[7].weight.abs_(),
    "negative dense": lambda model: model[7].weight.abs_().neg_(),
    "huge weights": lambda model: model[0].weight.mul_(1e15),
    "tiny weights": lambda model: model[4].weight.mul_(1e-30),
    "subnormal weights": lambda model: model[4].weight.mul_(1e-44),
    "a huge bias": lambda model: model[4].bias.fill_(1e20),
    "a norm without variance": lambda model: model[1].running_var.zero_(),
}


@pytest.mark.parametrize("method", ["ngu-lee", "percentile"])
@pytest.mark.parametrize("name", CHANGES)
def test_odd_weights_give_the_class_of_the_real_numbers(name: str, method: str, tmp_path: Path) -> None:
    model, images = cnn(), digits()
    CHANGES[name](model)
    spiking = balance(to_relu_network(model, (1, 8, 8)), images, 16, BalanceOptions(method=method))  # type: ignore[arg-type]
    netx.write(quantize(spiking, images), tmp_path / "model.net")
    real = outputs(spiking, images, 16)[:, -1]
    integers = run_network(netx.read(tmp_path / "model.net"), images, 16).predictions[:, -1]
    assert np.isfinite(real).all()
    # Noise images are near ties, which 8 bits may turn over: 3 of 24 at most were found.
    assert (integers == real.argmax(axis=1)).sum() >= 21


@pytest.mark.parametrize("value", [0, 128, 255])
def test_calibration_images_that_are_all_alike(value: int) -> None:
    calibration = np.full((4, 1, 8, 8), value, np.uint8)
    spiking = balance(to_relu_network(cnn(), (1, 8, 8)), calibration, 16, BalanceOptions(method="ngu-lee"))
    network = quantize(spiking, calibration)
    real = outputs(spiking, calibration, 16)[:, -1].argmax(axis=1)
    assert run_network(network, calibration, 16).predictions[:, -1].tolist() == real.tolist()


@pytest.mark.parametrize("timesteps", [0, -1, MAX_TIMESTEPS + 1, 2**63])
def test_timesteps_that_are_none(timesteps: int) -> None:
    with pytest.raises(UsageError, match=rf"timesteps: found {timesteps}; must be a whole number in 1\.\.1,048,576"):
        balance(to_relu_network(cnn(), (1, 8, 8)), digits(), timesteps, BalanceOptions(method="ngu-lee"))


def test_a_run_that_would_fill_the_memory_is_refused() -> None:
    network = quantize(
        balance(to_relu_network(cnn(), (1, 8, 8)), digits(1), 1, BalanceOptions(method="ngu-lee")), digits(1)
    )
    images = np.broadcast_to(digits(1), (2**30, 1, 8, 8))
    # 4 bytes for each of 10 outputs, 16 for each of 2 hidden layers: 72 GiB.
    with pytest.raises(UsageError, match=r"1073741824 images x 1 steps takes 73728\.0 MiB") as raised:
        check_run(network, images, 1)
    assert (raised.value.where, raised.value.expected) == ("images", "must be at most 4096 MiB")


def test_export_says_that_rounding_changes_the_classes(tmp_path: Path) -> None:
    """A single weight of the last layer a million times the others leaves them no bits, and its own score is lowest."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = dict(build_model("digits-cnn", (1, 8, 8), 10).state_dict())
    images = digits(40)

    def notes(state: dict[str, torch.Tensor], name: str) -> str:
        path = tmp_path / f"{name}.pt"
        save(Checkpoint("digits-cnn", state, "digits", (1, 8, 8), tuple("0123456789"), 0, 0.5, 0.5, {}), path)
        return " ".join(exporting.export(path, None, (8,), images)[0].notes)

    assert "agrees with the float SNN" not in notes(state, "good")
    weight = state["fc.weight"].clone()
    weight[3] = -1e4
    expected = "the quantized network only agrees with the float SNN on 0.00 % of 32 calibration images"
    assert expected in notes({**state, "fc.weight": weight}, "outlier")


def test_an_error_of_a_file_names_it_and_exits_with_3(tmp_path: Path) -> None:
    network, _ = random_network(0)
    path = tmp_path / "wörter und zahlen.net"
    netx.write(network, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(NetxError, match=r"wörter und zahlen\.net: damaged") as caught:
        netx.read(path)
    assert isinstance(caught.value, LoihiConvertError)
    assert caught.value.exit_code == 3
