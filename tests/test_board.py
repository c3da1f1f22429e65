"""Backend `loihi2` on a machine without a board: choice of the board, plan, script, golden folder."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import networks, oracle
from support.command_line import Invoke, invoker
from support.golden import write_golden
from support.lava_programs import output_of
from test_balance import random_cnn

from loihi_convert import netx
from loihi_convert.backends.backend import BackendOptions, open_backend
from loihi_convert.backends.lava.exchange import LavaRun, stock_interval
from loihi_convert.backends.loihi2.board import Board, chosen_board
from loihi_convert.backends.loihi2.plan import ChipPlan, plan, script, script_suffix
from loihi_convert.backends.reference import ReferenceBackend, run_network
from loihi_convert.backends.result import RunResult, first_difference
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.errors import InputError, PlatformError, UsageError
from loihi_convert.ground.choices import BackendName
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.pipeline import golden_check
from loihi_convert.pipeline.bundle import write_bundle


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Invoke:
    """Run ``loihi-convert run``, or another verb, in an empty folder, without any board in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("PARTITION", "BOARD", "LOIHI_GEN", "SLURM", "NOSLURM", "NXSDKHOST"):
        monkeypatch.delenv(name, raising=False)

    words_of = invoker(monkeypatch, capsys)
    return lambda *words, verb="run": words_of(verb, *words)


KNOWN = golden_check.read_golden(golden_check.folder())
FILE = KNOWN.path / golden_check.NETWORK
DRY_RUN = (FILE, "--backend", "loihi2", "--dry-run", "--data", "digits")


def test_options_go_before_the_environment() -> None:
    assert chosen_board(environment={}) == Board("N3B3", None, None, None)
    environment = {"PARTITION": "a", "BOARD": "b", "LOIHI_GEN": "N3C1", "NXSDKHOST": "10.0.0.2"}
    # Lava's use_slurm_host takes a partition or a board, not both.
    assert chosen_board(environment=environment) == Board("N3C1", None, "b", None)
    assert chosen_board(partition="c", generation="N3B2", environment=environment) == Board("N3B2", "c", None, None)
    assert chosen_board(name="d", environment=environment) == Board("N3C1", None, "d", None)
    assert chosen_board(environment={"NXSDKHOST": "10.0.0.2"}) == Board("N3B3", None, None, "10.0.0.2")
    assert chosen_board(environment={"NXSDKHOST": "10.0.0.2", "SLURM": "1"}).address is None
    # In a job on the node of a board.
    inside = {"NXSDKHOST": "10.0.0.2", "PARTITION": "a", "NOSLURM": "1"}
    assert chosen_board(environment=inside).environment["NXSDKHOST"] == "10.0.0.2"


def test_the_environment_is_what_lava_sets() -> None:
    assert Board("N3C1", "p", "b").environment == {"SLURM": "1", "LOIHI_GEN": "N3C1", "PARTITION": "p", "BOARD": "b"}
    assert Board(address="h").environment == {"NOSLURM": "1", "NXSDKHOST": "h", "LOIHI_GEN": "N3B3"}


@pytest.mark.parametrize(
    ("options", "where", "found"),
    [
        ({"generation": "N2A2"}, "loihi_gen", "found N2A2"),
        ({"partition": "a\nreboot"}, "partition", r"found 'a\nreboot'"),
        ({"name": "a b"}, "board", "found 'a b'"),
        ({"name": "b", "partition": "p"}, "board", "given, and so is `partition` (p)"),
    ],
)
def test_what_is_no_board(options: dict[str, str], where: str, found: str) -> None:
    with pytest.raises(UsageError) as raised:
        chosen_board(**options, environment={})
    assert (raised.value.where, raised.value.found) == (where, found)


def small_plan(board: Board) -> ChipPlan:
    network = KNOWN.network
    return plan(network, 3, 6, board, neuron=NeuronModel.CIRCUIT)


