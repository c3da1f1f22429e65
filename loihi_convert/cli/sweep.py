"""`loihi-convert sweep`: many conversions at once, on one machine or on a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from loihi_convert.choices import SweepCost, SweepSplit
from loihi_convert.cli import cluster, options
from loihi_convert.cli.console import flagged, log, on_interrupt
from loihi_convert.cli.flags import flags_of
from loihi_convert.cli.options import BALANCING, BASICS, DATA, NEURONS, OWN_CNN, named
from loihi_convert.cli.sweep_grid import KEYS, read_grid
from loihi_convert.errors import InputError, UsageError, one_of

if TYPE_CHECKING:
    from loihi_convert.cells.cell import Cell, Outcome

_FILES = typer.Argument(
    help="A TOML file with the grid, or trained CNNs: checkpoints, ONNX files.", metavar="GRID.toml|MODEL...",
    show_default=False,
)  # fmt: skip
_OUTPUT = "Folder for the results; finished cells in it are reused, and several sweeps may share it."
_SPLIT = (
    "Images that each cell runs: validation (default, so that no setting is chosen on test images) or test. Your own "
    "images are not split."
)
_AGAINST = "Costs of the Pareto front, a list of timesteps,synops,energy,cores. Default: all."
_TRUST = "Import and execute the code that the grid file names with `arch`."
_DRY_RUN = "List the cells and an estimate of the time; compute nothing."
_SHARD = "Compute only part K of N, in this process, as in an array job of SLURM."


def _values(flag: str, panel: str, help: str) -> options.Option:
    """Return an option that may have several values."""
    return named(flag, panel, help, metavar="A,B,C")


def sweep(
    ctx: typer.Context,
    files: Annotated[list[Path], _FILES],
    timesteps: Annotated[str | None, options.timesteps("Latencies T, such as 1,4,16; default: 64.")] = None,
    weight_bits: Annotated[str | None, _values("--weight-bits", BASICS, "Bits of a weight, such as 4,8.")] = None,
    target: Annotated[str | None, _values("--target", BASICS, "lava (default), loihi2, or both.")] = None,
    output: Annotated[Path, options.output(_OUTPUT)] = Path("sweep"),
    against: Annotated[str | None, named("--against", BASICS, _AGAINST, metavar="COSTS")] = None,
    dry_run: Annotated[bool, options.switch("--dry-run", BASICS, _DRY_RUN)] = False,
    as_json: options.AsJson = False,
    workers: cluster.CellWorkers = None,
    scheduler: cluster.Scheduler = None,
    slurm: cluster.Slurm = None,
    shard: Annotated[str | None, named("--shard", cluster.PANEL, _SHARD, metavar="K/N")] = None,
    method: Annotated[str | None, _values("--balance", BALANCING, "Balancing methods, see `export`.")] = None,
    percentile: Annotated[str | None, _values("--percentile", BALANCING, "With percentile, such as 99,99.9.")] = None,
    alpha: Annotated[str | None, _values("--alpha", BALANCING, "Factors on the thresholds, in (0, 1].")] = None,
    thresholds: Annotated[str | None, _values("--thresholds", BALANCING, "channel, scalar, or both.")] = None,
    bias_correction: Annotated[str | None, _values("--bias-correction", BALANCING, "yes, no, or both.")] = None,
    skip_copies: Annotated[str | None, _values("--skip-copies", BALANCING, "Relays per skipped value, 1..8.")] = None,
    split_readout: Annotated[str | None, _values("--split-readout", BALANCING, "yes, no, or both.")] = None,
    reset: Annotated[str | None, _values("--reset", NEURONS, "soft, hard, or both.")] = None,
    readout: Annotated[str | None, _values("--readout", NEURONS, "potential, spikes, or both.")] = None,
    amplitude: Annotated[str | None, _values("--amplitude", NEURONS, "compensated, literal, or both.")] = None,
    initial_potential: Annotated[str | None, _values("--initial-potential", NEURONS, "zero, half, or both.")] = None,
    input_coding: Annotated[str | None, _values("--input", NEURONS, "constant, poisson, or both.")] = None,
    poisson_seed: Annotated[str | None, _values("--seed", NEURONS, "Seeds of Poisson input.")] = None,
    pixel_bits: Annotated[str | None, _values("--pixel-bits", NEURONS, "Bits of a pixel, 1..8.")] = None,
    split: Annotated[str | None, named("--split", DATA, _SPLIT, metavar=f"[{'|'.join(get_args(SweepSplit))}]")] = None,
    image_count: Annotated[str | None, named("--images", DATA, "Use the first N images.", metavar="N")] = None,
    calibration: Annotated[
        str | None, named("--calibration", DATA, "As for `export`; default: split.", metavar="IMAGES")
    ] = None,
    data: Annotated[str | None, options.data(DATA, "the benchmark set the CNN was trained on")] = None,
    data_root: Annotated[Path | None, options.data_root(DATA)] = None,
    class_map: Annotated[str | None, options.class_map(DATA)] = None,
    arch: Annotated[str | None, options.arch(OWN_CNN)] = None,
    trust: Annotated[bool, options.switch("--trust", OWN_CNN, _TRUST)] = False,
    mean: Annotated[str | None, options.mean(OWN_CNN, "pixel/255 as it is")] = None,
    std: Annotated[str | None, options.std(OWN_CNN)] = None,
    input_shape: options.InputShape = None,
    classes: Annotated[str | None, named("--classes", OWN_CNN, "As for `export`.", metavar="NAMES")] = None,
    task: Annotated[
        str | None, named("--task", OWN_CNN, "As for `export`.", metavar="[classification|regression]")
    ] = None,
) -> None:
    """Export and run every combination of options; show the best trade-offs of accuracy and cost."""
    part = None if shard is None else _parse_shard(shard)
    place = cluster.chosen_place(workers, scheduler, slurm, shard)
    costs = None if against is None else _parse_costs(against)
    parameters = {flag.removeprefix("--"): name for name, flag in flags_of(ctx.command.params).items()}
    flags = {key: str(value) for key in KEYS if (value := ctx.params[parameters[key]]) is not None}
    grid = read_grid(files, flags, trust=trust)
    from loihi_convert.cells.flow import compute_missing, missing
    from loihi_convert.cells.store import Store
    from loihi_convert.cli.sweep_output import say_dry_run, say_swept
    from loihi_convert.files import write_atomically
    from loihi_convert.progress import progress_bar
    from loihi_convert.runs.csv_files import as_csv
    from loihi_convert.sweep.front import COSTS
    from loihi_convert.sweep.grid import planned_cells, varied
    from loihi_convert.sweep.grid import shard as part_of
    from loihi_convert.sweep.page import PAGE_NAME, write_page
    from loihi_convert.sweep.results import SweepResults
    from loihi_convert.sweep.table import CSV_NAME, cell_words

    every = planned_cells(grid, tell=lambda note: log(flagged(note, "export")))
    cells = every if part is None else part_of(every, *part)
    store, names = Store(output), varied(grid, every)
    if dry_run:
        say_dry_run(cells, every, store, names, workers=place.workers, as_json=as_json)
        return
    by_name = {planned.cell.name: planned for planned in cells}

    computed = 0

    def told(cell: Cell[Any], outcome: Outcome, left: str) -> None:
        nonlocal computed
        computed += 1
        log(f"{cell_words(by_name[cell.name], names)}: {_in_short(outcome)}{f' ({left})' if left else ''}")

    failed: dict[str, Outcome] = {}
    left = missing([planned.cell for planned in cells], store)
    on_interrupt(lambda: "finished cells are kept; run the same command again to continue")
    if left:
        with place.executor(len(left), output) as executor, progress_bar("sweep") as progress:
            failed = compute_missing([planned.cell for planned in cells], store, executor, told=told, progress=progress)
    outcomes = {planned.cell.name: store.get(planned.cell) or failed.get(planned.cell.name) for planned in every}
    results = SweepResults(every, outcomes, names, COSTS if costs is None else costs)
    unsaved: InputError | None = None
    if not results.missing:
        try:
            write_atomically(output / CSV_NAME, as_csv(results.rows))
            write_page(output / PAGE_NAME, results)
        except InputError as error:
            unsaved = error
    say_swept(results, store.folder, computed=computed, is_saved=unsaved is None, as_json=as_json)
    if unsaved is not None:
        raise unsaved
    known = [outcome for outcome in outcomes.values() if outcome is not None]
    if not failed and known and all(outcome.result is None for outcome in known):
        raise typer.Exit(InputError.exit_code)
    if failed:
        number = f"{len(failed)} cell{'s' * (len(failed) > 1)}"
        log(f"{number} failed for a reason outside the network: run the same command again")
        raise typer.Exit(cluster.FAILED)


def _in_short(outcome: Outcome) -> str:
    from loihi_convert.sweep.front import quality

    if outcome.result is None:
        return f"failed: {flagged(outcome.error or '', 'export')}"
    from loihi_convert.sweep.verdict import quality_words

    return "done" if quality(outcome.result) is None else quality_words(outcome.result)


def _parse_shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None:
        raise UsageError(f"found {text!r}", where="shard", expected="must be K/N with 1 <= K <= N, such as 3/20")
    return int(found[1]), int(found[2])


def _parse_costs(text: str) -> tuple[SweepCost, ...]:
    known = {cost: cost for cost in get_args(SweepCost)}
    words = text.split(",")
    if not set(words) <= set(known):
        raise UsageError(f"found {text!r}", where="against", expected=f"{one_of(known)}, or several of them")
    return tuple(known[word] for word in words)
