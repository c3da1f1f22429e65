"""`tools/size.py` counts a file as its docstring says, and fails above a limit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = '''"""A file
of one class."""

import os
from loihi_convert.chip import (
    limits,  # two edges are one
)

class One:
    """Documented."""

    def wide(self, a, b, c, d, e, f, g):  # seven without self
        """Longer
        than its body."""
        return a

    def narrow(self, a, b, c, d, e, *, f): return """not
        a docstring"""
'''


def test_a_file_is_counted(tool: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text(SOURCE + "\ndef long():\n" + "    pass\n" * 60)
    found, folders = tool.measured(path)
    assert folders == {"chip"}
    assert {name: count for name, count in found.items() if count} == {
        "files": 1,
        "lines": path.read_text().count("\n"),
        # import, the other import, class, wide and its return, narrow in two lines, long.
        "code lines": 1 + 3 + 1 + 2 + 2 + 61,
        "import lines": 4,
        "wide functions": 1,
        "long docstrings": 1,
        "long functions": 1,
    }


@pytest.mark.parametrize("change", [0, -1])
def test_a_figure_above_its_limit_fails(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: int
) -> None:
    total, _ = tool.summed([*tool.PACKAGE.rglob("*.py")])
    limits = json.loads(tool.LIMITS.read_text()) | {"code lines": total["code lines"] + change}
    limits |= {name: 10**6 for name in limits if name != "code lines"}
    stored = tmp_path / "limits.json"
    stored.write_text(json.dumps(limits))
    monkeypatch.setattr(tool, "LIMITS", stored)
    monkeypatch.setattr(sys, "argv", ["", "--no-walks"])
    assert tool.main() == (5 if change else 0)
    assert ("above the limit" in capsys.readouterr().out) == bool(change)
