"""`loihi-convert run` of a netx file that `export` has not written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loihi_convert.cli.console import echo, log, say_tables
from loihi_convert.errors import UsageError

if TYPE_CHECKING:
    from loihi_convert.pipeline import ExternalRun


def refuse_for_external(paths: tuple[Path, ...], given: dict[str, object]) -> None:
    """Raise a `UsageError` for what only files of ours can do, the options ``given``."""
    if len(paths) > 1:
        raise UsageError(f"{paths[0]}: was not written by `loihi-convert export`; run such a file alone.")
    for option, value in given.items():
        if value:
            raise UsageError(
                f"{option}: {paths[0]} was not written by `loihi-convert export`; such a file runs on ref, without it."
            )


def show_external(ran: ExternalRun, path: Path, *, as_json: bool) -> None:
    log(f"{path.name}: not written by `loihi-convert export`; its CUBA neurons run as in Lava, without early exit")
    if as_json:
        from loihi_convert.runs.run_folder import results_json

        echo(results_json([(path.stem, ran.evaluation)]))
    else:
        from loihi_convert.report.run_tables import accuracy_table, layer_table

        read = {"potential": "potentials", "spikes": "spike counts"}[ran.evaluation.readout]
        caption = f"{read} of the last layer after each step of one run"
        say_tables([replace(accuracy_table(ran.evaluation), caption=caption), layer_table(ran.evaluation)])
    log(f"wrote {ran.folder}/ ({', '.join(path.name for path in ran.files)})")
