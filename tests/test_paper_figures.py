"""The paper's figures: the CNN on the same images, intervals, markers, labels, sorted channels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from loihi_convert import cli
from loihi_convert.errors import InputError, UsageError
from loihi_convert.paper import plan
from loihi_convert.paper.figures import ChannelPanel, TableRow, accuracy_figure, channel_figure, panels, table_rows
from loihi_convert.paper.options import PaperOptions
from loihi_convert.paper.plan import Reproduced
from loihi_convert.paper.variants import EXHIBITS, Exhibit
from loihi_convert.report.chart import SIZES

FIGURES = {name: one for (kind, name), one in EXHIBITS.items() if kind == "figure"}
TABLES = Path(__file__).parents[1] / "netx_models"


def redrawn(figure: Exhibit, table: Path, variant: str, folder: Path) -> Reproduced:
    return plan.redraw(figure, PaperOptions(variants=(variant,), output=folder, tables=[table]))


def row(timesteps: int, accuracy: float, **changes: str) -> TableRow:
    """A row of table A3 as `reproduce` writes it, for 10,000 images; the CNN's accuracy is 92.46 %."""
    columns = {
        "data": "fashion-mnist",
        "method": "ngu-lee",
        "reset": "soft",
        "alpha": "0.6",
        "timesteps": str(timesteps),
        "variant": "literal",
        "calibration_images": "10000",
        "test_images": "10000",
        "training_seed": "0",
        "accuracy": str(accuracy),
        "interval_low": str(accuracy - 1),
        "interval_high": str(accuracy + 2),
        "paper_accuracy": "90.50",
        "cnn_accuracy": "92.46",
        "paper_cnn_accuracy": "92.70",
    }
    return TableRow.model_validate_strings({**columns, **changes})


FEWER = {"test_images": "1000", "cnn_accuracy": "92.80"}
ROWS = [
    *(row(t, accuracy) for t, accuracy in ((64, 91.76), (32, 91.54))),
    *(row(t, accuracy, **FEWER) for t, accuracy in ((128, 92.5), (256, 92.9))),
    *(row(t, accuracy, alpha="0.8") for t, accuracy in ((32, 91.37), (64, 91.46))),
]


def lines(figure: Figure) -> list[tuple[list[float], list[float], str, str]]:
    """x, y, marker and line style of each line of the first panel."""
    return [
        (
            *(np.asarray(data, float).tolist() for data in line.get_data()),
            str(line.get_marker()),
            str(line.get_linestyle()),
        )
        for line in figure.axes[0].get_lines()
    ]


def test_the_cnns_line_is_from_the_images_of_the_points() -> None:
    figure = accuracy_figure("title", panels(ROWS, FIGURES["9"], ["literal"]))
    cnn = {tuple(y): x for x, y, *_ in lines(figure) if len(x) == 2 and y[0] == y[1] and y[0] in (92.46, 92.8)}
    # One line ends, and the other begins, halfway between T = 64 and 128.
    assert cnn[92.46, 92.46] == pytest.approx([32 / 2**0.5, 64 * 2**0.5])
    assert cnn[92.8, 92.8] == pytest.approx([128 / 2**0.5, 256 * 2**0.5])
    assert "n = 1,000" in [text.get_text() for text in figure.axes[0].texts]
    curves = [(y, style) for _, y, marker, style in lines(figure) if marker == "o" and style != "None"]
    # The curve has a gap there, and is dotted where it has fewer images.
    assert ([91.54, 91.76], "-") in curves
    assert ([92.5, 92.9], ":") in curves


def test_intervals_markers_and_labels() -> None:
    figure = accuracy_figure("title", panels(ROWS, FIGURES["9"], ["literal"]))
    axes = figure.axes[0]
    bars = [segment for one in axes.containers for segment in one[2][0].get_segments()]
    assert sorted((float(low[1]), float(high[1])) for low, high in bars) == sorted(
        (one.interval_low, one.interval_high) for one in ROWS
    )
    markers = {tuple(y): marker for _, y, marker, style in lines(figure) if style == "-" and marker != "None"}
    assert markers[91.54, 91.76] != markers[91.37, 91.46]
    # The paper's points have the marker of our curve, but no line.
    hollow = {marker for _, y, marker, style in lines(figure) if style == "None" and marker != "_"}
    assert hollow == set(markers.values())
    texts = {text.get_text(): text for text in axes.texts}
    assert {"alpha 0.6", "alpha 0.8"} <= texts.keys()
    note = " ".join(axes.get_title(loc="left").split())
    assert note == (
        "fashion-mnist, literal: n = 10,000 test images (1,000 from T = 128 on); 10,000 calibration images; "
        "training seed 0"
    )


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({128: "500", 64: "100"}, "n = 100 test images (500 from T = 128 on); "),
        ({256: "50", 64: "100", 128: "500"}, "n = 100 test images (500 from T = 128 on, 50 from T = 256 on); "),
        ({64: "100", 128: "100"}, "n = 100 test images; "),
    ],
)
def test_the_number_of_images_is_that_of_the_fewest_steps(counts: dict[int, str], said: str) -> None:
    rows = [row(timesteps, 98.0, test_images=count) for timesteps, count in counts.items()]
    (found,) = panels(rows, FIGURES["9"], ["literal"])
    assert found.note.startswith(said)


