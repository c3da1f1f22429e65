"""The quick part of tools/faults.py: what a killed, hindered or interrupted command says and leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from loihi_convert import netx
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Dense
from loihi_convert.runs.run_folder import run_folder

CLI = (sys.executable, "-m", "loihi_convert")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_run_that_fails_leaves_no_folder(tmp_path: Path, error: type[BaseException]) -> None:
    root = tmp_path / "runs"

    def fail() -> None:
        with run_folder(root, "a-ref") as folder:
            (folder / "accuracy.csv").touch()
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []
    with run_folder(root, "a-ref") as other:
        with pytest.raises(error):
            fail()
        assert names(root) == [other.name]


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        (">/dev/full", 4, "error: stdout: cannot be written (No space left on device)"),
        (">&-", 0, ""),
        ("2>/dev/full", 0, ""),
    ],
)
def test_where_the_output_cannot_go(tmp_path: Path, redirection: str, code: int, message: str) -> None:
    command = ("sh", "-c", f'exec "$@" {redirection}', "sh", *CLI, "--version")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == (1 if message else 0)


def test_a_signal_comes_while_ref_simulates(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exported(command: list[str], cwd: Path, **options: object) -> None:
        if "longest.net" in command:
            netx.write(wide_network(), cwd / "longest.net")

    with monkeypatch.context() as context:
        context.setattr(tool.subprocess, "run", exported)
        bench = tool.Bench(tmp_path)
    monkeypatch.setattr(tool, "_COMMANDS", {"run on ref": tool._COMMANDS["run on ref"]})
    send_signal, runs = subprocess.Popen.send_signal, []

    def send(process: subprocess.Popen[str], number: int) -> None:
        runs.extend(tmp_path.rglob("runs/*"))
        send_signal(process, number)

    monkeypatch.setattr(subprocess.Popen, "send_signal", send)
    assert next(tool.signals(bench)) == ""
    assert len(runs) == 1


def wide_network() -> QuantizedNetwork:
    """A network for digits that takes seconds."""
    random, width = np.random.default_rng(0), 1000
    neuron = IntegerNeuron(np.full(width, 90, np.int32), np.full(width, 45, np.int32))
    sides = (64, width, width, 10)
    weights = [random.integers(-3, 4, (sides[i + 1], sides[i])).astype(np.int32) for i in range(3)]
    layers = tuple(
        QuantizedLayer(f"fc{i}", Dense(weight), neuron if i < 2 else None, np.ones(len(weight)), 1 if i else 255)
        for i, weight in enumerate(weights)
    )
    provenance = {"model": {"data": "digits"}}
    return QuantizedNetwork(
        (1, 8, 8), layers, timesteps=64, max_timesteps=64, pixel_bits=8, reset="soft", provenance=provenance
    )


def test_the_current_folder_is_gone(tmp_path: Path) -> None:
    shell = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *CLI, "export", "model.pt"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert done.stderr == "error: the current folder has been deleted; change into one that exists.\n"
    assert names(tmp_path) == []


def test_nobody_reads_the_output(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*CLI, "--version"], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM"), (signal.SIGHUP, None)]
)
def test_a_signal_is_one_line(tmp_path: Path, number: signal.Signals, said: str | None) -> None:
    # A signal that is ignored at the start, as under nohup, stays ignored.
    program = (
        "import os, signal, sys; from loihi_convert import __main__, cli\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "cli.app = lambda standalone_mode: os.kill(os.getpid(), int(sys.argv[1]))\n"
        "__main__.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(int(number))], cwd=tmp_path, capture_output=True, text=True
    )
    if said is None:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert (done.returncode, done.stderr) == (128 + number, f"error: {said}; nothing half-written is left.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["loihi_convert.cli", "loihi_convert.pipeline", "torch"])
def test_a_signal_amid_imports_is_one_line(tmp_path: Path, number: signal.Signals, module: str) -> None:
    # Sends itself the signal when it looks for ``module``, which is soon after the start or in a command.
    program = (
        "import os, sys\n"
        "module, number = sys.argv[3:]\n"
        "del sys.argv[3:]\n"
        "class Finder:\n"
        "    def find_spec(name, path, target=None):\n"
        "        if name == module: os.kill(os.getpid(), int(number))\n"
        "from loihi_convert.__main__ import main\n"
        "sys.meta_path.insert(0, Finder)\n"
        "main()"
    )
    words = ("export", "absent.pt", module, str(int(number)))
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True)
    said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert (done.returncode, done.stderr) == (128 + number, f"error: {said}; nothing half-written is left.\n")
    assert names(tmp_path) == []


def test_signals_where_nothing_can_be_raised(tmp_path: Path) -> None:
    # In __del__ Python reports an exception and goes on; a second Ctrl-C does not disturb the cleaning up after one.
    program = (
        "import os, signal, sys, time; from loihi_convert import __main__, cli\n"
        "class Deaf:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGINT)\n"
        "def app(standalone_mode):\n"
        "    Deaf()\n"
        "    try: time.sleep(20)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        print('cleaned up', flush=True)\n"
        "cli.app = app\n"
        "__main__.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stdout) == (130, "cleaned up\n")
    assert done.stderr == "error: interrupted; nothing half-written is left.\n"


@pytest.mark.parametrize("limit", ["-v 102400", "-v 307200", "-d 102400", "-v 2000000"])
def test_too_little_memory_is_said_before_torch_hangs_in_it(tmp_path: Path, limit: str) -> None:
    shell = f'ulimit {limit} && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *CLI, "train"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 4
    size = int(limit.split()[1]) / 2**20
    assert done.stderr.startswith(
        f"error: memory: what this process may have ({size:.2f} GiB by ulimit {limit[:2]}) is not enough"
    )
    assert done.stderr.count("\n") == 1
    assert names(tmp_path) == []


def test_ample_memory_is_not_refused(tmp_path: Path) -> None:
    shell = 'ulimit -v 20000000 && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *CLI, "export", "absent.pt"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "error: absent.pt: " in done.stderr
