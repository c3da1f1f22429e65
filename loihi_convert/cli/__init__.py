"""The command line: one file per verb, which parses, calls the library and prints; verbs import heavy packages late."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loihi_convert.cli.check import check
from loihi_convert.cli.console import echo, log_notes
from loihi_convert.cli.demo import demo
from loihi_convert.cli.diagnose import diagnose
from loihi_convert.cli.export import export
from loihi_convert.cli.golden import golden
from loihi_convert.cli.listings import data, doctor, inspect, models, report
from loihi_convert.cli.options import Verb, Verbs, flags_of, with_options
from loihi_convert.cli.reproduce import reproduce
from loihi_convert.cli.run import run
from loihi_convert.cli.sweep import sweep
from loihi_convert.cli.train import train
from loihi_convert.errors import InputError
from loihi_convert.ground.dependencies import missing_error, missing_packages

app = typer.Typer(
    cls=Verbs,
    help="Convert a trained PyTorch CNN to a spiking network for Loihi 2 and Lava; measure accuracy against latency.",
    epilog="Start with: loihi-convert demo",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _verb in (
    demo,
    models,
    data,
    train,
    export,
    check,
    inspect,
    run,
    golden,
    report,
    diagnose,
    sweep,
    reproduce,
    doctor,
):
    app.command(cls=Verb)(with_options(_verb))


def verb_flags(words: Sequence[str]) -> dict[str, str]:
    """Return the flags of the verb in the command line ``words``, by parameter, for `errors.rendered`."""
    group = _group()
    verb = next((word for word in words if word in group.commands), None)
    return {} if verb is None else flags_of(group.commands[verb].params)


@functools.cache
def _group() -> typer.core.TyperGroup:
    """All verbs; to read their signatures takes a fifth of a second."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return group


_HELP = {"-h", "--help"}
_VERSION = typer.Option("--version", help="Print the version and exit.")


@app.callback(invoke_without_command=True)
def _options(ctx: typer.Context, version: Annotated[bool, _VERSION] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        echo(installed("loihi-convert"))
        raise typer.Exit
    log_notes()
    try:
        Path.cwd()
    except FileNotFoundError:
        # MKL would end the program with its own message.
        raise InputError("the current folder has been deleted") from None
    is_help = ctx.invoked_subcommand is None or bool(_HELP & set(sys.argv))
    if not is_help and ctx.invoked_subcommand != "doctor" and (missing := missing_packages()):
        # Detected at the start instead of when a result is written.
        raise missing_error(missing)
