"""Errors that tests expect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from loihi_convert.errors import DataError, LoihiConvertError, UsageError


@contextmanager
def refused(
    where: object, found: str = "", expected: str = "", hint: str = "", *, kind: type[LoihiConvertError] = UsageError
) -> Iterator[None]:
    """Require an error of this ``kind`` at ``where`` whose other fields contain the other texts."""
    with pytest.raises(kind) as raised:
        yield
    error = raised.value
    assert error.where == str(where)
    assert found in error.found
    assert expected in error.expected
    assert hint in error.hint


def data_refused(where: object, found: str = "", expected: str = "", hint: str = "") -> AbstractContextManager[None]:
    """As `refused`, of a `DataError`."""
    return refused(where, found, expected, hint, kind=DataError)


def refusal(
    kind: type[LoihiConvertError], function: Callable[..., object], *arguments: Any, **options: Any
) -> tuple[str, str]:
    """Return where and what the error of this ``kind`` found, which ``function`` raises."""
    with pytest.raises(kind) as raised:
        function(*arguments, **options)
    return raised.value.where, raised.value.found
