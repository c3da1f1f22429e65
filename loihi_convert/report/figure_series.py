"""The series of a figure: the files of each network, the lines of the CNNs, and a description of the points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.report.entries import by_network, family_of
from loihi_convert.report.figure_style import CNN_COLOUR, COLOURS, FLOAT_COLOUR, MARKERS, Size
from loihi_convert.report.run_tables import GRADED_CAPTION, Figures, per_t_caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOAT: Final = "float SNN"
"""Legend entry of the float SNNs."""


class Group(NamedTuple):
    """The files of one network, run on the same number of images, in the order of their T."""

    label: str
    files: tuple[tuple[str, Evaluation], ...]


class Level(NamedTuple):
    """The accuracy or error of a CNN, and its name in the legend."""

    value: float
    label: str


def groups(figures: Figures) -> list[Group]:
    """Return the files of each network; two files for the same T belong to different groups."""
    found = by_network(
        ((family_of(name), evaluation.image_count), evaluation, (name, evaluation)) for name, evaluation in figures
    )
    of_images = ", {:,} images" if _differ_in_images(figures) else ""
    return [
        Group(
            _listed([name for name, _ in files]) + of_images.format(count),
            files,
        )
        for (_, count), files in found
    ]


def cnn_levels(
    figures: Figures, value: Callable[[Evaluation], float | None], text: Callable[[float], str]
) -> list[Level]:
    """Return the level of each CNN with a known ``value``, ascending, with that value as ``text`` in its label.

    If they differ, the label names the files made from the CNN, and the number of images.
    """
    found: dict[tuple[float, int], list[str]] = {}
    for name, evaluation in figures:
        if (level := value(evaluation)) is not None:
            found.setdefault((level, evaluation.image_count), []).append(name)
    on_images = " on {:,} images" if _differ_in_images(figures) else ""
    return [
        Level(
            level,
            f"CNN{f' of {_listed(names)}' if len(found) > 1 else ''}{on_images.format(count)}, {text(level)}",
        )
        for (level, count), names in sorted(found.items())
    ]


def draw_levels(axes: Axes, levels: Sequence[Level]) -> None:
    """Draw a horizontal line for each CNN."""
    for index, (value, label) in enumerate(levels):
        style = ("-", (0, (5, 2)), (0, (1, 1.5)), "-.")[index % 4]
        axes.axhline(value, color=CNN_COLOUR, linewidth=1.1, linestyle=style, label=label, zorder=1)


def draw_integers(
    axes: Axes, timesteps: Sequence[float], values: Sequence[float], label: str, index: int, *, is_anytime: bool
) -> None:
    """Draw the integer networks of the series ``index``: a curve of one file, or a marker for each file."""
    axes.plot(
        timesteps,
        values,
        color=COLOURS[index % len(COLOURS)],
        linestyle="-" if is_anytime else "none",
        marker=MARKERS[index % len(MARKERS)],
        label=label,
        zorder=5,
    )


def draw_float(
    axes: Axes, timesteps: Sequence[float], values: Sequence[float], index: int, size: Size, *, is_anytime: bool
) -> None:
    """Draw the float SNNs of the series ``index``."""
    axes.plot(
        timesteps,
        values,
        color=FLOAT_COLOUR if is_anytime else COLOURS[index % len(COLOURS)],
        linestyle="--" if is_anytime else "none",
        marker="D",
        markersize=1.5 * size.marker,
        markerfacecolor="none",
        label=label_once(axes, FLOAT),
        zorder=3,
    )


def label_once(axes: Axes, label: str) -> str | None:
    """Return ``label``, or None if the legend of ``axes`` has it already."""
    return None if label in axes.get_legend_handles_labels()[1] else label


def notes(figures: Figures, *, is_balanced: bool = True) -> tuple[str, str]:
    """Return a description of the points, and the number of images.

    ``is_balanced``: whether the files record how their thresholds were balanced.
    """
    counts = " or ".join(f"{count:,}" for count in sorted({evaluation.image_count for _, evaluation in figures}))
    if len(figures) > 1:
        described = per_t_caption([evaluation for _, evaluation in figures], is_balanced=is_balanced)
    elif figures[0][1].is_graded:
        described = GRADED_CAPTION
    else:
        balanced = f"thresholds balanced for T = {figures[0][1].timesteps}, " if is_balanced else ""
        described = f"{balanced}read after each step of one run"
    return described[0].upper() + described[1:], f"n = {counts} images"


def _differ_in_images(figures: Figures) -> bool:
    return len({evaluation.image_count for _, evaluation in figures}) > 1


def _listed(names: Sequence[str]) -> str:
    """Return an abbreviated list of names: model-T1, -T4, -T64."""
    families = [family_of(name) for name in names]
    shorter = [
        name.removeprefix(family) if index and name != family and family == families[index - 1] else name
        for index, (name, family) in enumerate(zip(names, families, strict=True))
    ]
    return ", ".join(shorter)
