"""Imports go in one direction, and heavy libraries are imported only by certain files."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PACKAGE = Path(__file__).parents[1] / "loihi_convert"
GOLDEN = PACKAGE / "golden" / "model.net"

# A folder or file may import from its own line and from the lines above it, never from below.
ORDER = (
    ("errors",),
    ("ground",),
    ("chip",),
    ("ir",),
    ("chip.partition", "chip.resources"),
    ("data",),
    ("cnn",),
    ("reading", "lowering", "nir.reader"),
    ("simulation",),
    ("conversion",),
    ("netx", "nir"),
    ("backends",),
    ("external",),
    ("metrics",),
    ("runs",),
    ("report", "checks"),
    ("pipeline",),
    ("batch",),
    ("paper",),
    ("face", "fine_tuning"),
    ("cli",),
    ("__main__",),
)
HEAVY = {
    # In `face` and `pipeline.opening` for their types alone.
    "torch": (
        "ground.devices",
        "ground.ready_made",
        "cnn",
        "reading",
        "lowering",
        "nir.reader",
        "simulation",
        "conversion",
        "face",
        "fine_tuning",
        "pipeline.opening",
    ),
    "numba": ("ground.compiled",),
    "h5py": ("ground.hdf5", "netx.hdf5"),
    "nir": (),
    "jinja2": ("report.page",),
    "distributed": ("batch.clusters",),
    "dask_jobqueue": ("batch.clusters",),
    "lava": (
        "backends.lava.host",
        "backends.lava.networks",
        "backends.lava.processes",
        "backends.loihi2.hardware",
    ),
}


def is_within(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def rank(module: str) -> int:
    """The line of `ORDER` that names the module, or else the longest part of its path."""
    found = [(len(place), index) for index, places in enumerate(ORDER) for place in places if is_within(module, place)]
    assert found, f"{module} has no place in ORDER"
    return max(found)[1]


def modules() -> dict[str, Path]:
    named = {
        path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path for path in PACKAGE.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for name, path in named.items() if name != "__init__"}


MODULES = modules()


def imported(path: Path) -> set[tuple[str, bool]]:
    """(module, whether at the top of the file) of every import; ``from package import module`` counts as the module."""
    tree = ast.parse(path.read_text())
    found, tops = set(), {*map(id, tree.body)}
    for node in ast.walk(tree):
        top = id(node) in tops
        if isinstance(node, ast.Import):
            found |= {(alias.name, top) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add((name if name.removeprefix("loihi_convert.") in MODULES else node.module, top))
    return found


def test_imports_run_one_way() -> None:
    for module, path in MODULES.items():
        for name, _ in imported(path):
            if name.startswith("loihi_convert."):
                target = name.removeprefix("loihi_convert.")
                assert rank(target) <= rank(module), f"{module} imports {target}"
            for heavy, allowed in HEAVY.items():
                if name.split(".")[0] == heavy:
                    assert any(is_within(module, place) for place in allowed), f"{module} imports {heavy}"


def test_no_file_imports_itself_through_others() -> None:
    graph = {
        module: {
            name.removeprefix("loihi_convert.")
            for name, top in imported(path)
            if top and name.startswith("loihi_convert.")
        }
        for module, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def loaded_by(program: str, names: set[str]) -> set[str]:
    """The modules of ``names`` that ``program`` loads in a new Python."""
    code = f"import sys\n{program}\nprint('loaded:', *(set(sys.modules) & {names!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


def test_the_command_line_starts_without_heavy_imports() -> None:
    assert not loaded_by("import loihi_convert.cli", {"torch", "numpy", "h5py", "lava", "matplotlib"})


@pytest.mark.parametrize("verb", ["check", "inspect"])
def test_a_netx_file_is_read_without_torch(verb: str) -> None:
    words = [verb, str(GOLDEN), *(["--images", "0"] if verb == "check" else [])]
    program = f"from loihi_convert.cli import app\napp({words!r}, standalone_mode=False)"
    assert not loaded_by(program, {"torch", "numba", "matplotlib", "scipy", "lava"})


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["run", str(GOLDEN), "-o", str(GOLDEN.parent)], "not empty"),
        (["demo", "-o", str(GOLDEN.parent)], "not empty"),
        (["run", "missing.net"], "no such file"),
        (["export", "missing.pt"], "no such file"),
    ],
)
def test_what_cannot_run_is_refused_at_once(words: list[str], found: str) -> None:
    program = (
        "from loihi_convert.cli import app\n"
        "from loihi_convert.errors import InputError\n"
        f"try:\n    app({words!r}, standalone_mode=False)\n"
        f"except InputError as error:\n    assert {found!r} in error.found\nelse:\n    raise AssertionError"
    )
    assert not loaded_by(program, {"torch", "numpy", "h5py"})


@pytest.mark.slow
def test_a_run_loads_no_statistics_and_draws_nothing(tmp_path: Path) -> None:
    # Not the embedded digits, which scikit-learn reads.
    np.savez(tmp_path / "own.npz", images=np.zeros((5, 1, 8, 8), np.uint8), labels=np.arange(5))
    words = ["run", str(GOLDEN), "--data", str(tmp_path / "own.npz"), "-o", str(tmp_path / "run")]
    program = f"from loihi_convert.cli import app\napp({words!r}, standalone_mode=False)"
    assert not loaded_by(program, {"matplotlib", "scipy.stats", "pandas", "lava"})
