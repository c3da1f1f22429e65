"""The CSV files in a run folder: their columns, written block by block, read and checked row by row.

Columns with names that begin with ``relay`` exist only for runs with relays (`ir.relays`), those that begin with
``circuit`` only for runs of a circuit of stock neurons (`ir.neuron_model`).
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from loihi_convert.backends.result import RunResult
from loihi_convert.chip.energy import Estimate
from loihi_convert.errors import InputError
from loihi_convert.external import AnyNetwork
from loihi_convert.external.cuba import CubaLayer
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.records import Record
from loihi_convert.ground.statistics import Interval
from loihi_convert.ir.graded import GradedLayer, GradedNetwork
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.metrics.early_exit import EarlyExit, ExitPoint
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.metrics.regression import Regression

POTENTIAL: Final = "potential"
"""Prefix of the columns of output potentials in predictions.csv: ``potential_0``, ``potential_1``, ..."""

_BLOCK: Final = 1_000
"""Images whose rows are in memory at once."""

_OrEmpty = BeforeValidator(lambda value: None if value == "" else value)
"""An empty cell is None."""


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

    file: str
    layer: str
    channel: int
    timesteps: int
    firing_rate: float = Field(ge=0, le=1)
    relay_of: Annotated[int | None, _OrEmpty] = None


class ChannelThreshold(CsvRow):
    """thresholds.csv: one channel of one layer; ``relay_of`` as in `ChannelFiringRate`.

    ``real_threshold``, before rounding, is None if unknown or infinite.
    """

    file: str
    layer: str
    channel: int
    threshold: int
    real_threshold: Annotated[float | None, _OrEmpty]
    scale: float
    initial_potential: int
    relay_of: Annotated[int | None, _OrEmpty] = None


class Prediction(CsvRow):
    """predictions.csv: one image at one T; names, potentials and spike counts are in further columns."""

    file: str
    image: int
    timesteps: int
    predicted: int = Field(validation_alias="class", serialization_alias="class", ge=0)
    label: int | None = Field(default=None, ge=0)


def accuracy_row(name: str, evaluation: Evaluation, point: Point) -> dict[str, object]:
    """Return a row of accuracy.csv: fields of the run, then those of `Point`."""
    return {
        "file": name,
        "balanced_timesteps": evaluation.timesteps,
        "image_count": evaluation.image_count,
        "cnn_accuracy": evaluation.cnn_accuracy,
        **_range_columns("cnn_accuracy", evaluation.cnn_accuracy_interval),
        **_flat(point, [layer.name for layer in evaluation.layers], has_relays=evaluation.has_relays),
    }


def early_exit_row(name: str, evaluation: Evaluation, early_exit: EarlyExit, point: ExitPoint) -> dict[str, object]:
    """Return a row of early_exit.csv: the fields of `ExitPoint`, and whether its margin is the chosen one."""
    return {
        "file": name,
        "balanced_timesteps": evaluation.timesteps,
        "timesteps": early_exit.choice.timesteps,
        "image_count": evaluation.image_count,
        "chosen": point.margin == early_exit.choice.margin,
        **_flat(point),
    }


def regression_rows(name: str, evaluation: Evaluation, regression: Regression) -> Iterator[dict[str, object]]:
    """Yield the rows of regression.csv for one file: each reported T, the mean over outputs, then each output."""
    for point in regression.points:
        compared = {"": point.to_targets, "_to_cnn": point.to_cnn, "_float": point.float_to_targets}
        compared["_cnn"] = regression.cnn
        for index, output in enumerate(("mean", *regression.output_names)):
            row: dict[str, object] = {
                "file": name,
                "balanced_timesteps": evaluation.timesteps,
                "timesteps": point.timesteps,
                "image_count": evaluation.image_count,
                "output": "" if index == 0 else index - 1,
                "output_name": output,
            }
            for suffix, errors in compared.items():
                one = None if errors is None else (errors.mean, *errors.outputs)[index]
                row |= {f"rmse{suffix}": one and one.rmse, f"r2{suffix}": one and one.r2}
            yield row


def energy_row(name: str, estimate: Estimate) -> dict[str, object]:
    """Return a row of energy.csv: the fields of `Estimate`."""
    return {"file": name, **_flat(estimate, has_relays=estimate.relay_membrane_updates > 0)}


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


def firing_rates(
    name: str, evaluation: Evaluation, result: RunResult, network: AnyNetwork
) -> Iterator[ChannelFiringRate]:
    """Yield the rows of firing_rates.csv for one file: each spiking layer, each reported T, each channel."""
    spiking: tuple[QuantizedLayer | CubaLayer | GradedLayer, ...] = network.spiking_layers
    for layer, shape, spikes in zip(spiking, network.shapes, result.channel_spikes, strict=False):
        neurons = math.prod(shape[1:])
        sources = _sources(layer, shape[0])
        so_far = spikes.cumsum(axis=0)
        for point in evaluation.points:
            possible = evaluation.image_count * neurons * point.timesteps
            counts = so_far[point.timesteps - 1].tolist()
            for channel, (count, source) in enumerate(zip(counts, sources, strict=True)):
                yield ChannelFiringRate(
                    file=name,
                    layer=layer.name,
                    channel=channel,
                    timesteps=point.timesteps,
                    firing_rate=count / possible,
                    relay_of=source,
                )


def _sources(layer: QuantizedLayer | CubaLayer | GradedLayer, channels: int) -> list[int | None]:
    """The source channel of each channel; None for channels that are not relays."""
    if isinstance(layer, CubaLayer) or layer.relay_of is None:
        return [None] * channels
    return [source if source >= 0 else None for source in layer.relay_of.tolist()]


def thresholds(name: str, network: AnyNetwork) -> Iterator[ChannelThreshold]:
    """Yield the rows of thresholds.csv for one file: each spiking layer, each channel; none for other neurons."""
    for layer in network.spiking_layers:
        if not isinstance(layer, QuantizedLayer):
            continue
        assert layer.neuron is not None
        integers = layer.neuron.threshold.tolist()
        real = [math.inf] * len(integers) if layer.balanced is None else layer.balanced.threshold.tolist()
        numbers = zip(integers, real, layer.scale.tolist(), layer.neuron.initial_potential.tolist(), strict=True)
        for channel, ((integer, real_threshold, scale, initial), source) in enumerate(
            zip(numbers, _sources(layer, len(integers)), strict=True)
        ):
            yield ChannelThreshold(
                file=name,
                layer=layer.name,
                channel=channel,
                threshold=integer,
                real_threshold=None if real_threshold == math.inf else real_threshold,
                scale=scale,
                initial_potential=initial,
                relay_of=source,
            )


def number_rows(
    name: str,
    evaluation: Evaluation,
    result: RunResult,
    network: QuantizedNetwork | GradedNetwork,
    targets: Array | None,
    paths: Sequence[str] | None = None,
) -> Iterator[Rows]:
    """Yield the rows of predictions.csv for one file of a regression: each image, each reported T.

    Outputs and targets are in the CNN's units.
    """
    steps = np.array([point.timesteps for point in evaluation.points])
    for first, images in _blocks(result):
        read = result.potentials[images][:, steps - 1]
        columns = _keys(name, first, len(read), steps, paths)
        columns |= _numbered("output", network.real_outputs(read, steps[:, None]))
        if targets is not None:
            columns |= _numbered("target", np.repeat(targets[images][:, None], len(steps), axis=1))
        yield columns | _numbered(POTENTIAL, read)


def prediction_rows(
    name: str,
    evaluation: Evaluation,
    result: RunResult,
    labels: Array | None,
    classes: Sequence[str] | None,
    paths: Sequence[str] | None = None,
) -> Iterator[Rows]:
    """Yield the rows of predictions.csv for one file: each image, each reported T."""
    steps = np.array([point.timesteps for point in evaluation.points])
    for first, images in _blocks(result):
        read = result.potentials[images][:, steps - 1]
        columns = _keys(name, first, len(read), steps, paths)
        predicted = result.predictions[images][:, steps - 1].ravel().tolist()
        columns["class"] = predicted
        if classes is not None:
            columns["class_name"] = [classes[one] for one in predicted]
        if labels is not None:
            columns["label"] = np.repeat(labels[images], len(steps)).tolist()
        columns |= _numbered(POTENTIAL, read)
        if result.output_spikes is not None:
            counts = result.output_spikes[images].cumsum(axis=1, dtype=np.int64)
            columns |= _numbered("spike_count", counts[:, steps - 1])
        yield columns


def _blocks(result: RunResult) -> Iterator[tuple[int, slice]]:
    """The images in blocks: the index of the first, and the slice."""
    for first in range(0, len(result.potentials), _BLOCK):
        yield first, slice(first, first + _BLOCK)


def _keys(name: str, first: int, count: int, steps: Array, paths: Sequence[str] | None) -> dict[str, Sequence[object]]:
    """The columns that say which file, image and T a row is of."""
    images = range(first, first + count)
    return {
        "file": [name] * (count * len(steps)),
        "image": np.repeat(images, len(steps)).tolist(),
        **({} if paths is None else {"path": [paths[image] for image in images for _ in steps]}),
        "timesteps": np.tile(steps, count).tolist(),
    }


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


def as_csv(rows: Iterable[Mapping[str, object] | CsvRow]) -> bytes:
    """Return CSV with the columns of all rows in order of appearance; None becomes an empty cell."""
    dicts = [_cells(row) if isinstance(row, CsvRow) else row for row in rows]
    columns = dict.fromkeys(itertools.chain.from_iterable(dicts))
    return csv_bytes(columns, ([row.get(column, "") for column in columns] for row in dicts))


class _Lines(io.TextIOWrapper):
    """Text whose rows, written by `csv.writer` with CR LF at the end, end with LF."""

    def write(self, row: str) -> int:
        return super().write(row.removesuffix("\r\n") + "\n")


def csv_bytes(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    """Return a header and ``rows`` as CSV in UTF-8."""
    content = io.BytesIO()
    with _Lines(content, "utf-8", "backslashreplace", newline="") as text:
        # `csv.reader` ends a row at every CR and LF outside quotes. Up to Python 3.12, `csv.writer` quotes a cell only
        # for those in its own line terminator, so that must have both.
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(columns)
        writer.writerows(rows)
        text.flush()
        return content.getvalue()


def _cells(row: CsvRow) -> dict[str, object]:
    return {name: value for name, value in row.model_dump().items() if name != "relay_of" or value is not None}


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
        return _run_again(path, f"written by an earlier version, or damaged: {line}{place} is missing")
    return damaged(path, line + (f"{place}: " if place else "") + errors[0]["msg"])


def damaged(path: Path, found: str) -> InputError:
    """Return the error for a file of a run folder that differs from what `run` has written."""
    return _run_again(path, f"damaged: {found}")


def _run_again(path: Path, found: str) -> InputError:
    return InputError(found, where=path, hint="Run the files again to make a new run folder.")
