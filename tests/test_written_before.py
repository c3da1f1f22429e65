"""Files written by an earlier version (commit c8d8342) still give the same results.

``golden/written-before.zip`` holds three exports of one CNN of 4 and 6 channels for `digits` and T = 6, and the output
potentials and spike counts that `ref` of that commit computed for the first five test images.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from loihi_convert import netx
from loihi_convert.backends.reference import run_network
from loihi_convert.data import load_data

ARCHIVE = Path(__file__).parent / "golden" / "written-before.zip"
KINDS = {
    "soft": ("soft", "potential", "lava"),
    "hard-scalar-spikes": ("hard", "spikes", "lava"),
    "loihi2-poisson": ("soft", "potential", "loihi2"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_an_earlier_version_gives_the_same_results(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(ARCHIVE) as archive:
        path = Path(archive.extract(f"{name}.net", tmp_path))
        expected = np.load(io.BytesIO(archive.read("expected.npz")))
    network = netx.read(path)
    assert (network.reset, network.readout, network.target) == KINDS[name]
    result = run_network(network, load_data("digits").test.images[:5], 6)
    assert np.array_equal(result.potentials, expected[f"{name}.potentials"])
    assert np.array_equal(result.spike_counts, expected[f"{name}.spike_counts"])
    assert result.spike_counts.any()
