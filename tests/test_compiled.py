"""The first compilation is announced, once, and short; loops from the cache are not announced."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import loihi_convert
from loihi_convert.compiled import COMPILING

KERNELS = sorted(Path(loihi_convert.__file__).parent.rglob("*_kernels.py"))

PROGRAM = """
from loihi_convert.cli.console import log_notes
log_notes()
import torch
from loihi_convert.cnn.qcfs import Qcfs
for images in (1, 2):
    Qcfs(2, 4)(torch.ones(images, 2, 1, 1)).sum().backward()
"""


WITHOUT_SPACE = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"


def said(program: str, cache: Path) -> list[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert not done.stdout
    return done.stderr.splitlines()


def test_compiling_is_announced_once(tmp_path: Path) -> None:
    assert said(PROGRAM, tmp_path) == [COMPILING]
    assert said(PROGRAM, tmp_path) == []


def test_loops_run_without_a_cache_if_it_cannot_be_written(tmp_path: Path) -> None:
    first, *others = said(f"{WITHOUT_SPACE}\n{PROGRAM}", tmp_path)
    assert first == COMPILING
    assert len(others) == 1
    assert "cannot be cached (File too large)" in others[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    assert said(PROGRAM, tmp_path) == [COMPILING]
    for path in tmp_path.rglob("*.nb[ci]"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert said(PROGRAM, tmp_path) == [COMPILING]
    assert said(PROGRAM, tmp_path) == []


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_loops_hold_nothing_that_compiles_for_seconds(path: Path) -> None:
    """For a reshape or an assignment of slices numba also compiles the texts of their errors, in two seconds each."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Assign, ast.AugAssign)) and not isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in ast.walk(target)]
            assert not any(isinstance(part, ast.Slice) for part in parts), f"line {node.lineno}"
        assert not (isinstance(node, ast.Attribute) and node.attr == "reshape"), f"line {node.lineno}"
