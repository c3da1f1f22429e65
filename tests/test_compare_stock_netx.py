"""tools/compare_stock_netx.py without lava-dl: what it refuses, and how it counts."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("compare_stock_netx")


def test_a_missing_file_is_one_sentence(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "absent.net")])
    assert tool.main() == 3
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path}/absent.net: ")
    assert message.count("\n") == 1
