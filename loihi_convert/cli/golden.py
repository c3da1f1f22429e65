"""`loihi-convert golden`: compare a backend with a golden folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from loihi_convert.backends import BackendOptions, open_backend
from loihi_convert.cli import options
from loihi_convert.cli.console import echo, log, say_json
from loihi_convert.cli.dry_run import options_given, plan_run
from loihi_convert.cli.options import BoardOptions
from loihi_convert.errors import PlatformError, VerificationError
from loihi_convert.ground.choices import BackendName
from loihi_convert.ground.dependencies import other_interpreter
from loihi_convert.ground.options import Flag


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
    from loihi_convert.pipeline.golden_check import GoldenRun, require_replaceable, where_to_send, write_report

    given = replace(given, board=board.chosen(backend))
    runner = open_backend(backend, given)
    require_replaceable(output)
    require_writable(output)
    path = golden_check.folder() if folder is None else folder
    known = golden_check.read_golden(path)
    if board.dry_run:
        line = ["golden", *([] if folder is None else [str(folder)]), "--backend", "loihi2", *options_given(ctx)]
        model, count = path / golden_check.NETWORK, len(known.images)
        plan_run(line, model, known.network, count, known.timesteps, given, overwrite=board.overwrite, as_json=as_json)
        return
    try:
        if backend == "loihi2":
            require_extension(other_interpreter(given.lava_python))
        with runner:
            found = golden_check.check_golden(known, runner)
    except PlatformError as error:
        # An error on a board is also worth reporting.
        write_report(GoldenRun(known, runner, None, str(error)), output)
        log(f"wrote {output}")
        raise
    run = GoldenRun(known, runner, found)
    write_report(run, output)
    if as_json:
        say_json({**run.as_json(), "folder": str(path)})
    else:
        words = {True: "pass", False: "FAIL", None: "no neurons"}
        answer = f"pass: every spike and potential of {len(found.layers)} layers is equal" if found.passed else "FAIL"
        judge = ", leak: compared with ref" if given.leak else ""
        echo(f"{answer} ({len(known.images)} images, T = {known.timesteps}, {backend}{judge})")
        for layer in found.layers:
            echo(f"{layer.name}: spikes {words[layer.spikes]}, potentials {words[layer.potentials]}")
    address = where_to_send()
    log(f"wrote {output}" + (f"; from a board, please send it to {address}" if backend == "loihi2" and address else ""))
    if not found.passed:
        difference = found.difference or "no difference, so ref differs from the folder, too"
        other = "ref" if given.leak else "the folder; compared with ref"
        raise VerificationError(f"{backend} differs from {other}: {difference}", where=path)
