"""The command line: a file for each verb, which parses, calls and prints; heavy imports are inside the verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loihi_convert.cli.check import check
from loihi_convert.cli.console import echo
from loihi_convert.cli.data import data
from loihi_convert.cli.demo import demo
from loihi_convert.cli.diagnose import diagnose
from loihi_convert.cli.doctor import doctor
from loihi_convert.cli.export import export
from loihi_convert.cli.inspect import inspect
from loihi_convert.cli.report import report
from loihi_convert.cli.run import run
from loihi_convert.cli.train import train
from loihi_convert.errors import InputError

app = typer.Typer(
    help="Convert a trained PyTorch CNN to a spiking network for Loihi 2 and Lava, and see accuracy against latency.",
    epilog="Start with: loihi-convert demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for _verb in (demo, data, train, export, check, inspect, run, report, diagnose, doctor):
    app.command()(_verb)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        echo(installed("loihi-convert"))
        raise typer.Exit
    try:
        Path.cwd()
    except FileNotFoundError:
        # MKL ends the program with words of its own then.
        raise InputError("the current folder has been deleted; change into one that exists.") from None
