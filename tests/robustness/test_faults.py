"""The quick part of `faults.py`: what a killed, hindered or interrupted command says and leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loihi_convert import netx
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Dense
from loihi_convert.runs.run_folder import run_folder
from robustness import faults as tool

CLI = (sys.executable, "-m", "loihi_convert")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_run_that_fails_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.chdir(tmp_path)

    def fail() -> None:
        with run_folder(None, "a-ref"):
            assert len(names(tmp_path / "runs")) > 0
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []
    with run_folder(None, "a-ref") as other:
        with pytest.raises(error):
            fail()
        assert names(tmp_path / "runs") == [other.name]


@pytest.mark.parametrize(
    ("words", "redirection", "code", "message"),
    [
        ("--version", ">/dev/full", 4, "error: stdout: cannot be written (No space left on device)"),
        # Tables pass through rich.
        ("models", ">/dev/full", 4, "error: stdout: cannot be written (No space left on device)"),
        # typer itself prints the help page.
        ("--help", ">/dev/full", 4, "error: stdout: cannot be written (No space left on device)"),
        ("--version", ">&-", 0, ""),
        ("--help", ">&-", 0, ""),
        ("--version", "2>/dev/full", 0, ""),
    ],
)
def test_where_the_output_cannot_go(tmp_path: Path, words: str, redirection: str, code: int, message: str) -> None:
    command = ("sh", "-c", f'exec "$@" {redirection}', "sh", *CLI, words)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == (1 if message else 0)


@pytest.mark.slow
def test_a_signal_comes_while_ref_simulates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    # With more threads the run may end before the signal comes.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert next(tool.signals(bench)) == ""
    assert len(runs) == 1


def wide_network() -> QuantizedNetwork:
    """A network for digits; four copies of it run for more than the 3.5 s after which the last signal comes."""
    random, width = np.random.default_rng(0), 4000
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
    assert "the current folder has been deleted" in done.stderr
    assert done.stderr.count("\n") == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("words", [["--version"], ["models"]])
def test_the_reader_closes_the_output(tmp_path: Path, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*CLI, *words], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


INTERRUPTED = "error: interrupted; no partial files were left.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_one_line(tmp_path: Path, number: signal.Signals) -> None:
    # A signal that is ignored at the start, as SIGHUP under nohup, stays ignored.
    program = (
        "import os, signal, sys; from loihi_convert import __main__, cli\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "cli.app = lambda standalone_mode: os.kill(os.getpid(), int(sys.argv[1]))\n"
        "__main__.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(int(number))], cwd=tmp_path, capture_output=True, text=True
    )
    is_ignored = number == signal.SIGHUP
    assert (done.returncode, done.stderr) == ((0, "") if is_ignored else (128 + number, INTERRUPTED))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_command_line_is_imported_is_one_line(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(name, path, target=None):\n"
        "        if name == 'loihi_convert.cli': os.kill(os.getpid(), int(sys.argv[1]))\n"
        "from loihi_convert.__main__ import main\n"
        "sys.meta_path.insert(0, Finder)\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(int(number))], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (128 + number, INTERRUPTED)


def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    # Sent again within a second it is the same one, as `timeout` sends it to a process and to its group.
    program = (
        "import os, signal, time; from loihi_convert import __main__, cli\n"
        "def app(standalone_mode):\n"
        "    try: os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        print('cleans up', flush=True)\n"
        "        time.sleep(1.1)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        print('goes on', flush=True)\n"
        "cli.app = app\n"
        "__main__.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleans up\n", "")
