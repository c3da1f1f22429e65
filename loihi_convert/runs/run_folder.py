"""One folder per run: accuracy, rates, thresholds, predictions as CSV, evaluations as JSON, a picture, a manifest."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import math
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

from loihi_convert.arrays import Array
from loihi_convert.backends.result import RunResult
from loihi_convert.chip.energy import Estimate
from loihi_convert.errors import DataError, InputError, UsageError
from loihi_convert.external.cuba import CubaLayer, CubaNetwork
from loihi_convert.files import sha256, write_atomically
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.metrics.early_exit import EarlyExit, ExitPoint
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.records import Interval
from loihi_convert.report.figure import accuracy_figure, image_bytes

VERSIONED_PACKAGES: Final = ("loihi-convert", "torch", "numpy", "lava-nc", "lava-dl")
"""Distributions whose versions stand in a manifest: those that can change a result."""


class RunOfFile(NamedTuple):
    """What is known of one file of a run: its stem, its figures, its integers, and the network in it."""

    name: str
    evaluation: Evaluation
    result: RunResult
    network: QuantizedNetwork | CubaNetwork


def write_run(
    folder: Path,
    runs: Sequence[RunOfFile],
    *,
    labels: Array | None,
    classes: tuple[str, ...] | None,
    manifest: Mapping[str, Any],
) -> tuple[Path, ...]:
    """Write the results of one run into ``folder`` and return the files, the manifest last.

    ``accuracy.csv``, ``early_exit.csv`` (if early exit was evaluated), ``energy.csv``, ``firing_rates.csv`` (of each
    channel at each reported T), ``thresholds.csv`` (of each channel, in files of ours), ``result.json``,
    ``predictions.csv``, ``accuracy.svg`` and ``accuracy.png`` (if accuracy or agreement is known), ``manifest.json``.
    All are made before the first is written, each is written whole, and the manifest comes last: a folder that holds
    one is complete.

    Parameters
    ----------
    folder
        Made if it is missing.
    runs
        At least one, all of the same N images.
    labels
        ``(N,)``, if known.
    classes
        Name of each class, if known.
    manifest
        From `manifest`; ``network`` and ``data`` go into the picture's title.

    Raises
    ------
    UsageError
        If two files have the same stem.
    DataError
        If ``classes`` are not as many as the network has.
    InputError
        If the folder cannot be written.
    """
    figures = [(run.name, run.evaluation) for run in runs]
    require_different_names([run.name for run in runs])
    for run in runs:
        require_class_names(run.name, run.result.potentials.shape[2], classes)
    contents = {
        "accuracy.csv": _csv(
            _accuracy_row(name, evaluation, point) for name, evaluation in figures for point in evaluation.points
        ),
        "early_exit.csv": _csv(
            _early_exit_row(name, evaluation, evaluation.early_exit, point)
            for name, evaluation in figures
            if evaluation.early_exit is not None
            for point in evaluation.early_exit.points
        ),
        "energy.csv": _csv(
            _energy_row(name, one)
            for name, evaluation in figures
            if evaluation.energy is not None
            for one in evaluation.energy.estimates
        ),
        "firing_rates.csv": _csv(row for run in runs for row in _firing_rates(run)),
        "thresholds.csv": _csv(row for run in runs for row in _thresholds(run)),
        "result.json": results_json(figures).encode(),
        "predictions.csv": _csv(
            (row for run in runs for row in _predictions(run, labels, classes)),
            itertools.chain.from_iterable(next(iter(_predictions(run, labels, classes))) for run in runs),
        ),
    }
    if all(evaluation.early_exit is None for _, evaluation in figures):
        del contents["early_exit.csv"]
    if all(isinstance(run.network, CubaNetwork) for run in runs):
        del contents["thresholds.csv"]
    network, data = manifest.get("network", runs[0].name), manifest.get("data", "images")
    title = f"{network} on {data}, {figures[0][1].image_count:,} images"
    figure = accuracy_figure(figures, title)
    if figure is not None:
        contents |= {"accuracy.svg": image_bytes(figure, "svg"), "accuracy.png": image_bytes(figure, "png")}
    contents["manifest.json"] = _json(dict(manifest)).encode()
    _make_folder(folder)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return tuple(folder / name for name in contents)


def require_different_names(names: Sequence[str]) -> None:
    """Raise the `UsageError` of `write_run` if two files have the same stem; it can be known before a run."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"run: several files are called {', '.join(repeated)}; rename them, or run them one by one.")