def test_a_script_says_what_to_run_where(tmp_path: Path) -> None:
    words = ["loihi-convert", "run", "my net.net", "--backend", "loihi2"]
    activate = Path("/my venv/bin/activate")
    text = script(words, "my\nnet", small_plan(Board("N3B3", name="b")), folder=tmp_path, activate=activate)
    lines = text.splitlines()
    assert lines[:6] == [
        "#!/bin/bash",
        "#SBATCH --job-name=my_net",
        "#SBATCH --output=my_net-%j.log",
        "#SBATCH --time=00:31:00",
        "#SBATCH --exclusive",
        "#SBATCH --nodelist=b",
    ]
    assert lines[lines.index("set -eu") + 1 : -1] == [
        f"cd {tmp_path}",
        ". '/my venv/bin/activate'",
        "export LOIHI_GEN=N3B3",
        "export BOARD=b",
        'if [ -n "${NXSDKHOST:-}" ]; then export NOSLURM=1; else export SLURM=1; fi',
    ]
    assert lines[-1] == "loihi-convert run 'my net.net' --backend loihi2"


@pytest.mark.parametrize(("host", "expected"), [("", "SLURM=1 NOSLURM="), ("10.0.0.2", "SLURM= NOSLURM=1")])
def test_a_node_that_knows_its_board_does_not_ask_slurm(host: str, expected: str, tmp_path: Path) -> None:
    words = ["bash", "-c", "echo SLURM=${SLURM:-} NOSLURM=${NOSLURM:-}"]
    text = script(words, "job", small_plan(Board()), folder=tmp_path)
    environment = {"PATH": os.environ["PATH"], "NXSDKHOST": host}
    done = subprocess.run(["bash"], input=text, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_a_board_with_an_address_is_not_behind_slurm(tmp_path: Path) -> None:
    board = Board(address="10.0.0.2")
    text = script(["loihi-convert", "golden"], "golden", small_plan(board), folder=tmp_path)
    assert script_suffix(board) == ".sh"
    assert "#SBATCH" not in text
    assert "SLURM=1" not in text.replace("NOSLURM=1", "")
    assert "export NXSDKHOST=10.0.0.2" in text


def test_a_plan_says_what_the_run_takes() -> None:
    """8x8 pixels into 4 maps of 8x8, 6 of 2x2, 10 outputs; 3 images of 6 steps through 3 layers."""
    planned = small_plan(Board())
    assert planned.values_read == 4 * 64 + 6 * 4 + 10
    assert planned.stops == 3 * (6 + 2)
    assert planned.seconds == pytest.approx((0.24, 2.4))
    # One core a layer, and one for each neuron that passes the spike of the bias source on to the third.
    assert planned.neurocores == (5, 5)
    kinds = [process.kind for process in planned.processes]
    assert kinds[:2] == ["ImageSource", "PyToN3ConvAdapter"]
    assert kinds.count("PyToNxAdapter") == 1


def test_a_dry_run_shows_all_and_writes_a_script_once(invoke: Invoke) -> None:
    words = (*DRY_RUN, "--leak", "-T", 5)
    code, out, err = invoke(*words, "--partition", "p", "--images", 3)
    assert code == 0
    assert re.search(r"conv1 +LIFReset +4x8x8 +du 0, dv 4096, vth", out)
    assert "T = 5, reset interval 8, 16 steps from image to image; 3 images: 40 steps" in out
    assert "environment: SLURM=1 LOIHI_GEN=N3B3 PARTITION=p" in out
    assert "nothing was run; wrote model.sbatch" in err
    assert "This backend has never run on a chip" in err
    written = Path("model.sbatch").read_text()
    assert written.endswith("--backend loihi2 -T 5 --images 3 --data digits --leak\n")
    subprocess.run(["bash", "-n", "model.sbatch"], check=True)
    code, again, err = invoke(*words, "--partition", "p", "--images", 3)
    assert (code, again) == (0, out)
    assert "nothing was run; model.sbatch is unchanged" in err
    code, out, err = invoke(*words, "--images", 4)
    assert (code, out) == (3, "")
    assert "model.sbatch: exists already; nothing was changed." in err
    assert Path("model.sbatch").read_text() == written
    code, out, _ = invoke(*words, "--images", 4, "--json")
    assert (code, out) == (3, "")
    code, out, _ = invoke(*words, "--images", 4, "--overwrite", "--json")
    assert code == 0
    assert json.loads(out)["steps"] == 56
    assert Path("model.sbatch").read_text() != written


@pytest.mark.parametrize(("words", "limit"), [((), "00:31:00"), (("--profile",), "01:01:00")])
def test_a_profile_compiles_a_second_network(words: tuple[str, ...], limit: str, invoke: Invoke) -> None:
    """Half an hour for each; 24 stops of 0.1 s, twice, are less than a minute."""
    code, _, err = invoke(*DRY_RUN, "--images", 3, *words)
    assert code == 0, err
    assert f"#SBATCH --time={limit}\n" in Path("model.sbatch").read_text()


@pytest.mark.parametrize(("most", "warning"), [(5, ""), (2, "5 neurocores (an estimate), and a chip has 2: ")])
def test_a_plan_for_more_than_a_chip_is_remarked_on(
    most: int, warning: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loihi_convert.chip.limits.NEUROCORES", most)
    code, _, err = invoke("--backend", "loihi2", "--dry-run", verb="golden")
    assert code == 0
    assert ("warning" in err) == bool(warning)
    assert f"{warning}check that the board has 3 chips" in err or not warning


def test_the_script_of_a_dry_run_repeats_what_was_given(invoke: Invoke) -> None:
    given = ("--model", "a b.pt", "--arch", "nets:make", "--exit-tolerance", 0.5, "--output", "here")
    code, _, err = invoke(*DRY_RUN, *given)
    assert code == 0, err
    last = shlex.split(Path("model.sbatch").read_text().splitlines()[-1])
    assert sorted(last[last.index("--images") + 2 :]) == sorted(map(str, ("--data", "digits", *given)))
    assert last[last.index("--model") + 1] == "a b.pt"


def test_a_dry_run_refuses_the_folder_that_the_run_would_refuse(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "accuracy.csv").touch()
    code, out, err = invoke(*DRY_RUN, "--output", "here")
    assert (code, out) == (3, "")
    assert "error: here: exists already and is not empty; nothing was changed." in err
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--backend", "sim", "--board", "b"), 2, "error: --board: given, but the backend is sim"),
        (("--backend", "ref", "--profile"), 2, "profile: given, but the backend is ref"),
        (("--backend", "loihi2", "--neuron", "own"), 2, "neuron: given, but the backend is loihi2"),
        (
            ("--backend", "loihi2", "--dry-run", "-T", 7),
            3,
            "potentials of this file's circuit were scaled so that none",
        ),
        (("--backend", "loihi2", "--dry-run", "-T", 2**20 + 1), 2, "found 1048577; must be in 1..1,048,576."),
        ((FILE, "--backend", "loihi2", "--dry-run"), 2, "error: --dry-run: found 2 files"),
    ],
)
def test_what_makes_no_sense(words: tuple[object, ...], code: int, message: str, invoke: Invoke) -> None:
    found, _, err = invoke(FILE, "--data", "digits", *words)
    assert found == code
    assert message in err


