"""Other Python environments than this one: none with Lava, Lava in another interpreter, and one that cannot have it.

The environments are real: virtual ones, whose packages are links to this one's.
"""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import networks
import numpy as np
import pytest

import loihi_convert
from loihi_convert import netx
from loihi_convert.backends import first_difference, lava, open_backend
from loihi_convert.backends.lava import LAVA_PYTHON, LavaBackend, RunFolder
from loihi_convert.data import load_data
from loihi_convert.errors import LoihiConvertError, PlatformError, UsageError
from loihi_convert.network import QuantizedNetwork
from loihi_convert.train import default_recipe, train

# Lava itself and what it imports.
LAVA_ALONE = ("lava", "lava_nc-", "numpy", "scipy", "networkx", "asteval")


def interpreter(folder: Path, wanted: Callable[[str], bool]) -> Path:
    """A new virtual environment with those of this one's packages whose file name is ``wanted``; its interpreter."""
    venv.create(folder, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if wanted(entry.name):
            (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def lava_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with Lava and without h5py, torch, pydantic, typer and this package."""
    return interpreter(tmp_path_factory.mktemp("lava"), lambda name: name.startswith(LAVA_ALONE))


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    yield
    assert list(temporary.iterdir()) == []
    assert Path(loihi_convert.__file__).exists()


@pytest.fixture
def random_file(tmp_path: Path) -> tuple[QuantizedNetwork, np.ndarray, Path]:
    network, images = networks.random_network(4)
    netx.write(network, tmp_path / "model.net")
    return network, images, tmp_path / "model.net"


@pytest.mark.lava
@pytest.mark.usefixtures("nothing_left")
def test_another_interpreter_needs_nothing_but_lava(lava_alone: Path, tmp_path: Path) -> None:
    with LavaBackend(lava_python=str(lava_alone)) as sim, open_backend("ref") as ref:
        for seed in range(4):
            network, images = networks.random_network(seed)
            path = tmp_path / f"{seed}.net"
            netx.write(network, path)
            found, expected = (backend.run(path, images, 4, trace=True) for backend in (sim, ref))
            assert first_difference(found, expected) is None
        assert sim.versions["numpy"] == np.__version__
        assert sim.versions["python"] == sys.version.split()[0]
        assert sim.versions["lava-nc"] == "0.10.0"
