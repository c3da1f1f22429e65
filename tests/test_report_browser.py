"""A report in a real browser, on a phone and on a wide screen, light and dark."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chromium import Tab, open_tab
from support.evaluations import entry
from support.run_folders import write_runs

from loihi_convert.report import build, svg

pytestmark = pytest.mark.browser

SCREENS = [(width, scheme) for width in (360, 800, 1440) for scheme in ("light", "dark")]

SHOWN = "[...document.querySelectorAll('.panel svg[role=img]')].filter((svg) => svg.getBoundingClientRect().width)"

# Of every element that shows text of its own: what is behind it, and its colour on that, as a canvas paints them.
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
    """The report of one run, and of several runs of two data sets, with long and hostile names."""
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
def test_it_fits_and_nothing_complains(tab: Tab, page: Path, width: int, scheme: str) -> None:
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
def test_every_chart_shows_one_of_its_sizes(tab: Tab, page: Path, width: int) -> None:
    tab.show(page, width, 844, "light")
    panels = tab.evaluate(
        "[...document.querySelectorAll('.panel')].map((panel) => [...panel.querySelectorAll(':scope > div > svg')]"
        ".map((svg) => svg.getBoundingClientRect()).filter((box) => box.width && box.height)"
        ".map((box) => [box.width, box.height]))"
    )
    assert panels
    for sizes in panels:
        ((shown, height),) = sizes
        assert 250 < shown <= width
        assert height > 120
    # Letters are neither too small to be read nor larger than those around them.
    scales = tab.evaluate(f"{SHOWN}.map((svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)")
    assert all(0.8 < scale < 1.6 for scale in scales)


def test_labels_of_an_axis_do_not_touch(tab: Tab, page: Path) -> None:
    for width in (360, 1440):
        tab.show(page, width, 844, "light")
        lines = tab.evaluate(
            f"{SHOWN}.map((svg) => [...svg.querySelectorAll('text.tick[text-anchor=middle]')]"
            ".map((text) => text.getBoundingClientRect()).map((box) => [box.left, box.right]))"
        )
        for boxes in lines:
            assert all(one[1] < other[0] for one, other in itertools.pairwise(boxes))


def luminance(colour: list[int]) -> float:
    """Relative luminance of WCAG 2."""
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


def test_series_stand_out_from_the_surface(tab: Tab, page: Path) -> None:
    """Graphics need a contrast of 3 (WCAG 2, 1.4.11)."""
    for scheme in ("light", "dark"):
        tab.show(page, 1440, 844, scheme)
        names = ["surface", "paper", *(f"c{style}" for style in range(svg.STYLES))]
        colours = tab.evaluate(
            f"{names}.map((name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name))"
        )
        surface, *series = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]
        assert all(contrast(surface, colour) >= 3 for colour in series)


def test_a_mark_says_its_values(tab: Tab, page: Path) -> None:
    tab.show(page, 1440, 844, "light")
    words = tab.evaluate("""(() => {
      const figure = document.querySelector("figure.chart");
      const box = [...figure.querySelectorAll("svg[role=img] .mark")].map((mark) => mark.getBoundingClientRect())
        .find((box) => box.width);
      figure.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + 1, clientY: box.top + 1}));
      const tip = figure.querySelector(".tip");
      return tip.hidden ? null : tip.textContent;
    })()""")
    assert words is not None
    assert "T = " in words
