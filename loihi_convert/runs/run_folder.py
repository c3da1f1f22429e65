"""One folder per run, written and read: accuracy, rates, thresholds, predictions as CSV, figures as JSON."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from loihi_convert.errors import CONTROL, DataError, InputError, UsageError
from loihi_convert.external import AnyNetwork
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.dependencies import installed_version
from loihi_convert.ground.files import (
    asked,
    cannot_create,
    require_new_or_empty,
    require_no_pipe,
    require_writable,
    write_atomically,
)
from loihi_convert.ir.network import class_count, name_count
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.runs.columns import (
    POTENTIAL,
    ChannelFiringRate,
    ChannelThreshold,
    FileResults,
    ImageFacts,
    Prediction,
    Row,
    accuracy_rows,
    as_csv,
    blocks_as_csv,
    damaged,
    early_exit_rows,
    energy_rows,
    firing_rate_rows,
    misfit,
    prediction_rows,
    read_csv,
    regression_rows,
    threshold_rows,
)

_SURROGATES: Final = re.compile("[\ud800-\udfff]")

RUNS: Final = Path("runs")
"""The parent of run folders that were not given a name."""

MANIFEST: Final = "manifest.json"


def write_run(
    folder: Path, runs: Sequence[FileResults], known: ImageFacts, manifest: Mapping[str, Any]
) -> tuple[Path, ...]:
    """Write the results of one run into ``folder`` and return the files, the manifest last.

    All contents are created before the first file is written. Each file is written atomically, and the manifest is
    last, so a folder with a manifest is complete. If a file cannot be written, all files of the run are removed.

    Raises
    ------
    UsageError
        If two files have the same stem.
    DataError
        If there is not one name per class, or output, of a network.
    InputError
        If the folder cannot be written.
    """
    # As in the CSV files.
    runs = [run._replace(name=run.name.translate(CONTROL)) for run in runs]
    require_different_names([run.name for run in runs])
    for run in runs:
        require_class_names(run.name, run.network, known.classes)
    contents = _contents(runs, known)
    contents[MANIFEST] = _json(dict(manifest)).encode()
    _make_folder(folder)
    # Another run may have begun in the empty folder.
    require_new_or_empty(folder)
    try:
        for name, content in contents.items():
            write_atomically(folder / name, content)
    except BaseException:
        for name in contents:
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        raise
    return tuple(folder / name for name in contents)


_TABLES: Final[dict[str, Callable[[FileResults], Iterator[Row]]]] = {
    "accuracy.csv": accuracy_rows,
    "regression.csv": regression_rows,
    "early_exit.csv": early_exit_rows,
    "energy.csv": energy_rows,
    "firing_rates.csv": firing_rate_rows,
    "thresholds.csv": threshold_rows,
}


def _contents(runs: Sequence[FileResults], known: ImageFacts) -> dict[str, bytes]:
    """The CSV files by name, and result.json; files without data are left out."""
    always = {"firing_rates.csv"}
    if any(isinstance(run.network, QuantizedNetwork) for run in runs):
        always.add("thresholds.csv")
    tables = {name: [row for run in runs for row in rows_of(run)] for name, rows_of in _TABLES.items()}
    return {
        **{name: as_csv(rows) for name, rows in tables.items() if rows or name in always},
        "result.json": results_json((run.name, run.evaluation) for run in runs).encode(),
        "predictions.csv": blocks_as_csv([prediction_rows(run, known) for run in runs]),
    }


def require_different_names(names: Sequence[str]) -> None:
    """Raise the `UsageError` of `write_run` if two files have the same stem; called before a run."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"found several files called {', '.join(repeated)}",
            where="files",
            expected="must have different names",
            hint="Rename them, or run them one by one.",
        )


def require_class_names(name: str, network: AnyNetwork, classes: Sequence[str] | None) -> None:
    """Raise the `DataError` of `write_run` unless there is one name per class, or output, of the file ``name``.

    Called before a run. ``classes`` is None if unknown.
    """
    count = name_count(network.shapes[-1][0], network.task)
    if classes is not None and len(classes) != count:
        many, one = ("outputs", "output") if network.task == "regression" else ("classes", "class")
        raise DataError(
            f"the network has {count} {many}, the data {len(classes)} {one} names",
            where=name,
            expected=f"must be one name per {one}, or none",
            hint="Leave out the array `classes` of the .npz file, or name all. For class folders, give the class of "
            "each in `class_map`.",
        )


def dated_name(name: str) -> str:
    """Return ``name-<UTC time>``, for example ``model-ref-20260131T120000Z``."""
    return f"{name}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"


