"""The rule on the normalization of a CNN's images, (pixel / 255 - mean) / std, for Python and the command line."""

from __future__ import annotations

from loihi_convert.errors import UsageError


def require_both(mean: object, std: object) -> None:
    """Raise a `UsageError` if one of ``mean`` and ``std`` is None and the other is not.

    The CNN was trained with both, and half of its normalization passes every later check.
    """
    if (mean is None) == (std is None):
        return
    missing, hint = ("mean", "0 if nothing was subtracted") if mean is None else ("std", "1 if nothing was divided")
    raise UsageError(
        "not given",
        where=missing,
        expected="`mean` and `std` must be given together",
        hint=f"Give both as the CNN was trained, (pixel / 255 - mean) / std; `{missing}` is {hint}.",
    )
