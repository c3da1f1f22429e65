"""A computation that depends on nothing else, named by a digest of all that determines its result."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Final, Generic, TypeVar

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.errors import UsageError
from loihi_convert.records import Record

FORMAT: Final = 1
"""Goes up when a change of the package changes a result: what was computed before is computed again."""

R = TypeVar("R", bound=Record)


def package_version() -> str:
    """Return the version of this package."""
    try:
        return version("loihi-convert")
    except PackageNotFoundError as error:
        raise UsageError("loihi-convert is not installed; its version is unknown") from error


@dataclass(frozen=True, kw_only=True)
class Cell(ABC, Generic[R]):
    """One computation, which any process on any machine can do.

    Parameters
    ----------
    package
        Version of this package.
    work
        Approximate number of multiplications by a weight; not part of `name`.
    """

    result_type: ClassVar[type[Record]]
    is_exact: ClassVar[bool] = False
    """Whether only integers are computed, so that the result is the same on any number of threads."""

    package: str = field(default_factory=package_version)
    work: float = field(default=1.0, compare=False)

    @property
    @abstractmethod
    def key(self) -> Mapping[str, Any]:
        """Everything that determines the result except the version, as JSON values; no paths."""

    @property
    def needs(self) -> tuple[Cell[Any], ...]:
        """The cells whose results `compute` takes. Where they are determined by the key, they need not be in it."""
        return ()

    @abstractmethod
    def compute(self, needed: Sequence[Any]) -> R:
        """Return the result, given those of `needs`.

        Raises
        ------
        RangeError, UnsupportedModelError, UsageError
            If there is none: computing again would fail again.
        LoihiConvertError
            For another reason.
        """

    @property
    def identity(self) -> Mapping[str, Any]:
        """`key`, and the version of the package."""
        return {"format": FORMAT, "package": self.package, **self.key}

    @cached_property
    def name(self) -> str:
        """SHA-256 of `identity`, hexadecimal."""
        text = json.dumps(self.identity, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def arrays_digest(arrays: Iterable[Array]) -> str:
    """Return the SHA-256 of arrays with their shapes and types, hexadecimal."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
