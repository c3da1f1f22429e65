"""The CSV files in a run folder: their columns, written block by block, read and checked row by row.

Columns with names that begin with ``relay`` exist only for runs with relays (`ir.network`), those that begin with
``circuit`` only for runs of a circuit of stock neurons (`ir.neuron_model`).
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, NamedTuple, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from loihi_convert.backends.result import RunResult
from loihi_convert.errors import CONTROL, InputError
from loihi_convert.external import AnyNetwork
from loihi_convert.external.readers import CubaLayer
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.options import Record
from loihi_convert.ground.statistics import Interval
from loihi_convert.ir.graded import GradedLayer
from loihi_convert.ir.quantized import QuantizedLayer
from loihi_convert.metrics.evaluation import Evaluation

POTENTIAL: Final = "potential"
"""Prefix of the columns of output potentials in predictions.csv: ``potential_0``, ``potential_1``, ..."""

_FORMULA: Final = re.compile(r"[\s']*([=@]|[+-](?!(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$))", re.IGNORECASE)
"""The beginning of a text that a spreadsheet would compute: a number is none."""

_OrEmpty = BeforeValidator(lambda value: None if value == "" else value)
"""An empty cell is None."""

_Name = Annotated[str, AfterValidator(lambda cell: cell[1:] if cell[:1] == "'" and _FORMULA.match(cell[1:]) else cell)]
"""A text without the ``'`` of `csv_bytes`."""


Rows = dict[str, Sequence[object]]
"""Some rows of a CSV file by column, in the order of the columns."""


