"""`loihi-convert sweep`: many conversions at once, on one machine or on a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from loihi_convert.batch.places import PlaceOptions
from loihi_convert.batch.setting import OPTIONS
from loihi_convert.cli import options
from loihi_convert.cli.console import flagged, log, on_interrupt
from loihi_convert.cli.inputs import DataRequest
from loihi_convert.cli.sweep_grid import KEYS, read_grid
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.errors import InputError, PlatformError, UsageError, one_of
from loihi_convert.ground.choices import SweepCost
from loihi_convert.ground.options import Flag

if TYPE_CHECKING:
    from loihi_convert.batch.computation import Computation, Outcome


def sweep(
    files: Annotated[list[Path], Flag("GRID.toml|MODEL...", is_argument=True)],
    *,
    timesteps: Annotated[str | None, Flag("T", "-T,--timesteps")] = None,
    output: options.Output = Path("sweep"),
    against: Annotated[str | None, Flag("COSTS")] = None,
    dry_run: bool = False,
    as_json: options.AsJson = False,
    place_options: PlaceOptions,
    settings: Annotated[dict[str, str], Flag("A,B,C", texts_of=(BalanceOptions, QuantizeOptions), only=OPTIONS)],
    skip_copies: Annotated[str | None, Flag("A,B,C", panel="Balancing")] = None,
    split: Annotated[str | None, Flag("[validation|test]", panel=options.DATA)] = None,
    image_count: Annotated[str | None, Flag("N", "--images", options.DATA)] = None,
    calibration: Annotated[str | None, Flag("IMAGES", panel=options.DATA)] = None,
    network: Annotated[dict[str, str], Flag(texts_of=(DataRequest, options.CnnOptions))],
    trust: Annotated[bool, Flag(panel=options.OWN_CNN)] = False,
) -> None:
    """Export and run every combination of options; show the best trade-offs of accuracy and cost.

    Parameters
    ----------
    files
        A TOML file with the grid, or trained CNNs: checkpoints, ONNX files.
    timesteps
        Latencies T, such as 1,4,16. Default: 64.
    output
        Folder for the results; finished cells in it are reused, and several sweeps may share it.
    against
        Costs of the Pareto front, a list of timesteps,synops,energy,cores. Default: all.
    dry_run
        List the cells and an estimate of the time; compute nothing.
    workers
        Number of worker processes on this machine, one core each; 0: compute in this process. Default: one per core if
        Dask is installed, else 0.
    skip_copies
        Relays for each value of a skip connection, 1..8.
    split
        Images that each cell runs: validation (default, so that no setting is chosen on test images) or test. Your own
        images are not split.
    image_count
        Use the first N images.
    calibration
        As for `export`. Default: split.
    trust
        Import and execute the code that the grid file names with `arch`.
    data
        Data set (digits, mnist, fashion-mnist, cifar10), a folder of images, or an .npz file. Default: the benchmark
        set the CNN was trained on.
    """
    shard = None if place_options.shard is None else _parse_shard(place_options.shard)
    place = place_options.chosen()
    costs = get_args(SweepCost) if against is None else _parse_costs(against)
    own = {
        "timesteps": timesteps,
        "skip_copies": skip_copies,
        "split": split,
        "image_count": image_count,
        "calibration": calibration,
    }
    texts = {**settings, **network, **{name: text for name, text in own.items() if text is not None}}
    grid = read_grid(files, {key: texts[name] for key, name in KEYS.items() if name in texts}, trust=trust)
    from loihi_convert.batch.computation import Store, compute_missing, missing
    from loihi_convert.batch.conversion import part_of, planned_cells, varied
    from loihi_convert.batch.results import (
        CSV_NAME,
        PAGE_NAME,
        SweepResults,
        cell_words,
        quality,
        quality_words,
        write_page,
    )
    from loihi_convert.cli.sweep_output import say_dry_run, say_swept
    from loihi_convert.ground.files import write_atomically
    from loihi_convert.ground.progress import progress_bar
    from loihi_convert.runs.columns import as_csv

    every = planned_cells(grid, tell=lambda note: log(flagged(note, "export")))
    chosen = every if shard is None else part_of(every, *shard)
    cells, store, names = [planned.cell for planned in chosen], Store(output), varied(grid, every)
    if dry_run:
        say_dry_run(chosen, every, store, names, workers=place.workers, as_json=as_json)
        return
    by_name = {planned.cell.name: planned for planned in chosen}

    def told(cell: Computation[Any], outcome: Outcome, left: str) -> None:
        found = f"failed: {flagged(outcome.error or '', 'export')}"
        if outcome.result is not None:
            found = "done" if quality(outcome.result) is None else quality_words(outcome.result)
        log(f"{cell_words(by_name[cell.name], names)}: {found}{f' ({left})' if left else ''}")

    failed: dict[str, Outcome] = {}
    left = missing(cells, store)
    on_interrupt(lambda: "finished cells are kept; run the same command again to continue")
    if left:
        with place.opened(len(left), output) as workers, progress_bar("sweep") as progress:
            failed = compute_missing(cells, store, workers, told=told, progress=progress)
    outcomes = {planned.cell.name: store.get(planned.cell) or failed.get(planned.cell.name) for planned in every}
    results = SweepResults(every, outcomes, names, costs)
    unsaved: InputError | None = None
    if not results.missing:
        try:
            write_atomically(output / CSV_NAME, as_csv(results.rows))
            write_page(output / PAGE_NAME, results)
        except InputError as error:
            unsaved = error
    say_swept(results, output, computed=len(left), is_saved=unsaved is None, as_json=as_json)
    if unsaved is not None:
        raise unsaved
    if failed:
        number = f"{len(failed)} cell{'s' * (len(failed) > 1)}"
        log(f"{number} failed for a reason outside the network: run the same command again")
        raise typer.Exit(PlatformError.exit_code)
    if results.computed and not results.found:
        raise typer.Exit(InputError.exit_code)


def _parse_shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"found {text!r}", where="shard", expected="must be K/N with 1 <= K <= N, such as 3/20")
    return int(found[1]), int(found[2])


def _parse_costs(text: str) -> tuple[SweepCost, ...]:
    known = {cost: cost for cost in get_args(SweepCost)}
    words = text.split(",")
    if not set(words) <= set(known):
        raise UsageError(f"found {text!r}", where="against", expected=f"{one_of(known)}, or several of them")
    return tuple(known[word] for word in words)
