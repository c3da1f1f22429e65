"""Classes of a verb and of the whole command line, whose help pages do not contain type names such as ``<path>``."""

from __future__ import annotations

from typing import Any

import typer.core

from loihi_convert.cli.console import echoed


# typer uses its own private copies of click's Context and Parameter here.
class Verb(typer.core.TyperCommand):
    """A verb; without this class typer would show ``--help <bool>`` and ``MODEL <path>``."""

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        """Return the parameters, ``--help`` included."""
        return _without_types(super().get_params(ctx))

    def format_help(self, ctx: typer.Context, formatter: object) -> None:  # type: ignore[override]
        """Print the help page; typer itself would not handle what stdout cannot encode or write."""
        with echoed():
            super().format_help(ctx, formatter)  # type: ignore[arg-type]


class Verbs(typer.core.TyperGroup):
    """The command line; see `Verb`."""

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        """Return the parameters, ``--help`` included."""
        return _without_types(super().get_params(ctx))

    def format_help(self, ctx: typer.Context, formatter: object) -> None:  # type: ignore[override]
        """Print the help page; see `Verb`."""
        with echoed():
            super().format_help(ctx, formatter)  # type: ignore[arg-type]


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if isinstance(parameter, typer.core.TyperArgument):
            # typer shows an argument's type beside its metavar, an option's only without one.
            parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
        elif parameter.is_flag:
            parameter.metavar = ""
    return parameters
