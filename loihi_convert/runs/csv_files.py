"""CSV files of run folders: written with the columns of all their rows; read and checked row by row."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from loihi_convert.errors import InputError

Rows = dict[str, Sequence[object]]
"""Some rows of a CSV file by column, in the order of the columns."""


class CsvRow(BaseModel):
    """A row, with fields in the order of the columns. Unknown columns, from later versions, are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)


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
