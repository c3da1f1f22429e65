"""The package ``nir``, which only NIR files need."""

from __future__ import annotations

from typing import Any

from loihi_convert.errors import PlatformError


def nir_package(reason: str) -> Any:
    """Return the module ``nir``.

    Raises
    ------
    PlatformError
        If it is not installed; ``reason`` says what needs it: "model.nir is a NIR file".
    """
    try:
        import nir
    except ImportError as error:
        raise PlatformError(
            f"not installed, and {reason}", where="nir", hint="pip install 'loihi-convert[nir]'"
        ) from error
    return nir
