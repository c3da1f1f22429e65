"""Compare unmodified lava-dl with `ref`: python tests/support/compare_stock_netx.py MODEL.net [-T 4,16,64] [--images N]

MODEL.net was written by `export --reset hard`, with pixels as constant currents. Each of the first N test images is
run by `ref` and by `run_stock_netx.py`, which uses only lava-dl. The latter runs in the interpreter given by --python:
Python 3.10, with the versions that Lava requires, from `pip install '.[lava]'`. The script prints the number of
compared output potentials (one per class, step and image) and how many differ. It also prints how many images are
correctly classified at the last step, by the potentials. For a file of `--readout spikes` it uses the spikes of `ref`,
because those of stock netx are not recorded.

Stock netx simulates a few hundred steps per minute, so the N images are divided among one process per core.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from loihi_convert import netx
from loihi_convert.__main__ import exit_code
from loihi_convert.arrays import Array
from loihi_convert.backends.reference import run_network
from loihi_convert.cli.options import parse_timesteps
from loihi_convert.data import load_data
from loihi_convert.errors import InputError, PlatformError, UsageError

_STOCK = Path(__file__).with_name("run_stock_netx.py")


def main() -> int:
    """Print the table; return 1 if a potential differs, or an error's exit code."""
    parser = argparse.ArgumentParser(description="Compare unmodified lava-dl with ref.")
    parser.add_argument("file", type=Path, metavar="MODEL.net")
    parser.add_argument("-T", "--timesteps", default="4,16,64", help="latencies; default: 4,16,64")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has lava-dl")
    parser.add_argument("--data-root", type=Path)
    arguments = parser.parse_args()
    return exit_code(lambda: _compare(arguments))


def _compare(arguments: argparse.Namespace) -> int:
    network = netx.read(arguments.file)
    if network.reset != "hard":
        raise UsageError("stock netx knows hard reset only", where=arguments.file, hint="Export it with --reset hard.")
    if network.poisson_seed is not None:
        raise UsageError(
            "stock netx takes pixels, not Poisson spikes", where=arguments.file, hint="Export it with --input constant."
        )
    data = network.provenance.get("model", {}).get("data")
    if data is None:
        raise InputError("does not record its data set", where=arguments.file, hint="Export it again.")
    test = load_data(data, arguments.data_root).test[: arguments.images]
    differing = 0
    print(f"{'T':>4} {'images':>7} {'potentials':>11} {'differ':>7} {'correct':>8}")
    for timesteps in parse_timesteps(arguments.timesteps):
        reference = run_network(network, test.images, timesteps)
        found = _by_stock_netx(arguments.python, arguments.file, network.pixels(test.images), timesteps)
        different = int((found != reference.potentials).sum())
        outputs = found if network.readout == "potential" else reference.outputs
        correct = int((outputs[:, -1].argmax(axis=1) == test.labels).sum()) if test.labels is not None else 0
        print(f"{timesteps:4} {len(test):7} {found.size:11,} {different:7} {correct:8}", flush=True)
        differing += different
    return int(differing > 0)


def _by_stock_netx(python: str, file: Path, pixels: Array, timesteps: int) -> Array:
    """Return output potentials after each step, ``(N, T, classes)``."""
    cores = len(os.sched_getaffinity(0))
    parts = [part for part in np.array_split(pixels, cores) if len(part)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cores) as threads:

        def run(index: int) -> Array:
            images, output = Path(folder, f"images{index}.npy"), Path(folder, f"potentials{index}.npy")
            np.save(images, parts[index])
            words = (python, _STOCK, file, images, timesteps, output)
            done = subprocess.run(
                list(map(str, words)), capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            if done.returncode:
                raise PlatformError(done.stderr[-1000:], where=python)
            potentials: Array = np.load(output)
            return potentials

        return np.concatenate(list(threads.map(run, range(len(parts)))))


if __name__ == "__main__":
    sys.exit(main())
