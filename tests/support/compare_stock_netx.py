"""Compare unmodified lava-dl with `ref`: python tests/support/compare_stock_netx.py MODEL.net [-T 4,16,64] [--images N]

Each of the first N test images is run by `ref`, with the neurons of unmodified lava-dl (`NeuronModel.STOCK_LIF`, for a
file of hard reset its own), and by `run_stock_netx.py`, which uses only lava-dl. The script prints the number of
compared output potentials (one per class, step and image) and how many differ. It also prints how many images are
correctly classified at the last step, by the potentials. For a file of `--readout spikes` it uses the spikes of `ref`,
because those of stock netx are not recorded.

A file of graded spikes takes the first N test images as the frames of one sequence, which nothing resets. Compared are
all messages and outputs, printed by layer; `run_stock_graded.py` runs lava-dl.

lava-dl runs in the interpreter given by --python: Python 3.10, with the versions that Lava requires, from
`pip install '.[lava]'`.

Stock netx simulates a few hundred of their steps per minute, so the N images are divided among one process per core.
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
from loihi_convert.backends.reference import run_graded, run_network
from loihi_convert.data import Dataset, load_data
from loihi_convert.errors import InputError, PlatformError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.options import parse_timesteps
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import QuantizedNetwork, joined_digits

_FOLDER = Path(__file__).parent


def main() -> int:
    """Print the table; return 1 if a value differs, or an error's exit code."""
    parser = argparse.ArgumentParser(description="Compare unmodified lava-dl with ref.")
    parser.add_argument("file", type=Path, metavar="MODEL.net")
    parser.add_argument(
        "-T", "--timesteps", help="latencies, not for graded spikes; default: the one that the file is balanced for"
    )
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has lava-dl")
    parser.add_argument("--data-root", type=Path)
    arguments = parser.parse_args()
    return exit_code(lambda: _compare(arguments))


def _compare(arguments: argparse.Namespace) -> int:
    stored = netx.read_stored(arguments.file).network
    if isinstance(stored, GradedNetwork):
        return _compare_graded(stored, arguments)
    network = netx.read(arguments.file)
    if network.poisson_seed is not None:
        raise UsageError(
            "stock netx takes pixels, not Poisson spikes", where=arguments.file, hint="Export it with --input constant."
        )
    test = _test_images(network, arguments)
    differing = 0
    print(f"{'T':>4} {'images':>7} {'potentials':>11} {'differ':>7} {'correct':>8}")
    neuron = None if network.reset == "hard" else NeuronModel.STOCK_LIF
    for timesteps in parse_timesteps(arguments.timesteps or str(network.timesteps)):
        reference = run_network(network, test.images, timesteps, neuron=neuron)
        found = _by_stock_netx(arguments.python, arguments.file, network.pixels(test.images), timesteps)
        found = joined_digits(found, network.low_bits) if network.low_bits else found
        different = int((found != reference.potentials).sum())
        outputs = found if network.readout == "potential" else reference.outputs
        correct = int((outputs[:, -1].argmax(axis=1) == test.labels).sum()) if test.labels is not None else 0
        print(f"{timesteps:4} {len(test):7} {found.size:11,} {different:7} {correct:8}", flush=True)
        differing += different
    return int(differing > 0)


def _compare_graded(network: GradedNetwork, arguments: argparse.Namespace) -> int:
    frames = _test_images(network, arguments).images
    traces = run_graded(network, frames, is_stream=True, trace=True).traces
    differing = 0
    print(f"{'layer':24} {'frames':>7} {'values':>13} {'not 0':>13} {'differ':>7}")
    with tempfile.TemporaryDirectory() as folder:
        images, sent = Path(folder, "frames.npy"), Path(folder, "sent.npz")
        np.save(images, frames)
        _by_lava_dl(arguments.python, "run_stock_graded.py", arguments.file, images, network.spike_exp, sent)
        with np.load(sent) as found:
            for index, (layer, trace) in enumerate(zip(network.layers, traces, strict=True)):
                values = trace.spikes if layer.sends else trace.potentials
                assert values is not None
                different = int((found[f"layer{index}"] != values.reshape(len(frames), -1)).sum())
                nonzero = np.count_nonzero(values)
                print(f"{layer.name:24} {len(frames):7} {values.size:13,} {nonzero:13,} {different:7}")
                differing += different
    return int(differing > 0)


def _test_images(network: QuantizedNetwork | GradedNetwork, arguments: argparse.Namespace) -> Dataset:
    data = network.provenance.get("model", {}).get("data")
    if data is None:
        raise InputError("does not record its data set", where=arguments.file, hint="Export it again.")
    return load_data(data, arguments.data_root).test[: arguments.images]


def _by_stock_netx(python: str, file: Path, pixels: Array, timesteps: int) -> Array:
    """Return output potentials after each step, ``(N, T, classes)``."""
    cores = len(os.sched_getaffinity(0))
    parts = [part for part in np.array_split(pixels, cores) if len(part)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cores) as threads:

        def run(index: int) -> Array:
            images, output = Path(folder, f"images{index}.npy"), Path(folder, f"potentials{index}.npy")
            np.save(images, parts[index])
            _by_lava_dl(python, "run_stock_netx.py", file, images, timesteps, output)
            potentials: Array = np.load(output)
            return potentials

        return np.concatenate(list(threads.map(run, range(len(parts)))))


def _by_lava_dl(python: str, script: str, *words: object) -> None:
    hint = "--python names a Python 3.10 in which `pip install '.[lava]'` was run."
    command = [python, *map(str, (_FOLDER / script, *words))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    except OSError as error:
        raise PlatformError(str(error.strerror), where=python, hint=hint) from error
    if done.returncode:
        raise PlatformError(f"{script} failed: {done.stderr[-1000:]}", where=python, hint=hint)


if __name__ == "__main__":
    sys.exit(main())
