"""The README is short, its Python runs, and CI runs its test command; test_documentation.py runs its commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_ci_runs_exactly_the_test_command() -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.endswith("run pytest")]
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_it_is_one_page_and_begins_with_what_has_not_been_done() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    (line,) = (number for number, line in enumerate(lines) if "has run on a chip" in line)
    assert line < 10


def test_the_targets_of_its_links_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", README)
    local = {target for pair in targets for target in pair if target and not target.startswith("http")}
    assert len(local) > 20
    assert {target for target in local if not (ROOT / target).exists()} == set()


@pytest.mark.parametrize("has_lava", [False, pytest.param(True, marks=pytest.mark.lava)])
def test_the_python_tour_runs(has_lava: bool, tmp_path: Path) -> None:
    """Without Lava, all but its last lines."""
    (program,) = blocks("python")
    before, _, with_lava = program.partition("# With Lava installed")
    assert "sim" in with_lava
    program = program if has_lava else before
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    accuracy, *is_equal = done.stdout.split()
    assert is_equal == (["True"] if has_lava else [])
    assert 0.9 < float(accuracy) <= 1
    assert (tmp_path / "model.net").exists()
