"""Round values for the axes of charts, and their text."""

from __future__ import annotations

import math


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return between 1 and ``most`` evenly spaced round values within ``low``..``high``."""
    span = high - low
    if not span > 0:
        return [low]
    magnitude = 10 ** math.floor(math.log10(span / most))
    for factor in (1, 2, 5, 10, 20):
        step = factor * magnitude
        ticks = [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        if len(ticks) <= most:
            break
    return ticks or [low]


def decade_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10, ... within a range, or other round values if the range is too short."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    return ticks if len(ticks) >= 2 else [tick for tick in nice_ticks(low, high, 4) if tick > 0]


def tick_label(number: float) -> str:
    """Return a short label for a tick: 64, 0.5, 20 k, 1.5 M."""
    for exponent, unit in ((9, " G"), (6, " M"), (3, " k")):
        if abs(number) >= 10**exponent and (exponent > 3 or abs(number) >= 10_000):
            return f"{number / 10**exponent:.6g}{unit}"
    return f"{number:.6g}"
