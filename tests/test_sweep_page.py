"""The page of a sweep: what is best at each cost, and choices that hide cells, in a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.chromium import Tab, open_tab
from support.sweep_cells import cell, result

from loihi_convert.batch.computation import Outcome
from loihi_convert.batch.conversion import PlannedCell, data_names
from loihi_convert.batch.results import SweepResults, verdict
from loihi_convert.batch.sweep_page import marks_on_front, sweep_page, write_page
from loihi_convert.cli.sweep_output import say_swept
from loihi_convert.ground.statistics import wilson_interval
from loihi_convert.report.axes import Mark
from loihi_convert.report.page import Page, Pictures, html, markdown
from loihi_convert.report.table import Table

RESULT = result(
    image_count=1_000,
    accuracy=0.9,
    accuracy_interval=(0.88, 0.92),
    cnn_accuracy=0.95,
    agreement_with_cnn=0.93,
    synaptic_operations=1_000.0,
    joules=(1e-5, 2e-5),
    cores=(4, 5),
    balanced_by="least-squares",
    correct="ff",
)
NAMES = ("network", "timesteps", "weight_bits")


def results_of(*cells: tuple[str, int, int, dict[str, Any] | None]) -> SweepResults:
    """A sweep with these cells: network, T, weight bits, changed figures or None for an error."""
    planned, outcomes = [], {}
    for network, timesteps, bits, changes in cells:
        one = cell(Path(f"{network}.pt"), network, timesteps=timesteps, weight_bits=bits)
        planned.append(PlannedCell(one, network, "digits", "validation images"))
        if changes is None:
            outcomes[one.name] = Outcome(error="weight_bits: too few <here>")
        else:
            figures = {"synaptic_operations": 1_000.0 * timesteps, **changes}
            outcomes[one.name] = Outcome(result=RESULT.model_copy(update=figures))
    return SweepResults(tuple(planned), outcomes, NAMES)


def accurate(share: float) -> dict[str, Any]:
    return {"accuracy": share, "accuracy_interval": (share - 0.01, share + 0.01)}


SEVERAL = results_of(
    ("narrow", 1, 8, accurate(0.80)),
    ("narrow", 4, 8, accurate(0.94)),
    ("narrow", 16, 8, accurate(0.93)),
    ("wide", 1, 8, accurate(0.85)),
    ("wide", 4, 8, accurate(0.90)),
    ("wide", 16, 8, accurate(0.97)),
    ("wide", 16, 2, None),
)


def table_of(page: Page) -> Table:
    (table,) = (block for section in page.sections for block in section.blocks if isinstance(block, Table))
    return table


def charts_of(page: Page) -> list[str]:
    return [
        chart.title
        for section in page.sections
        for block in section.blocks
        if isinstance(block, Pictures)
        for chart in block.charts
    ]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1), st.sampled_from(["highest", "lowest"]))
def test_the_line_joins_the_marks_that_no_other_beats(points: list[tuple[int, int]], best: str) -> None:
    marks = [Mark(x, y, "") for x, y in points]
    sign = 1 if best == "highest" else -1
    beaten = {(x, y) for x, y in points if any(u <= x and sign * v >= sign * y and (u, v) != (x, y) for u, v in points)}
    assert [(mark.x, mark.y) for mark in marks_on_front(marks, best)] == sorted(set(points) - beaten)


def test_every_cell_is_a_row_with_its_options_figures_or_error() -> None:
    table = table_of(sweep_page(SEVERAL))
    assert table.headers[:4] == ("network", "T", "weight bits", "Pareto\nfront")
    assert len(table.rows) == len(table.keys) == 7
    assert table.rows[1][:8] == ("narrow", "4", "8", "yes", "least-squares", "94.00 %", "93.00-95.00", "4,000")
    assert table.rows[2][3] == "no"
    assert table.rows[-1][4] == "weight_bits: too few <here>"
    assert table.filtered_columns == 4
    text = html(sweep_page(SEVERAL))
    assert "<here>" not in text
    assert "Best: 97.00 % with wide, T 16, weight bits 8" in markdown(sweep_page(SEVERAL))


def test_there_is_a_chart_for_each_known_cost() -> None:
    assert charts_of(sweep_page(SEVERAL)) == ["Latency", "Synaptic operations", "Energy", "Neurocores"]
    no_energy = results_of(("narrow", 1, 8, {"joules": None}), ("narrow", 4, 8, {"joules": None}))
    assert charts_of(sweep_page(no_energy)) == ["Latency", "Synaptic operations", "Neurocores"]


@pytest.fixture
def on_two_sets() -> SweepResults:
    """Cells at T = 1 and 4, each on easy and on hard images."""
    easy = results_of(("one", 1, 8, accurate(0.98)), ("one", 4, 8, accurate(0.99)))
    cells, outcomes = list(easy.cells), dict(easy.outcomes)
    for planned, share in zip(easy.cells, (0.1, 0.985), strict=True):
        hard = replace(planned.cell, digests=replace(planned.cell.digests, images="hard"))
        cells.append(PlannedCell(hard, "two", "hard.npz", "own images"))
        outcomes[hard.name] = Outcome(result=RESULT.model_copy(update=accurate(share)))
    return SweepResults(tuple(cells), outcomes, ("network", "data", "timesteps"))


def test_results_on_different_images_are_not_compared(on_two_sets: SweepResults) -> None:
    best = [found for found in on_two_sets.front if found.planned.cell.setting.timesteps == 4]
    assert verdict(best, ("network", "data")) == (
        "Best on validation images of digits: 99.00 % with one (CNN 95.00 %). "
        "Best on own images of hard.npz: 98.50 % with two (CNN 95.00 %)"
    )


def test_results_on_different_images_have_their_own_charts(on_two_sets: SweepResults) -> None:
    page = sweep_page(on_two_sets)
    assert [(section.name, section.title) for section in page.sections] == [
        ("costs", "Result and cost: validation images of digits"),
        ("costs-1", "Result and cost: own images of hard.npz"),
        ("cells", "Cells"),
    ]
    assert charts_of(page) == 2 * ["Latency", "Synaptic operations", "Energy", "Neurocores"]
    # A line of two marks in each, from T = 1 to 4.
    assert len(re.findall('data-front="highest"><path class="line solid" d="M[^L]+L[^L]+"', html(page))) >= 2
    assert table_of(page).headers[:3] == ("network", "data", "T")
    assert {row["images_sha256"] for row in on_two_sets.rows} == {"images", "hard"}


def test_the_terminal_shows_each_set_of_images_together(
    on_two_sets: SweepResults, capsys: pytest.CaptureFixture[str]
) -> None:
    say_swept(on_two_sets, Path("sweep"), computed=4, is_saved=True, as_json=False)
    _, table, _ = capsys.readouterr().out.split("\n\n")
    header, *lines = table.splitlines()
    assert header.split()[:3] == ["network", "data", "result"]
    assert [line.split()[1] for line in lines] == ["digits", "digits", "hard.npz", "hard.npz"]


def test_images_of_one_name_are_told_apart(on_two_sets: SweepResults) -> None:
    assert data_names(on_two_sets.cells) == {"images": "digits", "hard": "hard.npz"}
    same = [replace(planned, data="own.npz") for planned in on_two_sets.cells]
    assert data_names(same) == {"images": "own.npz (images)", "hard": "own.npz (hard)"}


def test_more_networks_than_styles_have_a_page() -> None:
    page = sweep_page(results_of(*((f"n{index}", 1, 8, accurate(0.9)) for index in range(9))))
    (charts,) = (block.charts for section in page.sections for block in section.blocks if isinstance(block, Pictures))
    assert [one.label for one in charts[0].series] == ["best at this cost", *(f"n{index}" for index in range(9))]


def test_regressions_are_compared_by_their_error() -> None:
    figures = {"accuracy": None, "accuracy_interval": None, "cnn_accuracy": None, "agreement_with_cnn": None}
    cells = (("one", 1, 8, {**figures, "rmse": 0.5}), ("one", 4, 8, {**figures, "rmse": 0.25, "cnn_rmse": 0.125}))
    page = sweep_page(results_of(*cells))
    assert page.verdict == ("Best: RMSE 0.25 with one, T 4, weight bits 8 (CNN 0.125).",)
    assert 'data-front="lowest"' in html(page)
    results = results_of(*cells[1:], ("one", 1, 8, {**figures, "rmse_to_cnn": 0.5}))
    assert [row["cnn_rmse"] for row in results.rows] == [0.125, None]
    assert "RMSE 0.5 to the CNN" in [row[5] for row in table_of(sweep_page(results)).rows]


def bits(correct: str) -> str:
    """Return `CellResult.correct`, from a character for each of 16 images."""
    return f"{int(correct, 2):04x}"


def test_a_cheaper_cell_is_named_with_its_gap_and_the_number_of_images() -> None:
    """Two images against none: p = 2 / 2^2."""
    best = {"accuracy": 0.8, "accuracy_interval": (0.49, 0.94), "image_count": 10, "correct": bits("1" * 8 + "0" * 8)}
    cheap = {**best, "accuracy": 0.6, "synaptic_operations": 250.0, "correct": bits("1" * 6 + "0" * 10)}
    results = results_of(("one", 1, 8, best), ("one", 1, 2, cheap))
    assert verdict(results.front, ("weight_bits",)) == (
        "Best: 80.00 % with weight bits 8 (CNN 95.00 %); at 25 % of its SynOps: 60.00 % with weight bits 2, 20.00 "
        "points lower, no significant difference on the same 10 images (p = 0.50, McNemar's test)"
    )


BEST_OF_16 = {
    "accuracy": 12 / 16,
    "accuracy_interval": (0.51, 0.9),
    "image_count": 16,
    "correct": bits("1" * 12 + "0000"),
}


@pytest.mark.parametrize(
    ("correct", "low", "p_value"),
    # Five images against none: 2 / 2^5; seven against two: 2 (1 + 9 + 36) / 2^9; six against none: 2 / 2^6.
    [
        ("1" * 7 + "0" * 9, 0.4, "0.06"),
        ("1" * 7 + "0" * 9, 0.5, None),
        ("1" * 5 + "0" * 9 + "11", 0.4, "0.18"),
        ("1" * 5 + "0" * 9 + "11", 0.5, None),
        ("1" * 6 + "0" * 10, 0.3, None),
    ],
)
def test_a_cell_is_not_worse_if_neither_the_interval_nor_the_test_says_so(
    correct: str, low: float, p_value: str | None
) -> None:
    best = {**BEST_OF_16, "accuracy_interval": (low, 0.9)}
    cheap = {"accuracy": correct.count("1") / 16, "synaptic_operations": 250.0, "correct": bits(correct)}
    results = results_of(("one", 1, 8, best), ("one", 1, 2, {**best, **cheap}))
    found = verdict(results.front, ("weight_bits",))
    assert found.startswith("Best: 75.00 % with weight bits 8")
    assert (f"no significant difference on the same 16 images (p = {p_value}, " in found) == (p_value is not None)
    assert ("SynOps" in found) == (p_value is not None)


def test_all_of_50_images_is_better_than_45() -> None:
    """McNemar's test of five images against none has p = 2 / 2^5, so it alone cannot tell them apart."""
    images = {"image_count": 50}
    right = {"accuracy": 1.0, "accuracy_interval": wilson_interval(50, 50), "correct": f"{(1 << 50) - 1:014x}"}
    fewer = {**right, "accuracy": 0.9, "correct": f"{(1 << 45) - 1:014x}", "synaptic_operations": 250.0}
    results = results_of(("one", 1, 8, {**images, **right}), ("one", 1, 2, {**images, **fewer}))
    assert len(results.front) == 2
    assert "SynOps" not in verdict(results.front, ("weight_bits",))


