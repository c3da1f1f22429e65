"""Classes of a verb and of the whole command line, whose help pages show `--help` without a value."""

from __future__ import annotations

import typer.core


# typer uses its own private copy of click's Context here.
class Verb(typer.core.TyperCommand):
    """A verb; without this class typer would show ``--help <bool>``."""

    def get_help_option(self, ctx: typer.Context) -> typer.core.TyperOption | None:  # type: ignore[override]
        return _without_value(super().get_help_option(ctx))


class Verbs(typer.core.TyperGroup):
    """The command line; see `Verb`."""

    def get_help_option(self, ctx: typer.Context) -> typer.core.TyperOption | None:  # type: ignore[override]
        return _without_value(super().get_help_option(ctx))


def _without_value(option: typer.core.TyperOption | None) -> typer.core.TyperOption | None:
    if option is not None:
        option.metavar = ""
    return option
