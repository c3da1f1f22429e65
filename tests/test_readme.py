"""The README's commands exist, its Python runs, and CI runs exactly its test command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from loihi_convert import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_ci_runs_exactly_the_test_command() -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.endswith("run pytest")]
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_verb_and_option_in_the_readme_exists() -> None:
    group = typer.main.get_command(cli.app)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("loihi-convert ")]
    assert len(lines) >= 6
    for line in lines:
        verb, *words = line.split("#")[0].split()[1:]
        command = group.commands[verb]  # type: ignore[attr-defined]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("-")} <= known, line


@pytest.mark.lava
def test_the_python_tour_runs(tmp_path: Path) -> None:
    (program,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert 0.9 < float(done.stdout) <= 1