def test_golden_can_be_rehearsed_without_a_board(invoke: Invoke) -> None:
    code, out, err = invoke("--backend", "loihi2", "--dry-run", "--board", "b", "--leak", verb="golden")
    assert code == 0, err
    assert re.search(r"conv1 +LIFReset +4x8x8 +du 0, dv 4096, vth", out)
    assert re.search(r"input +PyToN3ConvAdapter", out)
    assert "neurocores: 5 of 128" in out
    assert "read back: u of 290 neurons" in out
    assert "never measured" in out
    assert "nothing was run; wrote golden.sbatch" in err
    text = Path("golden.sbatch").read_text()
    last = "loihi-convert golden --backend loihi2 --leak"
    assert text.endswith(f"{last}\n")
    assert not Path("golden-report.json").exists()
    subprocess.run(["bash", "-n", "golden.sbatch"], check=True)
    assert invoke("--backend", "loihi2", "--dry-run", verb="golden")[0] == 3
    assert invoke("--dry-run", verb="golden")[0] == 2


def test_golden_writes_a_report_to_send_back(invoke: Invoke) -> None:
    assert invoke(verb="golden")[0] == 0
    report = json.loads(Path("golden-report.json").read_text())
    assert (report["passed"], report["error"], report["first_difference"]) == (True, None, None)
    assert report["versions"]["numpy"] == np.__version__
    assert invoke("--backend", "loihi2", "--board", "b", "-o", "other.json", verb="golden")[0] == 4
    report = json.loads(Path("other.json").read_text())
    assert not report["passed"]
    assert report["board"]["name"] == "b"
    assert "the Lava extension for Loihi, which a board needs, is not installed" in report["error"]


