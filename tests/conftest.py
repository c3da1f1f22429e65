"""How many random networks go through the Lava runtime (few in every run, more on demand), how random tests are, also
PyTorch's weights in them, and which signals the commands under test can be sent; which tests are slow; the tool that a
test file is named after; the networks that must stay as they are."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
import torch
from support.known_networks import KnownNetworks

# On a developer's machine every run tries new examples; in CI the same commit gives the same result. A busy machine may
# take its time for one.
hypothesis.settings.register_profile("developer", deadline=None)
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "developer")


# Under nohup, or after `&` in a script, some are ignored; what is started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--networks", type=int, default=15, help="random networks compared on Lava, ref and the oracle")
    parser.addoption("--record-networks", action="store_true", help="store each converted network, see known_networks")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(KnownNetworks(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("lava") or item.get_closest_marker("browser"):
            item.add_marker("slow")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # A third as many for the circuit, where each layer needs three to six operating system processes.
    for name, share in (("network_seed", 1), ("circuit_seed", 3)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, range(metafunc.config.getoption("--networks") // share))


def _same_weights_in_any_order() -> None:
    """Random weights of a module, a fixture or a test do not depend on what ran before in its process."""
    torch.manual_seed(0)


pytest_collectstart = pytest_fixture_setup = pytest_runtest_call = _same_weights_in_any_order


@pytest.fixture
def tool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of tools/ with the same name as the test file, without ``test_``."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    return importlib.import_module(request.path.stem.removeprefix("test_"))
