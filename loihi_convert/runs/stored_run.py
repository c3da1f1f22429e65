"""Run folders read back, checked: what `run_folder.write_run` has written, or one sentence on what is wrong with it."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from loihi_convert.arrays import Array
from loihi_convert.errors import InputError
from loihi_convert.metrics.evaluation import Evaluation


class ReadFile(BaseModel):
    """A file that a run has read."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str


class Manifest(BaseModel):
    """What a report needs of ``manifest.json``, see `run_folder.manifest`; whatever else stands there is kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    network: str
    data: str
    backend: str
    files: tuple[ReadFile, ...]
    command_line: tuple[str, ...]
    utc_time: str
    python: str
    packages: Mapping[str, str | None]
    platform: str
    lava_layout: str | None = None
    backend_versions: Mapping[str, str] = {}
    classes: tuple[str, ...] | None = None
    provenance: Mapping[str, Mapping[str, Any]] = {}


class ChannelThresholds(NamedTuple):
    """The neurons of one layer, one number per channel; see `quantized.QuantizedLayer`.

    ``real`` is what the integers were rounded from, None where a channel can never fire.
    """

    integers: tuple[int, ...]
    real: tuple[float | None, ...]
    scales: tuple[float, ...]
    initial_potentials: tuple[int, ...]


class Confusion(NamedTuple):
    """How many images of each class (rows) got which class (columns), int64, after T steps; names of the classes."""

    timesteps: int
    counts: Array
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class StoredRun:
    """One run folder.

    Parameters
    ----------
    name
        Of the folder.
    manifest
        How it was made.
    evaluations
        By file stem, in the order of the run.
    firing_rates
        By file stem, layer and T, the rate 0..1 of each channel; ``None`` where the run has not recorded them.
    thresholds
        By file stem and layer; ``None`` where the run has not recorded them.
    confusions
        By file stem, at the T of `Evaluation.nominal_point`; empty where labels are unknown.
    """

    name: str
    manifest: Manifest
    evaluations: Mapping[str, Evaluation]
    firing_rates: Mapping[tuple[str, str, int], tuple[float, ...]] | None
    thresholds: Mapping[tuple[str, str], ChannelThresholds] | None
    confusions: Mapping[str, Confusion]


def read_run(folder: Path) -> StoredRun:
    """Read the run folder ``folder``.

    Raises
    ------
    InputError
        If it is no run folder, is incomplete, or what it holds is damaged or does not belong together.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give folders that `loihi-convert run` has written.")
    if not (folder / "manifest.json").is_file():
        raise InputError(
            f"{folder}: holds no manifest.json, which `loihi-convert run` writes last; it is no run folder, or an "
            "incomplete one. Give one that is complete."
        )
    manifest: Manifest = _json(folder / "manifest.json", TypeAdapter(Manifest))
    evaluations: dict[str, Evaluation] = _json(folder / "result.json", TypeAdapter(dict[str, Evaluation]))
    if not evaluations or not all(evaluation.points for evaluation in evaluations.values()):
        raise _damaged(folder / "result.json", "no figures")
    rates, thresholds = folder / "firing_rates.csv", folder / "thresholds.csv"
    firing_rates = _firing_rates(rates, evaluations) if rates.exists() else None
    neurons = _thresholds(thresholds, evaluations) if thresholds.exists() else None
    _require_equal_channels(folder, firing_rates, neurons)
    return StoredRun(
        name=folder.resolve().name,
        manifest=manifest,
        evaluations=evaluations,
        firing_rates=firing_rates,
        thresholds=neurons,
        confusions=_confusions(folder / "predictions.csv", evaluations, manifest),
    )


def _json(path: Path, schema: TypeAdapter[Any]) -> Any:
    try:
        return schema.validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(path, f"{place}: {first['msg']}" if place else first["msg"]) from error


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file; what is wrong with it, or with what is made of them, ends in one sentence."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if None in row:
                    raise ValueError("a row with more fields than the first line names")
                yield row
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, csv.Error) as error:
        raise _damaged(path, str(error)) from error


def _firing_rates(path: Path, evaluations: Mapping[str, Evaluation]) -> dict[tuple[str, str, int], tuple[float, ...]]:
    found: dict[tuple[str, str, int], list[float]] = {}
    for row in _rows(path):
        try:
            rates = found.setdefault((row["file"], row["layer"], int(row["timesteps"])), [])
            rate = float(row["firing_rate"])
            if int(row["channel"]) != len(rates) or not 0 <= rate <= 1:
                raise ValueError(f"channel {row['channel']} with rate {row['firing_rate']}")
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, f"a row that makes no sense ({error})") from error
        rates.append(rate)
    expected = {
        (name, layer.name, point.timesteps)
        for name, evaluation in evaluations.items()
        for point in evaluation.points
        for layer in evaluation.layers[: len(point.firing_rate)]
    }
    if found.keys() != expected:
        raise _damaged(path, "other files, layers or T than in result.json")
    return {key: tuple(rates) for key, rates in found.items()}


