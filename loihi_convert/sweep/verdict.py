"""The main result of a sweep, in words: the best cell, and the cheapest one that is as good within its interval."""

from __future__ import annotations

from collections.abc import Sequence

from loihi_convert.report.formats import percent
from loihi_convert.sweep.conversion import CellResult
from loihi_convert.sweep.front import Found, compared_by, quality
from loihi_convert.sweep.table import described


def verdict(best: Sequence[Found], names: Sequence[str]) -> str:
    """Return the main result, one for each set of images; ``best`` is the front, ``names`` the options to show."""
    if not best:
        return "No cell has a result to compare"
    groups: dict[object, list[Found]] = {}
    for found in best:
        groups.setdefault(compared_by(found), []).append(found)
    if len(groups) == 1:
        return f"Best: {_best_of(best, names)}"
    return ". ".join(
        f"Best on {group[0].planned.kind} of {group[0].planned.data}: {_best_of(group, names)}"
        for group in groups.values()
    )


def _best_of(best: Sequence[Found], names: Sequence[str]) -> str:
    first = best[0]
    answer = f"{quality_words(first.result)} with {described(first.planned, names)}"
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
    return f"RMSE {-known:.4g}" if result.agreement_with_cnn is None else f"{percent(known)} % as the CNN"


def _cheapest(best: Sequence[Found]) -> Found:
    """The cell of the front with the fewest synaptic operations whose accuracy lies in the interval of the best."""
    first = best[0]
    interval = first.result.accuracy_interval
    if interval is None or not first.result.synaptic_operations:
        return first
    good = [found for found in best if (found.result.accuracy or 0) >= interval[0]]
    return min(good, key=lambda found: found.result.synaptic_operations)
