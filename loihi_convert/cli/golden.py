"""`loihi-convert golden`: compare a backend with a golden folder; and the plan of a board run, `--dry-run`."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loihi_convert.backends.backend import BackendOptions, open_backend
from loihi_convert.cli import options
from loihi_convert.cli.console import echo, log, say_json, say_tables
from loihi_convert.cli.options import BoardOptions, is_given, option_words
from loihi_convert.errors import PlatformError, UsageError, VerificationError
from loihi_convert.ground.choices import BackendName
from loihi_convert.ground.dependencies import other_interpreter
from loihi_convert.ground.options import Flag

if TYPE_CHECKING:
    from loihi_convert.backends.backend import BackendOptions
    from loihi_convert.backends.loihi2.plan import ChipPlan
    from loihi_convert.ir.quantized import QuantizedNetwork

_SAID_OTHERWISE = {"files", "folder", "backend", "timesteps", "image_count", "partition", "board", "loihi_gen"}
"""Parameters that the script gets with the values that were chosen, or by its environment."""

_NOT_IN_A_SCRIPT = {"dry_run", "overwrite", "as_json"}


def show_run_plan(
    ctx: typer.Context,
    paths: Sequence[Path],
    planned: ChipPlan,
    timesteps: Sequence[int],
    board: BoardOptions,
    *,
    as_json: bool,
) -> None:
    """Print the plan of the run ``ctx`` of one file, and write ``<file>.sbatch`` to the current folder."""
    if len(paths) > 1:
        raise UsageError(f"found {len(paths)} files", where="dry_run", expected="must be one file")
    timing = planned.timing
    listed = ",".join(map(str, timesteps or (timing.timesteps,)))
    words = ["run", str(paths[0]), "--backend", "loihi2", "-T", listed, "--images", str(timing.images)]
    show_plan([*words, *options_given(ctx)], paths[0], planned, board, as_json=as_json)
    log("This backend has never run on a chip: `golden --backend loihi2` first")


def run_plan(network: QuantizedNetwork, image_count: int, timesteps: int, options: BackendOptions) -> ChipPlan:
    """Return the plan of a run on the board of ``options``, by default the one that the environment names."""
    from loihi_convert.backends.loihi2.board import chosen_board
    from loihi_convert.backends.loihi2.plan import plan
    from loihi_convert.backends.result import require_safe_timesteps

    neuron, board = replace(options, neuron="stock").neuron_model(network), options.board or chosen_board()
    require_safe_timesteps(network, timesteps)
    return plan(network, image_count, timesteps, board, neuron=neuron, profile=options.profile)


def show_plan(words: Sequence[str], path: Path, planned: ChipPlan, board: BoardOptions, *, as_json: bool) -> None:
    """Print the plan of a run of the file at ``path``, and write a script for it to the current folder.

    ``words`` are the command line without the program; the verb is first. The script of `run` is named after the file,
    that of another verb after the verb.
    """
    from loihi_convert.backends.loihi2.plan import script, script_suffix
    from loihi_convert.chip.limits import NEUROCORES
    from loihi_convert.chip.partition import span
    from loihi_convert.ground.files import asked, require_output, write_atomically

    name = path.stem if words[0] == "run" else words[0]
    written = Path(f"{name}{script_suffix(planned.board)}")
    activate = Path(sys.prefix, "bin", "activate")
    is_virtual = sys.prefix != sys.base_prefix and activate.is_file()
    line = ["loihi-convert", *words]
    text = script(line, name, planned, folder=Path.cwd(), activate=activate if is_virtual else None).encode()
    is_unchanged = asked(written, lambda path: path.is_file() and path.read_bytes() == text)
    if not is_unchanged:
        require_output(written, board.overwrite, path)
    if as_json:
        say_json({**planned.as_json(), "script": str(written)})
    else:
        _say_plan(planned)
    if planned.neurocores[1] > NEUROCORES:
        log(
            f"warning: the network needs {span(planned.neurocores)} neurocores (an estimate), and a chip has "
            f"{NEUROCORES}: check that the board has {math.ceil(planned.neurocores[1] / NEUROCORES):,} chips"
        )
    if not is_unchanged:
        write_atomically(written, text, overwrite=board.overwrite)
    log(f"nothing was run; {f'{written} is unchanged' if is_unchanged else f'wrote {written}'}")


def options_given(ctx: typer.Context) -> list[str]:
    """Return the other options of the command line, which the script repeats."""
    others = [one for one in ctx.command.params if one.name not in _SAID_OTHERWISE | _NOT_IN_A_SCRIPT]
    return option_words({max(one.opts, key=len): ctx.params[one.name] for one in others if is_given(ctx, one.name)})


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


def golden(
    ctx: typer.Context,
    folder: Annotated[Path | None, Flag("FOLDER", is_argument=True)] = None,
    backend: BackendName = "ref",
    output: options.Output = Path("golden-report.json"),
    as_json: options.AsJson = False,
    *,
    given: Annotated[BackendOptions, Flag(only=("lava_python", "lava_layout", "neuron", "leak"))],
    board: BoardOptions,
) -> None:
    """Compare every spike and potential of a tiny network with a golden folder; exit code 5 if any differs.

    Parameters
    ----------
    folder
        Golden folder. Default: the one in this package.
    backend
        Backend to compare: ref (exact integers), sim (Lava's CPU simulator), or loihi2 (a board).
    output
        Report file to write.
    """
    from loihi_convert.backends.loihi2.board import require_extension
    from loihi_convert.ground.files import require_writable
    from loihi_convert.pipeline import golden_check

    given = replace(given, board=board.chosen(backend))
    runner = open_backend(backend, given)
    golden_check.require_replaceable(output)
    require_writable(output)
    path = golden_check.folder() if folder is None else folder
    known = golden_check.read_golden(path)
    if board.dry_run:
        line = ["golden", *([] if folder is None else [str(folder)]), "--backend", "loihi2", *options_given(ctx)]
        planned = run_plan(known.network, len(known.images), known.timesteps, given)
        show_plan(line, path / golden_check.NETWORK, planned, board, as_json=as_json)
        return
    try:
        if backend == "loihi2":
            require_extension(other_interpreter(given.lava_python))
        with runner:
            found = golden_check.check_golden(known, runner)
    except PlatformError as error:
        # An error on a board is also worth reporting.
        golden_check.write_report(output, known, runner, None, str(error))
        log(f"wrote {output}")
        raise
    golden_check.write_report(output, known, runner, found)
    if as_json:
        say_json({**golden_check.report_of(known, runner, found), "folder": str(path)})
    else:
        words = {True: "pass", False: "FAIL", None: "no neurons"}
        answer = f"pass: every spike and potential of {len(found.layers)} layers is equal" if found.passed else "FAIL"
        judge = ", leak: compared with ref" if given.leak else ""
        echo(f"{answer} ({len(known.images)} images, T = {known.timesteps}, {backend}{judge})")
        for layer in found.layers:
            echo(f"{layer.name}: spikes {words[layer.spikes]}, potentials {words[layer.potentials]}")
    address = golden_check.where_to_send() if backend == "loihi2" else None
    log(f"wrote {output}" + (f"; from a board, please send it to {address}" if address else ""))
    if not found.passed:
        difference = found.difference or "no difference, so ref differs from the folder, too"
        other = "ref" if given.leak else "the folder; compared with ref"
        raise VerificationError(f"{backend} differs from {other}: {difference}", where=path)
