"""Numbers as text, in the same format for the terminal and for reports; None (unknown) stays None."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from loihi_convert.statistics import Interval

RELAYS: Final = "relays, neurons that repeat the spikes of another layer for a connection that skips layers"
"""What relays are, in a caption."""

GRADED_WORK: Final = (
    "SynOps of graded spikes are multiplications, those of pixels included: do not compare them with SynOps of binary "
    "spikes, which are additions."
)
"""Why the work of graded and of binary spikes is not compared, in a caption."""


def percent(fraction: float | None) -> str | None:
    """Return a fraction 0..1 in per cent: 99.57; only 1 is 100.00."""
    if fraction is None:
        return None
    text = f"{100 * fraction:.2f}"
    return ">99.99" if fraction < 1 and text == "100.00" else text


def percent_interval(interval: Interval | None) -> str | None:
    """Return an interval of fractions in per cent: 99.42-99.68."""
    return None if interval is None else f"{100 * interval[0]:.2f}-{100 * interval[1]:.2f}"


def percent_ends(interval: Interval | None) -> tuple[float, float] | tuple[None, None]:
    """Return both ends of an interval of fractions in per cent, for a chart."""
    return (None, None) if interval is None else (100 * interval[0], 100 * interval[1])


def neurons(count: int, relays: int) -> str:
    """Return the number of neurons of a layer, with relays listed separately: 6,272 + 3,136."""
    return f"{count - relays:,} + {relays:,}" if relays else f"{count:,}"


def neurons_header(*, has_relays: bool) -> str:
    """Return the header of a column of `neurons`."""
    return "neurons\n+ relays" if has_relays else "neurons"


def points(loss: float | None) -> str | None:
    """Return percentage points: 0.15."""
    # The sum avoids "-0.00".
    return None if loss is None else f"{round(loss, 2) + 0.0:.2f}"


def signed_points(difference: float | None) -> str | None:
    """Return percentage points with their sign: +0.15."""
    return None if difference is None else f"{round(difference, 2) + 0.0:+.2f}"


def number(value: float | None) -> str | None:
    """Return a number in the user's units with four digits: 0.1234, 12.34."""
    return None if value is None else f"{value:.4g}"


def r_squared(value: float | None) -> str | None:
    """Return R^2: 0.9876."""
    return None if value is None else f"{value:.4f}"


def count(number: float) -> str:
    """Return a mean count in at most 6 characters: 12.3, 9,876, 98.8 k, 7.67 M."""
    if number < 100:
        return f"{number:.1f}"
    if number < 10_000:
        return f"{number:,.0f}"
    exponent = next(exponent for exponent in (3, 6, 9, 12) if number < 999.5 * 10**exponent or exponent == 12)
    scaled = number / 10**exponent
    decimals = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{decimals}f} {'kMGT'[exponent // 3 - 1]}"


def quantity(value: float, unit: str) -> str:
    """Return a number of joules or seconds with two or three digits and a prefix: 1.24 mJ, 85.0 µJ, 230 ns."""
    prefixes = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: ""}
    exponent = next((e for e in prefixes if value < 999.5 * 10.0**e), 0)
    scaled = value / 10.0**exponent
    decimals = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{decimals}f} {prefixes[exponent]}{unit}"


def quantity_range(interval: Interval, unit: str) -> str:
    """Return (low, high): 85.0 µJ..1.24 mJ."""
    return f"{quantity(interval[0], unit)}..{quantity(interval[1], unit)}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with its columns aligned."""
    cells = [header, *rows]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    lines = [" | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "".join(f"| {line} |\n" for line in lines)
