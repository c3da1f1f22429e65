"""Options, each declared once: type, range and default as an annotated name, meaning in the docstring above it.

A class of options, and the function of a verb, are such declarations::

    @declared(panel="Balancing")
    class BalanceOptions:
        \"\"\"Options for balancing firing thresholds.

        Parameters
        ----------
        percentile
            For ``percentile``: a percentile of the channel's activations. Default: 99.
        \"\"\"

        percentile: Annotated[float | None, Field(gt=0, le=100), Flag("PERCENT")] = None

Validation, flags and ``--help`` of the command line, keys of a sweep's grid and the reference pages come from it. The
first paragraph of a meaning is its ``--help``; further ones are for Python.
"""

from __future__ import annotations

import functools
import inspect
import operator
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Final, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from typing_extensions import dataclass_transform

from loihi_convert.errors import UsageError, did_you_mean, one_of
from loihi_convert.ground.choices import MAX_LEVELS

T = TypeVar("T")

BASICS: Final = "Basics"
"""Heading of the options that most users need."""

BOARD: Final = "Loihi 2 board"
"""Heading of those of a board."""

WeightBits = Annotated[int, Field(ge=2, le=8)]
"""Bits of a weight, sign included."""

QcfsLevels = Annotated[int, Field(ge=1, le=MAX_LEVELS)]
"""Levels of the activation `cnn.qcfs.Qcfs`."""

_MEANING: Final = re.compile(r"^(\w+(?:, \w+)*)\n((?:    .+(?:\n|$))+)", re.MULTILINE)
"""An entry of a NumPy docstring: its names, and its first paragraph."""


@dataclass(frozen=True)
class Flag:
    """How an option is typed.

    Parameters
    ----------
    metavar
        Its value in ``--help``; by default choices, or that of its type.
    name
        Its flags, the longest last, such as ``-T/--timesteps``; by default its name. Empty: it has none.
    panel
        Its heading in ``--help``; by default that of its class.
    help
        Its meaning, if several verbs have it; by default that in the docstring.
    parse
        Its value from text, for types that text cannot simply be converted to; a ValueError if it has none.
    expected
        What the text must be, if `parse` raises a ValueError.
    is_argument
        Whether it is typed without a flag, by its position.
    only
        Of a class of options, those that a verb has; by default all.
    texts_of
        Classes of options whose texts a mapping holds, not read, by parameter.
    """

    metavar: str = ""
    name: str | None = None
    panel: str = ""
    help: str = ""
    parse: Callable[[str], Any] | None = None
    expected: str = ""
    is_argument: bool = False
    only: tuple[str, ...] = ()
    texts_of: tuple[type, ...] = ()


@dataclass(frozen=True)
class Option:
    """A declared option.

    Parameters
    ----------
    name
        That of the Python parameter.
    kind
        Its type without None.
    default
        `dataclasses.MISSING` if it must be given.
    range
        Its numbers, such as ``in 2..8``, ``in (0, 1]`` or ``>= 1``; empty: all.
    flag
        How it is typed.
    help
        The first paragraph of its meaning.
    """

    name: str
    kind: Any
    default: Any
    range: str
    flag: Flag
    help: str

    @property
    def choices(self) -> tuple[Any, ...]:
        """Its values, if they are names."""
        kinds = get_args(self.kind) if is_union(self.kind) else (self.kind,)
        return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())

    @property
    def expected(self) -> str:
        """What its values must be, as a clause of an error."""
        if self.choices or self.kind is bool:
            return one_of(self.choices or (True, False))
        noun = {int: "a whole number", float: "" if self.range else "a number", str: "a text"}.get(self.kind, "")
        return " ".join(part for part in ("must be", noun, self.range) if part)


def is_union(kind: object) -> bool:
    """Return whether ``kind`` is a union of types."""
    return get_origin(kind) in (Union, types.UnionType)


def options_of(owner: Any) -> dict[str, Option]:
    """Return the options that ``owner`` declares, a class made by `declared` or a function, by name."""
    if is_dataclass(owner):
        defaults = {field.name: field.default for field in fields(owner)}
    else:
        given = inspect.signature(owner).parameters.values()
        defaults = {one.name: MISSING if one.default is one.empty else one.default for one in given}
    hints, said = get_type_hints(owner, include_extras=True), meanings(owner.__doc__)
    return {name: _option(name, hints[name], default, said.get(name, "")) for name, default in defaults.items()}


def meanings(docstring: str | None) -> dict[str, str]:
    """Return the first paragraph of each entry of a NumPy docstring, in one line, without quotes around values."""
    found: dict[str, str] = {}
    for names, text in _MEANING.findall(inspect.cleandoc(docstring or "")):
        line = " ".join(part.strip() for part in text.splitlines()).replace("``", "")
        found |= dict.fromkeys(names.split(", "), line)
    return found


