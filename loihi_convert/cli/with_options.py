"""The flags of a verb, from the options that it declares; see `loihi_convert.ground.options`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import typer
import typer.core

from loihi_convert.cli.console import echoed
from loihi_convert.errors import with_flags
from loihi_convert.ground.options import BASICS, Option, meanings, names_of, one_choice, options_of


def with_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Return ``verb`` for typer: a flag for each option, also for each of a parameter that is a class of options.

    What the docstring of the verb says about an option replaces what that of the class says.
    """
    own, said = options_of(verb), meanings(verb.__doc__)
    groups = {name: group for name, option in own.items() if (group := _members(option))}
    shown: dict[str, Option] = {}
    for name, option in own.items():
        for each in groups.get(name, {name: option}).values():
            panel = each.flag.panel or option.flag.panel or BASICS
            shown[each.name] = replace(each, flag=replace(each.flag, panel=panel), help=said.get(each.name, each.help))
    flags = {name: names_of(option)[-1] for name, option in shown.items()}

    def run(**given: Any) -> None:
        for name, value in given.items():
            parse = shown[name].flag.parse
            given[name] = parse(value) if parse is not None and isinstance(value, str) else value
        for name, group in groups.items():
            values = {each: value for each in group if (value := given.pop(each)) is not None}
            given[name] = values if own[name].flag.texts_of else own[name].kind(**values)
        verb(**given)

    run.__name__ = verb.__name__
    run.__doc__ = inspect.cleandoc(verb.__doc__ or "").partition("\n\n")[0]
    run.__annotations__ = {}
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(option, flags) for option in shown.values()]
    )
    return run


def _members(option: Option) -> dict[str, Option]:
    """Return the options of the class, or the classes, that ``option`` stands for."""
    flag = option.flag
    members = {}
    owner: Any
    for owner in flag.texts_of or ((option.kind,) if is_dataclass(option.kind) else ()):
        for name, each in options_of(owner).items():
            if each.flag.name != "" and (not flag.only or name in flag.only):
                as_is = replace(each.flag, panel=each.flag.panel or flag.panel or owner.panel)
                if flag.texts_of:
                    choices = ("yes", "no") if each.kind is bool else each.choices
                    known = f" One of {', '.join(choices)}." if choices and flag.metavar else ""
                    metavar = flag.metavar or as_is.metavar or f"[{'|'.join(choices)}]"
                    as_is = replace(as_is, metavar=metavar, parse=None)
                    each = replace(each, kind=str, default=None, help=each.help + known)
                members[name] = replace(each, flag=as_is)
    return members


def _parameter(option: Option, flags: dict[str, str]) -> inspect.Parameter:
    """Return ``option`` as a parameter that typer makes a flag or an argument of; ``flags`` are by parameter."""
    make = partial(inspect.Parameter, option.name, inspect.Parameter.KEYWORD_ONLY)
    if option.kind is typer.Context:
        return make(annotation=option.kind)
    kind, default, text = option.kind, option.default, with_flags(option.help, flags)
    optional = kind if default is MISSING else kind | None
    if option.flag.is_argument:
        shown = ... if default is MISSING else default
        return make(
            annotation=optional,
            default=typer.Argument(shown, help=text, metavar=option.flag.metavar, show_default=False),
        )
    names, metavar = names_of(option), option.flag.metavar or {int: "N", Path: "PATH"}.get(kind)
    typed: dict[str, Any] = {}
    if kind is bool:
        names = names if default is False else [f"{names[0]}/--no-{names[0].removeprefix('--')}"]
    elif option.flag.parse is not None:
        optional = str | None
        default = ",".join(map(str, default)) or None if isinstance(default, tuple) else default
    elif option.choices:
        known, optional = option.choices, str | None
        text += f" One of {', '.join(known)}." if metavar else ""
        metavar = metavar or f"[{'|'.join(known)}]"
        typed = {
            "parser": lambda text: one_choice(known, names[-1], text),
            "autocompletion": lambda incomplete: [name for name in known if name.startswith(incomplete)],
        }
    typed |= {"help": text, "metavar": metavar, "show_default": default is not None}
    option_info = typer.Option(default, *names, rich_help_panel=option.flag.panel, **typed)
    return make(annotation=optional, default=option_info)


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