def test_the_first_difference_is_that_of_the_first_layer() -> None:

    class Changed(ReferenceBackend):
        def run(self, *given: Any, **options: Any) -> RunResult:
            result = super().run(*given, **options)
            potentials = result.traces[1].potentials.copy()
            potentials[2, 4, 5, 1, 0] += 7
            traces = (result.traces[0], replace(result.traces[1], potentials=potentials), *result.traces[2:])
            return replace(result, traces=traces)

    first = golden_check.check_golden(KNOWN, Changed(BackendOptions())).first
    assert first is not None
    assert [*first.values()][:5] == ["conv2", "potential", 2, 5, [5, 1, 0]]
    assert first["found"] - first["expected"] == 7


def test_the_missing_extension_is_told_before_the_images_are_loaded(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loihi_convert.data.load_data", None)
    code, out, err = invoke(FILE, "--backend", "loihi2", "--data", "digits")
    assert (code, out) == (4, "")
    assert err.startswith("error: loihi2: the Lava extension for Loihi, which a board needs, is not installed.")


def bundled(tmp_path: Path) -> Path:
    files = write_bundle(tmp_path / "bundle", FILE, KNOWN.images[:2])
    assert [path.name for path in files] == ["model.net", "bundle.npz", "run_bundle.py"]
    return tmp_path / "bundle"


def run_bundle(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the script from another folder than its own."""
    command = ["timeout", "250", sys.executable, "-I", str(folder / "run_bundle.py"), *words]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True)


@pytest.mark.lava
def test_a_bundle_runs_with_lava_alone_and_finds_a_wrong_value(tmp_path: Path) -> None:
    folder = bundled(tmp_path)
    done = run_bundle(folder)
    assert (done.returncode, done.stdout) == (0, "120 potentials on Lava's CPU simulator, 0 differ\n"), done.stderr
    with np.load(folder / "bundle.npz") as arrays:
        changed = dict(arrays)
    changed["potentials"][1, 3, 7] += 1
    np.savez_compressed(folder / "bundle.npz", **changed)
    done = run_bundle(folder)
    first, count = done.stdout.splitlines()
    wrong = int(changed["potentials"][1, 3, 7])
    assert (done.returncode, count) == (1, "120 potentials on Lava's CPU simulator, 1 differ")
    assert first == f"image 1, T = 4, output 7: found {wrong - 1}, expected {wrong}"


@pytest.mark.lava
def test_a_bundle_of_many_channels_runs(tmp_path: Path) -> None:
    """Lava's own model of Conv has an int8 geometry, with which NumPy 2 does not compare 128 channels."""
    wide = QuantizedLayer(
        "wide",
        Conv(np.arange(128, dtype=np.int32).reshape(128, 1, 1, 1)),
        IntegerNeuron(np.full(128, 100, np.int32), np.full(128, 50, np.int32)),
        np.ones(128),
        largest_input=255,
    )
    weights = np.where(np.arange(256).reshape(2, 128) % 3, 1, -1).astype(np.int32)
    last = QuantizedLayer("last", Dense(weights), None, np.ones(2), largest_input=1)
    network = QuantizedNetwork((1, 1, 1), (wide, last), 1, 1, pixel_bits=8, reset="soft", target="loihi2")
    netx.write(network, tmp_path / "wide.net")
    write_bundle(tmp_path / "bundle", tmp_path / "wide.net", np.full((1, 1, 1, 1), 3, np.uint8))
    done = run_bundle(tmp_path / "bundle")
    assert (done.returncode, done.stdout) == (0, "2 potentials on Lava's CPU simulator, 0 differ\n"), done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--Board",), "usage: python run_bundle.py [--board]"),
        (("--board", "--board"), "usage: python run_bundle.py [--board]"),
        pytest.param(
            ("--board",),
            "--board needs Intel's Lava extension for Loihi, which is not public: "
            "No module named 'lava.proc.embedded_io'",
            marks=pytest.mark.lava,
        ),
    ],
)
def test_what_the_script_of_a_bundle_refuses(words: tuple[str, ...], line: str, tmp_path: Path) -> None:
    done = run_bundle(bundled(tmp_path), *words)
    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1]) == (1, "", line)
    assert "Traceback" not in done.stderr


def test_the_script_of_a_bundle_is_short_and_needs_nothing_of_this_package(tmp_path: Path) -> None:
    lines = (bundled(tmp_path) / "run_bundle.py").read_text().splitlines()
    assert len(lines) <= 72
    assert max(map(len, lines)) <= 120
    imported = {
        line.split()[1].split(".")[0] for line in map(str.strip, lines) if line.startswith(("import ", "from "))
    }
    assert imported <= {"dataclasses,", "h5py,", "lava", "scipy"}


