"""The first compilation is announced, once; loops from the cache are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from loihi_convert.compiled import COMPILING

PROGRAM = """
from loihi_convert.cli.console import log_notes
log_notes()
import torch
from loihi_convert.cnn.qcfs import Qcfs
for images in (1, 2):
    Qcfs(2, 4)(torch.ones(images, 2, 1, 1)).sum().backward()
"""


def test_compiling_is_announced_once(tmp_path: Path) -> None:
    def said() -> list[str]:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        assert not done.stdout
        return done.stderr.splitlines()

    assert said() == [COMPILING]
    assert said() == []
