"""`ref` equals Lava's runtime equals a plain int64 oracle: random networks, every layer, every step, error 0.

``pytest tests/test_exact.py --networks 50`` takes more of them; one Lava host process runs them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from support import oracle
from support.networks import random_network
from support.strategies import Case, networks

from loihi_convert import netx
from loihi_convert.backends.backend import BackendOptions
from loihi_convert.backends.lava.lava_backend import LavaBackend
from loihi_convert.backends.reference import ReferenceBackend, run_network
from loihi_convert.backends.result import first_difference

TIMESTEPS = 5


@given(networks())
@settings(max_examples=20, deadline=None)
def test_ref_equals_the_oracle(case: Case) -> None:
    network, images = case
    result = run_network(network, images, TIMESTEPS, trace=True)
    assert len(result.traces) == len(network.layers)
    assert len(result.channel_spikes) == len(network.spiking_layers)
    oracle.assert_equal(network, images, result, TIMESTEPS)


def test_random_networks_are_worth_comparing() -> None:
    """They fire, they clip, they have every kind of layer: else equality would say little."""
    networks = [random_network(seed) for seed in range(50)]
    layers = [layer for network, _ in networks for layer in network.layers]
    runs = [run_network(network, images, TIMESTEPS, trace=True) for network, images in networks]
    convolutions = [layer.synapse for layer in layers if hasattr(layer.synapse, "groups")]
    assert {len(network.layers) for network, _ in networks} == {1, 2, 3, 4}
    assert {(network.reset, network.readout) for network, _ in networks} == {
        (reset, readout) for reset in ("soft", "hard") for readout in ("potential", "spikes")
    }
    assert 5 < sum(network.poisson_seed is not None for network, _ in networks) < 45
    assert any(run.output_spikes is not None and 0.1 < run.output_spikes.mean() < 0.9 for run in runs)
    assert any(conv.groups > 1 for conv in convolutions)
    assert any(conv.stride != (1, 1) for conv in convolutions)
    assert any(conv.dilation != (1, 1) for conv in convolutions)
    assert any(conv.padding != (0, 0) for conv in convolutions)
    assert any(conv.pool != (1, 1) for conv in convolutions)
    assert {None, 1, 3} <= {None if layer.bias is None else layer.bias.ndim for layer in layers}
    rates = [
        trace.spikes.mean() for run in runs for trace in run.traces if trace.spikes is not None and trace.spikes.size
    ]
    assert sum(0.02 < rate < 0.98 for rate in rates) > len(rates) / 3
    assert any((np.abs(trace.potentials) == 131071).any() for run in runs for trace in run.traces)


@pytest.fixture(scope="module", params=["processes", "layers"])
def sim(request: pytest.FixtureRequest) -> Iterator[LavaBackend]:
    # The three images of each network side by side: two, and one that is filled up.
    with LavaBackend(BackendOptions(lava_layout=request.param), batch_size=2) as backend:
        yield backend


@pytest.mark.lava
def test_lava_equals_ref_equals_the_oracle(sim: LavaBackend, tmp_path: Path, network_seed: int) -> None:
    network, images = random_network(network_seed)
    path = tmp_path / "model.net"
    netx.write(network, path)
    by_lava = sim.run(netx.read(path), images, TIMESTEPS, trace=True)
    with ReferenceBackend() as ref:
        by_ref = ref.run(netx.read(path), images, TIMESTEPS, trace=True)
    assert first_difference(by_lava, by_ref) is None
    oracle.assert_equal(network, images, by_lava, TIMESTEPS)


def test_first_difference_names_the_place() -> None:
    network, images = next(
        (network, images) for network, images in map(random_network, range(50)) if len(network.layers) == 3
    )
    result = run_network(network, images, TIMESTEPS, trace=True)
    other = run_network(network, images, TIMESTEPS, trace=True)
    assert first_difference(result, other) is None
    other.traces[1].potentials[2, 3].flat[0] += 1
    found = first_difference(result, other)
    assert found.startswith("layer 1 potential of image 2 at T = 4, index (0")
    assert found.endswith("1 of " + f"{other.traces[1].potentials.size} differ)")
    other.potentials[0, 0, 1] -= 1
    assert str(first_difference(result, other)).startswith("output potential of image 0 at T = 1, index (1,)")
    shorter = run_network(network, images, TIMESTEPS - 1)
    assert "shape (3, 5" in str(first_difference(result, shorter))
