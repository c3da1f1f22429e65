"""Errors that tests expect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loihi_convert.errors import UsageError


@contextmanager
def refused(where: str, found: str, expected: str) -> Iterator[None]:
    """Require a `UsageError` at ``where`` whose other fields contain ``found`` and ``expected``."""
    with pytest.raises(UsageError) as raised:
        yield
    assert raised.value.where == where
    assert found in raised.value.found
    assert expected in raised.value.expected
