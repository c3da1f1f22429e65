"""`loihi-convert report`."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loihi_convert.cli import options
from loihi_convert.cli.console import echo, log, say_json
from loihi_convert.errors import InputError, UsageError
from loihi_convert.ground.choices import Width
from loihi_convert.ground.files import asked
from loihi_convert.ground.options import Flag


def report(
    ctx: typer.Context,
    runs: Annotated[list[Path] | None, Flag("RUN", is_argument=True)] = None,
    output: Annotated[Path | None, Flag(name="-o,--output")] = None,
    opens: Annotated[bool, Flag(name="--open")] = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    figure: Annotated[Path | None, Flag(panel=options.OUTPUT)] = None,
    width: Annotated[Width | None, Flag(panel=options.OUTPUT)] = None,
) -> None:
    """Write one page about one or more runs: accuracy and latency, layers, confusion matrix, how it was made.

    Parameters
    ----------
    runs
        Run folders, or a folder that holds run folders. Default: the newest in runs/.
    output
        HTML file to write; Markdown of the same name is written beside it. Default: report.html in the run folder,
        where it replaces an earlier report; of several runs, in the current folder.
    opens
        Open the page in your browser.
    figure
        Write one figure instead of a page: accuracy, or error, against T, as .pdf, .svg or .png.
    width
        Width of the figure: a column (85 mm) or a page (178 mm) of a paper, or a screen.
    """
    if width is not None and figure is None:
        raise UsageError("given", where="width", expected="needs `figure`")
    for name in ("output", "opens"):
        if figure is not None and options.is_given(ctx, name):
            raise UsageError("given with `figure`", where=name, expected="needs a page")
    folders = _run_folders(runs or ())
    if figure is not None:
        from loihi_convert.report.figure import write_figure

        path = write_figure(folders, figure, width=width or "screen", overwrite=overwrite)
        if as_json:
            say_json({"figure": str(path)})
        else:
            echo(f"wrote {path}")
        return
    from loihi_convert.report.build import is_report, write_report

    if output is None:
        is_alone = len(folders) == 1
        output = (folders[0] if is_alone else Path()) / "report.html"
        overwrite = overwrite or (is_alone and is_report(output))
    written = write_report(folders, output, overwrite=overwrite)
    if as_json:
        say_json({"html": str(written.html), "markdown": str(written.markdown)})
    else:
        echo(f"wrote {written.html} and {written.markdown}")
    if opens and not webbrowser.open(written.html.resolve().as_uri()):
        log(f"no browser was found; open {written.html} yourself")


def _run_folders(given: Sequence[Path]) -> list[Path]:
    """Return the run folders among ``given`` and inside them, or the newest run in the current folder."""
    from loihi_convert.runs.run_folder import MANIFEST, RUNS

    if not given:
        complete = sorted(RUNS.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns)
        if not complete:
            raise InputError("does not hold a complete run", where=RUNS, hint="Write one: `loihi-convert run FILE`.")
        return [complete[-1].parent]
    folders: list[Path] = []
    for path in given:
        is_run = asked(path / MANIFEST, Path.exists)
        inner = [] if is_run else sorted(found.parent for found in path.glob(f"*/{MANIFEST}"))
        incomplete = [one.name for one in sorted(path.iterdir()) if one.is_dir() and one not in inner] if inner else []
        if incomplete:
            log(f"left out, not complete run folders: {', '.join(incomplete)}")
        folders += inner or [path]
    return folders
