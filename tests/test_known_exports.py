"""Ten small exports have the integers, and the verbs the ``--json``, that ``golden/exports.json`` holds.

``pytest --record-networks tests/test_known_exports.py`` writes that file. Weights are multiples of 1/16 with few bits,
so that the integers do not depend on the processor.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import loihi_convert as lc
from loihi_convert import cli
from loihi_convert.conversion.graded import to_graded

GOLDEN = Path(__file__).parent / "golden" / "exports.json"
SOURCE = """
import torch
from torch import nn

def cnn(outputs=3):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24, outputs)),
    )
    for parameter in model.parameters():
        parameter.data = torch.randint(-8, 9, parameter.shape) / 16
    return model.eval()
"""
pytestmark = pytest.mark.slow
namespace: dict[str, Any] = {}
exec(SOURCE, namespace)
cnn = namespace["cnn"]

EXPORTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "auto": ({}, {}),
    "loihi2": ({}, {"target": "loihi2"}),
    "ngu-lee, 6 bits": ({"method": "ngu-lee"}, {"weight_bits": 6}),
    "hard": ({"method": "act-norm-channelwise", "reset": "hard"}, {}),
    "scalar": ({"method": "percentile"}, {"thresholds": "scalar"}),
    "poisson": ({"method": "percentile", "input_coding": "poisson"}, {}),
    "spikes": ({"method": "percentile", "readout": "spikes"}, {}),
}
MASKED = re.compile(
    r"seconds|version|path|folder|file|sha256|digest|command|threads|per_second|time$|machine|byte|platform"
)


def images(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (64, *shape)).astype(np.uint8)


def digest(network: Any) -> str:
    """The integers of each layer, and where they are."""
    found = hashlib.sha256()
    for layer in network.layers:
        for part in (layer, layer.synapse, getattr(layer, "neuron", None)):
            for one in () if part is None else fields(part):
                value = getattr(part, one.name)
                if isinstance(value, np.ndarray) and value.dtype.kind == "i":
                    found.update(f"{one.name} {value.shape}".encode() + value.astype("<i8").tobytes())
                elif isinstance(value, int | str | tuple):
                    found.update(f"{one.name} {value}".encode())
    return found.hexdigest()


@pytest.fixture(scope="module")
def known(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What is stored; a recording starts empty, and is written at the end."""
    is_recording = request.config.getoption("--record-networks")
    found = {} if is_recording else json.loads(GOLDEN.read_text())
    yield found
    if is_recording:
        lines = ",\n".join(
            f"{json.dumps(name)}: {json.dumps(each, sort_keys=True)}" for name, each in sorted(found.items())
        )
        GOLDEN.write_text(f"{{\n{lines}\n}}\n")


def require_known(known: dict[str, Any], name: str, value: Any, config: pytest.Config) -> None:
    if config.getoption("--record-networks"):
        known[name] = value
    assert same(value, known[name]), (value, known[name])


def same(found: Any, stored: Any) -> bool:
    """Whether all is equal; floats, which are stored to three digits, to a hundredth."""
    if isinstance(found, dict) and isinstance(stored, dict):
        return found.keys() == stored.keys() and all(same(found[name], stored[name]) for name in found)
    if isinstance(found, list) and isinstance(stored, list):
        return len(found) == len(stored) and all(map(same, found, stored))
    return found == (pytest.approx(stored, rel=0.01) if isinstance(stored, float) else stored)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_has_the_same_integers(name: str, known: dict[str, Any], request: pytest.FixtureRequest) -> None:
    balancing, quantization = EXPORTS[name]
    done = lc.convert(
        cnn(),
        images(1, 8, 8),
        timesteps=4,
        balancing=lc.BalanceOptions(**balancing),
        quantization=lc.QuantizeOptions(**quantization),
    )
    require_known(known, name, digest(done.network), request.config)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_regression_has_the_same_integers(known: dict[str, Any], request: pytest.FixtureRequest) -> None:
    done = lc.convert(
        cnn(), images(1, 8, 8), timesteps=4, task="regression", balancing=lc.BalanceOptions(method="percentile")
    )
    require_known(known, "regression", digest(done.network), request.config)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_signals_have_the_same_integers(known: dict[str, Any], request: pytest.FixtureRequest) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3))
    for parameter in model.parameters():
        parameter.data = torch.randint(-8, 9, parameter.shape) / 16
    done = lc.convert(
        model, images(2, 12), input_shape=(2, 12), timesteps=4, balancing=lc.BalanceOptions(method="percentile")
    )
    require_known(known, "signals", digest(done.network), request.config)


def test_graded_spikes_have_the_same_integers(known: dict[str, Any], request: pytest.FixtureRequest) -> None:
    found = to_graded(lc.to_relu_network(cnn(), (1, 8, 8)), images(1, 8, 8))
    require_known(known, "graded", digest(found.network), request.config)


def test_every_verb_prints_the_same_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(SOURCE)
    torch.save(cnn().state_dict(), "cnn.pt")
    np.savez("images.npz", images=images(1, 8, 8), labels=np.arange(64) % 3)
    verbs = {
        "export": "cnn.pt --arch nets:cnn --data images.npz -T 4 -o model.net --balance percentile --classes 3",
        "check": "model.net",
        "inspect": "model.net",
        "run": "model.net --data images.npz --images 10 -o run",
        "diagnose": "cnn.pt model.net --arch nets:cnn --data images.npz --images 10",
        "report": "run -o page.html",
        "golden": "",
    }
    for verb, words in verbs.items():
        done = CliRunner().invoke(cli.app, [verb, *words.split(), "--json"])
        assert done.exit_code == 0, (verb, done.output, done.exception)
        require_known(known, f"{verb} --json", masked(json.loads(done.stdout)), request.config)
    del sys.modules["nets"]


def masked(value: Any, name: str = "") -> Any:
    """Without sentences, which may be reworded, and what depends on the machine or the day; floats to three digits."""
    if isinstance(value, dict):
        return {each: masked(one, each) for each, one in value.items()}
    if isinstance(value, list):
        return [masked(each, name) for each in value]
    if MASKED.search(name) or (isinstance(value, str) and value.count(" ") > 1):
        return "..."
    return float(f"{value:.3g}") if isinstance(value, float) else value
