"""Options shared by several verbs, parsers of their values, and what to say of a missing file or that of another verb.

A parameter of a verb has the same name as the library parameter that it sets. A library error names the parameter, so
it can be shown with the flag: ``method`` is ``--balance``. Numbers of images are ``image_count``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import MISSING, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, get_args

import typer
import typer.core

from loihi_convert.cli.console import written
from loihi_convert.errors import InputError, UsageError, with_flags
from loihi_convert.ground.choices import BackendName, DatasetName, Device, Generation, unknown_dataset
from loihi_convert.ground.files import CHECKPOINT_KINDS, asked, is_nir, kind_of, require_no_pipe, require_there
from loihi_convert.ground.options import (
    BASICS,
    BOARD,
    Flag,
    Option,
    declared,
    meanings,
    names_of,
    one_choice,
    options_of,
    parsed,
)

if TYPE_CHECKING:
    from loihi_convert.backends.loihi2.board import Board
    from loihi_convert.data import Dataset, DataSplits


class _Parameter(Protocol):
    @property
    def name(self) -> str | None: ...

    @property
    def opts(self) -> list[str]: ...


def flags_of(parameters: Iterable[_Parameter]) -> dict[str, str]:
    """Return the longest flag of each parameter of a verb that has a flag, for `errors.rendered`."""
    longest = {parameter.name or "": max(parameter.opts, key=len) for parameter in parameters}
    return {name: flag for name, flag in longest.items() if flag.startswith("-")}


def option_words(given: Mapping[str, object]) -> list[str]:
    """Return the options ``given``, by flag, as words of a command line; None: left out."""
    words = []
    for flag, value in given.items():
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag.removeprefix('--')}")
        elif value is not None:
            words += [flag, _text(value)]
    return words


def _text(value: object) -> str:
    """A value as the text of its flag: of a number, the shortest that is this number; of pairs, folder=class."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, tuple):
        return ",".join("=".join(part) if isinstance(part, tuple) else _text(part) for part in value)
    return str(value)


def changed(chosen: Any) -> dict[str, object]:
    """Return the options of ``chosen`` that differ from their defaults, by flag, for `option_words`."""
    known = options_of(type(chosen)).values()
    return {
        names_of(option)[-1]: getattr(chosen, option.name)
        for option in known
        if getattr(chosen, option.name) != option.default
    }


OUTPUT = "Output"


