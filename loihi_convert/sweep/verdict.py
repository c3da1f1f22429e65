"""The main result of a sweep, in words: the best cell, and the cheapest one that is as good within its interval."""

from __future__ import annotations

from collections.abc import Sequence

from loihi_convert.report.formats import percent
from loihi_convert.sweep.conversion import CellResult
from loihi_convert.sweep.front import Found, quality
from loihi_convert.sweep.table import described


def verdict(best: Sequence[Found], names: Sequence[str]) -> str:
    """Return the main result; ``best`` is the front, ``names`` the options to show."""
    if not best:
        return "No cell has a result to compare"
    first = best[0]
    answer = f"Best: {quality_words(first.result)} with {described(first.planned, names)}"
    if first.result.cnn_accuracy is not None:
        answer += f" (CNN {percent(first.result.cnn_accuracy)} %)"
    cheap = _cheapest(best)
    if cheap is first:
        return answer
    share = cheap.result.synaptic_operations / first.result.synaptic_operations
    return (
        f"{answer}; inside its 95 % interval: {quality_words(cheap.result)} with {described(cheap.planned, names)}, at "
        f"{100 * share:.0f} % of its SynOps"
    )


def quality_words(result: CellResult) -> str:
    """Return `front.quality` with its unit: 99.43 %, 98.10 % as the CNN, RMSE 0.0123."""
    known = quality(result)
    if known is None:
        return "unknown"
    if result.accuracy is not None:
        return f"{percent(known)} %"
    return f"{percent(known)} % as the CNN" if known >= 0 else f"RMSE {-known:.4g}"


def _cheapest(best: Sequence[Found]) -> Found:
    """The cell of the front with the fewest synaptic operations whose accuracy lies in the interval of the best."""
    first = best[0]
    interval = first.result.accuracy_interval
    if interval is None or not first.result.synaptic_operations:
        return first
    images = first.planned.cell.digests.images
    good = [
        found
        for found in best
        if found.planned.cell.digests.images == images and (found.result.accuracy or 0) >= interval[0]
    ]
    return min(good, key=lambda found: found.result.synaptic_operations)