@dataclass_transform(frozen_default=True)
def declared(panel: str = "") -> Callable[[type[T]], type[T]]:
    """Make a class an immutable dataclass of options that are validated when it is created.

    Rules between options stand in its ``__post_init__``, which sees valid values. NumPy numbers become Python's.
    ``panel`` is the heading of the options in ``--help``. A wrong value raises a `UsageError` that names the option.
    """

    def made(owner: type[T]) -> type[T]:
        rules = getattr(owner, "__post_init__", None)

        def checked(self: T) -> None:
            kind: Any = type(self)
            for name, value in list(vars(self).items()):
                if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
                    object.__setattr__(self, name, value.item())
            try:
                _validator(kind)(**vars(self))
            except ValidationError as error:
                raise _usage_error(error, options_of(kind)) from None
            if rules is not None:
                rules(self)

        owner.__post_init__ = checked  # type: ignore[attr-defined]
        made: Any = dataclass(frozen=True)(owner)
        made.panel, options = panel, options_of(made)
        made.__doc__ = _with_ranges(inspect.cleandoc(made.__doc__ or ""), options)
        made.__signature__ = inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=each.default, annotation=kind)
                for (name, kind), each in zip(get_type_hints(made).items(), options.values(), strict=True)
            ]
        )
        return cast("type[T]", made)

    return made


@functools.cache
def _validator(owner: Any) -> type[BaseModel]:
    """Return the pydantic model of the fields of a declared class; building it takes milliseconds."""
    config = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False, protected_namespaces=())
    hints = get_type_hints(owner, include_extras=True)
    kinds: Any = {field.name: (hints[field.name], ...) for field in fields(owner)}
    return create_model(owner.__name__, __config__=config, **kinds)


def names_of(option: Option) -> list[str]:
    """Return the flags of ``option``, the longest last."""
    return (option.flag.name or f"--{option.name.replace('_', '-')}").split(",")


def parsed(option: Option, where: str, text: str) -> Any:
    """Return ``text``, which stands at ``where``, as a value of ``option``, whose flag has a `Flag.parse`."""
    assert option.flag.parse is not None
    try:
        return option.flag.parse(text)
    except ValueError:
        raise UsageError(f"found {text!r}", where=where, expected=option.flag.expected) from None


def one_choice(known: Sequence[str], where: str, value: object) -> str:
    """Return ``value``, one of the names ``known``; raise the `UsageError` of ``where`` for any other."""
    if isinstance(value, str) and value in known:
        return value
    raise UsageError(f"found {value!r}", where=where, expected=one_of(known), hint=did_you_mean(str(value), known))


def parse_timesteps(text: str) -> tuple[int, ...]:
    """Return the latencies in ``text``, for example 1,2,4."""
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = ()
    if not steps or min(steps) < 1 or len(set(steps)) < len(steps):
        raise UsageError(
            f"found {text!r}", where="timesteps", expected="must be whole numbers >= 1, without repeats, such as 1,2,4"
        )
    return steps


def _option(name: str, hint: Any, default: object, said: str) -> Option:
    """Return the option that is annotated with ``hint``."""
    kinds, metadata = _parts(hint)
    bounds = [bound for each in metadata if isinstance(each, FieldInfo) for bound in each.metadata]
    flag = next((each for each in metadata if isinstance(each, Flag)), Flag())
    kind = functools.reduce(operator.or_, kinds)
    return Option(name, kind, default, _range(bounds), flag, said or flag.help)


def _parts(hint: Any) -> tuple[list[Any], list[Any]]:
    """Return the types in ``hint`` except None, and what annotates it or one of them."""
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        kinds, others = _parts(inner)
        return kinds, [*metadata, *others]
    if is_union(hint):
        parts = [_parts(each) for each in get_args(hint) if each is not type(None)]
        return [kind for kinds, _ in parts for kind in kinds], [each for _, found in parts for each in found]
    return [hint], []


def _range(bounds: Sequence[Any]) -> str:
    """Return the range of numbers that pydantic's ``bounds`` allow, in words."""
    at = {name: getattr(bound, name) for bound in bounds for name in ("ge", "gt", "le", "lt") if hasattr(bound, name)}
    match at:
        case {"ge": int(least), "le": int(most)}:
            return f"in {least}..{most:,}"
        case {"gt": least, "le": most}:
            return f"in ({least}, {most}]"
        case {"ge": least, "lt": most}:
            return f"in [{least}, {most})"
        case {"ge": least}:
            return f">= {least}"
        case {"gt": least}:
            return f"> {least}"
    return ""


def _with_ranges(docstring: str, options: Mapping[str, Option]) -> str:
    """Return ``docstring`` with the range of each option after the first paragraph of its meaning."""

    def entry(found: re.Match[str]) -> str:
        ranges = {options[name].range for name in found[1].split(", ") if name in options}
        text = found[0].rstrip("\n")
        return "\n".join([text, *(f"    Must be {range}." for range in sorted(ranges) if range), ""])

    return _MEANING.sub(entry, docstring)


def _usage_error(error: ValidationError, options: Mapping[str, Option]) -> UsageError:
    """Return the `UsageError` of the first wrong value."""
    first = error.errors()[0]
    option = options[str(first["loc"][0])]
    hint = did_you_mean(str(first["input"]), option.choices)
    return UsageError(f"found {first['input']!r}", where=option.name, expected=option.expected, hint=hint)


class Record(BaseModel):
    """Figures as stored in ``result.json``: known fields only, finite numbers, immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
