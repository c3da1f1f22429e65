"""Classes of a verb and of the whole command line, whose help pages do not contain type names such as ``<path>``."""

from __future__ import annotations

from typing import Any

import typer.core

from loihi_convert.cli.console import echoed

# typer uses its own private copies of click's classes here.
_OfClick = Any


class _WithoutTypes:
    """What `Verb` and `Verbs` have in common."""

    def get_params(self, ctx: _OfClick) -> list[Any]:
        """Return the parameters, ``--help`` included."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if isinstance(parameter, typer.core.TyperArgument):
                # typer shows an argument's type beside its metavar, an option's only without one.
                parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
            elif parameter.is_flag:
                parameter.metavar = ""
        return parameters

    def format_help(self, ctx: _OfClick, formatter: _OfClick) -> None:
        """Print the help page; typer itself would not handle what stdout cannot encode or write."""
        with echoed():
            super().format_help(ctx, formatter)  # type: ignore[misc]


class Verb(_WithoutTypes, typer.core.TyperCommand):
    """A verb; typer itself would show ``--help <bool>`` and ``MODEL <path>``."""


class Verbs(_WithoutTypes, typer.core.TyperGroup):
    """The command line; see `Verb`."""
