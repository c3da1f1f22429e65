"""The main result of runs on the same images, in one or two sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from loihi_convert.report.entries import Entry, family_of
from loihi_convert.report.formats import number, percent, points

TOLERANCE: Final = 0.2
"""Points of accuracy below the best file that a file with less work may have and still be preferred."""


def verdict(entries: Sequence[Entry]) -> str:
    """Return the main result: the file with little loss and the least work, or for regressions the smallest error."""
    if any(entry.evaluation.regression is not None for entry in entries):
        return _of_regressions(entries)
    measured = [entry for entry in entries if entry.point.accuracy is not None]
    if not measured:
        return _without_labels(entries)
    # An operation of a graded spike is a multiplication, and pixels are counted.
    has_one_work = len({entry.evaluation.is_graded for entry in measured}) == 1
    best = max(_percent(entry) for entry in measured)
    chosen = min(
        (entry for entry in measured if _percent(entry) >= best - (TOLERANCE if has_one_work else 0)),
        key=lambda entry: (_work(entry) if has_one_work else 0, entry.point.timesteps, -_percent(entry)),
    )
    others = [entry for entry in measured if entry is not chosen]
    images = f"{chosen.evaluation.image_count:,} images"
    if not others:
        return f"{_name(chosen, entries)} reaches {percent(chosen.point.accuracy)} %{_beside_cnn(chosen)} ({images})."
    most = max(others, key=lambda entry: (_work(entry), entry.point.timesteps))
    if has_one_work and _work(most) > _work(chosen):
        return (
            f"{_name(chosen, entries)} {_loss(chosen)} at {_share(chosen, most)} of the work of "
            f"{_name(most, entries)}, which {_loss(most)} ({images})."
        )
    nearest = max(others, key=_percent)
    first = f"{_name(chosen, entries)} is the most accurate: {percent(chosen.point.accuracy)} %{_beside_cnn(chosen)}"
    work = f" at {_share(nearest, chosen)} of its work" if has_one_work and _work(chosen) else ""
    return f"{first} ({images}). {_name(nearest, entries)} {_loss(nearest)}{work}."


def _of_regressions(entries: Sequence[Entry]) -> str:
    regressions = [(entry, found) for entry in entries if (found := entry.evaluation.regression) is not None]
    points = [(entry, found, found.at(entry.point.timesteps)) for entry, found in regressions]
    # An error to the targets is not compared with one to the CNN.
    has_targets = all(at.to_targets for _, _, at in points)
    judged = [
        (errors.mean.rmse, entry, found.cnn if has_targets else None)
        for entry, found, at in points
        if (errors := at.to_targets if has_targets else at.to_cnn) is not None
    ]
    if not judged:
        return "Neither targets nor the CNN's outputs are known, so no error is measured."
    rmse, entry, cnn = min(judged, key=lambda one: (one[0], one[1].point.timesteps))
    measure = "RMSE" if has_targets else "RMSE to the CNN's outputs"
    beside = f"; the CNN's RMSE is {number(cnn.mean.rmse)}" if cnn else ""
    least = "" if len(judged) == 1 else ", the smallest of these files"
    reached = f"{_name(entry, entries)} reaches an {measure} of {number(rmse)}"
    return f"{reached}{least}{beside} ({entry.evaluation.image_count:,} images)."


def _without_labels(entries: Sequence[Entry]) -> str:
    known = [entry for entry in entries if entry.point.agreement_with_cnn is not None]
    if not known:
        return "Neither labels nor the CNN's classes are known, so no accuracy is measured."
    best = max(known, key=lambda entry: (entry.point.agreement_with_cnn or 0, -_work(entry)))
    return (
        f"{_name(best, entries)} gives the CNN's class for {percent(best.point.agreement_with_cnn)} % of "
        f"{best.evaluation.image_count:,} images without labels."
    )


def _name(entry: Entry, entries: Sequence[Entry]) -> str:
    """Return the file's T if that identifies it, else also its label."""
    families = {(family_of(one.file), one.neuron, one.evaluation.cnn_accuracy) for one in entries}
    steps = [one.point.timesteps for one in entries]
    own = f"T = {entry.point.timesteps}"
    if len(families) == 1 and len(set(steps)) == len(steps):
        return own
    return entry.label if entry.file.endswith(f"-T{entry.point.timesteps}") else f"{entry.label} ({own})"


def _percent(entry: Entry) -> float:
    return 100 * (entry.point.accuracy or 0)


def _work(entry: Entry) -> float:
    return entry.point.synaptic_operations


def _share(less: Entry, more: Entry) -> str:
    """Return the work of one file as a share of the other's, rounded by less than 7 %: 1/11, or 40 %."""
    ratio = _work(more) / _work(less) if _work(less) else 0.0
    if not ratio:
        return "none"
    return f"1/{ratio:.0f}" if ratio >= 7.5 else f"{100 / ratio:.0f} %"


def _loss(entry: Entry) -> str:
    loss = entry.point.conversion_loss_points
    if loss is None:
        return f"reaches {percent(entry.point.accuracy)} %"
    return "loses nothing" if loss == 0 else f"{'gains' if loss < 0 else 'loses'} {_size(loss)} points"


def _beside_cnn(entry: Entry) -> str:
    loss = entry.point.conversion_loss_points
    if loss is None:
        return ""
    return ", equal to the CNN" if loss == 0 else f", {_size(loss)} points {'above' if loss < 0 else 'below'} the CNN"


def _size(loss: float) -> str:
    text = points(abs(loss))
    return "less than 0.01" if text is None or text == "0.00" else text