def _thresholds(path: Path, evaluations: Mapping[str, Evaluation]) -> dict[tuple[str, str], ChannelThresholds]:
    found: dict[tuple[str, str], list[tuple[int, float | None, float, int]]] = {}
    for row in _rows(path):
        try:
            channels = found.setdefault((row["file"], row["layer"]), [])
            real = float(row["real_threshold"]) if row["real_threshold"] else None
            numbers = (int(row["threshold"]), real, float(row["scale"]), int(row["initial_potential"]))
            if int(row["channel"]) != len(channels) or not all(math.isfinite(x) for x in numbers if x is not None):
                raise ValueError(f"channel {row['channel']} with threshold {row['threshold']}")
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, f"a row that makes no sense ({error})") from error
        channels.append(numbers)
    expected = {
        (name, layer.name)
        for name, evaluation in evaluations.items()
        for layer in evaluation.layers[: len(evaluation.points[0].firing_rate)]
    }
    if found.keys() != expected:
        raise _damaged(path, "other files or layers than in result.json")
    return {key: ChannelThresholds(*zip(*channels, strict=True)) for key, channels in found.items()}


def _require_equal_channels(
    folder: Path,
    rates: Mapping[tuple[str, str, int], tuple[float, ...]] | None,
    thresholds: Mapping[tuple[str, str], ChannelThresholds] | None,
) -> None:
    """Raise unless a layer has as many channels at every T as it has thresholds: lines may be missing at an end."""
    counts = {key: len(neurons.integers) for key, neurons in (thresholds or {}).items()}
    for (file, layer, timesteps), channels in (rates or {}).items():
        expected = counts.setdefault((file, layer), len(channels))
        if len(channels) != expected:
            raise _damaged(
                folder / "firing_rates.csv",
                f"{len(channels)} channels of {layer} at T = {timesteps} of {file}, {expected} in thresholds.csv or at "
                "another T",
            )


def _confusions(path: Path, evaluations: Mapping[str, Evaluation], manifest: Manifest) -> dict[str, Confusion]:
    """Count ``predictions.csv``; what it says must be what ``result.json`` says."""
    labelled = {name: e.nominal_point for name, e in evaluations.items() if e.nominal_point.correct_count is not None}
    if not labelled:
        return {}
    pairs: dict[str, list[tuple[int, int]]] = {name: [] for name in labelled}
    classes: dict[int, str] = {}
    count = 0
    for row in _rows(path):
        try:
            count = count or sum(column.startswith("potential_") for column in row)
            label, predicted = int(row["label"]), int(row["class"])
            if not (0 <= label < count and 0 <= predicted < count):
                raise ValueError(f"class {predicted} for an image of class {label}, of {count}")
            if "class_name" in row:
                classes[predicted] = row["class_name"]
            if row["file"] in labelled and int(row["timesteps"]) == labelled[row["file"]].timesteps:
                pairs[row["file"]].append((label, predicted))
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, f"a row that makes no sense ({error})") from error
    confusions = {}
    for name, found in pairs.items():
        counts = np.zeros((count, count), np.int64)
        for pair in found:
            counts[pair] += 1
        if len(found) != evaluations[name].image_count or counts.trace() != labelled[name].correct_count:
            raise _damaged(path, f"other images or right answers of {name} than in result.json")
        confusions[name] = Confusion(labelled[name].timesteps, counts, _class_names(name, count, classes, manifest))
    return confusions


def _class_names(file: str, count: int, predicted: Mapping[int, str], manifest: Manifest) -> tuple[str, ...]:
    """The name of each class of ``file``; of one that nothing names, its number.

    Earlier versions have not recorded the run's classes. Those of the CNN are the same where they have the names,
    ``predicted``, that predictions.csv gives to some.
    """
    model = manifest.provenance.get(file, {}).get("model")
    for names in (manifest.classes, model.get("classes") if isinstance(model, dict) else None):
        if (
            isinstance(names, list | tuple)
            and len(names) == count
            and all(isinstance(name, str) for name in names)
            and all(names[index] == name for index, name in predicted.items())
        ):
            return tuple(names)
    return tuple(predicted.get(index, str(index)) for index in range(count))


def _damaged(path: Path, found: str) -> InputError:
    return InputError(f"{path}: damaged: {found}. Make the run folder again with `loihi-convert run`.")