def test_figures_that_compare_methods_show_our_best_one() -> None:
    rows = [row(64, 98.0, data="mnist", alpha="1.0"), row(64, 99.0, data="mnist", alpha="1.0", variant="best")]
    for name, labels in (("6", ["ngu-lee", "our best"]), ("9", ["alpha 1"])):
        (found,) = panels(rows, FIGURES[name], ["literal"])
        assert [curve.label for curve in found.curves] == labels


def test_channels_are_sorted() -> None:
    figure = channel_figure(
        "title", [ChannelPanel("conv1", {"T = 4": [1.0, 3.0, 2.0], "T = 8": [5.0, 4.0, 6.0]})], "rate"
    )
    assert [y for _, y, *_ in lines(figure)] == [[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]]
    assert figure.axes[0].get_xlabel() == "channels, largest first"


@pytest.mark.parametrize("width", ["column", "page"])
def test_a_figure_has_the_width_of_a_paper(width: str) -> None:
    figure = accuracy_figure("title", panels(ROWS, FIGURES["9"], ["literal"]), width)  # type: ignore[arg-type]
    assert figure.get_size_inches()[0] == SIZES[width].inches  # type: ignore[index]


def test_a_figure_is_drawn_from_the_tables_of_the_repository(tmp_path: Path) -> None:
    tables = [TABLES / "fashion-mnist" / "paper" / f"table-{name}.csv" for name in ("3", "A3")]
    words = [word for path in tables for word in ("--from", str(path))]
    done = CliRunner().invoke(cli.app, ["reproduce", "figure", "9", *words, "-o", str(tmp_path), "--width", "column"])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure-9.pdf", "figure-9.png", "figure-9.svg"]
    assert (tmp_path / "figure-9.pdf").read_bytes().startswith(b"%PDF")


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    table = TABLES / "mnist" / "paper" / "table-2.csv"
    with pytest.raises(UsageError) as caught:
        redrawn(FIGURES["7"], table, "literal", tmp_path)
    assert (caught.value.where, caught.value.expected) == ("tables", "is for figures 6, 8, 9, 11, 12")
    fashion = TABLES / "fashion-mnist" / "paper" / "table-3.csv"
    with pytest.raises(UsageError) as caught:
        redrawn(FIGURES["12"], fashion, "literal", tmp_path)
    assert caught.value.found == "no accuracy of figure 12 in variant literal"
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError) as refused:
        redrawn(FIGURES["6"], tmp_path / "other.csv", "literal", tmp_path)
    assert refused.value.where == str(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"accuracy": "abc"}, "line 2: accuracy: "),
        ({"timesteps": "4.5"}, "line 2: timesteps: "),
        ({"accuracy": "99", "test_images": ""}, "line 2: Value error, an accuracy without"),
    ],
)
def test_a_damaged_number_is_named(changes: dict[str, str], found: str, tmp_path: Path) -> None:
    with (TABLES / "mnist" / "paper" / "table-2.csv").open(newline="") as file:
        first, *rest = csv.DictReader(file)
    table = tmp_path / "damaged.csv"
    table.write_text(csv_text([{**first, **changes}, *rest]))
    with pytest.raises(InputError) as refused:
        redrawn(FIGURES["6"], table, "literal", tmp_path)
    assert refused.value.where == str(table)
    assert refused.value.found.startswith(f"damaged: {found}")


def test_a_panel_of_the_papers_values_says_so() -> None:
    unmeasured = dict.fromkeys(("accuracy", "test_images", "calibration_images", "training_seed"))
    rows = [row(t, 0).model_copy(update=unmeasured) for t in (32, 64)]
    (found,) = panels(rows, FIGURES["9"], ["literal"])
    assert found.note == "the paper's values only"


def test_a_panel_without_a_point_is_left_out(tmp_path: Path) -> None:
    """A figure of two variants of which one has no result is drawn with the other; one of no result is refused."""
    with (TABLES / "mnist" / "paper" / "table-2.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["variant"] == "literal"]
    none = [{**row, "variant": "half", "accuracy": "", "paper_accuracy": ""} for row in rows]
    table = tmp_path / "none.csv"
    found = panels(table_rows(csv_text([*rows, *none])), FIGURES["6"], ["half", "literal"])
    assert [panel.title for panel in found] == ["mnist, literal"]
    table.write_text(csv_text(none))
    with pytest.raises(UsageError, match="no accuracy of figure 6 in variant half"):
        redrawn(FIGURES["6"], table, "half", tmp_path)


def csv_text(rows: list[dict[str, str]]) -> str:
    return "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)])