def test_a_bundle_is_not_written_over_another(tmp_path: Path) -> None:
    folder = bundled(tmp_path)
    with pytest.raises(InputError, match="exists already; nothing was changed"):
        write_bundle(folder, FILE, KNOWN.images)
    write_bundle(folder, FILE, KNOWN.images, overwrite=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--bundle: the file is of target lava, whose soft-reset neurons are not part of Lava"),
        (("--target", "loihi2", "-T", "2,4"), "--bundle: found 2 values of T; must be one T."),
        (("--target", "loihi2", "-T", "2", "--input", "poisson"), "--bundle: Poisson input was chosen"),
        (("--target", "loihi2", "-T", "2", "--readout", "spikes"), "--bundle: --readout spikes was chosen; needs"),
        (
            ("--target", "loihi2", "-T", "2", "-o", "b/model.net"),
            "--bundle: found b, where model.net is the exported file itself; must be another folder.",
        ),
        (
            ("--target", "loihi2", "-T", "2", "--bundle", ".", "--overwrite"),
            "--bundle: found ., where model.net is the exported file itself; must be another folder.",
        ),
    ],
)
def test_what_cannot_be_bundled(words: tuple[str, ...], message: str, invoke: Invoke) -> None:
    Path("model.pt").write_bytes(b"PK")
    Path("b").mkdir()
    code, out, err = invoke("model.pt", "--bundle", "b", *words, verb="export")
    assert (code, out) == (2, "")
    assert f"error: {message}" in err


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("b", "exists already; nothing was changed"),
        ("file", "cannot be written (Not a directory); nothing was changed"),
        ("file/b", "cannot be written (Not a directory); nothing was changed"),
    ],
)
def test_a_bundle_that_cannot_be_written_is_found_before_the_export(folder: str, message: str, invoke: Invoke) -> None:
    Path("model.pt").write_bytes(b"PK")
    Path("file").touch()
    Path("b").mkdir()
    Path("b", golden_check.NETWORK).touch()
    code, out, err = invoke("model.pt", "--bundle", folder, "--target", "loihi2", "-T", "2", verb="export")
    assert (code, out) == (3, "")
    assert message in err


@pytest.mark.lava
def test_without_the_extension_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    network, images = networks.random_loihi2_network(0)
    netx.write(network, tmp_path / "model.net")
    with open_backend("loihi2", BackendOptions(board=Board())) as backend, pytest.raises(PlatformError) as raised:
        backend.run(netx.read(tmp_path / "model.net"), images, 1)
    assert (raised.value.where, raised.value.found[-17:]) == ("loihi2", " is not installed")
    assert "(INRC) get it: intel-ncl" in raised.value.hint


BY_STEPS = """
import json, sys
from loihi_convert.backends.lava import host, networks
from loihi_convert.backends.loihi2 import hardware
host.import_lava()
from lava.magma.core import run_configs
from lava.proc.io.source import RingBuffer
from lava.proc.lif.models import PyLifResetModelBitAcc
from lava.proc.lif.process import LIFReset

# Instead of a chip: Lava's own models on the CPU, which record nothing.
run = host.LavaRun.read(sys.argv[1])
models = {**networks.models(run), LIFReset: PyLifResetModelBitAcc}
models.pop(RingBuffer)
run_configs.Loihi2HwCfg = lambda exception_proc_model_map: run_configs.Loihi2SimCfg(
    exception_proc_model_map={**models, **exception_proc_model_map}
)
hardware.connect_through_adapter = lambda out, into, bits: networks.connect(out, into)

built, build = [], networks.build_circuit

def remembered(*arguments, **options):
    built.append(build(*arguments, **options))
    return built[-1]

hardware.build_circuit = remembered
hardware.run_on_board(run)
for neurons in built[0].neurons:
    shown = {name: neurons.proc_params[name] for name in ("bias_exp", "reset_interval", "reset_offset", "du", "dv")}
    print(json.dumps({**{name: str(value) for name, value in shown.items()}, "vth": str(int(neurons.vth.init))}))
"""


