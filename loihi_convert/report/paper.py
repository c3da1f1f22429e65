"""The paper's results: every cell of its tables, for comparison (Ngu & Lee 2022, doi:10.3390/app12115749).

The numbers are in ``paper.csv``; methods have the names used by `--balance`. According to the paper, missing accuracies
could not be measured. Table A2 has 96.28 at T = 32, alpha 0.4, while its neighbours have 99.2. This is probably a
misprint of 99.28; it is kept as printed.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from pydantic import TypeAdapter

CNN: Final = "cnn"
"""The method of a row that is the CNN's own accuracy."""


@dataclass(frozen=True)
class Cell:
    """One accuracy of the paper.

    Parameters
    ----------
    table
        See `choices.PaperTable`.
    data
        ``"mnist"``, ``"fashion-mnist"`` or ``"cifar10"`` (there VGG-16).
    method
        The name used by `--balance`, or `CNN`.
    reset
        ``"soft"`` or ``"hard"``; ``None`` for the CNN.
    alpha
        Factor on the thresholds; ``None`` for the CNN.
    timesteps
        T; ``None`` for the CNN.
    accuracy
        In %; ``None`` if the paper does not give one.
    """

    table: str
    data: str
    method: str
    reset: str | None
    alpha: float | None
    timesteps: int | None
    accuracy: float | None


@cache
def cells() -> tuple[Cell, ...]:
    """Return every cell of every table."""
    text = files(__package__).joinpath("paper.csv").read_text(encoding="utf-8")
    rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(text.splitlines())]
    return TypeAdapter(tuple[Cell, ...]).validate_python(rows)


def table(name: str) -> tuple[Cell, ...]:
    """Return the cells of one table, in the order of the paper."""
    return tuple(cell for cell in cells() if cell.table == name)


def cnn_accuracy(data: str) -> float | None:
    """Return the accuracy of the paper's CNN on this data set, in %; ``None`` if the paper does not give one."""
    return next((cell.accuracy for cell in table("headline") if (cell.data, cell.method) == (data, CNN)), None)
