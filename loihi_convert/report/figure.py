"""The figure of accuracy against latency.

A figure contains one of two kinds of curves. *Anytime*: one file, thresholds balanced for its T, potentials read after
each step of one run. *Per T*: several files, each with one point, at the T it was balanced for. Early exit is drawn at
its average T: a curve of many margins for one file, or the chosen margin of each file, joined to that file's point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from loihi_convert.metrics.early_exit import ExitPoint
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.report.axes import Curve, FramePoint, curve, frame, timestep_ticks
from loihi_convert.report.entries import family_of
from loihi_convert.report.figure_style import (
    CNN_COLOUR,
    COLOURS,
    MARKERS,
    SIZES,
    Size,
    Width,
    add_legend,
    add_titles,
    drawing,
    new_figure,
    plain,
    timestep_axis,
)
from loihi_convert.report.run_tables import per_t_caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FLOAT_COLOUR: Final = "#D55E00"
_EARLY_COLOUR: Final = "#009E73"
_FLOAT: Final = "float SNN"
_EARLY: Final = "early exit, at its average T"
_BEYOND: Final = 4
"""Points outside the frame that the picture names; of more it says how many there are."""


class _Drawn(NamedTuple):
    """One file, or the files of one network: points of the integer network, of the float SNN, and of early exit.

    ``cnn``: the name of each file, and the accuracy in % of its CNN on the images of the run.
    """

    label: str
    fixed: Curve
    floating: Curve | None
    early: tuple[Curve, ...]
    cnn: tuple[tuple[str, float], ...]


def accuracy_figure(
    evaluations: Sequence[tuple[str, Evaluation]], title: str, *, note: str = "", width: Width = "screen"
) -> Figure | None:
    """Return the figure of accuracy against latency: a curve for one file, one point per file for several.

    Without labels it shows the agreement with the CNN's classes; without either it is None. ``note`` is additional
    information, such as a seed.
    """
    size = SIZES[width]
    has_accuracy = any(point.accuracy is not None for _, evaluation in evaluations for point in evaluation.points)
    is_anytime = len(evaluations) == 1
    if is_anytime:
        ((name, evaluation),) = evaluations
        drawn = [one for one in [_anytime(name, evaluation, has_accuracy=has_accuracy)] if one is not None]
    else:
        drawn = _per_t(evaluations, has_accuracy=has_accuracy)
    if not drawn:
        return None
    points = [point for one in drawn for line in (one.fixed, *one.early) for point in line.points]
    cnn: dict[float, list[str]] = {}
    for name, percent in sorted((pair for one in drawn for pair in one.cnn if has_accuracy), key=lambda pair: pair[1]):
        cnn.setdefault(percent, []).append(name)
    own = (
        set()
        if is_anytime
        else {(t, y) for one in drawn for t, y in zip(one.fixed.timesteps, one.fixed.percent, strict=True)}
    )
    shown = frame(points, list(cnn), own)
    with drawing(size):
        figure = new_figure(size, size.inches * (0.7 if width == "screen" else 0.62 if width == "page" else 0.95))
        axes = figure.subplots()
        _draw_cnn(axes, cnn)
        for index, one in enumerate(drawn):
            _draw(axes, one, index, size, is_anytime=is_anytime)
        axes.set_ylim(shown.bottom, shown.top)
        steps = sorted({t for one in drawn for t in one.fixed.timesteps})
        right = max(steps) * 1.2
        powers = [2.0**exponent for exponent in range(32) if steps[0] <= 2**exponent <= steps[-1]]
        timestep_axis(axes, timestep_ticks(sorted({*steps, *powers}), shown.left), shown.left / 1.2, right)
        lava = " or ".join(f"T + {depth}" for depth in sorted({evaluation.depth for _, evaluation in evaluations}))
        axes.set_xlabel(f"latency T, time steps (on Lava: {lava})")
        axes.set_ylabel("accuracy, %" if has_accuracy else "agreement with the CNN's class, %")
        plain(axes)
        notes = (*_notes(evaluations, is_anytime=is_anytime), note, _outside(points, shown))
        add_titles(figure, axes, title, ". ".join(text for text in notes if text), size)
        add_legend(figure, axes, size)
    return figure


def _anytime(name: str, evaluation: Evaluation, *, has_accuracy: bool) -> _Drawn | None:
    fixed = _fixed("fixed point", evaluation.points, has_accuracy=has_accuracy)
    if fixed is None:
        return None
    stopped = () if evaluation.early_exit is None else evaluation.early_exit.points
    early = curve(_EARLY, [_exit_point(point, has_accuracy=has_accuracy) for point in stopped])
    floating = curve(_FLOAT, [(p.timesteps, p.float_accuracy, None) for p in evaluation.points])
    return _Drawn(name, fixed, floating, (early,) if early else (), _cnn([(name, evaluation)]))


def _per_t(evaluations: Sequence[tuple[str, Evaluation]], *, has_accuracy: bool) -> list[_Drawn]:
    """Return the files of each network as one series; two files for the same T are two series."""
    groups: list[tuple[str, dict[int, tuple[str, Evaluation]]]] = []
    for name, evaluation in evaluations:
        own, family = evaluation.nominal_point.timesteps, family_of(name)
        place = next((group for known, group in groups if known == family and own not in group), None)
        if place is None:
            place = {}
            groups.append((family, place))
        place[own] = (name, evaluation)
    return [one for _, group in groups if (one := _family(group, has_accuracy=has_accuracy)) is not None]


def _family(files: dict[int, tuple[str, Evaluation]], *, has_accuracy: bool) -> _Drawn | None:
    ordered = [files[timesteps] for timesteps in sorted(files)]
    label = _listed([name for name, _ in ordered])
    points = [evaluation.nominal_point for _, evaluation in ordered]
    fixed = _fixed(label, points, has_accuracy=has_accuracy)
    if fixed is None:
        return None
    early = []
    for (_, evaluation), point in zip(ordered, points, strict=True):
        if evaluation.early_exit is not None:
            stopped = _exit_point(evaluation.early_exit.chosen_point, has_accuracy=has_accuracy)
            own = (point.timesteps, point.accuracy if has_accuracy else point.agreement_with_cnn, None)
            early += [found for found in [curve(_EARLY, [stopped, own])] if found is not None]
    floating = curve(_FLOAT, [(p.timesteps, p.float_accuracy, None) for p in points])
    return _Drawn(label, fixed, floating, tuple(early), _cnn(ordered))


def _listed(names: Sequence[str]) -> str:
    """Return an abbreviated list of names: model-T1, -T4, -T64."""
    families = [family_of(name) for name in names]
    shorter = [
        name.removeprefix(family) if index and name != family and family == families[index - 1] else name
        for index, (name, family) in enumerate(zip(names, families, strict=True))
    ]
    return ", ".join(shorter)


def _fixed(label: str, points: Sequence[Point], *, has_accuracy: bool) -> Curve | None:
    if has_accuracy:
        return curve(label, [(p.timesteps, p.accuracy, p.accuracy_interval) for p in points])
    return curve(label, [(p.timesteps, p.agreement_with_cnn, None) for p in points])


def _exit_point(point: ExitPoint, *, has_accuracy: bool) -> tuple[float, float | None, None]:
    return point.average_timesteps, point.accuracy if has_accuracy else point.agreement_with_cnn, None


def _cnn(files: Sequence[tuple[str, Evaluation]]) -> tuple[tuple[str, float], ...]:
    return tuple((name, 100 * e.cnn_accuracy) for name, e in files if e.cnn_accuracy is not None)


def _notes(evaluations: Sequence[tuple[str, Evaluation]], *, is_anytime: bool) -> tuple[str, ...]:
    """Return a description of the points, and the number of images."""
    counts = sorted({evaluation.image_count for _, evaluation in evaluations})
    images = f"n = {' or '.join(f'{count:,}' for count in counts)} images"
    if is_anytime:
        balanced = f"Thresholds balanced for T = {evaluations[0][1].timesteps}, read after each step of one run"
    else:
        caption = per_t_caption(evaluation for _, evaluation in evaluations)
        balanced = caption[0].upper() + caption[1:]
    has_intervals = any(p.accuracy_interval is not None for _, e in evaluations for p in e.points)
    return (balanced, f"{images}, 95 % intervals" if has_intervals else images)


def _outside(points: Sequence[FramePoint], shown: tuple[float, float, float]) -> str:
    left, bottom, _ = shown
    hidden = sorted({(point.x, point.percent) for point in points if point.x < left or point.percent < bottom})
    if not hidden:
        return ""
    if len(hidden) > _BEYOND:
        values = [percent for _, percent in hidden]
        return f"Not shown: {len(hidden)} points ({min(values):.4g} to {max(values):.4g} %)"
    return f"Not shown: {', '.join(f'{percent:.4g} % at T = {x:.3g}' for x, percent in hidden)}"


def _draw_cnn(axes: Axes, cnn: Mapping[float, Sequence[str]]) -> None:
    """Draw a line for each CNN, labelled by its accuracy and, if there are several, by the files made from it."""
    for index, (percent, names) in enumerate(cnn.items()):
        whose = f" of {_listed(names)}" if len(cnn) > 1 else ""
        style = ("-", (0, (5, 2)), (0, (1, 1.5)), "-.")[index % 4]
        label = f"CNN{whose}, {percent:.2f} %"
        axes.axhline(percent, color=CNN_COLOUR, linewidth=1.1, linestyle=style, label=label, zorder=1)


def _draw(axes: Axes, one: _Drawn, index: int, size: Size, *, is_anytime: bool) -> None:
    colour = COLOURS[index % len(COLOURS)]
    is_first = index == 0
    if one.floating is not None:
        axes.plot(
            one.floating.timesteps,
            one.floating.percent,
            color=_FLOAT_COLOUR if is_anytime else colour,
            linestyle="--" if is_anytime else "none",
            marker="D",
            markersize=1.5 * size.marker,
            markerfacecolor="none",
            label=_FLOAT if is_first else None,
            zorder=3,
        )
    for number, early in enumerate(one.early):
        axes.plot(
            early.timesteps,
            early.percent,
            color=_EARLY_COLOUR if is_anytime else colour,
            linestyle="-." if is_anytime else ":",
            marker="^",
            # The second point is the file's nominal point, which already has a marker.
            markevery=None if is_anytime else [0],
            label=_EARLY if is_first and number == 0 else None,
            zorder=4,
        )
    fixed = one.fixed
    if is_anytime and len(fixed.timesteps) > 1:
        axes.fill_between(fixed.timesteps, fixed.low, fixed.high, color=colour, alpha=0.18, linewidth=0, zorder=2)
    else:
        below = [value - low for value, low in zip(fixed.percent, fixed.low, strict=True)]
        above = [high - value for value, high in zip(fixed.percent, fixed.high, strict=True)]
        axes.errorbar(
            fixed.timesteps,
            fixed.percent,
            [below, above],
            fmt="none",
            ecolor=colour,
            elinewidth=0.7 * size.line,
            capsize=0.6 * size.marker,
            zorder=4,
        )
    axes.plot(
        fixed.timesteps,
        fixed.percent,
        color=colour,
        linestyle="-" if is_anytime else "none",
        marker=MARKERS[index % len(MARKERS)],
        label=fixed.label,
        zorder=5,
    )