@pytest.mark.lava
def test_what_is_read_from_a_board_after_every_step_is_what_every_layer_did(tmp_path: Path) -> None:
    """The driver in `hardware`, on Lava's simulator, reads u as it would from a chip; it agrees with the plan."""
    network, images = networks.random_loihi2_network(28)
    run = LavaRun(str(tmp_path), network, len(images), 3, trace=True, neuron=NeuronModel.CIRCUIT)
    run.fill(images)
    printed = output_of(BY_STEPS, tmp_path)
    oracle.assert_equal(network, images, run.result(), 3, is_stock=True)
    planned = plan(network, len(images), 3, Board(), neuron=NeuronModel.CIRCUIT)
    neurons = [process.parameters for process in planned.processes if process.kind == "LIFReset"]
    built = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert len(built) == len(neurons)
    for found, expected in zip(built, neurons, strict=True):
        assert found.items() <= expected.items()


USE_BOARD = """
import importlib.machinery, json, os, sys, types
from loihi_convert.backends.lava import host
host.import_lava()
from loihi_convert.backends.loihi2 import board, hardware

# The extension, as far as Lava looks for it.
name = "lava.utils.loihi2_profiler"
sys.modules[name] = types.ModuleType(name)
sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
try:
    hardware.use_board(board.Board(**json.loads(sys.argv[1])))
except hardware.NoBoardError as error:
    print("refused:", error.reason)
else:
    print(*(f"{name}={os.environ.get(name)}" for name in ("SLURM", "NOSLURM", "PARTITION", "BOARD")))
"""


@pytest.mark.lava
@pytest.mark.parametrize(
    ("board", "expected"),
    [
        ({}, "SLURM=1 NOSLURM=None PARTITION=None BOARD=None"),
        ({"partition": "oheogulch"}, "SLURM=1 NOSLURM=None PARTITION=oheogulch BOARD=None"),
        # sinfo marks the default partition with a star.
        ({"partition": "kapohopoint"}, "SLURM=1 NOSLURM=None PARTITION=kapohopoint BOARD=None"),
        ({"name": "og-01"}, "SLURM=1 NOSLURM=None PARTITION=None BOARD=og-01"),
    ],
)
def test_lava_gets_the_board_from_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: dict[str, str], expected: str
) -> None:
    """Lava's own check of a partition or board fails on a table that ends in a newline, as sinfo's does."""
    sinfo = tmp_path / "sinfo"
    rows = ("PARTITION AVAIL TIMELIMIT NODES STATE NODELIST", "kapohopoint* up infinite 1 idle kp-01")
    sinfo.write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows))
    sinfo.chmod(0o755)
    for name in ("SLURM", "NOSLURM", "PARTITION", "BOARD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert output_of(USE_BOARD, json.dumps(board)).splitlines()[-1] == expected


@pytest.mark.lava
def test_without_sinfo_there_is_no_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sinfo" in output_of(USE_BOARD, "{}").splitlines()[-1]


@pytest.mark.lava
def test_the_poisson_spikes_of_a_shard_are_those_of_the_whole_run(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 1, 8, 8)).astype(np.uint8)
    options = BalanceOptions(method="robust-norm", poisson_seed=3)
    network = quantize(balance(random_cnn(0), images, 3, options), images, QuantizeOptions(target="loihi2"))
    run = LavaRun(str(tmp_path), network, 2, 3, trace=True, first_image=64, neuron=NeuronModel.CIRCUIT)
    run.fill(images[64:66])
    output_of(BY_STEPS, tmp_path)
    expected = run_network(network, images[64:66], 3, trace=True, first_image=64)
    assert first_difference(run.result(), expected) is None


@pytest.mark.parametrize(("words", "judge"), [((), ""), (("--leak",), ", leak: compared with ref")])
@pytest.mark.parametrize("backend", ["ref", pytest.param("sim", marks=pytest.mark.lava)])
def test_the_golden_folder_passes(backend: BackendName, words: tuple[str, ...], judge: str, invoke: Invoke) -> None:
    code, out, _ = invoke("--backend", backend, *words, verb="golden")
    assert code == 0
    assert out.splitlines() == [
        f"pass: every spike and potential of 3 layers is equal (8 images, T = 6, {backend}{judge})",
        "conv1: spikes pass, potentials pass",
        "conv2: spikes pass, potentials pass",
        "fc: spikes no neurons, potentials pass",
    ]


def test_the_golden_network_is_worth_comparing() -> None:
    """T is not a power of two; there are biases, a pooling, and layers that do and do not fire until the end."""
    assert KNOWN.network.target == "loihi2"
    assert KNOWN.timesteps & (KNOWN.timesteps - 1) != 0
    assert all(layer.bias is not None and layer.bias.any() for layer in KNOWN.network.layers)
    assert any(layer.synapse.pool != (1, 1) for layer in KNOWN.network.layers)
    _, spikes, has_wrapped = oracle.run_circuit(KNOWN.network, KNOWN.images, KNOWN.timesteps, leaks=False)
    assert not has_wrapped.any()
    assert all(0.02 < fired.mean() < 0.9 and fired[:, -1].any() for fired in spikes)