def is_given(ctx: typer.Context, name: str) -> bool:
    """Return whether the option of the parameter ``name`` is on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_others(ctx: typer.Context, known: Container[str], found: str, *, expected: str = "", hint: str = "") -> None:
    """Raise a `UsageError` if an option on the command line sets a parameter that is not one of ``known``."""
    for name in ctx.params:
        if name not in known and is_given(ctx, name):
            raise UsageError(found, where=name, expected=expected, hint=hint)


def refuse_given(given: Mapping[str, object], found: str, expected: str) -> None:
    """Raise a `UsageError` if the user gave one of the options ``given``."""
    for name, value in given.items():
        if value:
            raise UsageError(found, where=name, expected=expected)


def require_data(data: str | None) -> None:
    """Raise a `UsageError` for a name that is neither a data set nor a path, before anything is imported."""
    is_name = data in get_args(DatasetName)
    if data is None or is_name or Path(data).name != data or Path(data).suffix or asked(Path(data), Path.exists):
        return
    raise unknown_dataset(data, ", or the path of a folder of images or an .npz file")


@declared(BOARD)
class BoardOptions:
    """The board of a run on ``loihi2``.

    Parameters
    ----------
    partition
        SLURM partition, unless one board is named. Default: PARTITION.
    board
        SLURM name of one board. Default: BOARD. Without partition and board: NXSDKHOST, the address of a board.
    loihi_gen
        Chip generation. Default: LOIHI_GEN, or N3B3.
    dry_run
        Run nothing: show what would run, and write a batch script, NAME.sbatch, or NAME.sh without SLURM.
    overwrite
        Replace an existing script.
    """

    partition: Annotated[str | None, Flag("NAME")] = None
    board: Annotated[str | None, Flag("NAME")] = None
    loihi_gen: Generation | None = None
    dry_run: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.overwrite and not self.dry_run:
            raise UsageError("given", where="overwrite", expected="needs `dry_run`: it replaces only its script")

    def chosen(self, backend: BackendName) -> Board | None:
        """Return the board for a run on ``loihi2``; other backends have none."""
        if backend == "loihi2":
            from loihi_convert.backends.loihi2.board import chosen_board

            return chosen_board(partition=self.partition, name=self.board, generation=self.loihi_gen)
        given = {"partition": self.partition, "board": self.board, "loihi_gen": self.loihi_gen, "dry_run": self.dry_run}
        refuse_given(given, f"given, but the backend is {backend}", "is an option of loihi2")
        return None


# Options of several verbs.
AsJson = Annotated[
    bool,
    Flag(
        name="--json",
        help="Print one JSON object to stdout, and nothing else; empty if the command fails before it has a result.",
    ),
]
OnDevice = Annotated[Device, Flag(help="Where to simulate: cpu, cuda (a GPU), or auto (a GPU if there is one).")]
Output = Annotated[Path, Flag(name="-o,--output")]
ImageCount = Annotated[int | None, Flag(name="--images")]
Timesteps = Annotated[
    int | None, Flag("T", "-T,--timesteps", help="Time steps. Default: the T that the file was balanced for.")
]
Overwrite = Annotated[bool, Flag(help="Replace existing files.")]


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
            if shown[name].flag.parse is not None and isinstance(value, str):
                given[name] = parsed(shown[name], name, value)
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


class _Shown:
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
        """Print the help page on a stdout that may be full."""
        with written():
            super().format_help(ctx, formatter)  # type: ignore[misc]


class Verb(_Shown, typer.core.TyperCommand):
    """A verb; typer itself would show ``--help <bool>`` and ``MODEL <path>``."""


class Verbs(_Shown, typer.core.TyperGroup):
    """The command line; see `Verb`."""


NETX: Final = ".net"


def require_netx(path: Path) -> None:
    """Raise an `InputError` if ``path`` is missing, a folder, a checkpoint, an ONNX or a NIR file."""
    _require_file(path, f"a {NETX} file", f"Run a file on them: `loihi-convert run FILE --data {path}`.")
    if is_cnn(path):
        found = "is an ONNX file" if kind_of(path) == "onnx" else "is a NIR file" if is_nir(path) else "is a checkpoint"
        # Only a checkpoint may record its images.
        images = "" if found == "is a checkpoint" else " --data IMAGES"
        raise InputError(found, where=path, hint=f"Export it first: `loihi-convert export {path}{images}`.")


def require_cnn(path: Path) -> None:
    """Raise an `InputError` if ``path`` is missing, a pipe, a folder, or a netx file instead of a CNN."""
    _require_file(path, "a checkpoint, or an ONNX file", f"Name a CNN, and these images with `--data {path}`.")
    require_no_pipe(path)
    if is_netx(path):
        raise InputError("is exported already", where=path, hint=f"Run it: `loihi-convert run {path}`.")


def _require_file(path: Path, expected: str, of_images: str) -> None:
    """Raise an `InputError` if ``path`` is missing, a folder, or a file of images."""
    require_there(path, f"Name {expected}; `loihi-convert export model.pt` writes a {NETX} file.")
    if path.is_dir():
        raise InputError("is a folder", where=path, expected=f"must be {expected}")
    if path.suffix.lower() == ".npz":
        raise InputError("holds images", where=path, hint=of_images)


def is_cnn(path: Path) -> bool:
    """Whether the file at ``path`` is a checkpoint, an ONNX or a NIR file."""
    return kind_of(path) in (*CHECKPOINT_KINDS, "onnx") or (is_nir(path) and path.is_file())


def is_netx(path: Path) -> bool:
    """Whether the file at ``path`` is HDF5 and has the suffix of a netx file."""
    return path.suffix == NETX and kind_of(path) == "hdf5"


def validation_images(splits: DataSplits) -> tuple[Dataset, str]:
    """Return images for making choices (never test images), and their kind; a user's own images are not split.

    The first N show all classes.
    """
    if len(splits.validation):
        return splits.validation, "validation images"
    return splits.test.mixed, "own images"


def first_images(count: int | None, default: int, available: int, kind: str) -> int:
    """Return the number of images to use: ``count``, or ``default`` if there are as many; ``kind`` is their name."""
    chosen = min(default, available) if count is None else count
    if not 1 <= chosen <= available:
        raise UsageError(
            f"found {chosen}", where="image_count", expected=f"must be 1..{available}, the number of {kind}"
        )
    return chosen
