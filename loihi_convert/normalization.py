"""Check of the image normalization (pixel / 255 - mean) / std, for Python and the command line."""

from __future__ import annotations

from loihi_convert.errors import UsageError


def require_both(mean: object, std: object) -> None:
    """Raise a `UsageError` if one of ``mean`` and ``std`` is None and the other is not.

    With only one of the two, every later check would pass, but the CNN would see wrong inputs.
    """
    if (mean is None) == (std is None):
        return
    missing, hint = ("mean", "0 if nothing was subtracted") if mean is None else ("std", "1 if nothing was divided")
    raise UsageError(
        "not given",
        where=missing,
        expected="`mean` and `std` must be given together",
        hint=f"Give the values used in training, (pixel / 255 - mean) / std; `{missing}` is {hint}.",
    )
