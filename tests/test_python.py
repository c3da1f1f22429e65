"""Other Python environments: without Lava, with Lava in another interpreter, and interpreters that cannot run it.

They are real virtual environments whose packages are links to those of this environment.
"""

from __future__ import annotations

import importlib
import json
import os
import pickletools
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
from support import networks
from support.environments import interpreter

import loihi_convert
from loihi_convert import cli, netx
from loihi_convert.__main__ import exit_code
from loihi_convert.backends.backend import BackendOptions, open_backend
from loihi_convert.backends.lava import host_process
from loihi_convert.backends.lava.exchange import LavaRun
from loihi_convert.backends.lava.host_process import HostProcess
from loihi_convert.backends.lava.lava_backend import LavaBackend
from loihi_convert.backends.result import first_difference
from loihi_convert.checks import environment
from loihi_convert.cnn import training
from loihi_convert.cnn.checkpoint import Checkpoint, save
from loihi_convert.cnn.models import build_model
from loihi_convert.cnn.training import TrainOptions
from loihi_convert.data import load_data
from loihi_convert.errors import PlatformError
from loihi_convert.ground import dependencies
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.dependencies import LAVA_PYTHON
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import QuantizedNetwork

# Lava and the packages that it imports.
LAVA_ALONE = ("lava", "lava_nc-", "numpy", "scipy", "networkx", "asteval")


@pytest.fixture(scope="module")
def lava_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with Lava and without h5py, torch, pydantic, typer and this package."""
    return interpreter(tmp_path_factory.mktemp("lava"), lambda name: name.startswith(LAVA_ALONE))


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    yield
    assert list(temporary.iterdir()) == []
    assert Path(loihi_convert.__file__).exists()


@pytest.fixture
def random_file(tmp_path: Path) -> tuple[QuantizedNetwork, Array, Path]:
    network, images = networks.random_network(4)
    netx.write(network, tmp_path / "model.net")
    return network, images, tmp_path / "model.net"


@pytest.mark.lava
@pytest.mark.usefixtures("nothing_left")
def test_another_interpreter_needs_nothing_but_lava(lava_alone: Path, tmp_path: Path) -> None:
    with LavaBackend(BackendOptions(lava_python=str(lava_alone))) as sim, open_backend("ref") as ref:
        for seed in range(4):
            network, images = networks.random_network(seed)
            path = tmp_path / f"{seed}.net"
            netx.write(network, path)
            found, expected = (backend.run(netx.read(path), images, 4, trace=True) for backend in (sim, ref))
            assert first_difference(found, expected) is None
        assert sim.versions["numpy"] == np.__version__
        assert sim.versions["python"] == sys.version.split()[0]
        assert sim.versions["lava-nc"] == "0.10.0"


@pytest.mark.lava
@pytest.mark.usefixtures("nothing_left")
def test_the_variable_can_name_this_interpreter_too(
    random_file: tuple[QuantizedNetwork, Array, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, images, path = random_file
    monkeypatch.setenv(LAVA_PYTHON, sys.executable)
    # This interpreter's import path must not be passed on to another one.
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with open_backend("sim") as sim, open_backend("ref") as ref:
        assert first_difference(sim.run(netx.read(path), images, 4), ref.run(netx.read(path), images, 4)) is None


def test_the_host_runs_this_package_also_if_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is only on ``sys.path``, as in a notebook of a clone, is not found by another process."""
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    host = HostProcess("sim", None)
    try:
        # Python begins after it was forked from this process, with this one's first variables.
        while "-u" not in Path(f"/proc/{host._process.pid}/cmdline").read_text().split("\0"):
            time.sleep(0.01)
        variables = Path(f"/proc/{host._process.pid}/environ").read_text().split("\0")
        first, *others = dict(text.split("=", 1) for text in variables if text)["PYTHONPATH"].split(os.pathsep)
        assert (Path(first) / "loihi_convert").resolve() == Path(loihi_convert.__file__).resolve().parent
        assert others == ["/nowhere"]
    finally:
        host.end()