class CsvRow(BaseModel):
    """A row, with fields in the order of the columns. Unknown columns, from later versions, are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)


class ChannelFiringRate(CsvRow):
    """firing_rates.csv: one channel of one layer at one T.

    The firing rate of a channel (paper, eq. 3) is the mean over its neurons, and here over images, of spikes / T.
    ``relay_of`` is the channel of the layer before that a relay repeats; None for other channels.
    """

    file: _Name
    layer: _Name
    channel: int
    timesteps: int
    firing_rate: float = Field(ge=0, le=1)
    relay_of: Annotated[int | None, _OrEmpty] = None


class ChannelThreshold(CsvRow):
    """thresholds.csv: one channel of one layer; ``relay_of`` as in `ChannelFiringRate`.

    ``real_threshold``, before rounding, is None if unknown or infinite.
    """

    file: _Name
    layer: _Name
    channel: int
    threshold: int
    real_threshold: Annotated[float | None, _OrEmpty]
    scale: float
    initial_potential: int
    relay_of: Annotated[int | None, _OrEmpty] = None


class Prediction(CsvRow):
    """predictions.csv: one image at one T; names, potentials and spike counts are in further columns."""

    file: _Name
    image: int
    timesteps: int
    predicted: int = Field(validation_alias="class", serialization_alias="class", ge=0)
    label: int | None = Field(default=None, ge=0)


class FileResults(NamedTuple):
    """The results of one file of a run: its stem, figures, integers, and network."""

    name: str
    evaluation: Evaluation
    result: RunResult
    network: AnyNetwork


class ImageFacts(NamedTuple):
    """What is known of the N images of a run: labels ``(N,)``, targets ``(N, outputs)``, files, and class names."""

    labels: Array | None = None
    targets: Array | None = None
    paths: Sequence[str] | None = None
    classes: Sequence[str] | None = None


Row = dict[str, object]


def accuracy_rows(run: FileResults) -> Iterator[Row]:
    """Yield the rows of accuracy.csv: fields of the run, then those of each `Point`."""
    evaluation = run.evaluation
    names = [layer.name for layer in evaluation.layers]
    for point in evaluation.points:
        yield {
            **_of_file(run),
            "image_count": evaluation.image_count,
            "cnn_accuracy": evaluation.cnn_accuracy,
            **_range_columns("cnn_accuracy", evaluation.cnn_accuracy_interval),
            **_flat(point, names, has_relays=evaluation.has_relays),
        }


def early_exit_rows(run: FileResults) -> Iterator[Row]:
    """Yield the rows of early_exit.csv: the fields of each `ExitPoint`, and whether its margin is the chosen one."""
    if (early_exit := run.evaluation.early_exit) is not None:
        for point in early_exit.points:
            yield {
                **_of_file(run),
                "timesteps": early_exit.choice.timesteps,
                "image_count": run.evaluation.image_count,
                "chosen": point.margin == early_exit.choice.margin,
                **_flat(point),
            }


def regression_rows(run: FileResults) -> Iterator[Row]:
    """Yield the rows of regression.csv: each reported T, the mean over outputs, then each output."""
    regression = run.evaluation.regression
    for point in () if regression is None else regression.points:
        assert regression is not None
        compared = {"": point.to_targets, "_to_cnn": point.to_cnn, "_float": point.float_to_targets}
        compared["_cnn"] = regression.cnn
        for index, output in enumerate(("mean", *regression.output_names)):
            row: Row = {
                **_of_file(run),
                "timesteps": point.timesteps,
                "image_count": run.evaluation.image_count,
                "output": "" if index == 0 else index - 1,
                "output_name": output,
            }
            for suffix, errors in compared.items():
                one = None if errors is None else (errors.mean, *errors.outputs)[index]
                row |= {f"rmse{suffix}": one and one.rmse, f"r2{suffix}": one and one.r2}
            yield row


def energy_rows(run: FileResults) -> Iterator[Row]:
    """Yield the rows of energy.csv: the fields of each `Estimate`."""
    for one in () if run.evaluation.energy is None else run.evaluation.energy.estimates:
        yield {"file": run.name, **_flat(one, has_relays=one.relay_membrane_updates > 0)}


def _of_file(run: FileResults) -> Row:
    return {"file": run.name, "balanced_timesteps": run.evaluation.timesteps}


def _flat(record: Record, layers: Sequence[str] = (), *, has_relays: bool = False) -> dict[str, object]:
    """The fields of a record in order: one column per layer in ``layers``, or two for a range."""
    row: dict[str, object] = {}
    for field, value in record:
        if (field.startswith("relay_") and not has_relays) or (field.startswith("circuit_") and value is None):
            continue
        if field.endswith("_interval"):
            row |= _range_columns(field.removesuffix("_interval"), value)
        elif isinstance(value, tuple) and layers:
            row |= {f"{field.removesuffix('_per_layer')}_{layer}": x for layer, x in zip(layers, value, strict=False)}
        else:
            is_range = isinstance(value, tuple) or field.endswith("_joules")
            row |= _range_columns(field, value) if is_range else {field: value}
    return row


def _range_columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def firing_rate_rows(run: FileResults) -> Iterator[Row]:
    """Yield the rows of firing_rates.csv for one file: each spiking layer, each reported T, each channel."""
    network, evaluation = run.network, run.evaluation
    spiking: tuple[QuantizedLayer | CubaLayer | GradedLayer, ...] = network.spiking_layers
    for layer, shape, spikes in zip(spiking, network.shapes, run.result.channel_spikes, strict=False):
        so_far = spikes.cumsum(axis=0)
        for point in evaluation.points:
            possible = evaluation.image_count * math.prod(shape[1:]) * point.timesteps
            for channel, count in enumerate(so_far[point.timesteps - 1].tolist()):
                yield {
                    "file": run.name,
                    "layer": layer.name,
                    "channel": channel,
                    "timesteps": point.timesteps,
                    "firing_rate": count / possible,
                    **_relay_column(layer, channel),
                }


def _relay_column(layer: QuantizedLayer | CubaLayer | GradedLayer, channel: int) -> Row:
    """The channel of the layer before that a relay repeats; nothing for other channels."""
    source = -1 if layer.relay_of is None else int(layer.relay_of[channel])
    return {"relay_of": source} if source >= 0 else {}


def threshold_rows(run: FileResults) -> Iterator[Row]:
    """Yield the rows of thresholds.csv for one file: each spiking layer, each channel; none for other neurons."""
    for layer in run.network.spiking_layers:
        if not isinstance(layer, QuantizedLayer):
            continue
        assert layer.neuron is not None
        integers = layer.neuron.threshold.tolist()
        real = [math.inf] * len(integers) if layer.balanced is None else layer.balanced.threshold.tolist()
        columns = zip(integers, real, layer.scale.tolist(), layer.neuron.initial_potential.tolist(), strict=True)
        for channel, (integer, balanced, scale, initial) in enumerate(columns):
            yield {
                "file": run.name,
                "layer": layer.name,
                "channel": channel,
                "threshold": integer,
                "real_threshold": None if balanced == math.inf else balanced,
                "scale": scale,
                "initial_potential": initial,
                **_relay_column(layer, channel),
            }


def prediction_rows(run: FileResults, known: ImageFacts) -> Iterator[Rows]:
    """Yield the rows of predictions.csv for one file: each image, each reported T.

    Outputs and targets of a regression are in the CNN's units.
    """
    result, network = run.result, run.network
    steps = np.array([point.timesteps for point in run.evaluation.points])
    first = 0
    for part in result.parts():
        read = part.potentials[:, steps - 1]
        numbers = range(first, first + len(read))
        images, first = slice(first, first + len(read)), first + len(read)
        columns: dict[str, Sequence[object]] = {
            "file": [run.name] * (len(read) * len(steps)),
            "image": np.repeat(numbers, len(steps)).tolist(),
            **({} if known.paths is None else {"path": [known.paths[image] for image in numbers for _ in steps]}),
            "timesteps": np.tile(steps, len(read)).tolist(),
        }
        if network.task == "regression":
            columns |= _numbered("output", network.real_outputs(read, steps[:, None]))
            if known.targets is not None:
                columns |= _numbered("target", np.repeat(known.targets[images][:, None], len(steps), axis=1))
        else:
            predicted = part.predictions[:, steps - 1].ravel().tolist()
            columns["class"] = predicted
            if known.classes is not None:
                columns["class_name"] = [known.classes[one] for one in predicted]
            if known.labels is not None:
                columns["label"] = np.repeat(known.labels[images], len(steps)).tolist()
        columns |= _numbered(POTENTIAL, read)
        if part.output_spikes is not None:
            columns |= _numbered("spike_count", part.outputs[:, steps - 1])
        yield columns


def _numbered(prefix: str, values: Array) -> dict[str, Sequence[object]]:
    """Return one column for each of the last axis of ``values``, ``(images, T, outputs)``."""
    return {f"{prefix}_{index}": column.ravel().tolist() for index, column in enumerate(np.moveaxis(values, -1, 0))}


_Row = TypeVar("_Row", bound=CsvRow)


def blocks_as_csv(runs: Sequence[Iterator[Rows]]) -> bytes:
    """Return CSV with the rows of all ``runs``; a column that one of them does not have is empty there.

    Rows are not all kept in memory: those of predictions.csv would take many times its size.
    """
    started = [(next(run), run) for run in runs]
    columns = dict.fromkeys(itertools.chain.from_iterable(first for first, _ in started))
    rows = (
        row
        for first, others in started
        for block in itertools.chain((first,), others)
        for row in zip(*(block.get(column, ("",) * len(block["file"])) for column in columns), strict=True)
    )
    return csv_bytes(columns, rows)


def as_csv(rows: Iterable[Mapping[str, object]]) -> bytes:
    """Return CSV with the columns of all rows in order of appearance; None becomes an empty cell."""
    dicts = list(rows)
    columns = dict.fromkeys(itertools.chain.from_iterable(dicts))
    return csv_bytes(columns, ([row.get(column, "") for column in columns] for row in dicts))


class _Lines(io.TextIOWrapper):
    """Text whose rows, written by `csv.writer` with CR LF at the end, end with LF."""

    def write(self, row: str) -> int:
        return super().write(row.removesuffix("\r\n") + "\n")


@lru_cache
def _inert(cell: str) -> str:
    return ("'" * bool(_FORMULA.match(cell)) + cell).translate(CONTROL)


def csv_bytes(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    """Return a header and ``rows`` as CSV in UTF-8.

    Names may be of any origin: a ``'`` precedes those that are formulas in a spreadsheet; control characters are
    escaped.
    """
    content = io.BytesIO()
    with _Lines(content, "utf-8", "backslashreplace", newline="") as text:
        # `csv.reader` ends a row at every CR and LF outside quotes. Up to Python 3.12, `csv.writer` quotes a cell only
        # for those in its own line terminator, so that must have both.
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(map(_inert, columns))
        writer.writerows([_inert(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
        text.flush()
        return content.getvalue()


def read_csv(path: Path, schema: type[_Row]) -> Iterator[tuple[_Row, Collection[str]]]:
    """Yield each row of the CSV file ``path``, checked, and the names of its columns.

    Raises
    ------
    InputError
        If the file cannot be read, or a row does not fit ``schema``.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line, row in enumerate(csv.DictReader(file), 2):
                if None in row:
                    raise damaged(path, f"line {line}: more fields than the header")
                yield schema.model_validate_strings(row), row.keys()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=path) from error
    except ValidationError as error:
        raise misfit(path, error, f"line {line}: ") from error
    except (ValueError, csv.Error) as error:
        raise damaged(path, str(error)) from error


def misfit(path: Path, error: ValidationError, line: str = "") -> InputError:
    """Return the error for a file that does not fit its schema, with the first of pydantic's errors.

    ``line`` precedes it. Files of earlier versions only lack fields.
    """
    errors = error.errors()
    place = ".".join(map(str, errors[0]["loc"]))
    if all(one["type"] == "missing" for one in errors):
        return damaged(path, f"{line}{place} is missing", "written by an earlier version, or damaged")
    return damaged(path, line + (f"{place}: " if place else "") + errors[0]["msg"])


def damaged(path: Path, found: str, how: str = "damaged") -> InputError:
    """Return the error for a file of a run folder that differs from what `run` has written."""
    return InputError(f"{how}: {found}", where=path, hint="Run the files again to make a new run folder.")
