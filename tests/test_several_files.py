"""A run of several files in which one fails: no folder is left, and the error names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loihi_convert import netx
from loihi_convert.backends import result as results
from loihi_convert.backends.reference import ReferenceBackend
from loihi_convert.backends.result import RunResult
from loihi_convert.data import DataSplits, load_data
from loihi_convert.errors import UsageError, VerificationError
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Dense
from loihi_convert.pipeline.opening import OpenedFile, open_file
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.pipeline.running import run_into_folder

NAMES = ("a.net", "b.net", "c.net")


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits")


@pytest.fixture
def files(tmp_path: Path) -> list[OpenedFile]:
    weight = np.random.default_rng(0).integers(-12, 13, (10, 64)).astype(np.int32)
    network = QuantizedNetwork(
        (1, 8, 8),
        (QuantizedLayer("fc", Dense(weight), None, np.ones(10), 255),),
        timesteps=4,
        max_timesteps=4,
        pixel_bits=8,
        reset="soft",
    )
    for name in NAMES:
        netx.write(network, tmp_path / name)
    return [open_file(tmp_path / name) for name in NAMES]


class SecondIsWrong(ReferenceBackend):
    """A simulator with a wrong potential in the second file."""

    name = "sim"  # type: ignore[assignment, misc]

    runs = 0

    def run(self, *given: Any, **rest: Any) -> RunResult:
        result = super().run(*given, **rest)
        self.runs += 1
        if self.runs == 2:
            result.potentials[1, 2, 3] += 1
        return result


def test_the_second_of_three_files_fails(tmp_path: Path, digits: DataSplits, files: list[OpenedFile]) -> None:
    with pytest.raises(VerificationError) as caught:
        run_into_folder(tmp_path / "runs", files, SecondIsWrong(), digits, digits.test[:5])
    assert caught.value.where == str(tmp_path / NAMES[1])
    assert "output potential of image 1 at T = 3, index (3,)" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == list(NAMES)


def test_three_files_give_one_folder(tmp_path: Path, digits: DataSplits, files: list[OpenedFile]) -> None:
    """The test above relies on this."""
    done = run_into_folder(tmp_path / "runs", files, ReferenceBackend(), digits, digits.test[:5])
    assert [run.path.name for run in done.runs] == list(NAMES)
    assert done.folder == tmp_path / "runs"
    assert sorted(done.files) == sorted(done.folder.iterdir())


def test_all_results_kept_at_a_time_share_the_limit(
    tmp_path: Path, digits: DataSplits, files: list[OpenedFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = RunOptions(exit_tolerance=None)
    # 4 bytes for each of 5 images x 4 steps x 10 outputs; on sim those of ref, too.
    monkeypatch.setattr(results, "MAX_TRACE", 2 * 800)
    assert (
        len(run_into_folder(tmp_path / "two", files[:2], ReferenceBackend(), digits, digits.test[:5], options).runs)
        == 2
    )
    for some, backend in ((files, ReferenceBackend()), (files[:2], SecondIsWrong())):
        with pytest.raises(UsageError, match=r"x 4 steps takes .* MiB with what is kept beside it; must"):
            run_into_folder(tmp_path / "more", some, backend, digits, digits.test[:5], options)
