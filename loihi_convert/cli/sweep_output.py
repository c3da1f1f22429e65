"""Output of a sweep: the best cell and the Pareto front, short enough for a screen; or all cells as JSON."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from loihi_convert.batch.computation import Store, duration, estimated_seconds, missing
from loihi_convert.batch.conversion import SECONDS_PER_WORK, PlannedCell
from loihi_convert.batch.results import (
    CSV_NAME,
    PAGE_NAME,
    Found,
    SweepResults,
    comparable,
    figures,
    row,
    title,
    value,
    verdict,
)
from loihi_convert.batch.setting import ConversionSetting
from loihi_convert.cli.console import Fact, aligned, flagged, say_answer, say_json
from loihi_convert.cli.options import changed, option_words
from loihi_convert.cli.sweep import AXES

ROWS: Final = 14
"""Most rows of the front on the terminal."""

_ERRORS: Final = 3


def say_swept(results: SweepResults, folder: Path, *, computed: int, is_saved: bool, as_json: bool) -> None:
    """Print the answer, or JSON.

    Parameters
    ----------
    folder
        Folder of the cells, and of the table and the page of a whole sweep if ``is_saved``.
    computed
        Number of cells computed by this command.
    """
    best, names = results.front, results.names
    if as_json:
        say_json(
            {
                "cells": results.rows,
                "front": [found.planned.cell.name for found in best],
                "missing": results.missing,
                "folder": str(folder),
            }
        )
        return
    before = len(results.cells) - results.missing - computed
    lines = [f"{_cells(len(results.cells))} on {_images(results.cells)}; {computed} computed now, {before} before"]
    facts = [*_failures(results), *_next(results, folder, is_saved=is_saved)]
    say_answer(verdict(best, names), lines, _table(best, names), facts)


def say_dry_run(
    cells: Sequence[PlannedCell],
    every: Sequence[PlannedCell],
    store: Store,
    names: Sequence[str],
    *,
    workers: int,
    as_json: bool,
) -> None:
    """Print which cells a sweep computes, and how long they take.

    Parameters
    ----------
    cells, every
        The cells of this command, and of the whole grid.
    names
        The options to show, `conversion.varied`.
    workers
        Number of processes; 0 and 1: one.
    """
    left = missing([planned.cell for planned in cells], store)
    seconds, measured = estimated_seconds(left, [planned.cell for planned in every], store, SECONDS_PER_WORK)
    seconds /= max(1, min(workers, len(left)))
    todo = {cell.name for cell in left}
    if as_json:
        say_json(
            {
                "cells": [
                    {**row(planned, None, is_on_front=False), "is_computed": planned.cell.name not in todo}
                    for planned in cells
                ],
                "seconds": seconds,
                "measured_cells": measured,
                "workers": max(1, workers),
            }
        )
        return
    source = f"from {measured} measured cells" if measured else "rough: no cell is measured yet"
    on = f"{workers} processes" if workers > 1 else "one core"
    time = f"about {duration(seconds)} on {on} ({source})" if left else "nothing to compute"
    header = tuple(title(name) for name in names)
    lines = [
        (*(value(planned, name) for name in names), "" if planned.cell.name in todo else "computed")
        for planned in cells
    ]
    say_answer(
        f"{len(left)} of {len(cells)} cells to compute: {time}",
        [f"{_images(cells)} each"],
        aligned([(*header, ""), *lines], range(len(names))),
        [Fact("folder", f"{store.folder}/")],
    )


def _cells(count: int) -> str:
    return f"{count} cell{'s' * (count != 1)}"


def _images(cells: Sequence[PlannedCell]) -> str:
    """The images of the cells in words."""
    return ", ".join(dict.fromkeys(planned.images for planned in cells))


def _table(best: Sequence[Found], names: Sequence[str]) -> list[str]:
    """The front, one line for each cell, and the cells that can be compared together."""
    if not best:
        return []
    groups = comparable(best)
    shown = [found for group in groups for found in group[: max(1, ROWS // len(groups))]]
    words, columns = [name for name in names if name != "timesteps"], list(figures(best[0]))
    columns = [name for name in columns if name not in ("balanced by", "interval, %")]
    header = (*(title(name) for name in words), *(name.partition("\n")[0] for name in columns))
    lines = [
        (*(value(found.planned, name) for name in words), *(figures(found)[name] for name in columns))
        for found in shown
    ]
    table = aligned([header, *lines], range(len(words)))
    if len(best) > len(shown):
        table.append(f"  and {len(best) - len(shown)} more, see {CSV_NAME}")
    return table


def _failures(results: SweepResults) -> Iterator[Fact]:
    """The errors, the most frequent first."""
    errors = Counter(outcome.error for _, outcome in results.computed if outcome.error is not None)
    for error, times in errors.most_common(_ERRORS):
        yield Fact("failed", f"{_cells(times)}: {flagged(error, 'export')}")
    if len(errors) > _ERRORS:
        yield Fact("", f"and {len(errors) - _ERRORS} other errors, see {CSV_NAME}")


def _next(results: SweepResults, folder: Path, *, is_saved: bool) -> Iterator[Fact]:
    if results.missing:
        told = f"{_cells(results.missing)}; the same command without --shard shows all when all parts are done"
        yield Fact("missing", told)
        return
    if is_saved:
        yield Fact("saved", f"{folder / CSV_NAME}: every cell, option and figure")
        yield Fact("", f"{folder / PAGE_NAME}: charts and a table to filter, for a browser")
    if results.front:
        yield Fact("next", _export_command(results.front[0]))


def _export_command(found: Found) -> str:
    """The command that writes the file of a cell."""
    network, setting = found.planned.cell.network, found.planned.cell.setting
    # `export` has other defaults for some methods, but always the same method.
    defaults = replace(ConversionSetting(method=setting.method).normalized, method=ConversionSetting.method)
    axes = {
        f"--{key}": chosen
        for key, option in AXES.items()
        if (chosen := getattr(setting, option.name)) != getattr(defaults, option.name) and key != "timesteps"
    }
    calibration = found.planned.cell.images.calibration
    given = {
        "-T": setting.timesteps,
        **axes,
        **changed(network.cnn),
        **changed(network.images),
        "--calibration": None if calibration == "split" else calibration,
    }
    return shlex.join(["loihi-convert", "export", _shown(network.model), *option_words(given)])


def _shown(path: Path) -> str:
    """``path`` relative to the current folder if it lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