@contextlib.contextmanager
def run_folder(output: str | Path | None, name: str) -> Iterator[Path]:
    """Yield the folder of a run: ``output``, or a new ``runs/name-<UTC time>`` if that is None.

    It is created before the run, so that a place that is not writable is found before hours of work. If the ``with``
    block fails or is interrupted, the folders created here are removed, unless another program has written into them.

    Raises
    ------
    InputError
        If ``output`` is not empty, or the folder cannot be created or written.
    """
    if output is None:
        folder, made = _make_dated(RUNS / dated_name(name))
    else:
        folder = Path(output)
        require_new_or_empty(folder)
        made = _make_folder(folder)
    try:
        require_writable(folder / MANIFEST)
        yield folder
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def results_json(evaluations: Iterable[tuple[str, Evaluation]]) -> str:
    """Return ``{file: evaluation, ...}`` as indented JSON, in the schema of `Evaluation`."""
    return _json({name: evaluation.model_dump(mode="json") for name, evaluation in evaluations})


def _json(value: object) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name need not be UTF-8; its other bytes become the text that `backslashreplace` writes in the CSV files.
    return _SURROGATES.sub(lambda found: f"\\\\u{ord(found[0]):04x}", text)


def _make_dated(first: Path) -> tuple[Path, list[Path]]:
    """Create ``first``, or ``first-2``, ``first-3``, ... if it exists, also at this moment; return it as well."""
    for count in itertools.count(1):
        folder = first if count == 1 else first.with_name(f"{first.name}-{count}")
        with contextlib.suppress(FileExistsError):
            return folder, _make_folder(folder, exist_ok=False)
    raise AssertionError


def _make_folder(folder: Path, *, exist_ok: bool = True) -> list[Path]:
    """Create ``folder`` and missing parents; return those that were missing, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        if isinstance(error, FileExistsError) and not exist_ok:
            raise
        raise cannot_create(folder, error, "output") from error
    return missing


VERSIONED_PACKAGES: Final = ("loihi-convert", "torch", "numpy", "lava-nc", "lava-dl")
"""Packages whose versions are recorded in a manifest, because they can change a result."""

# Options whose values are not paths, but may contain a slash.
_NOT_PATHS: Final = ("--arch", "--class-map", "--classes", "--scheduler", "--slurm")


class ReadFile(BaseModel):
    """An input file of a run."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str


class Manifest(BaseModel):
    """The part of ``manifest.json`` that a report needs; other content is kept.

    The keys written by `new_manifest` are required; the others are those of some kinds of runs.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    network: str
    data: str
    data_fingerprint: str
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
    neuron: str | None = None
    leak: bool | None = None
    stream: bool | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def options(self) -> tuple[object, ...]:
        """What distinguishes two runs of a file on images of one name: other images, or another calculation."""
        return self.data_fingerprint, self.neuron, self.leak, self.stream, self.mean, self.std


def new_manifest(
    *, files: Sequence[ReadFile], command_line: Sequence[str], **others: str | int | None
) -> dict[str, Any]:
    """Return the information needed to repeat a run, as plain JSON values.

    Only the names of paths are kept, so that a shared run folder does not reveal the machine it comes from. ``files``
    are as they were when they were read; ``command_line`` is ``sys.argv``; ``others`` are the network, the data, the
    backend and the seed.
    """
    return {
        **others,
        "files": [file.model_dump() for file in files],
        "command_line": _without_folders(command_line),
        "utc_time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in VERSIONED_PACKAGES},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


def _without_folders(command_line: Sequence[str]) -> list[str]:
    """Return the program's name and its arguments, with ``--output=a.net`` for ``--output=/home/me/a.net``."""
    if not command_line:
        return []
    recorded = ["loihi-convert"]
    for before, argument in itertools.pairwise(command_line):
        is_path = before not in _NOT_PATHS and argument.split("=")[0] not in _NOT_PATHS
        pattern = r"^(--[\w-]+=|-[A-Za-z])?.*/(?=.)"
        recorded.append(re.sub(pattern, r"\1", argument, flags=re.DOTALL) if is_path else argument)
    return recorded


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
    for path in folder.iterdir():
        require_no_pipe(path)
    manifest: Manifest = _read_json(folder / "manifest.json", TypeAdapter(Manifest))
    evaluations: dict[str, Evaluation] = _read_json(folder / "result.json", TypeAdapter(dict[str, Evaluation]))
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


def _read_json(path: Path, schema: TypeAdapter[Any]) -> Any:
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
        size, is_relay = sizes[file, layer], [row.relay_of is not None for row in rows]
        has_share = sum(is_relay) * size.neuron_count == size.relay_neuron_count * len(rows)
        if is_relay != known.setdefault((file, layer), is_relay) or not has_share:
            path = folder / ("thresholds.csv" if timesteps is None else "firing_rates.csv")
            place = f"{layer} of {file}{'' if timesteps is None else f' at T = {timesteps}'}"
            raise damaged(path, f"{place} has other channels or relays than elsewhere")


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
