"""`loihi-convert run --backend loihi2 --dry-run`: what would run on a board, and a batch script that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loihi_convert.cli.console import echo, log, say_json, say_tables
from loihi_convert.errors import InputError

if TYPE_CHECKING:
    from loihi_convert.backends import BackendOptions
    from loihi_convert.backends.loihi2.board import Board
    from loihi_convert.backends.loihi2.plan import ChipPlan
    from loihi_convert.ir.quantized import QuantizedNetwork


def dry_run(
    path: Path,
    network: QuantizedNetwork,
    image_count: int,
    timesteps: int | None,
    board: Board,
    *,
    options: BackendOptions,
    further: list[str],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print the plan of a run, and write ``<file>.sbatch`` into the current folder.

    ``further`` are words of the command line that the script repeats.
    """
    from loihi_convert.backends.loihi2.plan import plan, sbatch_script
    from loihi_convert.backends.request import require_proven
    from loihi_convert.files import refuse_to_replace, write_atomically
    from loihi_convert.ir.neuron_model import neuron_model

    neuron = neuron_model(network, "stock", leak=options.leak)
    steps = network.timesteps if timesteps is None else timesteps
    require_proven(network, steps)
    script = Path(f"{path.stem}.sbatch")
    refuse_to_replace(path, script)
    if script.exists() and not overwrite:
        raise InputError(f"{script}: exists already; nothing was changed. Pass --overwrite, or move it away.")
    planned = plan(network, image_count, steps, board, neuron=neuron)
    words = ["loihi-convert", "run", str(path), "--backend", "loihi2", "-T", str(steps), "--images", str(image_count)]
    write_atomically(script, sbatch_script([*words, *further], path.stem, board).encode())
    if as_json:
        say_json({**planned.as_json(), "script": str(script)})
    else:
        _say_plan(planned)
    log(f"nothing was run; wrote {script}. This backend has never run on a chip: `run --golden --backend loihi2` first")


def _say_plan(planned: ChipPlan) -> None:
    from loihi_convert.report.table import Table

    rows = tuple(
        (
            process.layer,
            process.kind,
            "x".join(map(str, process.shape)),
            ", ".join(f"{name} {value}" for name, value in process.parameters.items()),
        )
        for process in planned.processes
    )
    say_tables([Table("", ("layer", "Process", "shape", "parameters"), rows, text_columns=4)])
    timing = planned.timing
    echo(
        f"T = {timing.timesteps}, reset interval {planned.reset_interval}, {timing.interval} steps from image to "
        f"image; {timing.images:,} images: {timing.total:,} steps"
    )
    echo("environment: " + " ".join(f"{name}={value}" for name, value in planned.board.environment.items()))
