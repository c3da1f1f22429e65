"""The report in a real browser, on a phone and a wide screen, light and dark."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.chromium import Tab, open_tab
from support.evaluations import entry
from support.run_folders import write_runs

from loihi_convert.report import build, chart

pytestmark = pytest.mark.browser

SCREENS = [(width, scheme) for width in (360, 800, 1440) for scheme in ("light", "dark")]

SHOWN = "[...document.querySelectorAll('.chart > svg')]"

OPEN_ALL = "document.querySelectorAll('details').forEach((details) => { details.open = true; })"

# Boxes of tables whose contents are wider than the box.
CUT_OFF = """[...document.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth)
  .map((box) => [box.scrollWidth, box.clientWidth, box.textContent.trim().slice(0, 80)])"""

# For every element with text of its own: the background and the text colour, as painted by a canvas.
TEXT_COLOURS = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const painted = (colours) => {
    canvas.globalCompositeOperation = "source-over";
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const found = new Map();
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || ["SCRIPT", "STYLE"].includes(element.tagName) || !element.getClientRects().length) continue;
    const behind = [];
    for (let node = element; node; node = node.parentElement) behind.unshift(getComputedStyle(node).backgroundColor);
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const key = JSON.stringify([colour, behind]);
    const shown = element.outerHTML.slice(0, 80);
    if (!found.has(key)) found.set(key, [painted(behind), painted([...behind, colour]), shown]);
  }
  return [...found.values()];
})()"""


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with open_tab() as opened:
        yield opened


@pytest.fixture(scope="module", params=["one", "several"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one run, and one of several runs on two data sets, with long and hostile names."""
    root = tmp_path_factory.mktemp("report")
    if request.param == "one":
        folders = [write_runs(root, entry([20, 150, 190, 199], exit_leads=[4, 5, 7, 9]))]
    else:
        long = "a-network-with-a-name-that-is-much-too-long-for-a-phone-" * 2
        folders = [
            write_runs(root, entry([180], name="model-T1", balanced=1)),
            write_runs(
                root, entry([1, 2, 3, 196], name="model-T4", exit_leads=[4, 5, 7, 9]), entry([50] * 9, name=long)
            ),
            write_runs(root, entry([1, 2, 3, 150], name="<script>throw 1</script>"), data="cifar10"),
        ]
    return build.write_report(folders, root / "report.html").html


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_it_fits_without_errors_in_the_console(tab: Tab, page: Path, width: int, scheme: str) -> None:
    tab.complaints.clear()
    tab.requests.clear()
    tab.show(page, width, 844, scheme)
    for opened in (False, True):
        tab.evaluate(
            f"document.querySelectorAll('details').forEach((details) => {{ details.open = {str(opened).lower()}; }})"
        )
        scroll, inner = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert inner == width
        assert scroll <= inner
    assert tab.complaints == []
    assert [request for request in tab.requests if not request.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("width", [360, 800, 1440])
def test_letters_of_charts_are_legible_and_not_larger_than_the_text(tab: Tab, page: Path, width: int) -> None:
    tab.show(page, width, 844, "light")
    scales = tab.evaluate(f"{SHOWN}.map((svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)")
    assert scales
    assert all(0.75 < scale < 1.6 for scale in scales)


def luminance(colour: list[int]) -> float:
    """Return the relative luminance defined by WCAG 2."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[int], other: list[int]) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_in_light_and_dark(tab: Tab, page: Path) -> None:
    backgrounds = {}
    for scheme in ("light", "dark"):
        tab.show(page, 1440, 844, scheme)
        tab.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        found: list[Any] = tab.evaluate(TEXT_COLOURS)
        assert len(found) > 5
        for behind, colour, element in found:
            assert contrast(behind, colour) >= 4.5, (scheme, element, behind, colour)
        backgrounds[scheme] = found[0][0]
    assert luminance(backgrounds["light"]) > 0.8
    assert luminance(backgrounds["dark"]) < 0.05


def test_series_contrast_with_the_background(tab: Tab, page: Path) -> None:
    """Graphics need a contrast of 3 (WCAG 2, 1.4.11)."""
    for scheme in ("light", "dark"):
        tab.show(page, 1440, 844, scheme)
        names = ["surface", "paper", *(f"c{style}" for style in range(chart.STYLES))]
        colours = tab.evaluate(
            f"{names}.map((name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name))"
        )
        surface, *series = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]
        assert all(contrast(surface, colour) >= 3 for colour in series)


def test_marks_and_lines_of_cnns_have_titles(tab: Tab, page: Path) -> None:
    tab.show(page, 1440, 844, "light")
    for kind, text in (("mark", "T = "), ("level", "CNN")):
        titles = tab.evaluate(f"[...document.querySelectorAll('.chart .{kind} > title')].map((one) => one.textContent)")
        assert titles
        assert text in titles[0]


@pytest.mark.parametrize("width", [390, 768, 1280, 1440, 1920])
def test_no_table_is_cut_off(tab: Tab, page: Path, width: int) -> None:
    tab.show(page, width, 844, "light")
    assert tab.evaluate(CUT_OFF) == []
    tab.evaluate(OPEN_ALL)
    # Tables are fitted when their details open, which is a separate event.
    tab.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
    assert tab.evaluate(CUT_OFF) == []
    shown = tab.evaluate("""[...document.querySelectorAll(".scroll td")].filter((cell) => cell.getClientRects().length)
      .map((cell) => cell.getBoundingClientRect()).every((box) => box.left >= 0 && box.right <= innerWidth)""")
    assert shown


def saved(tab: Tab, folder: Path, label: str) -> str:
    """Return the contents of the file that a button of the first chart saves."""
    tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    tab.evaluate(
        f"""[...document.querySelector("figure.chart").querySelectorAll(".save button")]
        .find((button) => button.textContent === "{label}").click()"""
    )
    deadline = time.monotonic() + 60
    # Chrome reserves the name with an empty file and then moves the whole one there.
    while not (found := [path for path in folder.glob(f"*.{label.lower()}") if path.stat().st_size]):
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.05)
    return found[0].read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_chart_is_saved_as_a_self_contained_picture(tab: Tab, page: Path, tmp_path: Path, scheme: str) -> None:
    tab.show(page, 1440, 844, scheme)
    content = saved(tab, tmp_path, "SVG")
    root = ElementTree.fromstring(content)
    elements = list(root.iter())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in content
    assert not any("href" in element.attrib for element in elements)
    assert elements[1].text == tab.evaluate("document.querySelector('figure.chart strong').textContent")
    texts = [element.text for element in elements if element.tag.endswith("}text")]
    assert any(text and "paper" in text for text in texts)
    assert any(text and "time steps" in text for text in texts)
    # Saved in light colours on both kinds of screen: the first file's colour.
    assert "#0072b2" in content


