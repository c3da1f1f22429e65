"""The picture shows the evaluations' numbers, each curve over the range where it can be read."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.evaluations import entry

from loihi_convert.report.figure import accuracy_figure, image_bytes
from loihi_convert.report.pictures import run_pictures


def drawn(figure: Figure | None) -> dict[str, Any]:
    """x, y and line style of each labelled line in the first panel."""
    assert figure is not None
    lines: dict[str, Any] = {}
    for line in figure.axes[0].get_lines():
        x, y = (np.asarray(data, float).tolist() for data in line.get_data())
        lines[str(line.get_label())] = (x, y, str(line.get_linestyle()))
    return lines


def test_picture_of_one_file_is_a_curve() -> None:
    figure = accuracy_figure([entry([20, 150, 190, 199])[:2]], "small on digits, 200 images")
    lines = drawn(figure)
    assert lines["fixed point, 95 % interval"] == ([1, 2, 4], pytest.approx([10, 75, 99.5]), "-")
    assert lines["float SNN"] == ([1, 2, 4], pytest.approx([10.5, 75.5, 100]), "--")
    assert lines["CNN, 99.50 %"][1] == [99.5, 99.5]
    assert figure is not None
    assert figure.get_suptitle() == "small on digits, 200 images"
    assert "balanced for T = 4" in figure.axes[0].get_title(loc="left")
    assert figure.axes[0].get_xlabel() == "latency T, time steps (on Lava: T + 2)"


def test_picture_of_several_files_is_a_marker_each() -> None:
    late, early = entry([1, 2, 3, 196], name="late"), entry([180, 1, 2, 3], name="early", balanced=1)
    lines = drawn(accuracy_figure([late[:2], early[:2]], "title"))
    assert lines["fixed point, 95 % interval"] == ([1, 4], pytest.approx([90, 98]), "None")
    assert lines["float SNN"] == ([1, 4], pytest.approx([90.5, 98.5]), "None")


def test_early_exit_is_a_curve_or_a_marker_for_each_file() -> None:
    """Leads of 4, 7, 9: margin 0 stops after step 1, 5 after 2, 9 and none after 3."""
    one = entry([20, 150, 190], exit_leads=[4, 7, 9])
    lines = drawn(accuracy_figure([one[:2]], "title"))
    assert lines["early exit, at its average T"] == ([1, 2, 3, 3], pytest.approx([10, 75, 95, 95]), "-.")
    early, without = entry([150, 20], name="early", exit_leads=[7, 9]), entry([180, 1, 2, 3], balanced=1)
    figure = accuracy_figure([one[:2], early[:2], without[:2]], "title")
    assert drawn(figure)["early exit, at its average T"] == ([2, 1], pytest.approx([75, 75]), "None")
    agreement = drawn(accuracy_figure([entry([20, 198], labels=None, exit_leads=[4, 7])[:2]], "title"))
    assert agreement["early exit, at its average T"][:2] == ([1, 2, 2, 2], pytest.approx([10, 99, 99, 99]))


def test_early_exit_before_the_first_t_of_a_file_is_in_the_picture() -> None:
    late, soon = ([4] * 3 + [7] * 5), [7] * 8
    files = [entry([190] * 8, name=f"{leads}", balanced=8, exit_leads=leads)[:2] for leads in (late, soon)]
    figure = accuracy_figure(files, "title")
    assert figure is not None
    assert figure.axes[0].get_xlim()[0] < 1
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "2", "4", "8"]


def test_picture_without_labels_shows_the_agreement() -> None:
    figure = accuracy_figure([entry([20, 150], labels=None)[:2]], "title")
    lines = drawn(figure)
    assert list(lines) == ["fixed point"]
    assert figure is not None
    assert figure.axes[0].get_ylabel() == "agreement with the CNN's class, %"


def test_no_picture_where_nothing_is_known() -> None:
    nothing = [entry([20], labels=None, has_cnn=False)[:2]]
    assert accuracy_figure(nothing, "title") is None
    assert run_pictures(nothing, "title") == {}


@pytest.mark.parametrize(
    ("correct_counts", "panel_count", "bottom"),
    [([196, 198, 199, 199], 1, 90), ([20, 197, 198, 199], 2, 0), ([20, 60, 80, 120], 1, 0)],
    ids=["all near the CNN", "from far away to the CNN", "never near the CNN"],
)
def test_vertical_range(correct_counts: list[int], panel_count: int, bottom: int) -> None:
    figure = accuracy_figure([entry(correct_counts)[:2]], "title")
    assert figure is not None
    assert len(figure.axes) == panel_count
    low, high = figure.axes[0].get_ylim()
    assert bottom <= low <= bottom + 5
    assert 100 < high <= 105
    if panel_count == 2:
        assert figure.axes[1].get_ylim()[0] >= 90
        assert figure.axes[1].get_xlim()[0] > 1


def test_pictures_are_a_png_and_a_reproducible_svg() -> None:
    one, two = (accuracy_figure([entry([20, 197, 198, 199])[:2]], "title") for _ in range(2))
    assert one is not None
    assert two is not None
    # As a run does: the vector picture first. Laying out for another resolution moves labels by a hair.
    svg = image_bytes(one, "svg")
    assert svg == image_bytes(two, "svg")
    assert b"<dc:date>" not in svg
    png = image_bytes(one, "png")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    # 10.4 x 4.6 inches (two panels) at 160 dots an inch; width and height stand at byte 16 of a PNG.
    assert struct.unpack(">II", png[16:24]) == (1664, 736)


def test_the_pictures_of_a_run_have_names() -> None:
    files = [entry([20, 197, 198, 199])[:2]]
    pictures = run_pictures(files, "title")
    assert list(pictures) == ["accuracy.svg", "accuracy.png"]
    figure = accuracy_figure(files, "title")
    assert figure is not None
    assert pictures == {"accuracy.svg": image_bytes(figure, "svg"), "accuracy.png": image_bytes(figure, "png")}
