"""Unmodified lava-dl's netx in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

# slayer takes ten seconds to import; netx needs only one of its functions, for resonating neurons.
_IMPORT: Final = """
import sys, types
from loihi_convert.backends.lava.host import import_lava
import_lava()
for name in ("slayer", "slayer.neuron", "slayer.neuron.rf", "netx.sequential_modules"):
    sys.modules["lava.lib.dl." + name] = types.ModuleType(name)
sys.modules["lava.lib.dl.slayer.neuron.rf"].neuron_params = None
# Lava asks every module beside a Process where it lies.
sys.modules["lava.lib.dl.netx.sequential_modules"].__file__ = __import__("lava.lib.dl.netx.hdf5").lib.dl.netx.__file__
"""
_SCRIPTS: Final = """
import json, runpy
for words in json.loads(sys.argv[1]):
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
"""


def execute(program: str, *words: str) -> None:
    """Run Python code in an environment in which lava-dl's netx can be imported."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT + program, *words],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run_scripts(*calls: Sequence[object]) -> None:
    """Run scripts, each given by path and arguments, sequentially in one process."""
    execute(_SCRIPTS, json.dumps([list(map(str, words)) for words in calls]))
