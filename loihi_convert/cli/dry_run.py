"""`--dry-run` of `run` and `golden` on loihi2: the plan of a board run, and a batch script for it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from loihi_convert.cli.console import echo, log, say_json, say_tables
from loihi_convert.cli.options import is_given
from loihi_convert.errors import UsageError

if TYPE_CHECKING:
    from loihi_convert.backends import BackendOptions
    from loihi_convert.backends.loihi2.plan import ChipPlan
    from loihi_convert.ir.quantized import QuantizedNetwork


_SAID_OTHERWISE = {"files", "folder", "backend", "timesteps", "image_count", "partition", "board", "loihi_gen"}
"""Parameters that the script gets with the values that were chosen, or by its environment."""

_NOT_IN_A_SCRIPT = {"dry_run", "overwrite", "as_json"}


def show_run_plan(
    ctx: typer.Context,
    paths: Sequence[Path],
    network: QuantizedNetwork,
    image_count: int,
    timesteps: Sequence[int],
    options: BackendOptions,
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print the plan of the run ``ctx`` of one file, and write ``<file>.sbatch`` to the current folder.

    Raises
    ------
    UsageError
        If there are several files, or the network cannot run on the board.
    InputError
        If another script exists.
    """
    if len(paths) > 1:
        raise UsageError(f"found {len(paths)} files", where="dry_run", expected="must be one file")
    (path,) = paths
    steps = max(timesteps, default=network.timesteps)
    listed = ",".join(map(str, timesteps or (steps,)))
    words = ["run", str(path), "--backend", "loihi2", "-T", listed, "--images", str(image_count), *options_given(ctx)]
    plan_run(words, path, network, image_count, steps, options, overwrite=overwrite, as_json=as_json)
    log("This backend has never run on a chip: `golden --backend loihi2` first")


def plan_run(
    words: Sequence[str],
    path: Path,
    network: QuantizedNetwork,
    image_count: int,
    timesteps: int,
    options: BackendOptions,
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print the plan of a run of the file at ``path``, and write a script for it to the current folder.

    ``words`` are the command line without the program; the verb is first. The script of `run` is named after the file,
    that of another verb after the verb.

    Raises
    ------
    UsageError
        If the network cannot run on the board.
    InputError
        If another script exists.
    """
    from loihi_convert.backends.loihi2.board import chosen_board
    from loihi_convert.backends.loihi2.plan import plan, script, script_suffix
    from loihi_convert.backends.result import require_safe_timesteps
    from loihi_convert.chip.limits import NEUROCORES
    from loihi_convert.chip.partition import span
    from loihi_convert.ground.files import asked, require_output, write_atomically
    from loihi_convert.ir.neuron_model import neuron_model

    neuron = neuron_model(network, "stock", leak=options.leak)
    require_safe_timesteps(network, timesteps)
    board = options.board or chosen_board()
    name = path.stem if words[0] == "run" else words[0]
    written = Path(f"{name}{script_suffix(board)}")
    planned = plan(network, image_count, timesteps, board, neuron=neuron, profile=options.profile)
    activate = Path(sys.prefix, "bin", "activate")
    is_virtual = sys.prefix != sys.base_prefix and activate.is_file()
    text = script(
        ["loihi-convert", *words], name, planned, folder=Path.cwd(), activate=activate if is_virtual else None
    ).encode()
    is_unchanged = asked(written, lambda path: path.is_file() and path.read_bytes() == text)
    if as_json:
        if not is_unchanged:
            # Before the JSON, which names the script.
            require_output(written, overwrite, path)
        say_json({**planned.as_json(), "script": str(written)})
    else:
        _say_plan(planned)
    if planned.neurocores[1] > NEUROCORES:
        log(
            f"warning: the network needs {span(planned.neurocores)} neurocores (an estimate), and a chip has "
            f"{NEUROCORES}: check that the board has {math.ceil(planned.neurocores[1] / NEUROCORES):,} chips"
        )
    if is_unchanged:
        log(f"nothing was run; {written} is unchanged")
        return
    require_output(written, overwrite, path)
    write_atomically(written, text)
    log(f"nothing was run; wrote {written}")


def options_given(ctx: typer.Context) -> Iterator[str]:
    """Return the other options of the command line, which the script repeats."""
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name in _SAID_OTHERWISE | _NOT_IN_A_SCRIPT or not is_given(ctx, name):
            continue
        flag, value = max(parameter.opts, key=len), ctx.params[name]
        if isinstance(value, bool):
            yield flag if value else max(parameter.secondary_opts, key=len)
        else:
            yield from (flag, str(value))


def _say_plan(planned: ChipPlan) -> None:
    from loihi_convert.chip.limits import NEUROCORES
    from loihi_convert.chip.partition import span
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
    echo(f"neurocores: {span(planned.neurocores)} of {NEUROCORES} (an estimate, with the stock circuit)")
    echo(
        f"read back: u of {planned.values_read:,} neurons at each step of an image, {planned.stops:,} stops of the run"
    )
    shortest, longest = planned.seconds
    echo(
        f"expected time on the board: {shortest:.0f} s to {longest:.0f} s after compiling "
        "(each stop assumed to take 10 to 100 ms; never measured)"
    )
    echo("environment: " + " ".join(f"{name}={value}" for name, value in planned.board.environment.items()))
