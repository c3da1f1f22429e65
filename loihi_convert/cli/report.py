"""`loihi-convert report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loihi_convert.cli import options
from loihi_convert.cli.console import echo, say_json

_OUTPUT = "HTML file to write; Markdown of the same name is written beside it."


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, written by `loihi-convert run`.", metavar="RUN...")],
    output: Annotated[Path, options.output(_OUTPUT)] = Path("report.html"),
    overwrite: Annotated[bool, options.overwrite()] = False,
    as_json: Annotated[bool, options.as_json()] = False,
) -> None:
    """Write one page about one or several runs: accuracy and latency, layers, confusions, how it was made."""
    from loihi_convert.report.build import write_report

    written = write_report(runs, output, overwrite=overwrite)
    if as_json:
        say_json({"html": str(written.html), "markdown": str(written.markdown)})
    else:
        echo(f"wrote {written.html} and {written.markdown}")
