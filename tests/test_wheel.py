"""The wheel: its contents, and that it works without any file of this repository."""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.environments import interpreter, site_packages

from loihi_convert import netx
from loihi_convert.pipeline.opening import source_of

ROOT = Path(__file__).parents[1]
DATA = (
    *(f"models/{card.parent.name}/card.json" for card in ROOT.glob("netx_models/*/card.json")),
    "py.typed",
    "golden/model.net",
    "golden/golden.json",
    "golden/golden.npz",
    "models/mnist/model-T1.net",
    "models/mnist/model-T4.net",
    "models/mnist/model-T64.net",
    "models/mnist/cnn.safetensors",
    "models/mnist/cnn-qcfs-L4.safetensors",
    "models/mnist/cnn-spiking-T1.safetensors",
    "backends/loihi2/run_bundle.py.txt",
    "report/paper.csv",
    "report/templates/report.html.jinja",
    "report/templates/report.md.jinja",
    "report/templates/report.css",
    "report/templates/report.js",
)
PROGRAM = """
import json, sys
from pathlib import Path
import loihi_convert
from loihi_convert.__main__ import main
from loihi_convert.pipeline import golden_check
from loihi_convert.report import paper
assert "site-packages" in loihi_convert.__file__
assert len(paper.cells()) > 100
golden_check.read_golden(golden_check.folder())
for words in json.loads(sys.argv[1]):
    sys.argv = ["loihi-convert", *words]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, words
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_it_contains_only_the_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    modules = {
        f"loihi_convert/{path.relative_to(ROOT / 'loihi_convert')}" for path in ROOT.glob("loihi_convert/**/*.py")
    }
    assert modules <= names
    assert {f"loihi_convert/{name}" for name in DATA} <= names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"loihi_convert"}
    scripts = configparser.ConfigParser()
    scripts.read_string(entry_points)
    assert dict(scripts["console_scripts"]) == {"loihi-convert": "loihi_convert.__main__:main"}


def test_each_model_comes_with_its_cnn(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        models = [name for name in archive.namelist() if name.startswith("loihi_convert/models/")]
        archive.extractall(tmp_path, models)
    files = [tmp_path / name for name in models if name.endswith(".net")]
    assert len(files) == 3
    for file in files:
        source = source_of(file, netx.read(file), None, None)
        assert source is not None, file
        assert source.original is not None, file


def test_it_works_in_a_separate_environment(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    python = interpreter(folder, lambda name: not name.startswith(("lava", "loihi_convert", "_loihi_convert")))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_packages(folder))

    golden = site_packages(folder) / "loihi_convert" / "golden" / "model.net"
    commands = [
        ["--version"],
        ["run", str(golden), "--data", "digits", "--images", "20", "-o", "first"],
        ["report", "first"],
        ["models"],
        ["inspect", "mnist-T4"],
        ["check", "mnist-T64", "--images", "0"],
    ]
    done = subprocess.run(
        [python, "-I", "-c", PROGRAM, json.dumps(commands)], cwd=tmp_path, capture_output=True, text=True, timeout=270
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{wheel.name.split('-')[1]}\n")
    assert "<style>" in (tmp_path / "first" / "report.html").read_text()
