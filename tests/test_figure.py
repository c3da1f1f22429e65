"""The picture shows the evaluations' numbers, each curve over the range where it can be read."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from support.evaluations import entry
from support.run_folders import write_runs

from loihi_convert.errors import InputError, UsageError
from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.metrics.regression import Error, Errors, Regression, RegressionPoint
from loihi_convert.report.axes import (
    Mark,
    decade_ticks,
    error_frame,
    frame,
    tick_label,
    timestep_range,
    timestep_ticks,
)
from loihi_convert.report.chart import SIZES, image_bytes
from loihi_convert.report.figure import run_figure, write_figure


def drawn(figure: Figure | None) -> dict[str, Any]:
    """x, y and line style of each labelled line."""
    assert figure is not None
    lines: dict[str, Any] = {}
    for line in figure.axes[0].get_lines():
        x, y = (np.asarray(data, float).tolist() for data in line.get_data())
        if not str(line.get_label()).startswith("_"):
            lines[str(line.get_label())] = (x, y, str(line.get_linestyle()))
    return lines


def note(figure: Figure | None) -> str:
    """The small text above the picture, in one line."""
    assert figure is not None
    return " ".join(figure.axes[0].get_title(loc="left").split())


def intervals(figure: Figure | None) -> list[list[float]]:
    """x, low and high of each bar that is drawn."""
    assert figure is not None
    segments = [
        part for bars in figure.axes[0].collections if isinstance(bars, LineCollection) for part in bars.get_segments()
    ]
    return [[float(low[0]), float(low[1]), float(high[1])] for low, high in segments]


def test_picture_of_one_file_is_a_curve() -> None:
    figure = run_figure([entry([20, 150, 190, 199])[:2]], "small on digits, 200 images")
    lines = drawn(figure)
    assert lines["fixed point"] == ([1, 2, 4], pytest.approx([10, 75, 99.5]), "-")
    assert lines["float SNN"] == ([1, 2, 4], pytest.approx([10.5, 75.5, 100]), "--")
    assert lines["CNN, 99.50 %"][1] == [99.5, 99.5]
    assert figure is not None
    assert figure.get_suptitle() == "small on digits, 200 images"
    assert note(figure).startswith(
        "Made for T = 4; anytime readout: potentials after each step of one run. n = 200 images, 95 %"
    )
    assert figure.axes[0].get_xlabel() == "latency T, time steps (on Lava: T + 2)"


def test_a_notebook_shows_a_picture_without_pyplot() -> None:
    figure = run_figure([entry([190], balanced=1)[:2]], "title")
    assert figure is not None
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_picture_of_several_files_is_a_marker_each() -> None:
    late, early = entry([1, 2, 3, 196], name="net-T4"), entry([180, 1, 2, 3], name="net-T1", balanced=1)
    figure = run_figure([late[:2], early[:2]], "title")
    lines = drawn(figure)
    assert lines["net-T1, -T4"] == ([1, 4], pytest.approx([90, 98]), "None")
    assert lines["float SNN"] == ([1, 4], pytest.approx([90.5, 98.5]), "None")
    bars = intervals(figure)
    assert [bar[0] for bar in bars] == [1, 4]
    assert all(low < y < high for (_, low, high), y in zip(bars, [90, 98], strict=True))
    assert figure is not None
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "2", "4"]


def test_every_file_and_the_cnn_of_each_is_named() -> None:
    """Two networks, of which one has two files; the CNN of the second got other classes right."""
    one, two = entry([180], name="a-T1", balanced=1), entry([1, 2, 3, 196], name="a-T4")
    other = entry([1, 190], name="b-T2", balanced=2)
    changed = other.evaluation.model_copy(update={"cnn_accuracy": 0.98})
    figure = run_figure([one[:2], two[:2], ("b-T2", changed)], "title")
    lines = drawn(figure)
    assert lines["a-T1, -T4"][0] == [1, 4]
    assert lines["b-T2"][0] == [2]
    assert lines["CNN of a-T1, -T4, 99.50 %"][1] == [99.5, 99.5]
    assert lines["CNN of b-T2, 98.00 %"][1] == [98, 98]


def test_early_exit_is_a_curve_or_a_marker_joined_to_each_file() -> None:
    """Leads of 4, 7, 9: margin 0 stops after step 1, 5 after 2, 9 and none after 3."""
    one = entry([20, 150, 190], exit_leads=[4, 7, 9])
    lines = drawn(run_figure([one[:2]], "title"))
    assert lines["early exit, at its average T"] == ([1, 2, 3, 3], pytest.approx([10, 75, 95, 95]), "-.")
    early, without = entry([150, 20], name="early", exit_leads=[7, 9]), entry([180, 1, 2, 3], balanced=1, name="late")
    figure = run_figure([one[:2], early[:2], without[:2]], "title")
    assert figure is not None
    joined = {
        str(line.get_color()): np.asarray(line.get_data(), float).tolist()
        for line in figure.axes[0].get_lines()
        if line.get_linestyle() == ":"
    }
    colours = {str(line.get_label()): str(line.get_color()) for line in figure.axes[0].get_lines()}
    # From the average T of early exit to the file's own point, in the file's colour.
    assert joined[colours["model"]] == [[2, 3], [pytest.approx(75), pytest.approx(95)]]
    assert joined[colours["early"]] == [[1, 2], [pytest.approx(75), pytest.approx(10)]]
    assert colours["late"] not in joined
    agreement = drawn(run_figure([entry([20, 198], labels=None, exit_leads=[4, 7])[:2]], "title"))
    assert agreement["early exit, at its average T"][:2] == ([1, 2, 2, 2], pytest.approx([10, 99, 99, 99]))


def test_picture_without_labels_shows_the_agreement() -> None:
    figure = run_figure([entry([20, 150], labels=None)[:2]], "title")
    lines = drawn(figure)
    assert list(lines) == ["fixed point"]
    assert figure is not None
    assert figure.axes[0].get_ylabel() == "agreement with the CNN's class, %"


def test_no_picture_where_nothing_is_known() -> None:
    nothing = [entry([20], labels=None, has_cnn=False)[:2]]
    assert run_figure(nothing, "title") is None


@pytest.mark.parametrize(
    ("correct_counts", "bottom", "first", "hidden"),
    [
        ([196, 198, 199, 199], 90, 1, ""),
        (
            [20, 197, 198, 199],
            94,
            2,
            "Outside the frame: float SNN, T = 1: 10.50 %; T = 1: 10.00 %, 6.0 SynOps an image",
        ),
        ([20, 60, 80, 120], 0, 1, ""),
    ],
    ids=["all near the CNN", "from far away to the CNN", "never near the CNN"],
)
def test_one_picture_zoomed_in_says_what_it_leaves_out(
    correct_counts: list[int], bottom: int, first: int, hidden: str
) -> None:
    figure = run_figure([entry(correct_counts)[:2]], "title")
    assert figure is not None
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert bottom <= low <= bottom + 5
    assert 99.5 < high <= 105
    assert first / 1.3 < axes.get_xlim()[0] < first
    assert note(figure).endswith(hidden or "95 % intervals")


def test_intervals_of_visible_points_are_not_cut() -> None:
    """The best is 99 %. 96 % is in the frame; so is 92 %, at the end of its interval, and then 86 %."""
    points = [
        Mark(1, 70, "", 60, 75),
        Mark(2, 92, "", 86, 95),
        Mark(2, 96, "", 91, 98),
        Mark(4, 99, "", 97, 100),
    ]
    shown = frame(points, (), ())
    assert shown.left == 2
    assert 84 <= shown.bottom <= 86


def test_floats_and_cnns_outside_the_axes_are_named() -> None:
    """The integer networks reach 98 and 99 %, the float SNN 50 % in one place, and the CNN 60 %."""
    one, other = entry([196], name="m-T1024", balanced=1), entry([1, 198], name="m-T2", balanced=2)
    far = one.evaluation.points[0].model_copy(update={"timesteps": 1024, "float_accuracy": 0.5})
    changed = {"timesteps": 1024, "points": (far,), "cnn_accuracy": 0.6}
    files = [
        ("m-T1024", one.evaluation.model_copy(update=changed)),
        ("m-T2", other.evaluation.model_copy(update={"cnn_accuracy": 0.6})),
    ]
    assert note(run_figure(files, "title")).endswith("Outside the frame: float SNN, T = 1024: 50.00 %; CNN, 60.00 %")


def test_results_on_another_number_of_images_are_another_series_with_another_cnn() -> None:
    one, other = entry([180], name="m-T1", balanced=1), entry([1, 190], name="m-T2", balanced=2)
    fewer = other.evaluation.model_copy(update={"image_count": 30, "cnn_accuracy": 0.9})
    lines = drawn(run_figure([one[:2], ("m-T2", fewer)], "title"))
    assert {"m-T1, 200 images", "m-T2, 30 images"} < set(lines)
    assert {"CNN of m-T2 on 30 images, 90.00 %", "CNN of m-T1 on 200 images, 99.50 %"} < set(lines)


@pytest.mark.parametrize(
    ("is_graded", "said"),
    [(True, "Graded spikes: the output after one step of each layer."), (False, "Made for T = 1; anytime readout")],
)
def test_the_note_says_how_the_points_were_read(is_graded: bool, said: str) -> None:
    evaluation = entry([190], balanced=1).evaluation.model_copy(update={"is_graded": is_graded})
    assert note(run_figure([("a", evaluation)], "title")).startswith(said)


def regression(name: str, timesteps: int, rmse: float, cnn: float) -> tuple[str, Evaluation]:
    """A file with one point, whose float SNN has half the error."""

    def errors(value: float) -> Errors:
        error = Error(rmse=value, r2=0.5)
        return Errors(mean=error, outputs=(error,))

    evaluation = entry([0] * timesteps, balanced=timesteps, labels=None).evaluation
    points = tuple(
        RegressionPoint(
            timesteps=point.timesteps, to_targets=errors(rmse), to_cnn=None, float_to_targets=errors(rmse / 2)
        )
        for point in evaluation.points
    )
    found = Regression(output_names=("x",), cnn=errors(cnn), points=points)
    return name, evaluation.model_copy(update={"regression": found})


def test_a_figure_of_regressions_has_a_series_and_a_cnn_per_network() -> None:
    files = [regression("a-T1", 1, 4.0, 1.0), regression("a-T4", 4, 3.0, 1.0), regression("b-T2", 2, 3.5, 2.0)]
    lines = drawn(run_figure(files, "title"))
    assert lines["a-T1, -T4"][:2] == ([1, 4], [4, 3])
    assert lines["b-T2"][:2] == ([2], [3.5])
    assert lines["float SNN"][:2] == ([1, 4], [2, 1.5])
    assert lines["CNN of a-T1, -T4, 1"][1] == [1, 1]
    assert lines["CNN of b-T2, 2"][1] == [2, 2]
    alone = drawn(run_figure(files[1:2], "title"))
    assert list(alone) == ["CNN, 1", "float SNN", "fixed point"]


def test_errors_of_zero_have_a_range() -> None:
    shown = error_frame([Mark(1, 0.5), Mark(2, 0.0), Mark(4, 0.0)], [])
    assert (shown.left, shown.bottom, shown.top) == (1, 0, pytest.approx(0.53))


@pytest.mark.parametrize("width", ["screen", "column", "page"])
def test_nothing_is_cut_off_at_any_width(width: Any) -> None:
    """The boxes of all texts lie in the figure, also of long names."""
    files = [entry([196], name=f"network-of-a-long-name-T{t}", balanced=1)[:2] for t in (1, 2, 3)]
    figure = run_figure(files, "a long title " * 4, width=width)
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole = figure.bbox.padded(1)
    texts = [figure._suptitle, figure.axes[0].title, figure.axes[0]._left_title, *figure.legends[0].get_texts()]  # type: ignore[attr-defined]
    for text in texts:
        box = text.get_window_extent(canvas.get_renderer())
        assert whole.x0 <= box.x0
        assert box.x1 <= whole.x1, text.get_text()
    assert figure.get_size_inches()[0] == SIZES[width].inches


def test_pictures_are_a_png_and_a_reproducible_svg() -> None:
    one, two = (run_figure([entry([20, 197, 198, 199])[:2]], "title") for _ in range(2))
    assert one is not None
    assert two is not None
    # As a run does: the vector picture first. Laying out for another resolution moves labels by a hair.
    svg = image_bytes(one, "svg")
    assert svg == image_bytes(two, "svg")
    assert b"<dc:date>" not in svg
    png = image_bytes(one, "png")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    # 6.6 inches at 160 dots an inch; the width stands at byte 16 of a PNG.
    assert struct.unpack(">I", png[16:20]) == (1056,)


def test_characters_that_the_font_lacks_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    figure = Figure()
    figure.text(0.1, 0.5, "\N{CJK UNIFIED IDEOGRAPH-6F22}\N{CJK UNIFIED IDEOGRAPH-5B57}")
    image_bytes(figure, "png")
    (record,) = caplog.records
    assert "lacks some characters" in record.getMessage()


def test_the_figure_of_a_run_says_the_images(tmp_path: Path) -> None:
    one = entry([20, 197, 198, 199])
    figure = run_figure([one[:2]], "model on mnist")
    assert figure is not None
    assert "n = 200 images" in note(figure)
    written = write_figure([write_runs(tmp_path, one)], tmp_path / "one.svg")
    assert written.read_bytes() == image_bytes(figure, "svg")


@pytest.mark.parametrize(("suffix", "begins"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_run_folder_becomes_a_figure_for_a_paper(tmp_path: Path, suffix: str, begins: bytes) -> None:
    folder = write_runs(tmp_path, entry([20, 197, 198, 199]))
    first = write_figure([folder], tmp_path / f"one.{suffix}", width="column").read_bytes()
    assert first.startswith(begins)
    assert write_figure([folder], tmp_path / f"two.{suffix}", width="column").read_bytes() == first
    with pytest.raises(InputError, match="exists already"):
        write_figure([folder], tmp_path / f"one.{suffix}")


def test_figures_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    mnist, cifar = (write_runs(tmp_path, entry([190], name=name), data=name) for name in ("mnist", "cifar10"))
    with pytest.raises(UsageError) as caught:
        write_figure([mnist], tmp_path / "figure.jpg")
    assert (caught.value.where, caught.value.expected) == ("figure", "its suffix must be one of .png, .svg, .pdf")
    with pytest.raises(UsageError) as caught:
        write_figure([mnist, cifar], tmp_path / "figure.pdf")
    assert caught.value.found == "the runs are of cifar10 and mnist"


def test_a_figure_of_other_images_of_the_same_name_is_refused(tmp_path: Path) -> None:
    one, other = (write_runs(tmp_path, entry([190], name=name)) for name in ("one", "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "data_fingerprint": "0decaf0123"}))
    with pytest.raises(UsageError) as caught:
        write_figure([one, other], tmp_path / "figure.pdf")
    assert caught.value.found == "the runs are of mnist (fingerprint 0decaf01) and mnist (fingerprint c0ffee)"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.9, 25, [1, 2, 5, 10, 20]), (900, 2500, [1000, 2000]), (2100, 4000, [2500, 3000, 3500, 4000])],
)
def test_decade_ticks(low: float, high: float, expected: list[float]) -> None:
    """The last range does not contain any of 1, 2, 5, 10, ..."""
    assert decade_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("number", "label"),
    [(0.5, "0.5"), (64, "64"), (9999, "9999"), (20_000, "20 k"), (1_500_000, "1.5 M"), (2e9, "2 G")],
)
def test_tick_label(number: float, label: str) -> None:
    assert tick_label(number) == label


@pytest.mark.parametrize("first", [2.36, 2.4, 1, 8])
def test_labels_of_t_are_on_the_axis(first: float) -> None:
    """Also the power of 2 before an average T that early exit has."""
    begin, end = timestep_range(first, 64)
    labels = timestep_ticks([first, 16, 64], first)
    assert begin <= min(labels)
    assert max(labels) <= end
