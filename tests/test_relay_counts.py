"""Relays in every number the product shows: left out, or shown apart, as the table in `ir.relays` says."""

from __future__ import annotations

import numpy as np
import pytest
from support.residual import OWN_CHANNELS, float_networks, residual_images, residual_network

from loihi_convert.backends.reference import run_network
from loihi_convert.choices import Reset


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_relays_of_the_residual_network_repeat_every_spike(reset: Reset) -> None:
    result = run_network(residual_network(reset=reset), residual_images(5), 8, trace=True)
    stem, inner = (trace.spikes for trace in result.traces[:2])
    assert stem is not None
    assert inner is not None
    assert stem.any()
    assert np.array_equal(inner[:, :, OWN_CHANNELS:], stem)


def test_relays_stand_apart_in_the_architecture() -> None:
    network = residual_network()
    cnn, spiking = float_networks(network)
    architecture = "2x6x6-4c3-3c3+4r-4c3-3"
    assert network.summary == f"{architecture}, T = 4, soft reset, for lava"
    assert repr(cnn) == f"ReluNetwork({architecture})"
    assert repr(spiking) == f"SpikingNetwork({architecture}, T = 4, soft reset)"