def test_a_chart_is_saved_as_csv(tab: Tab, page: Path, tmp_path: Path) -> None:
    tab.show(page, 1440, 844, "light")
    rows = list(csv.reader(saved(tab, tmp_path, "CSV").splitlines()))
    assert rows[0][:3] == ["series", "latency T, time steps", "accuracy, %"]
    assert any(row[0].startswith("paper") for row in rows)
    assert all(0 <= float(row[2]) <= 100 for row in rows[1:])


def test_it_prints_white_pages_with_whole_tables(tab: Tab, page: Path, tmp_path: Path) -> None:
    """A4 without margins is 703 pixels wide. The screen is dark and too narrow for every table."""
    tab.show(page, 390, 844, "dark")
    tab.call("Emulation.setDeviceMetricsOverride", width=703, height=1000, deviceScaleFactor=1, mobile=False)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    tab.call("Emulation.setEmulatedMedia", media="print", features=dark)
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    wide = tab.evaluate("""[...document.querySelectorAll("table, figure.chart, pre")]
      .filter((one) => one.getClientRects().length)
      .map((one) => [one.getBoundingClientRect().right, one.textContent.trim().slice(0, 60)])
      .filter(([right]) => right > 703.5)""")
    assert wide == []
    assert set(tab.evaluate("[...document.querySelectorAll('h2')].map((one) => getComputedStyle(one).breakAfter)")) == {
        "avoid"
    }
    empty = tab.evaluate("""[...document.querySelectorAll("section")].filter((one) => one.getClientRects().length)
      .filter((one) => ![...one.children].slice(1).some((block) => block.getClientRects().length)).length""")
    assert empty == 0
    tab.call("Emulation.setEmulatedMedia", media="", features=dark)
    assert tab.call("Page.printToPDF", preferCSSPageSize=True)["data"]
