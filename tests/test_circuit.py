"""Soft reset from stock processes: its integers, and `ref` as Lava's LIF computes them, wraps and leak included."""

from __future__ import annotations

import sys

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_loihi2_network

from loihi_convert import loihi
from loihi_convert.backends.reference import run_network
from loihi_convert.circuit import circuit

TIMESTEPS = 6


@given(seed=st.integers(0, 100_000), leaks=st.booleans())
@settings(max_examples=30, deadline=None)
def test_ref_equals_the_oracle(seed: int, leaks: bool) -> None:
    network, images = random_loihi2_network(seed)
    result = run_network(network, images, TIMESTEPS, trace=True, leak=leaks)
    assert result.wrapped_images is not None
    oracle.assert_equal(network, images, result, TIMESTEPS, is_stock=True, leaks=leaks)
