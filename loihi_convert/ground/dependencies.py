"""The packages that this one needs, and how to install those that are missing; the required ones are not imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Final

from loihi_convert.errors import PlatformError

_NAMES: Final = (
    *("h5py", "jinja2", "markupsafe", "matplotlib", "numba", "numpy", "packaging", "pillow", "pydantic", "rich"),
    *("safetensors", "scikit-learn", "scipy", "torch", "typer"),
)
MODULES: Final = {name: {"pillow": "PIL", "scikit-learn": "sklearn"}.get(name, name) for name in _NAMES}
"""The module of each required package, by the package's name in pyproject.toml."""

OPTIONAL: Final = {
    "onnx": "ONNX files are not read",
    "nir": "NIR files are neither read nor written",
    "distributed": "one process computes everything: `--workers` and `--scheduler` do not work",
    "cryptography": "`--workers` and `--slurm` do not work",
    "dask-jobqueue": "`--slurm` does not work",
}
"""The packages of the extras, except Lava's, and what is missing without them."""

LAVA_PYTHON: Final = "LOIHI_CONVERT_LAVA_PYTHON"
"""Environment variable: the interpreter that has Lava, where it is not this one."""


def other_interpreter(given: str | None) -> str | None:
    """Return the interpreter that ``given``, or else `LAVA_PYTHON`, names for Lava; ``None``: this one."""
    return given or os.environ.get(LAVA_PYTHON) or None


def is_lava_at_hand(lava_python: str | None) -> bool:
    """Return whether another interpreter is named for Lava, or this one has it."""
    return other_interpreter(lava_python) is not None or importlib.util.find_spec("lava") is not None


def is_extension_installed() -> bool:
    """Return whether this interpreter has Lava's extension for Loihi, as `lava.utils.loihi.is_installed` does."""
    # Without importing Lava, which changes how this process starts others.
    spec = importlib.util.find_spec("lava")
    places = [] if spec is None else [Path(place, "utils") for place in spec.submodule_search_locations or ()]
    return any(found for place in places for found in place.glob("loihi2_profiler*"))


def missing_packages() -> list[str]:
    """Return the names of the required packages that are not installed."""
    return [name for name, module in MODULES.items() if importlib.util.find_spec(module) is None]


def installed_version(package: str) -> str | None:
    """Return the version of ``package``, or None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def optional_module(name: str, reason: str) -> ModuleType:
    """Return the module ``name`` of a package that only an extra of the same name installs."""
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = f"pip install 'loihi-convert[{package}]'"
        raise PlatformError(f"not installed, and {reason}", where=package, hint=hint) from error


def package_of(module: str | None) -> str | None:
    """Return the required package that ``module`` is part of, or None."""
    # numba is built upon llvmlite, which has no other use here.
    known = {place: name for name, place in MODULES.items()} | {"llvmlite": "numba"}
    return known.get((module or "").partition(".")[0])


def install_line(packages: Iterable[str]) -> str:
    """Return the command that installs ``packages``, in the versions that this package declares."""
    declared = _declared()
    return "pip install " + " ".join(f'"{name}{declared.get(name, "")}"' for name in packages)


def unsuitable_version(package: str, version: str) -> str | None:
    """Return the versions of ``package`` that this package declares, such as ">=2.6,<3", if ``version`` is not one."""
    if importlib.util.find_spec("packaging") is None:
        return None
    from packaging.specifiers import SpecifierSet

    declared = _declared().get(package, "")
    return None if SpecifierSet(declared).contains(version, prereleases=True) else declared


def _declared() -> dict[str, str]:
    """The versions of each package, as in pyproject.toml, also of the extras."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        requirements = requires("loihi-convert") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, str] = {}
    for requirement in requirements:
        text = requirement.partition(";")[0].strip()
        if name := re.match(r"[\w.-]+", text):
            found.setdefault(name[0], text[name.end() :].strip())
    return found


def missing_error(packages: Iterable[str], reason: str = "not installed") -> PlatformError:
    """Return the error that says which packages are missing and how to install them."""
    names = tuple(packages)
    return PlatformError(
        f"{reason}; loihi-convert needs {'it' if len(names) == 1 else 'them'}",
        where=", ".join(names),
        hint=f"Run: {install_line(names)}",
    )
