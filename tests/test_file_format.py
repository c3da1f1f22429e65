"""docs/reference/file-format.md says all that an exact simulator needs: one written from it alone equals `ref`."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from support.networks import random_loihi2_network, random_network
from support.relay_networks import NETWORKS, images
from support.residual import residual_images, residual_network
from support.strategies import Case, loihi2_networks, networks

from loihi_convert import netx
from loihi_convert.backends.reference import run_network
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Reset
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.netx.native import encode

ROOT = Path(__file__).parents[1]
SIMULATOR = ROOT / "docs/reference/simulator.py"
PAGE = ROOT / "docs/reference/file-format.md"
FILES = sorted((ROOT / "netx_models").glob("*/*.net"))


@pytest.fixture(scope="module")
def simulator() -> ModuleType:
    return _simulator()


def _simulator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulator_from_the_page", SIMULATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_equal(simulator: ModuleType, path: Path, pixels: Array, timesteps: int) -> None:
    reference = run_network(netx.read(path), pixels, timesteps)
    potentials, spikes = simulator.run(path, pixels, timesteps)
    assert np.array_equal(potentials, reference.potentials)
    assert (spikes is None) == (reference.output_spikes is None)
    if reference.output_spikes is not None:
        assert np.array_equal(spikes, reference.output_spikes)


def test_the_simulator_is_short_and_needs_numpy_and_h5py_alone() -> None:
    text = SIMULATOR.read_text()
    assert len(text.splitlines()) <= 100
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported == {"h5py", "numpy"}


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}-{path.stem}" for path in FILES])
def test_it_runs_the_files_of_netx_models(simulator: ModuleType, path: Path) -> None:
    network = netx.read(path)
    is_small = path.parent.name == "mnist"
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4 if is_small else 2, *network.input_shape)).astype(np.uint8)
    assert_equal(simulator, path, pixels, network.timesteps if is_small else min(network.timesteps, 4))


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_it_runs_a_residual_network(simulator: ModuleType, tmp_path: Path, reset: Reset) -> None:
    network = residual_network(reset=reset)
    assert any(layer.relay_of is not None for layer in network.layers)
    netx.write(network, tmp_path / "residual.net")
    assert_equal(simulator, tmp_path / "residual.net", residual_images(8), 6)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_it_runs_converted_networks_with_relays(simulator: ModuleType, tmp_path: Path, name: str) -> None:
    for target in ("lava", "loihi2"):
        spiking = balance(NETWORKS[name], images(20), 4, BalanceOptions(method="percentile"))
        netx.write(quantize(spiking, images(20), QuantizeOptions(target=target)), tmp_path / f"{target}.net")
        assert_equal(simulator, tmp_path / f"{target}.net", images(6, seed=7), 4)


@pytest.mark.parametrize(
    "options",
    [QuantizeOptions(pixel_bits=3), QuantizeOptions(thresholds="scalar"), QuantizeOptions(split_readout=True)],
    ids=["3-bit-pixels", "one-threshold-a-layer", "two-digits"],
)
def test_it_runs_every_way_of_rounding(simulator: ModuleType, tmp_path: Path, options: QuantizeOptions) -> None:
    rng = np.random.default_rng(0)
    layers = (
        ReluLayer("conv", Conv(rng.normal(size=(24, 1, 3, 3)) / 3, np.full(24, -0.4), padding=(1, 1))),
        ReluLayer("fc", Dense(rng.normal(size=(4, 24)), rng.normal(size=4) / 10, pool=(8, 8))),
    )
    spiking = balance(ReluNetwork((1, 8, 8), layers), images(20), 64, BalanceOptions(method="percentile"))
    network = quantize(spiking, images(20), options)
    assert (network.low_bits > 0) == bool(options.split_readout)
    netx.write(network, tmp_path / "rounded.net")
    assert_equal(simulator, tmp_path / "rounded.net", images(6, seed=7), 64)


def test_the_page_names_every_dataset() -> None:
    page = PAGE.read_text()
    cases = [random_network(seed)[0] for seed in range(30)] + [random_loihi2_network(0)[0], residual_network()]
    for name in {name for network in cases for name, _ in encode(network)}:
        assert name.split("/")[-1] in page, name


@pytest.mark.slow
@given(networks())
@settings(max_examples=10, deadline=None)
def test_it_runs_random_networks(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    network, pixels = case
    path = tmp_path_factory.mktemp("random") / "random.net"
    netx.write(network, path)
    assert_equal(_simulator(), path, pixels, 5)


@pytest.mark.slow
@given(loihi2_networks())
@settings(max_examples=10, deadline=None)
def test_it_runs_random_networks_of_target_loihi2(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    network, pixels = case
    path = tmp_path_factory.mktemp("random") / "random.net"
    netx.write(network, path)
    assert_equal(_simulator(), path, pixels, 5)
