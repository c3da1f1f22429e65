"""The result of a cell, or why it has none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

from loihi_convert.cells.cell import Cell, package_version
from loihi_convert.devices import one_thread
from loihi_convert.errors import InputError, LoihiConvertError, RangeError, UnsupportedModelError, UsageError, rendered

# Errors of the network and the options; all others may be the machine's.
_FINAL: Final = (RangeError, UnsupportedModelError, UsageError)


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Parameters
    ----------
    result
        A `Record` of the cell's `result_type`; None if the cell failed.
    error
        Why, one sentence.
    is_final
        Whether computing the cell again would give the same: true for a result, and for a network or options that
        cannot be converted; false if the machine failed.
    duration
        Seconds that the cell took; not part of the result.
    """

    result: Any = None
    error: str | None = None
    is_final: bool = True
    duration: float = 0.0


def compute(cell: Cell[Any], needed: Sequence[Any] = ()) -> Outcome:
    """Return what comes of ``cell``; an error becomes part of the outcome, except an interruption.

    ``needed`` are the results of the cells that it needs. Floating-point numbers are computed on one thread, so that
    they are the same in every process.
    """
    started = time.monotonic()
    try:
        _require_version(cell)
        with nullcontext() if cell.is_exact else one_thread():
            found = Outcome(result=cell.compute(needed))
    except LoihiConvertError as error:
        found = Outcome(error=rendered(error), is_final=isinstance(error, _FINAL))
    # A bug, or a full memory, must not end the other cells; the row names it.
    except Exception as error:
        found = Outcome(error=f"{type(error).__name__}: {error}", is_final=False)
    return replace(found, duration=time.monotonic() - started)


def _require_version(cell: Cell[Any]) -> None:
    if cell.package != package_version():
        raise InputError(
            f"this machine has loihi-convert {package_version()}",
            where="package",
            expected=f"must be {cell.package}, as where the command began",
        )