def require_class_names(name: str, class_count: int, classes: tuple[str, ...] | None) -> None:
    """Raise the `DataError` of `write_run` unless the file ``name`` has as many classes; it can be known before a run.

    ``classes`` is None where they are not known.
    """
    if classes is not None and len(classes) != class_count:
        raise DataError(
            f"{name}: {class_count} classes, but {len(classes)} names of classes; give one for each, or none."
        )


def new_run_folder(root: Path, name: str) -> Path:
    """Make and return ``root/name-<UTC time>``, a folder that did not exist before.

    Raises
    ------
    InputError
        If it cannot be made.
    """
    _make_folder(root)
    stem = f"{name}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    folder = root / stem
    count = 1
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            count += 1
            folder = root / f"{stem}-{count}"
        except OSError as error:
            raise _cannot_make(folder, error) from error
        else:
            return folder


@contextlib.contextmanager
def run_folder(root: Path, name: str) -> Iterator[Path]:
    """Yield a `new_run_folder`; if what is done in the ``with`` block fails or is interrupted, nothing is left of it.

    Made before a run, so that a place that cannot be written is found out before hours of work and not after.

    Raises
    ------
    InputError
        If it cannot be made.
    """
    root_is_new = not root.exists()
    folder = new_run_folder(root, name)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if root_is_new:
            # Another run may have begun in it.
            with contextlib.suppress(OSError):
                root.rmdir()
        raise


