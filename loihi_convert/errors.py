"""All errors a user can see, their messages, and their exit codes on the command line.

::

    LoihiConvertError            1  (never raised directly; 1 is a bug)
    ├── UsageError               2  invalid parameters, or an invalid combination of them
    ├── InputError               3  a file, a model or data cannot be used
    │   ├── UnsupportedModelError   a module without a spiking equivalent
    │   ├── CheckpointError         model.pt / .safetensors
    │   ├── NetxError               model.net
    │   ├── DataError               a data set
    │   └── RangeError              a number that Loihi's fixed point cannot hold
    ├── PlatformError            4  something is not installed, or failed outside this package
    │   └── BackendError            the Lava host process failed or was killed
    └── VerificationError        5  two results that must be equal differ

An error has four fields, which `rendered` turns into one or two sentences::

    raise UsageError("found 2.0", where="alpha", expected="must be in (0, 1]")
    alpha: found 2.0; must be in (0, 1].

The library names its parameters in backticks: `` `alpha` `` and `` `reset='hard'` ``. The command line shows them as
its flags: ``--alpha`` and ``--reset hard``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

# torch raises a RuntimeError with the first three (a subclass for a GPU); the loader of shared libraries, the others.
_LACK_OF_MEMORY: Final = (
    *("can't allocate memory", "not enough memory", "out of memory"),
    *("Cannot allocate memory", "failed to map segment"),
)
_PARAMETER: Final = re.compile(r"`(\w+)(?:=([^`]*))?`")


class LoihiConvertError(Exception):
    """Base of all errors that are shown as one sentence, without a traceback.

    Parameters
    ----------
    found
        What is wrong: a clause, without a full stop.
    where
        The file, layer or parameter (its Python name) concerned; empty if obvious.
    expected
        The requirement: a clause, such as "must be one of ref, sim, loihi2".
    hint
        What to do: one or two sentences.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, found: str, *, where: str | Path = "", expected: str = "", hint: str = "") -> None:
        super().__init__(found)
        self.found, self.where, self.expected, self.hint = found, str(where), expected, hint

    @property
    def more(self) -> str:
        """A sentence that follows the hint; empty in most errors."""
        return ""

    def __str__(self) -> str:
        return rendered(self)

    def __reduce__(self) -> tuple[object, ...]:
        # By default pickle restores an exception from its positional arguments only, as between processes.
        return _restored, (type(self), self.found, self.where, self.expected, self.hint)


def _restored(kind: type[LoihiConvertError], found: str, where: str, expected: str, hint: str) -> LoihiConvertError:
    return kind(found, where=where, expected=expected, hint=hint)


def first_line(error: BaseException) -> str:
    """Return the first line of the message of another library's error, or its kind if it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def is_lack_of_memory(error: BaseException) -> bool:
    """Return whether ``error``, of Python or of another library, means that memory ran out."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _LACK_OF_MEMORY)


def rendered(error: LoihiConvertError, flags: Mapping[str, str] | None = None) -> str:
    """Return ``error`` as one or two sentences: where, what was found, what is expected, what to do.

    ``flags`` maps parameters to command-line flags, such as ``{"method": "--balance"}``.
    """
    if not (error.where or error.expected or error.hint):
        return error.found
    clauses = "; ".join(clause for clause in (error.found, error.expected) if clause)
    where = (flags or {}).get(error.where, error.where)
    sentences = (f"{where}: {clauses}" if where else clauses, error.hint, error.more)
    text = " ".join(part if part.endswith((".", "?", "!")) else f"{part}." for part in sentences if part)
    return with_flags(text, flags) if flags else text


def with_flags(text: str, flags: Mapping[str, str]) -> str:
    """Return ``text`` with each parameter in backticks replaced by its flag, if it has one."""
    return _PARAMETER.sub(lambda match: _flag(match, flags), text)


def _flag(match: re.Match[str], flags: Mapping[str, str]) -> str:
    """The flag for a parameter in backticks, if it has one: ``--reset hard`` for `` `reset='hard'` ``."""
    name, value = match.groups()
    flag = flags.get(name)
    if flag is None:
        return match.group(0)
    if value in (None, "True"):
        return flag
    if value == "False":
        return f"--no-{flag.removeprefix('--')}"
    return f"{flag} {value.strip(chr(39) + chr(34))}"


def low_to_high(values: Iterable[Any], text: Callable[[Any], str] = str) -> str:
    """Return the smallest and the largest of ``values`` as ``low..high``, or only one if they read the same."""
    found = list(values)
    return "..".join(dict.fromkeys((text(min(found)), text(max(found)))))


def one_of(values: Iterable[object]) -> str:
    """Return the clause "must be one of ..." for an error's ``expected``."""
    return f"must be one of {', '.join(map(str, values))}"


def first_few(names: Sequence[object], most: int) -> str:
    """Return the first ``most`` of ``names``, and the number of the others: "a, b and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean ...?" with the one of ``known`` spelled most like ``name``; empty if none is alike."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]}?" if near else ""


def require_kind(where: str, value: object, kind: type, expected: str, hint: str = "") -> None:
    """Raise a `UsageError` unless ``value`` is a ``kind``; ``expected`` names that."""
    if not isinstance(value, kind):
        raise UsageError(f"found {type(value).__name__}", where=where, expected=expected, hint=hint)


class UsageError(LoihiConvertError):
    """A parameter or a combination of parameters is invalid."""

    exit_code = 2


class InputError(LoihiConvertError):
    """A file, model or data set given by the user cannot be used."""

    exit_code = 3


class UnsupportedModelError(InputError):
    """The CNN contains a module or an operation without a spiking equivalent here.

    Attributes
    ----------
    others
        Errors for all further unsupported places in the CNN, in order of computation.
    """

    others: tuple[UnsupportedModelError, ...] = ()

    @property
    def more(self) -> str:
        if not self.others:
            return ""
        parts = "1 more part has" if len(self.others) == 1 else f"{len(self.others)} more parts have"
        return f"{parts} no spiking equivalent: loihi-convert check lists all of them"

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"others": self.others})


class CheckpointError(InputError):
    """A checkpoint (`.pt`, `.safetensors`) is damaged, malicious or incomplete."""


class NetxError(InputError):
    """A netx file (`.net`) is damaged, or its contents cannot be run."""


class DataError(InputError):
    """A data set is missing, damaged or does not fit the network."""


class RangeError(InputError):
    """A number does not fit Loihi's fixed-point range."""


class PlatformError(LoihiConvertError):
    """Something is missing on this machine, or failed outside this package."""

    exit_code = 4


class BackendError(PlatformError):
    """The Lava host process could not start, failed, stalled or was killed."""


class VerificationError(LoihiConvertError):
    """Two results that must be equal, bit for bit, differ."""

    exit_code = 5


CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(9), 11, 12, *range(14, 32), *range(127, 160))}
"""For `str.translate`: control characters other than tabs and line ends, and their escapes, such as ``\\x1b``."""


def escape_control(text: str) -> str:
    """Escape control characters in ``text``, so that names from an untrusted file cannot control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
