"""`loihi-convert inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loihi_convert.cli import options
from loihi_convert.cli.console import echo, log, say_json, say_tables
from loihi_convert.cli.wrong_files import require_netx
from loihi_convert.errors import VerificationError


def inspect(
    file: Annotated[Path, typer.Argument(help="A .net file of any tool.", metavar="FILE")],
    other: Annotated[
        Path | None, typer.Argument(help="A second file: show what differs.", metavar="[OTHER]", show_default=False)
    ] = None,
    as_json: Annotated[bool, options.as_json()] = False,
) -> None:
    """Show what is in a .net file of any tool, or how two files differ (exit code 5 if they do)."""
    for path in (file, other):
        if path is not None:
            require_netx(path)
    if other is not None:
        _compare(file, other, as_json=as_json)
        return
    from loihi_convert.inspection.contents import describe
    from loihi_convert.inspection.tables import numbers_table, others_table, structure_table, summary

    contents = describe(file)
    if as_json:
        counts = {"neuron_count": contents.neuron_count, "synapse_count": contents.synapse_count}
        say_json(contents.model_dump(mode="json") | counts)
        return
    others = others_table(contents)
    echo(summary(contents))
    say_tables([structure_table(contents), numbers_table(contents), *([] if others is None else [others])])


def _compare(file: Path, other: Path, *, as_json: bool) -> None:
    from loihi_convert.inspection.differences import differences
    from loihi_convert.inspection.tables import difference_table

    found = differences(file, other)
    if as_json:
        say_json({"equal": not found, "differences": [difference.model_dump(mode="json") for difference in found]})
    elif found:
        say_tables([difference_table(found, (file.name, other.name))])
    if found:
        log(f"{file} and {other}: {len(found)} of their datasets differ")
        # As `cmp` would with 1, which here is a bug's.
        raise typer.Exit(VerificationError.exit_code)
    log(f"{file} and {other}: the same network, number by number")