def manifest(
    *,
    network: str,
    data: str,
    backend: str,
    files: Sequence[Path],
    command_line: Sequence[str],
    seed: int | None,
) -> dict[str, Any]:
    """Return what is needed to make a run again, as plain JSON values.

    Of every path only the name is kept: a run folder can be passed on without telling whose machine made it.

    Parameters
    ----------
    network, data, backend
        Names, as a reader knows them.
    files
        What was read: exported networks, models; their SHA-256 is kept.
    command_line
        ``sys.argv``.
    seed
        Of everything random, None where nothing was.
    """
    return {
        "network": network,
        "data": data,
        "backend": backend,
        "files": [{"name": path.name, "sha256": sha256(path)} for path in files],
        "command_line": [_without_folders(argument) for argument in command_line],
        "seed": seed,
        "utc_time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in VERSIONED_PACKAGES},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


def results_json(evaluations: Iterable[tuple[str, Evaluation]]) -> str:
    """Return ``{file: evaluation, ...}`` as indented JSON, in the schema of `Evaluation`."""
    return _json({name: evaluation.model_dump(mode="json") for name, evaluation in evaluations})


def _accuracy_row(name: str, evaluation: Evaluation, point: Point) -> dict[str, Any]:
    """One row of accuracy.csv: the fields of `Point` in its order, intervals and layers in columns of their own."""
    row: dict[str, Any] = {
        "file": name,
        "balanced_timesteps": evaluation.timesteps,
        "image_count": evaluation.image_count,
        "cnn_accuracy": evaluation.cnn_accuracy,
        **_interval_columns("cnn_accuracy", evaluation.cnn_accuracy_interval),
    }
    names = [layer.name for layer in evaluation.layers]
    for field, value in point:
        if field.endswith("_interval"):
            row |= _interval_columns(field.removesuffix("_interval"), value)
        elif isinstance(value, tuple):
            row |= {f"{field.removesuffix('_per_layer')}_{layer}": x for layer, x in zip(names, value, strict=False)}
        else:
            row[field] = value
    return row


def _early_exit_row(name: str, evaluation: Evaluation, early_exit: EarlyExit, point: ExitPoint) -> dict[str, Any]:
    """One row of early_exit.csv: the fields of `ExitPoint` in its order, whether its margin is the chosen one."""
    row: dict[str, Any] = {
        "file": name,
        "balanced_timesteps": evaluation.timesteps,
        "timesteps": early_exit.choice.timesteps,
        "image_count": evaluation.image_count,
        "chosen": point.margin == early_exit.choice.margin,
    }
    for field, value in point:
        if field.endswith("_interval"):
            row |= _interval_columns(field.removesuffix("_interval"), value)
        else:
            row[field] = value
    return row


def _energy_row(name: str, estimate: Estimate) -> dict[str, Any]:
    """One row of energy.csv: the fields of `Estimate` in its order, ranges in two columns."""
    row: dict[str, Any] = {"file": name}
    for field, value in estimate:
        row |= _interval_columns(field, value) if isinstance(value, tuple) else {field: value}
    return row


def _interval_columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _firing_rates(run: RunOfFile) -> Iterable[dict[str, Any]]:
    """Rows of firing_rates.csv: one per channel and reported T.

    The firing rate of a channel (paper, eq. 3) is the mean over its neurons, and here over images, of spikes / T.
    """
    spiking: tuple[QuantizedLayer | CubaLayer, ...] = run.network.spiking_layers
    for layer, shape, spikes in zip(spiking, run.network.shapes, run.result.channel_spikes, strict=False):
        neurons = math.prod(shape[1:])
        so_far = spikes.cumsum(axis=0)
        for point in run.evaluation.points:
            counts = so_far[point.timesteps - 1].tolist()
            for channel, count in enumerate(counts):
                yield {
                    "file": run.name,
                    "layer": layer.name,
                    "channel": channel,
                    "timesteps": point.timesteps,
                    "firing_rate": count / (run.evaluation.image_count * neurons * point.timesteps),
                }


def _thresholds(run: RunOfFile) -> Iterable[dict[str, Any]]:
    """Rows of thresholds.csv: one per channel; the real threshold is empty where the channel can never fire."""
    for layer in run.network.spiking_layers:
        if not isinstance(layer, QuantizedLayer):
            continue
        assert layer.neuron is not None
        thresholds = layer.neuron.threshold.tolist()
        real = [None] * len(thresholds) if layer.balanced is None else layer.balanced.threshold.tolist()
        columns = (thresholds, real, layer.scale.tolist(), layer.neuron.initial_potential.tolist())
        for channel, (threshold, real_threshold, scale, initial) in enumerate(zip(*columns, strict=True)):
            yield {
                "file": run.name,
                "layer": layer.name,
                "channel": channel,
                "threshold": threshold,
                "real_threshold": None if real_threshold == math.inf else real_threshold,
                "scale": scale,
                "initial_potential": initial,
            }


def _predictions(run: RunOfFile, labels: Array | None, classes: tuple[str, ...] | None) -> Iterable[dict[str, Any]]:
    """Rows of predictions.csv: one per image and reported T, all of the same columns."""
    name, evaluation, result, _ = run
    predictions = result.predictions
    for image, potentials in enumerate(result.potentials):
        for point in evaluation.points:
            predicted = int(predictions[image, point.timesteps - 1])
            row: dict[str, Any] = {"file": name, "image": image, "timesteps": point.timesteps, "class": predicted}
            if classes is not None:
                row["class_name"] = classes[predicted]
            if labels is not None:
                row["label"] = int(labels[image])
            values = potentials[point.timesteps - 1].tolist()
            row.update((f"potential_{index}", value) for index, value in enumerate(values))
            if result.output_spikes is not None:
                fired = result.output_spikes[image, : point.timesteps].sum(axis=0).tolist()
                row.update((f"spike_count_{index}", count) for index, count in enumerate(fired))
            yield row


def _csv(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] | None = None) -> bytes:
    """CSV with ``columns``, by default those of all rows, in order of appearance; None and a missing one are empty.

    Where ``columns`` are known, no row is kept: those of predictions.csv would take many times its size.
    """
    if columns is None:
        rows = list(rows)
        columns = itertools.chain.from_iterable(rows)
    content = io.BytesIO()
    with io.TextIOWrapper(content, "utf-8", newline="") as text:
        writer = csv.DictWriter(text, dict.fromkeys(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.flush()
        return content.getvalue()


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_make(folder, error) from error


def _cannot_make(folder: Path, error: OSError) -> InputError:
    return InputError(f"{folder}: cannot be made ({error.strerror or error}). Choose another place with -o.")


def _without_folders(argument: str) -> str:
    """``--output=/home/me/a.net`` as ``--output=a.net``."""
    return re.sub(r"^(--[\w-]+=|-\w(?=/))?.*/(?=.)", r"\1", argument, flags=re.DOTALL)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
