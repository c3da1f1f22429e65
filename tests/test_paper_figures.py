"""The paper's figures: intervals, the paper's marks, the CNN on the same images, labels, sorted channels."""

from __future__ import annotations

import pytest

from loihi_convert.paper.figures import OUR_BEST, MeasuredChannels, accuracy_charts, channel_charts
from loihi_convert.paper.tables import Measured, PaperEntry
from loihi_convert.paper.variants import BEST, EXHIBITS, VARIANTS, Exhibit, setting
from loihi_convert.report import paper
from loihi_convert.report.chart import SIZES, Chart, figure_of

FIGURES = {name: one for (kind, name), one in EXHIBITS.items() if kind == "figure"}
LITERAL = VARIANTS["literal"]


def cell(timesteps: int, alpha: float = 0.6, data: str = "fashion-mnist") -> paper.Cell:
    return paper.Cell("A3", data, "ngu-lee", "soft", alpha, timesteps, 90.5)


def entry(timesteps: int, correct: int | None, images: int = 10_000, **changes: object) -> PaperEntry:
    """A cell of table A3; the CNN's accuracy is 92.46 %, and 92.8 % on 1,000 images."""
    of = cell(timesteps, **changes)  # type: ignore[arg-type]
    cnn = Measured(9_246 if images == 10_000 else 928, images if images in (1_000, 10_000) else 1_000, 0)
    ours = None if correct is None else Measured(correct, images, 10_000)
    return PaperEntry(of, ours, cnn, "cnn.safetensors", LITERAL, setting(of, LITERAL), 0)


ENTRIES = [
    *(entry(t, correct) for t, correct in ((64, 9_176), (32, 9_154))),
    *(entry(t, correct, 1_000) for t, correct in ((128, 925), (256, 929))),
    *(entry(t, correct, alpha=0.8) for t, correct in ((32, 9_137), (64, 9_146))),
]


def charts(entries: list[PaperEntry], name: str = "9") -> list[Chart]:
    return list(accuracy_charts(FIGURES[name], entries))


def test_curves_intervals_and_the_papers_marks() -> None:
    (chart,) = charts(ENTRIES)
    assert [(one.label, one.style, bool(one.marker)) for one in chart.series] == [
        ("alpha 0.6", 0, False),
        ("", 0, True),
        ("alpha 0.8", 1, False),
        ("", 1, True),
    ]
    first = chart.series[0].marks
    assert [(mark.x, mark.y) for mark in first] == [(32, 91.54), (64, 91.76), (128, 92.5), (256, 92.9)]
    for mark in first:
        assert mark.low is not None
        assert mark.high is not None
        assert mark.low < mark.y < mark.high
    assert [mark.y for mark in chart.series[1].marks] == [90.5] * 4
    # On the images of the points.
    assert [level for level, _ in chart.axes.levels] == pytest.approx(
        [paper.cnn_accuracy("fashion-mnist"), 92.46, 92.8]
    )
    assert chart.text.startswith(
        "n = 10,000 test images (1,000 from T = 128 on); 10,000 calibration images; training seed 0"
    )


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({128: 500, 64: 100}, "n = 100 test images (500 from T = 128 on); "),
        ({256: 50, 64: 100, 128: 500}, "n = 100 test images (500 from T = 128 on, 50 from T = 256 on); "),
        ({64: 100, 128: 100}, "n = 100 test images; "),
    ],
)
def test_the_number_of_images_is_that_of_the_fewest_steps(counts: dict[int, int], said: str) -> None:
    chart, *_ = charts([entry(timesteps, count, count) for timesteps, count in counts.items()])
    assert chart.text.startswith(said)


def test_our_best_is_a_series() -> None:
    ours = [entry(64, 9_800, data="mnist", alpha=1.0)]
    best = PaperEntry(ours[0].cell, Measured(9_900, 10_000, 500), ours[0].cnn, "cnn.safetensors", BEST, method="auto")
    (chart, *_) = charts([*ours, best], "6")
    assert [one.label for one in chart.series] == ["ngu-lee", "", OUR_BEST]


def test_what_is_not_measured_is_not_drawn() -> None:
    (chart, *_) = charts([entry(64, None)])
    assert (chart.text, [one.label for one in chart.series]) == ("the paper's values only", ["alpha 0.6"])
    blank = entry(64, None)
    nothing = PaperEntry(paper.Cell("2", "mnist", "rmp", "soft", 1.0, 4, None), None, blank.cnn, "", LITERAL, None, 0)
    assert charts([nothing]) == []


def test_a_low_accuracy_gives_an_enlarged_chart() -> None:
    whole, enlarged = charts([entry(1, 1_000), entry(64, 9_176)])
    assert (whole.axes.bottom, enlarged.axes.bottom) == (pytest.approx(5.7, abs=2), pytest.approx(89.6, abs=0.3))
    assert enlarged.title.endswith(", enlarged")


def test_channels_are_sorted() -> None:
    figure: Exhibit = FIGURES["A4"]
    measured = [
        MeasuredChannels(cell(4), LITERAL, {"conv1": [1.0, 3.0, 2.0]}),
        MeasuredChannels(cell(8), LITERAL, {"conv1": [5.0, 4.0, 6.0]}),
    ]
    (chart,), text = channel_charts(figure, measured)
    assert [(one.label, [mark.y for mark in one.marks]) for one in chart.series] == [
        ("T = 4", [3.0, 2.0, 1.0]),
        ("T = 8", [6.0, 5.0, 4.0]),
    ]
    assert chart.title == "conv1, fashion-mnist, 3 channels"
    assert text.splitlines()[1] == "A4,fashion-mnist,ngu-lee,soft,literal,4,conv1,0,1.0"


@pytest.mark.parametrize("width", ["column", "page", "screen"])
def test_a_figure_has_the_width_of_a_paper(width: str) -> None:
    figure = figure_of("title", [*charts(ENTRIES), *charts([entry(1, 1_000), entry(64, 9_176)])], width)  # type: ignore[arg-type]
    if width != "screen":
        assert figure.get_size_inches()[0] == SIZES[width].inches  # type: ignore[index]
    assert len(figure.axes) == 3
    (legend,) = figure.legends
    assert {"alpha 0.6", "alpha 0.8"} <= {text.get_text() for text in legend.get_texts()}
