"""Measure MLPerf Tiny's closed division: official weights and inputs, with graded spikes and with T time steps.

python netx_models/mlperf-tiny/closed_table.py netx_models/mlperf-tiny-* -o closed

Each cell exports ``cnn.onnx`` with its calibration images, runs the file on all scored inputs with `ref` and on the
first ten with Lava, where every number must be equal. Cells that are in the folder are not measured again. The folder
gets ``closed.csv``, and the table is printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from loihi_convert.backends.backend import BackendOptions, open_backend
from loihi_convert.data import Dataset, default_root, load_data
from loihi_convert.data.benchmarks import read_file
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.statistics import wilson_interval
from loihi_convert.ir.network import ReluNetwork, classes_of
from loihi_convert.metrics.evaluation import expected_of
from loihi_convert.metrics.regression import RegressionOutputs
from loihi_convert.pipeline.opening import open_file
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.pipeline.running import FileRun, run
from loihi_convert.report.table import markdown_table
from loihi_convert.simulation.relu import cnn_scores

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

AT_ONCE = 1_000
"""Images of which all outputs after each step fit into memory."""

SOUNDS = "mlperf-tiny-anomaly-detection"


def main() -> None:
    """Measure all cells that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("-T", "--timesteps", default="8,32,64,128")
    parser.add_argument("--options", default="", help="further options of export with T, such as --balance=percentile")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for folder in chosen.folders:
        plan = folder / "build.toml"
        for timesteps in (0, *map(int, chosen.timesteps.split(","))) if plan.is_file() else ():
            kept = chosen.output / f"{folder.name}-{f'T{timesteps}' if timesteps else 'graded'}.json"
            if not kept.exists():
                options = chosen.options.split() if timesteps else ()
                found = cell(folder, tomllib.loads(plan.read_text()), timesteps, kept.with_suffix(".net"), options)
                kept.write_text(json.dumps(found, indent=2) + "\n")
            rows.append(json.loads(kept.read_text()))
            print(*rows[-1].values(), sep="  ", file=sys.stderr, flush=True)
    with (chosen.output / "closed.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    print(markdown_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]), end="")


def cell(folder: Path, plan: dict[str, Any], timesteps: int, path: Path, options: Sequence[str]) -> dict[str, Any]:
    """Return the figures of one file, which is exported to ``path``; for graded spikes, ``timesteps`` is 0."""
    data, is_regression = plan["data"], plan["data"] == SOUNDS
    how = ["-T", str(timesteps), *options] if timesteps else ["--spikes", "graded"]
    words = [str(folder / "cnn.onnx"), "--data", data, *how, *(["--task", "regression"] if is_regression else [])]
    began = time.monotonic()
    command("export", *words, "-o", str(path), "--overwrite")
    seconds = time.monotonic() - began
    cores = command("check", str(path))["neurocores"]
    opened, test = open_file(path, model=folder / "cnn.onnx"), load_data(data).test
    steps = RunOptions((timesteps or 1,))
    with open_backend("ref") as ref:
        parts = [test[start : start + AT_ONCE] for start in range(0, len(test), AT_ONCE)]
        measured = [figures(run(opened, part, ref, steps), opened.cnn, part) for part in parts]
    with open_backend("sim", BackendOptions(lava_layout="layers" if timesteps else "processes")) as lava:
        # Raises an error if any number differs.
        equal = run(opened, test[:10], lava, steps).equal_to_reference
    scores, of_cnn, agrees, operations = (np.concatenate(each) for each in zip(*measured, strict=True))
    score, interval = (area if is_regression else accuracy)(scores)
    return {
        "network": folder.name.removeprefix("mlperf-tiny-"),
        "spikes": f"T = {timesteps}" if timesteps else "graded",
        "score": score,
        "95 % interval": interval,
        "CNN": (area if is_regression else accuracy)(of_cnn)[0],
        "target": plan["target"],
        "met": bool(score >= plan["target"]),
        "inputs": len(test),
        "agreement, %": round(100 * float(agrees.mean()), 2),
        "SynOps, million": round(float(operations.mean()) / 1e6, 3),
        "neurocores": f"{cores['low']}..{cores['high']}",
        "bytes": path.stat().st_size,
        "equal on Lava": equal,
        "seconds to export": round(seconds),
    }


def command(*words: str) -> dict[str, Any]:
    """Return what ``loihi-convert`` prints as JSON."""
    done = subprocess.run([sys.executable, "-m", "loihi_convert", *words, "--json"], check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def figures(ran: FileRun, cnn: ReluNetwork | None, images: Dataset) -> tuple[Array, Array, Array, Array]:
    """Return the score of each image, that of the CNN, whether both agree, and the mean of the synaptic operations.

    The score is whether the class is correct or, of a window, its mean squared error in square decibels. Windows agree
    if both errors are on the same side of the CNN's median.
    """
    assert cnn is not None
    operations, own = (
        np.full(len(images), ran.evaluation.points[-1].synaptic_operations),
        cnn_scores(cnn, images.images),
    )
    if images.targets is None:
        found, expected = ran.result.predictions[:, -1], classes_of(own)
        return found == images.known_labels, expected == images.known_labels, found == expected, operations
    outputs = expected_of(ran.result, ran.network, images)
    assert isinstance(outputs, RegressionOutputs)
    error, of_cnn = (np.square(each - images.targets).mean(axis=1) for each in (outputs.outputs[:, -1], own))
    middle = np.median(of_cnn)
    return error, of_cnn, (error > middle) == (of_cnn > middle), operations


def accuracy(is_correct: Array) -> tuple[float, str]:
    """Return the accuracy in percent, and its 95 % interval."""
    low, high = wilson_interval(int(is_correct.sum()), len(is_correct))
    return round(100 * float(is_correct.mean()), 2), f"{100 * low:.2f}..{100 * high:.2f}"


def area(errors: Array) -> tuple[float, str]:
    """Return the AUC of the mean error of each file's windows, and its 95 % interval by 2,000 bootstrap samples."""
    rows = np.frombuffer(read_file(default_root(), SOUNDS, "ad01.bin"), np.uint8).reshape(-1, 1 + 40 * 640)
    labels, found = rows[np.arange(len(rows)) % 5 > 0, 0], errors.reshape(-1, 40).mean(axis=1)
    random = np.random.default_rng(0)
    samples = (random.integers(len(labels), size=len(labels)) for _ in range(2_000))
    low, high = np.percentile([roc_auc_score(labels[each], found[each]) for each in samples], [2.5, 97.5])
    return round(float(roc_auc_score(labels, found)), 4), f"{low:.4f}..{high:.4f}"


if __name__ == "__main__":
    main()
