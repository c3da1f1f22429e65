"""Reading of run folders written by `run_folder.write_run`, with checks that say what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from loihi_convert.errors import InputError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.files import asked
from loihi_convert.ir.network import class_count
from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.runs.columns import (
    POTENTIAL,
    ChannelFiringRate,
    ChannelThreshold,
    Prediction,
    damaged,
    misfit,
    read_csv,
)
from loihi_convert.runs.run_folder import Manifest


class ChannelThresholds(NamedTuple):
    """The neurons of one layer, one number per channel; see `quantized.QuantizedLayer`.

    ``real`` are the thresholds before rounding, None for channels that can never fire.
    """

    integers: tuple[int, ...]
    real: tuple[float | None, ...]
    scales: tuple[float, ...]
    initial_potentials: tuple[int, ...]


_Relays = dict[tuple[str, str], set[int]]
"""By file stem and layer, the channels that are relays."""


class Confusion(NamedTuple):
    """Confusion matrix after T steps: ``counts``, int64, by true class (rows) and predicted class (columns)."""

    timesteps: int
    counts: Array
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class StoredRun:
    """One run folder.

    Parameters
    ----------
    name
        Name of the folder; bytes that are not UTF-8 are escaped, as in its files.
    manifest
        How the run was made.
    evaluations
        Evaluations by file stem, in the order of the run.
    firing_rates
        By file stem, layer and T, the rate 0..1 of each channel.
    thresholds
        By file stem and layer; ``None`` for graded spikes, and for neurons that another tool wrote.
    relays
        By file stem and layer, the channels that are relays (`ir.relays`); only layers with relays.
    confusions
        By file stem, at the T of `Evaluation.nominal_point`; empty if labels are unknown.
    """

    name: str
    manifest: Manifest
    evaluations: Mapping[str, Evaluation]
    firing_rates: Mapping[tuple[str, str, int], tuple[float, ...]]
    thresholds: Mapping[tuple[str, str], ChannelThresholds] | None
    relays: Mapping[tuple[str, str], Set[int]]
    confusions: Mapping[str, Confusion]


def read_runs(folders: Iterable[Path]) -> list[StoredRun]:
    """Return `read_run` of each folder; one that is given twice counts as one run."""
    different = {folder.resolve(): folder for folder in folders}
    return [read_run(folder) for folder in different.values()]


def read_run(folder: Path) -> StoredRun:
    """Return the run in ``folder``.

    Raises
    ------
    InputError
        If it is not a run folder, is incomplete or damaged, or its files do not match.
    """
    if not asked(folder, Path.is_dir):
        raise InputError("no such folder", where=folder, hint="Give folders written by `loihi-convert run`.")
    if not asked(folder / "manifest.json", Path.is_file):
        raise InputError(
            "contains no manifest.json, which is written last: not a run folder, or an incomplete one",
            where=folder,
            hint="Give complete folders written by `loihi-convert run`.",
        )
    manifest: Manifest = _json(folder / "manifest.json", TypeAdapter(Manifest))
    evaluations: dict[str, Evaluation] = _json(folder / "result.json", TypeAdapter(dict[str, Evaluation]))
    if not evaluations or not all(evaluation.points for evaluation in evaluations.values()):
        raise damaged(folder / "result.json", "contains no figures")
    for evaluation in evaluations.values():
        _require_errors_at_each_point(folder / "result.json", evaluation)
    thresholds = folder / "thresholds.csv"
    firing_rates, relays = _firing_rates(folder / "firing_rates.csv", evaluations)
    neurons, marked = _thresholds(thresholds, evaluations) if thresholds.exists() else (None, relays)
    if marked != relays:
        raise damaged(thresholds, "other relays than in firing_rates.csv")
    _require_equal_channels(folder, firing_rates, neurons)
    return StoredRun(
        name=folder.resolve().name.encode(errors="backslashreplace").decode(),
        manifest=manifest,
        evaluations=evaluations,
        firing_rates=firing_rates,
        thresholds=neurons,
        relays=relays,
        confusions=_confusions(folder / "predictions.csv", evaluations, manifest),
    )


def _json(path: Path, schema: TypeAdapter[Any]) -> Any:
    try:
        return schema.validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=path) from error
    except ValidationError as error:
        raise misfit(path, error) from error


def _require_errors_at_each_point(path: Path, evaluation: Evaluation) -> None:
    regression = evaluation.regression
    steps = [point.timesteps for point in evaluation.points]
    if regression is not None and [point.timesteps for point in regression.points] != steps:
        raise damaged(path, "the errors of the regression are at other T than the other figures")


def _firing_rates(
    path: Path, evaluations: Mapping[str, Evaluation]
) -> tuple[dict[tuple[str, str, int], tuple[float, ...]], _Relays]:
    """Return the rates in firing_rates.csv, and the relays marked in it."""
    found: dict[tuple[str, str, int], list[float]] = {}
    relays: _Relays = {}
    for row, _ in read_csv(path, ChannelFiringRate):
        rates = found.setdefault((row.file, row.layer, row.timesteps), [])
        _require_next_channel(path, row.channel, len(rates))
        rates.append(row.firing_rate)
        if row.relay_of is not None:
            relays.setdefault((row.file, row.layer), set()).add(row.channel)
    expected = {
        (name, layer.name, point.timesteps)
        for name, evaluation in evaluations.items()
        for point in evaluation.points
        for layer in evaluation.layers[: len(point.firing_rate)]
    }
    if found.keys() != expected:
        raise damaged(path, "other files, layers or T than in result.json")
    _require_relays(path, evaluations, {key[:2]: len(rates) for key, rates in found.items()}, relays)
    return {key: tuple(rates) for key, rates in found.items()}, relays


def _thresholds(
    path: Path, evaluations: Mapping[str, Evaluation]
) -> tuple[dict[tuple[str, str], ChannelThresholds], _Relays]:
    """Return the neurons in thresholds.csv, and the relays marked in it."""
    found: dict[tuple[str, str], list[tuple[int, float | None, float, int]]] = {}
    relays: _Relays = {}
    for row, _ in read_csv(path, ChannelThreshold):
        channels = found.setdefault((row.file, row.layer), [])
        _require_next_channel(path, row.channel, len(channels))
        channels.append((row.threshold, row.real_threshold, row.scale, row.initial_potential))
        if row.relay_of is not None:
            relays.setdefault((row.file, row.layer), set()).add(row.channel)
    expected = {
        (name, layer.name)
        for name, evaluation in evaluations.items()
        for layer in evaluation.layers[: len(evaluation.points[0].firing_rate)]
    }
    if found.keys() != expected:
        raise damaged(path, "other files or layers than in result.json")
    _require_relays(path, evaluations, {key: len(channels) for key, channels in found.items()}, relays)
    return {key: ChannelThresholds(*zip(*channels, strict=True)) for key, channels in found.items()}, relays


def _require_relays(
    path: Path, evaluations: Mapping[str, Evaluation], channels: Mapping[tuple[str, str], int], relays: _Relays
) -> None:
    """Raise unless the number of marked relays matches result.json; ``channels``: number of channels of each layer."""
    sizes = {(name, layer.name): layer for name, evaluation in evaluations.items() for layer in evaluation.layers}
    for key, count in channels.items():
        marked, size = len(relays.get(key, ())), sizes[key]
        if marked * size.neuron_count != size.relay_neuron_count * count:
            raise damaged(path, f"{marked} relays of {count} channels in {key[1]} differ from result.json")


def _require_next_channel(path: Path, channel: int, expected: int) -> None:
    if channel != expected:
        raise damaged(path, f"channel {channel} instead of channel {expected}")


def _require_equal_channels(
    folder: Path,
    rates: Mapping[tuple[str, str, int], tuple[float, ...]],
    thresholds: Mapping[tuple[str, str], ChannelThresholds] | None,
) -> None:
    """Raise unless a layer has as many channels at every T as thresholds: lines may be missing at the end."""
    counts = {key: len(neurons.integers) for key, neurons in (thresholds or {}).items()}
    for (file, layer, timesteps), channels in rates.items():
        expected = counts.setdefault((file, layer), len(channels))
        if len(channels) != expected:
            raise damaged(
                folder / "firing_rates.csv",
                f"{layer} of {file} has {len(channels)} channels at T = {timesteps}, but {expected} in thresholds.csv "
                "or at another T",
            )


def _confusions(path: Path, evaluations: Mapping[str, Evaluation], manifest: Manifest) -> dict[str, Confusion]:
    """Count the predictions in ``predictions.csv``, which must match ``result.json``."""
    labelled = {name: e.nominal_point for name, e in evaluations.items() if e.nominal_point.correct_count is not None}
    if not labelled:
        return {}
    pairs: dict[str, list[tuple[int, int]]] = {name: [] for name in labelled}
    count = 0
    for row, columns in read_csv(path, Prediction):
        count = count or class_count(sum(name.startswith(f"{POTENTIAL}_") for name in columns))
        if row.label is None or row.label >= count or row.predicted >= count:
            raise damaged(path, f"class {row.predicted} for an image of class {row.label}, of {count} classes")
        if row.file in labelled and row.timesteps == labelled[row.file].timesteps:
            pairs[row.file].append((row.label, row.predicted))
    confusions = {}
    for name, found in pairs.items():
        counts = np.zeros((count, count), np.int64)
        for pair in found:
            counts[pair] += 1
        if len(found) != evaluations[name].image_count or counts.trace() != labelled[name].correct_count:
            raise damaged(path, f"the images or correct classes of {name} differ from result.json")
        confusions[name] = Confusion(labelled[name].timesteps, counts, _class_names(name, count, manifest))
    return confusions


def _class_names(file: str, count: int, manifest: Manifest) -> tuple[str, ...]:
    """The name of each class of ``file``, from the data or, if it has none, from the CNN; else its number."""
    model = manifest.provenance.get(file, {}).get("model")
    for names in (manifest.classes, model.get("classes") if isinstance(model, dict) else None):
        if isinstance(names, list | tuple) and len(names) == count and all(isinstance(name, str) for name in names):
            return tuple(names)
    return tuple(map(str, range(count)))
