"""Checks of the environment: installed packages, missing packages, and how to install them."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from loihi_convert.errors import LoihiConvertError
from loihi_convert.ground.dependencies import (
    LAVA_PYTHON,
    MODULES,
    OPTIONAL,
    install_line,
    installed_version,
    is_extension_installed,
    other_interpreter,
    unsuitable_version,
)
from loihi_convert.ground.files import UNFINISHED

State = Literal["ok", "absent", "broken"]

SUPPORTED_PYTHON: Final = ((3, 10), (3, 13))
INSTALL_LAVA_ON_3_10: Final = 'pip install lava-nc==0.10.0 "setuptools<81"'
INSTALL_LAVA_DL_ON_3_10: Final = 'pip install lava-dl==0.6.0 lava-nc==0.10.0 "setuptools<81"'
REPLACED_BY_LAVA_DL: Final = "pip then replaces torch, NumPy and Pillow by the older versions that lava-dl requires."
# Both wheels declare Python < 3.11, numpy < 2 and torch < 2.4, but run on newer versions; pip cannot be told so.
INSTALL_LAVA_ABOVE_3_10: Final = (
    "pip install --no-deps --ignore-requires-python lava-nc==0.10.0 lava-dl==0.6.0 && "
    'pip install asteval networkx "setuptools<81"'
)
EXPECTED_OF_PIP: Final = (
    "pip then prints an ERROR: lava-nc requires numpy<2 and lava-dl other versions. Ignore it: Lava works with NumPy 2."
)


_IS_3_10: Final = sys.version_info < (3, 11)
_INSTALL_LAVA: Final = (
    f"Run: {INSTALL_LAVA_ON_3_10}" if _IS_3_10 else f"Run: {INSTALL_LAVA_ABOVE_3_10}\n{EXPECTED_OF_PIP}"
)
_INSTALL_LAVA_DL: Final = f"Run: {INSTALL_LAVA_DL_ON_3_10}\n{REPLACED_BY_LAVA_DL}" if _IS_3_10 else _INSTALL_LAVA
_SHOWN: Final = 20
_SMALL_NETWORK: Final = Path(__file__).parents[1] / "golden" / "model.net"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Parameters
    ----------
    name
        The subject of the check.
    state
        ``ok``; ``absent``: an optional part is missing; ``broken``: a required part does not work.
    found
        The result of the check.
    advice
        Recommended action; empty if none is needed.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def examine(lava_python: str | None = None, *, run_lava: bool = False) -> tuple[Check, ...]:
    """Check the environment and return one result per part.

    ``run_lava``: also run a small network in Lava, in ``lava_python`` if given, which implies it; that takes seconds.
    """
    packages, is_wanted = tuple(map(_installed, MODULES)), run_lava or lava_python is not None
    is_complete = all(check.state == "ok" for check in packages)
    lava = _lava(other_interpreter(lava_python), run=is_complete and is_wanted, is_wanted=is_wanted)
    return (_linux(), _python(), *packages, *map(_installed, OPTIONAL), lava, _lava_dl(), _loihi(), _leftovers())


def _linux() -> Check:
    found = f"{platform.machine()}, {os.cpu_count()} cores"
    if platform.system() == "Linux":
        return Check("Linux", "ok", found)
    advice = "If a command fails, use Linux, for example in a container."
    return Check("Linux", "absent", f"this is {platform.system()} {found}; tested on Linux only", advice)


def _leftovers() -> Check:
    """List what commands ended by SIGKILL may have left in this folder, in run folders and in TMPDIR."""
    found = [*Path().glob(UNFINISHED), *Path().glob(f"runs/*/{UNFINISHED}")]
    found += Path(tempfile.gettempdir()).glob("loihi-*")
    names = ", ".join(shlex.quote(str(path)) for path in found[:_SHOWN]) + ", ..." * (len(found) > _SHOWN)
    advice = "Delete what no running command uses." if found else ""
    return Check("Leftovers", "ok", f"{len(found)} unfinished: {names}" if found else "none", advice)


def _python() -> Check:
    low, high = SUPPORTED_PYTHON
    found = platform.python_version()
    if low <= sys.version_info[:2] <= high:
        return Check("Python", "ok", found)
    return Check("Python", "broken", found, f"Use Python {low[0]}.{low[1]} to {high[0]}.{high[1]}.")


def _installed(name: str) -> Check:
    """Check the version of a package, required or optional."""
    version, advice = installed_version(name), f"Run: {install_line((name,))}"
    if name in OPTIONAL and version is None:
        return Check(name, "absent", f"not installed; {OPTIONAL[name]}", advice)
    if version is None or (name in MODULES and importlib.util.find_spec(MODULES[name]) is None):
        return Check(name, "broken", "not installed", advice)
    if (declared := unsuitable_version(name, version)) is not None:
        return Check(name, "broken", f"{version}, must be {declared}", advice)
    return Check(name, "ok", version)


def _lava(lava_python: str | None, *, run: bool, is_wanted: bool) -> Check:
    """Check that Lava is installed and, if ``run``, that its CPU simulator agrees with `ref`."""
    name = "Lava (sim)"
    if lava_python is None and (version := installed_version("lava-nc")) is None:
        return Check(
            name,
            "broken" if is_wanted else "absent",
            "not installed; `--backend sim` and `diagnose --sim` do not work",
            f"{_INSTALL_LAVA}\nOr name an interpreter that has it: --lava-python PATH, or {LAVA_PYTHON}=PATH",
        )
    if not run:
        found = f"lava-nc {version} is installed" if lava_python is None else f"in {lava_python}, says {LAVA_PYTHON}"
        return Check(name, "ok", f"{found}; `doctor --lava` runs it")
    return _lava_run(name, lava_python)


def _lava_run(name: str, lava_python: str | None) -> Check:
    """Check that Lava's CPU simulator agrees with `ref` on a small network."""
    import numpy as np

    from loihi_convert import netx
    from loihi_convert.backends.backend import BackendOptions, open_backend
    from loihi_convert.backends.result import first_difference

    where = lava_python or f"{sys.executable} (this interpreter)"
    network, images = netx.read(_SMALL_NETWORK), 2 * np.arange(128, dtype=np.uint8).reshape(2, 1, 8, 8)
    try:
        options = BackendOptions(neuron="own")
        with open_backend("sim", replace(options, lava_python=lava_python)) as sim, open_backend("ref", options) as ref:
            difference = first_difference(sim.run(network, images, 4), ref.run(network, images, 4))
            versions = sim.versions
    except LoihiConvertError as error:
        advice = _INSTALL_LAVA
        if lava_python is not None:
            advice = f"If that is Python 3.10, run: {lava_python} -m {INSTALL_LAVA_ON_3_10}"
        return Check(name, "broken", f"does not run in {where}: {error}", advice)
    lava = (
        f"lava-nc {versions.get('lava-nc', 'of unknown version')}, Python {versions['python']}, "
        f"NumPy {versions['numpy']} in {where}"
    )
    if difference:
        return Check(name, "broken", f"{lava} disagrees with ref: {difference}", "Report this as a bug.")
    return Check(name, "ok", f"{lava}; a test network ran, equal to ref")


def _lava_dl() -> Check:
    version = installed_version("lava-dl")
    if version is None:
        missing = "not installed; only needed to load .net files with lava-dl itself"
        return Check("lava-dl", "absent", missing, _INSTALL_LAVA_DL)
    return Check("lava-dl", "ok", f"{version} (unmodified netx)")


def _loihi() -> Check:
    if is_extension_installed():
        return Check("Loihi 2", "ok", "Lava's extension is installed; `golden --backend loihi2` tries a board")
    return Check(
        "Loihi 2",
        "absent",
        "the Lava extension for Loihi is not installed; only needed for `run --backend loihi2`",
        "Members of INRC get it and access to boards from Intel; `--backend sim` runs the same Processes on a CPU.",
    )
