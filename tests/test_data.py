"""Data by name or by path."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.refusals import data_refused, refusal

from loihi_convert.data import DATASETS, default_root, load_data
from loihi_convert.data.benchmarks import load_benchmark
from loihi_convert.errors import DataError, UsageError


def test_the_root_is_the_environments_or_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOIHI_CONVERT_DATA", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("LOIHI_CONVERT_DATA")
    assert default_root() == Path.home() / ".cache" / "loihi-convert"


def test_an_unknown_home_folder_matters_only_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOIHI_CONVERT_DATA", "~no-such-user/data")
    assert len(load_data("digits").test) == 400
    with data_refused("~no-such-user/data"):
        load_data("mnist")


@pytest.mark.parametrize(("name", "hint"), [("imagenet", ""), ("minst", "Did you mean mnist?"), ("MNIST", "mnist?")])
def test_an_unknown_data_set_is_a_usage_error(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_data(name)
    assert caught.value.where == "data"
    assert name in caught.value.found
    assert "npz" in caught.value.expected
    with pytest.raises(UsageError) as without_files:
        load_benchmark(name, Path())
    assert without_files.value.expected == f"must be one of {', '.join(DATASETS)}"
    for error in (caught.value, without_files.value):
        assert error.hint.endswith(hint)
        assert bool(error.hint) == bool(hint)


@pytest.mark.parametrize("path", ["absent.npz", "absent/images", "./absent"])
def test_a_path_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(DataError, load_data, path) == (str(Path(path)), "no such file or folder")


def test_a_benchmark_set_must_have_the_networks_shape(tmp_path: Path) -> None:
    """Found before its files are read, which are not there."""
    with data_refused("data", "(1, 28, 28)", expected="(1, 8, 8)"):
        load_data("mnist", tmp_path, input_shape=(1, 8, 8))
    assert load_data("digits", input_shape=(1, 8, 8)).input_shape == (1, 8, 8)


def test_a_name_that_is_too_long() -> None:
    for data in ("a" * 300, f"{'a' * 300}.npz"):
        with pytest.raises(DataError, match="File name too long"):
            load_data(data)
    with pytest.raises(DataError, match="File name too long"):
        load_benchmark("mnist", Path("a" * 300))


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("0,0,0")
    os.mkfifo(tmp_path / "pipe.npz")
    np.save(tmp_path / "pixels.npy", np.zeros(3))
    for path in (tmp_path / "images.csv", tmp_path / "pipe.npz", tmp_path / "pixels.npy"):
        assert refusal(DataError, load_data, path) == (str(path), "found a file of another type")


def test_a_name_is_a_data_set_and_a_path_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    assert len(load_data("digits").test) == 400
    for path in ("./digits", Path("digits")):
        assert refusal(DataError, load_data, path) == ("digits", "contains no images")
    np.savez("digits.npz", images=np.zeros((3, 8, 8), np.uint8))
    assert len(load_data("digits.npz").test) == 3
    Path("digits.npz").rename("DIGITS.NPZ")
    assert len(load_data("DIGITS.NPZ").test) == 3