def test_the_network_is_passed_in_a_format_that_every_numpy_reads(tmp_path: Path) -> None:
    network, images = networks.random_network(4)
    LavaRun(str(tmp_path), network, len(images), 4, neuron=NeuronModel.SOFT).fill(images)
    pickled = (tmp_path / "run.pickle").read_bytes()
    strings = [argument for _, argument, _ in pickletools.genops(pickled) if isinstance(argument, str)]
    modules = {text.split(".")[0]: text for text in strings if text.startswith(("numpy", "loihi_convert"))}
    assert modules["numpy"] == "numpy"
    assert b"_core" not in pickled
    copy = LavaRun.read(str(tmp_path)).network
    for layer, expected in zip(copy.layers, network.layers, strict=True):
        for array, original in ((layer.weight, expected.weight), (layer.bias, expected.bias)):
            assert (array is None) == (original is None)
            assert original is None or (array.dtype == original.dtype and np.array_equal(array, original))


def program(folder: Path, text: str) -> Path:
    path = folder / "program"
    path.write_text(text)
    path.chmod(0o755)
    return path


NOT_PYTHON = {
    "absent": ("/nowhere/python", "lava_python", "program /nowhere/python"),
    "folder": ("/", "lava_python", "program /"),
    "answers": ("#!/bin/sh\necho hello", "sim", "(it answers b'hello')"),
    "complains": ("#!/bin/sh\necho pyenv: not found >&2; echo see help >&2; exit 127", "sim", "(pyenv: not found)"),
    "old": ("#!/bin/sh\necho Traceback >&2; echo SyntaxError: future >&2; exit 1", "sim", "(SyntaxError: future)"),
    "silent": ("#!/bin/sh\nexit 3", "sim", "(it ended with exit code 3)"),
    "removes its log": ('#!/bin/sh\nread request; rm -r "$4"; exit 3', "sim", "(it ended with exit code 3)"),
    "no program": ("neither this nor that", "sim", "Exec format error"),
}


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("case", NOT_PYTHON)
def test_files_that_are_not_a_python_interpreter(
    case: str, random_file: tuple[QuantizedNetwork, Array, Path], tmp_path: Path
) -> None:
    _, images, path = random_file
    given, where, found = NOT_PYTHON[case]
    name = given if given.startswith("/") else str(program(tmp_path, given))
    with LavaBackend(BackendOptions(lava_python=name)) as backend, pytest.raises(PlatformError) as raised:
        backend.run(netx.read(path), images, 4)
    assert raised.value.where == where
    assert found in raised.value.found
    assert "LOIHI_CONVERT_LAVA_PYTHON" in raised.value.hint


def test_a_path_to_an_interpreter_is_not_searched_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "on PATH"):
        (tmp_path / name).mkdir()
        program(tmp_path / name, "")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", str(tmp_path / "on PATH"))
    assert host_process._executable("./program") == str(tmp_path / "here" / "program")
    assert host_process._executable("program") == str(tmp_path / "on PATH" / "program")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("packages", "message"),
    [
        # No package of this interpreter is visible in the other one.
        ((), r"bin/python cannot run Lava \(ModuleNotFoundError: No module named 'numpy'\)"),
        (("numpy",), r"sim: Lava cannot be imported by .+bin/python \(No module named 'lava'\)"),
    ],
)
def test_an_interpreter_without_numpy_or_lava(
    packages: tuple[str, ...], message: str, random_file: tuple[QuantizedNetwork, Array, Path], tmp_path: Path
) -> None:
    _, images, path = random_file
    python = interpreter(tmp_path / "venv", lambda name: name in packages or name.startswith("numpy.libs"))
    with LavaBackend(BackendOptions(lava_python=str(python))) as backend, pytest.raises(PlatformError, match=message):
        backend.run(netx.read(path), images, 4)


def save_untrained_model(path: Path) -> None:
    model, data = build_model("digits-cnn", (1, 8, 8), 10), load_data("digits")
    checkpoint = Checkpoint("digits-cnn", model.state_dict(), "digits", (1, 8, 8), data.classes, 0, 0.1, 0.1, {})
    save(checkpoint, path)


