"""How many random networks go through the Lava runtime: few in every run, more on demand."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--networks", type=int, default=15, help="random networks compared on Lava, ref and the oracle")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "network_seed" in metafunc.fixturenames:
        metafunc.parametrize("network_seed", range(metafunc.config.getoption("--networks")))
