"""Reading of run folders written by `run_folder.write_run`, with checks that say what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

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

_Key = tuple[str, str, int | None]
"""File stem, layer, and T."""

_Row = TypeVar("_Row", ChannelFiringRate, ChannelThreshold)


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
        The rows of each layer at each T, by channel.
    thresholds
        The rows of each layer; ``None`` for graded spikes, and for neurons that another tool wrote.
    confusions
        By file stem, at the T of `Evaluation.nominal_point`; empty if labels are unknown.
    """

    name: str
    manifest: Manifest
    evaluations: Mapping[str, Evaluation]
    firing_rates: Mapping[_Key, tuple[ChannelFiringRate, ...]]
    thresholds: Mapping[_Key, tuple[ChannelThreshold, ...]] | None
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
    keys = {
        (name, layer.name, point.timesteps)
        for name, evaluation in evaluations.items()
        for point in evaluation.points
        for layer in evaluation.layers[: len(point.firing_rate)]
    }
    rates = _rows(folder / "firing_rates.csv", ChannelFiringRate, keys)
    thresholds = None
    if (path := folder / "thresholds.csv").exists():
        thresholds = _rows(path, ChannelThreshold, {(file, layer, None) for file, layer, _ in keys})
    every: list[tuple[_Key, Sequence[ChannelFiringRate | ChannelThreshold]]] = [
        *rates.items(),
        *(thresholds or {}).items(),
    ]
    _require_equal_channels(folder, evaluations, every)
    return StoredRun(
        name=folder.resolve().name.encode(errors="backslashreplace").decode(),
        manifest=manifest,
        evaluations=evaluations,
        firing_rates=rates,
        thresholds=thresholds,
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


def _rows(path: Path, schema: type[_Row], expected: Set[_Key]) -> dict[_Key, tuple[_Row, ...]]:
    """Return the rows of a CSV file by file, layer and T, if it has one, with the channels in order."""
    found: dict[_Key, list[_Row]] = {}
    for row, _ in read_csv(path, schema):
        rows = found.setdefault((row.file, row.layer, getattr(row, "timesteps", None)), [])
        if row.channel != len(rows):
            raise damaged(path, f"channel {row.channel} instead of channel {len(rows)}")
        rows.append(row)
    if found.keys() != expected:
        raise damaged(path, "other files, layers or T than in result.json")
    return {key: tuple(rows) for key, rows in found.items()}


def _require_equal_channels(
    folder: Path,
    evaluations: Mapping[str, Evaluation],
    every: Iterable[tuple[_Key, Sequence[ChannelFiringRate | ChannelThreshold]]],
) -> None:
    """Raise unless each layer has the same channels, and relays, at every T and in both files, as in result.json."""
    sizes = {(name, layer.name): layer for name, evaluation in evaluations.items() for layer in evaluation.layers}
    known: dict[tuple[str, str], list[bool]] = {}
    for (file, layer, timesteps), rows in every:
        path = folder / ("thresholds.csv" if timesteps is None else "firing_rates.csv")
        size, is_relay = sizes[file, layer], [row.relay_of is not None for row in rows]
        place = f"{layer} of {file}{'' if timesteps is None else f' at T = {timesteps}'}"
        if is_relay != known.setdefault((file, layer), is_relay):
            raise damaged(path, f"{place} has other channels or relays than elsewhere")
        if sum(is_relay) * size.neuron_count != size.relay_neuron_count * len(rows):
            raise damaged(path, f"{place} has {sum(is_relay)} relays of {len(rows)} channels, unlike result.json")


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