@pytest.mark.parametrize("name", ["one", os.fsdecode(b"on\xe9")])
@pytest.mark.parametrize("result", [None, accurate(0.9)])
def test_a_sweep_of_one_cell_has_a_page(tmp_path: Path, name: str, result: dict[str, Any] | None) -> None:
    write_page(tmp_path / "sweep.html", results_of((name, 1, 8, result)))
    assert f"Sweep of {name}" in (tmp_path / "sweep.html").read_text().replace(r"\udce9", "\udce9")


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with open_tab() as opened:
        yield opened


@pytest.mark.browser
class TestInABrowser:
    SHOWN = "[...document.querySelectorAll('.scroll tbody tr')].filter((row) => row.getClientRects().length).length"
    FIRST = "document.querySelector('.chart > svg')"
    MARKS = f"[...{FIRST}.querySelectorAll('.mark')].filter((mark) => mark.getClientRects().length).length"
    FRONT = f"{FIRST}.querySelector('[data-front] .line').getAttribute('d')"

    def choose(self, tab: Tab, column: str, value: str) -> None:
        tab.evaluate(
            f"""(() => {{
              const labels = [...document.querySelectorAll(".filters label")];
              const select = labels.find((one) => one.firstChild.data === "{column}").querySelector("select");
              select.value = {value!r};
              select.dispatchEvent(new Event("change", {{bubbles: true}}));
            }})()"""
        )

    @pytest.fixture
    def shown(self, tab: Tab, tmp_path: Path) -> Tab:
        write_page(tmp_path / "sweep.html", SEVERAL)
        tab.show(tmp_path / "sweep.html", 1200, 900, "light")
        return tab

    def test_a_choice_hides_rows_and_their_marks(self, shown: Tab) -> None:
        assert (shown.evaluate(self.SHOWN), shown.evaluate(self.MARKS)) == (7, 6)
        self.choose(shown, "network", "=narrow")
        assert (shown.evaluate(self.SHOWN), shown.evaluate(self.MARKS)) == (3, 3)
        assert shown.evaluate("document.querySelector('.filters output').textContent") == "3 of 7"
        self.choose(shown, "T", "=4")
        assert (shown.evaluate(self.SHOWN), shown.evaluate(self.MARKS)) == (1, 1)
        self.choose(shown, "network", "")
        self.choose(shown, "T", "")
        assert (shown.evaluate(self.SHOWN), shown.evaluate(self.MARKS)) == (7, 6)

    def test_options_with_one_value_are_no_choice(self, tab: Tab, tmp_path: Path) -> None:
        write_page(tmp_path / "sweep.html", results_of(("a", 1, 8, accurate(0.9)), ("a", 4, 8, accurate(0.9))))
        tab.show(tmp_path / "sweep.html", 1200, 900, "light")
        names = tab.evaluate("[...document.querySelectorAll('.filters label')].map((one) => one.firstChild.data)")
        assert names == ["T", "Pareto front"]

    def test_the_line_is_drawn_again_through_the_best_that_are_shown(self, shown: Tab) -> None:
        # As the page was written: wide at T = 1 (85 %), narrow at 4 (94 %), wide at 16 (97 %).
        drawn = shown.evaluate(self.FRONT)
        assert len(re.findall(r"[ML]", drawn)) == 3
        self.choose(shown, "network", "=narrow")
        # Without wide: T = 1 and 4; T = 16 is worse than 4.
        narrow = shown.evaluate(self.FRONT)
        assert len(re.findall(r"[ML]", narrow)) == 2
        self.choose(shown, "network", "")
        assert shown.evaluate(self.FRONT) == drawn

    def test_a_page_without_scripts_shows_the_same_line(self, shown: Tab, tmp_path: Path) -> None:
        written = (tmp_path / "sweep.html").read_text()
        lines = re.findall(r'data-front="highest"><path class="line solid" d="([^"]+)"', written)
        assert shown.evaluate(self.FRONT) in lines
