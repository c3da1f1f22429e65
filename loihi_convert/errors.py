"""Every error a user can meet, and the exit code the command line gives it.

::

    LoihiConvertError            1  (never raised itself; 1 is a bug)
    ├── UsageError               2  an option or a combination of options makes no sense
    ├── InputError               3  a file, a model or data cannot be used
    │   ├── UnsupportedModelError   a module without a spiking equivalent
    │   ├── CheckpointError         model.pt / .safetensors
    │   ├── NetxError               model.net
    │   ├── DataError               a data set
    │   └── RangeError              a number that Loihi's fixed point cannot hold
    ├── PlatformError            4  something must be installed, or broke outside this package
    │   └── BackendError            the Lava host process failed or was ended
    └── VerificationError        5  two results that must be equal are not

Each message is one sentence or two: where, what was found, what is allowed, what to do.
"""

from __future__ import annotations

from typing import ClassVar


class LoihiConvertError(Exception):
    """Base of all errors that are shown as one sentence, without a traceback."""

    exit_code: ClassVar[int] = 1


class UsageError(LoihiConvertError):
    """An option or a combination of options makes no sense."""

    exit_code = 2


class InputError(LoihiConvertError):
    """A file, a model or data that the user brought cannot be used."""

    exit_code = 3


class UnsupportedModelError(InputError):
    """The CNN holds a module or an operation that has no spiking equivalent here."""


class CheckpointError(InputError):
    """A checkpoint (`.pt`, `.safetensors`) is damaged, hostile or incomplete."""


class NetxError(InputError):
    """A netx file (`.net`) is damaged, or says something that we cannot run."""


class DataError(InputError):
    """A data set is missing, damaged or does not fit the network."""


class RangeError(InputError):
    """A number lies outside what Loihi's fixed point can hold."""


class PlatformError(LoihiConvertError):
    """The machine lacks something, or something outside this package broke."""

    exit_code = 4


class BackendError(PlatformError):
    """The Lava host process could not start, failed, stalled or was ended."""


class VerificationError(LoihiConvertError):
    """Two results that must be equal, bit for bit, are not."""

    exit_code = 5


def escape_control(text: str) -> str:
    """``text`` with what a terminal would obey, instead of show, written out: a forged file's names are printed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
