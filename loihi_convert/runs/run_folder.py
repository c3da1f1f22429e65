"""One folder per run: accuracy, rates, thresholds, predictions as CSV, evaluations as JSON, a manifest."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from loihi_convert.errors import DataError, UsageError
from loihi_convert.external import AnyNetwork
from loihi_convert.ground.dependencies import installed_version
from loihi_convert.ground.files import cannot_create, require_new_or_empty, require_writable, write_atomically
from loihi_convert.ir.network import name_count
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.runs.columns import (
    CsvRow,
    FileResults,
    ImageFacts,
    accuracy_rows,
    as_csv,
    blocks_as_csv,
    early_exit_rows,
    energy_rows,
    firing_rates,
    prediction_rows,
    regression_rows,
    thresholds,
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
    require_different_names([run.name for run in runs])
    for run in runs:
        require_class_names(run.name, run.network, known.classes)
    contents = _contents(runs, known)
    contents[MANIFEST] = _json(dict(manifest)).encode()
    _make_folder(folder, [])
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


_TABLES: Final[dict[str, Callable[[FileResults], Iterable[Mapping[str, object] | CsvRow]]]] = {
    "accuracy.csv": accuracy_rows,
    "regression.csv": regression_rows,
    "early_exit.csv": early_exit_rows,
    "energy.csv": energy_rows,
    "firing_rates.csv": firing_rates,
    "thresholds.csv": thresholds,
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
    made: list[Path] = []
    try:
        if output is None:
            folder = _make_dated(RUNS / dated_name(name), made)
        else:
            folder = Path(output)
            require_new_or_empty(folder)
            _make_folder(folder, made)
        require_writable(folder / MANIFEST)
        yield folder
    except BaseException:
        for path in reversed(made):
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


def _make_dated(first: Path, made: list[Path]) -> Path:
    """Create and return ``first``, or ``first-2``, ``first-3``, ... if it already exists."""
    _make_folder(first.parent, made)
    for count in itertools.count(1):
        folder = first if count == 1 else first.with_name(f"{first.name}-{count}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise cannot_create(folder, error, "output") from error
        break
    made.append(folder)
    return folder


def _make_folder(folder: Path, made: list[Path]) -> None:
    """Create ``folder`` and missing parents, and append each to ``made``, the outermost first."""
    try:
        for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            # Another run may create the same parent.
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                made.append(path)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_create(folder, error, "output") from error


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
    *,
    network: str,
    data: str,
    data_fingerprint: str,
    backend: str,
    files: Sequence[ReadFile],
    command_line: Sequence[str],
    seed: int | None,
) -> dict[str, Any]:
    """Return the information needed to repeat a run, as plain JSON values.

    Only the names of paths are kept, so that a shared run folder does not reveal the machine it comes from. ``files``
    are as they were when they were read; ``command_line`` is ``sys.argv``.
    """
    return {
        "network": network,
        "data": data,
        "data_fingerprint": data_fingerprint,
        "backend": backend,
        "files": [file.model_dump() for file in files],
        "command_line": _without_folders(command_line),
        "seed": seed,
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
