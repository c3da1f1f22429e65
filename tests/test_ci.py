"""`.ci/run` shows the log of the checks beside the tests once, whatever fails, and its exit code says if something did.

Every program that it starts is replaced by one that prints its arguments.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "run"
HEADING = "== format, lint, types, documentation, damaged files =="
# The tests with SLURM end when the checks have failed or are at the last one.
PYTHON = """#!/bin/sh
echo "$@"
case "$*" in
    *"pip install"*) exit {pip} ;;
    *"ruff check"*) [ {lint} = 0 ] || touch reached; exit {lint} ;;
    *damage.py*) touch reached; exec sleep {damage} ;;
    *"-m slurm"*) echo "{skipped}"; until [ -e reached ]; do sleep 0.01; done; exit {tests} ;;
esac
"""


def run(
    tmp_path: Path, *, skipped: str = "", old_python: str = "3.10", **codes: int
) -> subprocess.CompletedProcess[str]:
    """Run the script with programs that exit with ``codes``; damage.py takes ``damage`` seconds.

    The tests with SLURM print ``skipped``, those with Python 3.10 ``old_python``.
    """
    programs = {
        "bin/python3": PYTHON.format(**{"pip": 0, "lint": 0, "tests": 0, "damage": 0, "skipped": skipped, **codes}),
        "bin/sinfo": "#!/bin/sh\n",
        # There is nothing to stop.
        "tests/support/slurm_node.sh": "#!/bin/sh\nexit 1\n",
        "tools/test_python310.sh": f"#!/bin/sh\necho '{old_python}'\n",
    }
    for name, text in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / ".ci").mkdir()
    (tmp_path / "tmp").mkdir()
    script = shutil.copy(SCRIPT, tmp_path / ".ci")
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CHROMIUM": "true",
        "TMPDIR": str(tmp_path / "tmp"),
    }
    return subprocess.run([script], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("lint", "tests", "damage", "code"),
    [(0, 0, 0, 0), (5, 0, 0, 5), (0, 6, 60, 6), (5, 6, 0, 6)],
    ids=["nothing", "a check", "a test", "both"],
)
def test_the_log_of_the_checks_is_shown_once_whatever_fails(
    tmp_path: Path, lint: int, tests: int, damage: int, code: int
) -> None:
    done = run(tmp_path, lint=lint, tests=tests, damage=damage)
    assert done.returncode == code, done.stderr
    assert done.stderr == ""
    before, log = done.stdout.split(f"{HEADING}\n")
    assert "ruff check" in log
    assert "ruff check" not in before
    assert ("mypy" in log) == (lint == 0)
    assert (log.splitlines()[-2:] == ["3.10", "skipped: nothing"]) == (code == 0)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_last_line_lists_what_was_skipped(tmp_path: Path) -> None:
    slurm, python = "SKIPPED [2] tests/test_slurm.py:9: sinfo does not answer", "SKIPPED: Python 3.10 | not found"
    done = run(tmp_path, skipped=slurm, old_python=python)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "skipped: [2] tests/test_slurm.py:9: sinfo does not answer; Python 3.10 | not found"
    )


def test_nothing_runs_if_uv_cannot_be_installed(tmp_path: Path) -> None:
    done = run(tmp_path, pip=7)
    assert (done.returncode, done.stdout) == (7, "-m pip install --quiet uv\n")
