"""`loihi-convert inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loihi_convert.cli import options
from loihi_convert.cli.console import echo, log, say, say_json, say_tables
from loihi_convert.cli.wrong_files import require_netx
from loihi_convert.errors import VerificationError
from loihi_convert.ground.options import Flag
from loihi_convert.ground.ready_made import file_of


def inspect(
    file: Annotated[Path, Flag("FILE", is_argument=True)],
    other: Annotated[Path | None, Flag("OTHER", is_argument=True)] = None,
    details: bool = False,
    as_json: options.AsJson = False,
) -> None:
    """Show what is in a .net file of any tool, or how two files differ (exit code 5 if they do).

    Parameters
    ----------
    file
        A .net file of any tool, or a name of `loihi-convert models`.
    other
        A second file: show what differs.
    details
        Also print histograms of weights and thresholds; with two files, every dataset that differs.
    """
    file, other = file_of(file), None if other is None else file_of(other)
    for path in (file, other):
        if path is not None:
            require_netx(path)
    if other is not None:
        _compare(file, other, as_json=as_json, details=details)
        return
    from loihi_convert.inspection.contents import describe, summary, tables

    contents = describe(file)
    if as_json:
        counts = {"neuron_count": contents.neuron_count, "synapse_count": contents.synapse_count}
        say_json(contents.model_dump(mode="json") | counts)
        return
    say(summary(contents))
    say_tables(tables(contents, details=details))
    if not details:
        echo("--details: histograms of weights and thresholds")


def _compare(file: Path, other: Path, *, as_json: bool, details: bool) -> None:
    from loihi_convert.inspection.contents import difference_table, differences, kinds_table

    found = differences(file, other)
    names = (file.name, other.name) if file.name != other.name else (str(file), str(other))
    said = " and ".join(names) + (
        f" differ in {len(found)} datasets" if found else ": the same network, number by number"
    )
    (log if as_json else say)(said)
    if as_json:
        say_json({"equal": not found, "differences": [difference.model_dump(mode="json") for difference in found]})
    if not found:
        return
    if not as_json:
        say_tables([difference_table(found, (file.name, other.name)) if details else kinds_table(found, names)])
        if not details:
            echo("--details: every dataset")
    # `cmp` would return 1, which is reserved for bugs here.
    raise typer.Exit(VerificationError.exit_code)