def test_a_board_that_does_not_leak_as_it_should_fails() -> None:
    """With the leak, potentials are not those of the folder."""

    class WithoutLeak(ReferenceBackend):
        def run(self, *given: Any, **options: Any) -> RunResult:
            return ReferenceBackend().run(*given, **options)

    found = golden_check.check_golden(KNOWN, WithoutLeak(BackendOptions(leak=True)))
    assert [layer.potentials for layer in found.layers] == [False, False, False]
    assert found.difference is not None


def test_a_difference_is_found_in_its_layer(invoke: Invoke, tmp_path: Path) -> None:
    """Of a digest, in one layer."""
    shutil.copytree(golden_check.folder(), tmp_path / "other")
    told = json.loads((tmp_path / "other" / golden_check.DIGESTS).read_text())
    told["layers"][1]["spikes"] = "0" * 64
    (tmp_path / "other" / golden_check.DIGESTS).write_text(json.dumps(told))
    code, out, err = invoke("other", verb="golden")
    assert code == 5
    assert out.startswith("FAIL (8 images, T = 6, ref)\nconv1: spikes pass, potentials pass\nconv2: spikes FAIL")
    assert "ref differs from the folder; compared with ref: no difference, so ref differs from the folder, too." in err
    code, out, _ = invoke("other", "--json", verb="golden")
    assert code == 5
    answer = json.loads(out)
    assert not answer["passed"]
    assert [layer["spikes"] for layer in answer["layers"]] == [True, False, None]


def test_a_golden_folder_is_taken_as_a_whole(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.net"):
        golden_check.read_golden(tmp_path)
    shutil.copytree(golden_check.folder(), tmp_path, dirs_exist_ok=True)
    network = netx.read(tmp_path / golden_check.NETWORK)
    netx.write(replace(network, provenance={"changed": True}), tmp_path / golden_check.NETWORK, overwrite=True)
    with pytest.raises(InputError) as caught:
        golden_check.read_golden(tmp_path)
    assert caught.value.where == str(tmp_path / "model.net")
    assert "golden.json" in caught.value.found
    (tmp_path / golden_check.DIGESTS).write_text("{}")
    with pytest.raises(InputError) as caught:
        golden_check.read_golden(tmp_path)
    assert caught.value.where == str(tmp_path)
    assert "'timesteps'" in caught.value.found


def bare_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="truncated"),
        pytest.param(lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:], id="one bit"),
        pytest.param(lambda content: bare_array(), id="a bare array"),
    ],
)
def test_damaged_arrays_of_a_golden_folder_are_refused(
    damage: Callable[[bytes], bytes], invoke: Invoke, tmp_path: Path
) -> None:
    shutil.copytree(golden_check.folder(), tmp_path / "g")
    arrays = tmp_path / "g" / golden_check.ARRAYS
    arrays.write_bytes(damage(arrays.read_bytes()))
    code, out, err = invoke("g", verb="golden")
    assert (code, out) == (3, "")
    assert re.match(r"error: g: not a golden folder, or damaged \(.+\); must hold model\.net, golden\.npz and", err)


def test_a_golden_folder_is_written_whole_or_not_over_another(tmp_path: Path) -> None:
    network, images = networks.random_loihi2_network(1)
    netx.write(network, tmp_path / "random.net")
    written = write_golden(tmp_path / "new", tmp_path / "random.net", images, 3)
    with open_backend("ref") as backend:
        assert golden_check.check_golden(written, backend).passed
    np.testing.assert_array_equal(written.images, images)
    with pytest.raises(InputError, match="exists already; nothing was changed"):
        write_golden(tmp_path / "new", tmp_path / "random.net", images, 3)


def test_stops_of_images_that_overlap_are_counted_once() -> None:
    """At T = 1 an image starts every 2 steps and passes 3 layers in 3: 10 images take 21 steps, each read once."""
    network = KNOWN.network
    assert stock_interval(1) == 2
    assert plan(network, 10, 1, Board(), neuron=NeuronModel.CIRCUIT).stops == 9 * 2 + 3
