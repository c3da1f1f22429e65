"""The main result of a sweep, in words: the best cell, and the one with the fewest SynOps that is not clearly worse."""

from __future__ import annotations

from collections.abc import Sequence

from loihi_convert.report.table import number, percent, points
from loihi_convert.statistics import CONFIDENCE, mcnemar_p_value
from loihi_convert.sweep.conversion import CellResult
from loihi_convert.sweep.front import Found, comparable, quality
from loihi_convert.sweep.table import cell_words


def verdict(best: Sequence[Found], names: Sequence[str]) -> str:
    """Return the main result, one for each set of images; ``best`` is the front, ``names`` the options to show."""
    if not best:
        return "No cell has a result to compare"
    groups = comparable(best)
    if len(groups) == 1:
        return f"Best: {_best_of(best, names)}"
    others = [name for name in names if name != "data"]
    return ". ".join(f"Best on {group[0].planned.images}: {_best_of(group, others)}" for group in groups)


def _best_of(best: Sequence[Found], names: Sequence[str]) -> str:
    first = best[0]
    answer = f"{quality_words(first.result)} with {cell_words(first.planned, names)}"
    if first.result.cnn_accuracy is not None:
        answer += f" (CNN {percent(first.result.cnn_accuracy)} %)"
    if first.result.cnn_rmse is not None:
        answer += f" (CNN {number(first.result.cnn_rmse)})"
    cheap = _fewest_synops(best)
    if cheap is first:
        return answer
    share = cheap.result.synaptic_operations / first.result.synaptic_operations
    lower = points(100 * ((first.result.accuracy or 0) - (cheap.result.accuracy or 0)))
    count = first.result.image_count
    p_value = _p_value(first.result, cheap.result)
    return (
        f"{answer}; at {100 * share:.0f} % of its SynOps: {quality_words(cheap.result)} with "
        f"{cell_words(cheap.planned, names)}, {lower} points lower, no significant difference on the same {count:,} "
        f"image{'s' * (count > 1)} (p = {p_value:.2f}, McNemar's test)"
    )


def quality_words(result: CellResult) -> str:
    """Return `front.quality` with its unit: 99.43 %, 98.10 % as the CNN, RMSE 0.0123, RMSE 0.0123 to the CNN."""
    known = quality(result)
    if known is None:
        return "unknown"
    if result.accuracy is not None:
        return f"{percent(known)} %"
    if result.agreement_with_cnn is not None:
        return f"{percent(known)} % as the CNN"
    return f"RMSE {number(-known)}{'' if result.rmse is not None else ' to the CNN'}"


def _fewest_synops(best: Sequence[Found]) -> Found:
    """The cell of the front with the fewest synaptic operations that is not clearly worse than the best."""
    first = best[0]
    if not first.result.synaptic_operations:
        return first
    good = [found for found in best if found is first or not _is_worse(found.result, first.result)]
    return min(good, key=lambda found: found.result.synaptic_operations)


def _is_worse(result: CellResult, first: CellResult) -> bool:
    """Whether ``result`` is less accurate than ``first``: below its interval, or by McNemar's test, at 95 % confidence.

    Without labels it is. The test alone would not do: it is never significant if fewer than six images differ.
    """
    interval = first.accuracy_interval
    return interval is None or (result.accuracy or 0) < interval[0] or _p_value(first, result) < 1 - CONFIDENCE


def _p_value(first: CellResult, second: CellResult) -> float:
    """The p-value of McNemar's test of two cells on the same images, whose labels are known."""
    assert first.correct is not None
    assert second.correct is not None
    one, other = int(first.correct, 16), int(second.correct, 16)
    return mcnemar_p_value((one & ~other).bit_count(), (other & ~one).bit_count())