# All commands run in one process, because each new process would import torch again.
COMMANDS = """
import contextlib, io, json, sys
from loihi_convert.__main__ import main
done = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["loihi-convert", *words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            done.append((stop.code or 0, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""


@pytest.mark.lava
def test_without_lava_everything_else_works(lava_alone: Path, tmp_path: Path) -> None:
    # The folder of the installed package: the environment may only have a link to its source.
    source = Path(loihi_convert.__file__).parents[1]
    python = interpreter(tmp_path / "venv", lambda name: not name.startswith("lava"))
    save_untrained_model(tmp_path / "model.pt")
    on_lava = ["run", "model.net", "--images", "20", "--backend", "sim"]
    commands = [
        ["doctor"],
        ["export", "model.pt", "-T", "4"],
        ["run", "model.net", "--images", "20"],
        on_lava,
        [*on_lava, "--lava-layout", "layers", "--lava-python", str(lava_alone)],
    ]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    environment.pop(LAVA_PYTHON, None)
    finished = subprocess.run(
        [python, "-c", COMMANDS, json.dumps(commands)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert finished.returncode == 0, finished.stderr
    without, exported, on_ref, on_sim, elsewhere = json.loads(finished.stdout)
    assert without[0] == 0
    assert "absent  Lava (sim): not installed; `--backend sim` and `diagnose --sim` do not work" in without[1]
    assert "name an interpreter that has it: --lava-python PATH, or LOIHI_CONVERT_LAVA_PYTHON=PATH" in without[1]
    assert "absent  lava-dl: not installed" in without[1]
    assert exported[0] == 0
    assert "wrote model.net" in exported[1]
    assert on_ref[0] == 0
    assert "20 test images" in on_ref[1]
    assert on_sim[:2] == [4, ""]
    assert "error: sim: Lava cannot be imported (No module named 'lava'). `loihi-convert doctor` says" in on_sim[2]
    assert elsewhere[0] == 0
    assert "Lava equals ref in every output potential and spike count, all 20 images" in elsewhere[1]
    (manifest,) = (tmp_path / "runs").glob("model-sim-*/manifest.json")
    recorded = json.loads(manifest.read_text())
    assert recorded["backend_versions"]["lava-nc"] == "0.10.0"
    assert recorded["lava_layout"] == "layers"


@pytest.mark.slow
def test_the_demo_runs_on_ref_where_lava_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_cnn = training.train_cnn
    monkeypatch.setattr(training, "train_cnn", lambda *given, **options: train_cnn(*given[:2], TrainOptions(epochs=1)))
    demo = importlib.import_module("loihi_convert.cli.demo")
    monkeypatch.setattr(demo, "is_lava_at_hand", lambda lava_python: False)
    words = ["demo", "-T", "4", "-o", str(tmp_path / "demo")]
    assert exit_code(lambda: cli.app(words, standalone_mode=False)) == 0
    told = capsys.readouterr()
    assert told.err.startswith("Lava is not installed, so the demo runs on ref: the same integers.")
    assert "exact integers" in told.out
    assert list((tmp_path / "demo" / "runs").glob("model-ref-*"))


def run_in(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `loihi-convert` with these arguments, this package's source and another interpreter's packages."""
    environment = {**os.environ, "PYTHONPATH": str(Path(loihi_convert.__file__).parents[1])}
    environment.pop(LAVA_PYTHON, None)
    command = [python, "-m", "loihi_convert", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("package", ["h5py", "matplotlib", "numba", "numpy", "safetensors", "scipy", "torch"])
def test_a_missing_package_is_a_sentence(package: str, tmp_path: Path) -> None:
    python = interpreter(tmp_path / "venv", lambda name: not name.lower().startswith((package, "lava")))
    done = run_in(python, "run", "model.net")
    assert (done.returncode, done.stdout) == (PlatformError.exit_code, "")
    assert done.stderr.startswith(f"error: {package}: not installed; loihi-convert needs it. Run: pip install ")
    assert len(done.stderr.splitlines()) == 1
    assert run_in(python, "run", "--help").returncode == 0
    examined = run_in(python, "doctor")
    assert examined.returncode == PlatformError.exit_code
    assert f"BROKEN  {package}: not installed" in examined.stdout
    assert "Traceback" not in examined.stderr


@pytest.mark.parametrize("package", ["typer", "pydantic"])
def test_without_the_packages_of_the_command_line(package: str, tmp_path: Path) -> None:
    python = interpreter(tmp_path / "venv", lambda name: not name.startswith(package))
    done = run_in(python, "doctor")
    assert done.returncode == PlatformError.exit_code
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: {package}: cannot be imported")
    assert f'pip install "{package}' in done.stderr


def test_a_package_that_cannot_be_imported_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(name: str) -> None:
        raise ImportError("libgomp.so.1: cannot open shared object file", name=name)

    assert exit_code(lambda: fail("torch._C")) == PlatformError.exit_code
    assert capsys.readouterr().err.startswith(
        "error: torch: cannot be imported (libgomp.so.1: cannot open shared object file)"
    )
    with pytest.raises(ImportError):
        exit_code(lambda: fail("loihi_convert.nowhere"))


def test_the_packages_looked_for_are_the_declared_ones() -> None:
    declared = [re.split(r"[<>=]", text)[0] for text in requires("loihi-convert") or () if ";" not in text]
    assert sorted(declared) == sorted(dependencies.MODULES)
    assert not dependencies.missing_packages()
    assert set(dependencies.MODULES) <= set(dependencies._declared())
    assert dependencies.install_line(["jinja2"]).startswith('pip install "jinja2>=')
    assert dependencies.install_line(["h5py"]) in ('pip install "h5py<4,>=3.8"', 'pip install "h5py>=3.8,<4"')
    assert dependencies.install_line(["distributed"]) == 'pip install "distributed>=2024.8"'


def test_doctor_names_versions_that_are_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(
        dependencies.unsuitable_version(name, str(dependencies.installed_version(name))) is None
        for name in dependencies.MODULES
    )
    assert dependencies.unsuitable_version("torch", "2.13.0+cpu") is None
    assert dependencies.unsuitable_version("pydantic", "1.10.13") in (">=2.6,<3", "<3,>=2.6")
    old = {"pydantic": "1.10.13", "nir": "1.0.3"}
    monkeypatch.setattr(environment, "installed_version", lambda name: old.get(name, "99"))
    checks = {check.name: check for check in environment.examine()}
    for name, version in old.items():
        assert (checks[name].state, checks[name].found.partition(",")[0]) == ("broken", version)
        assert f'pip install "{name}' in checks[name].advice


def test_no_extra_is_silently_empty() -> None:
    """If every package of an extra had a marker on the Python version, pip would install nothing, and say nothing."""
    has_marker: dict[str, list[bool]] = {}
    for text in requires("loihi-convert") or ():
        if found := re.search(r"extra == ['\"](\w+)['\"]", text):
            has_marker.setdefault(found[1], []).append("python_version" in text)
    assert {"lava", "onnx"} <= has_marker.keys()
    assert not [extra for extra, marked in has_marker.items() if all(marked)]


def test_doctor_is_fast_unless_it_runs_lava(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LAVA_PYTHON, raising=False)
    monkeypatch.setattr(environment, "_lava_run", None)
    checks = {check.name: check for check in environment.examine()}
    assert "`doctor --lava` runs it" in checks["Lava (sim)"].found
    assert all(checks[name].state == "ok" for name in dependencies.MODULES)
    with pytest.raises(TypeError):
        environment.examine(run_lava=True)


@pytest.mark.lava
def test_doctor_says_where_lava_runs(lava_alone: Path) -> None:
    (lava,) = (check for check in environment.examine(str(lava_alone)) if check.name == "Lava (sim)")
    version = sys.version.split()[0]
    assert lava.state == "ok"
    assert lava.found == (
        f"lava-nc 0.10.0, Python {version}, NumPy {np.__version__} in {lava_alone}; a test network ran, equal to ref"
    )
