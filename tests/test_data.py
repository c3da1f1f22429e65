"""Data by name or by path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loihi_convert.data import DATASETS, default_root, load_data
from loihi_convert.errors import DataError, UsageError


def test_the_root_is_the_environments_or_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOIHI_CONVERT_DATA", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("LOIHI_CONVERT_DATA")
    assert default_root() == Path.home() / ".cache" / "loihi-convert"


def test_an_unknown_data_set_is_a_usage_error() -> None:
    message = f"data: 'imagenet' is no data set; choose one of {', '.join(DATASETS)}, or give the path of a folder"
    with pytest.raises(UsageError, match=message):
        load_data("imagenet")


@pytest.mark.parametrize("path", ["absent.npz", "absent/images", "./absent"])
def test_a_path_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"absent.*: no such file or folder\. Give a folder of images or an \.npz file"):
        load_data(path)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    path.write_text("0,0,0")
    with pytest.raises(DataError, match=r"images\.csv: is neither a folder of images nor an \.npz file; give one"):
        load_data(path)


def test_a_name_is_a_data_set_and_a_path_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    assert len(load_data("digits").test) == 400
    for path in ("./digits", Path("digits")):
        with pytest.raises(DataError, match="digits: holds no image"):
            load_data(path)
    np.savez("digits.npz", images=np.zeros((3, 8, 8), np.uint8))
    assert len(load_data("digits.npz").test) == 3
