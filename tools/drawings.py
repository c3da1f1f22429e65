"""Pictures for README.md and docs/ as SVG, light and dark; `tools/pages.py` writes them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from netx_cards import CONVERTED, FINE_TUNED, KINDS, accuracies

Point = tuple[float, float]

_HUES: Final = {False: ("#0072b2", "#c04f00", "#00795a"), True: ("#6cb8f0", "#f0a050", "#4fd0a5")}
"""Blue, orange and green that differ for colour-blind readers too (after Okabe and Ito)."""


class Theme(NamedTuple):
    """Colours of a picture."""

    ink: str
    faint: str
    hues: tuple[str, str, str]


def theme(dark: bool) -> Theme:
    """Return the colours for a light or a dark page."""
    return Theme("#e6e6e6" if dark else "#1a1a1a", "#5a5a5a" if dark else "#c8c8c8", _HUES[dark])


class Canvas:
    """A plot area inside a picture, with its scales; marks are collected as SVG elements.

    Parameters
    ----------
    box
        Left, top, width and height of the plot area, in pixels.
    across, up
        The values at the left and right, and at the bottom and top edge.
    """

    def __init__(self, box: tuple[float, float, float, float], across: Point, up: Point, colours: Theme) -> None:
        self._box, self._across, self._up, self.colours = box, across, up, colours
        self.elements: list[str] = []

    def at(self, x: float, y: float) -> str:
        """Return the position of a value, as ``x,y``."""
        left, top, width, height = self._box
        px = left + width * (x - self._across[0]) / (self._across[1] - self._across[0])
        py = top + height * (1 - (y - self._up[0]) / (self._up[1] - self._up[0]))
        return f"{px:.1f},{py:.1f}"

    def line(self, points: Sequence[Point], colour: str, *, width: float = 2, dashes: str = "") -> None:
        """Draw a line through ``points``."""
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        path = " ".join(self.at(*point) for point in points)
        self.elements.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dash}/>'
        )

    def dot(self, x: float, y: float, colour: str, *, hollow: bool = False) -> None:
        """Draw a mark."""
        px, py = self.at(x, y).split(",")
        fill = "none" if hollow else colour
        self.elements.append(
            f'<circle cx="{px}" cy="{py}" r="3.5" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>'
        )

    def text(self, x: float, y: float, words: str, colour: str = "", *, anchor: str = "start", dy: float = 4) -> None:
        """Write ``words`` at a value."""
        px, py = (float(part) for part in self.at(x, y).split(","))
        self.elements.append(
            f'<text x="{px:.1f}" y="{py + dy:.1f}" text-anchor="{anchor}" fill="{colour or self.colours.ink}">'
            f"{words}</text>"
        )

    def axes(self, ticks_across: Mapping[float, str], ticks_up: Mapping[float, str]) -> None:
        """Draw a grid with labels."""
        (left, right), low = self._across, self._up[0]
        for y, words in ticks_up.items():
            self.line([(left, y), (right, y)], self.colours.faint, width=0.7)
            px, py = (float(part) for part in self.at(left, y).split(","))
            self._label(px - 6, py + 4, words, "end")
        for x, words in ticks_across.items():
            px, py = (float(part) for part in self.at(x, low).split(","))
            self._label(px, py + 18, words, "middle")
        self.line([(left, low), (right, low)], self.colours.ink, width=1)

    def _label(self, px: float, py: float, words: str, anchor: str) -> None:
        self.elements.append(
            f'<text x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}" fill="{self.colours.ink}">{words}</text>'
        )


def svg(width: int, height: int, title: str, elements: Sequence[str]) -> str:
    """Return the picture."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="13">\n<title>{title}</title>\n'
        + "\n".join(elements)
        + "\n</svg>\n"
    )


def accuracy_picture(cards: Mapping[str, dict[str, Any]], names: Mapping[str, str], *, dark: bool) -> str:
    """Return accuracy against T, converted and fine-tuned: a colour per data set; its CNN dashed, the paper dotted."""
    colours = theme(dark)
    plot = Canvas((52, 34, 520, 270), (0, 6), (75, 100.5), colours)
    plot.axes({exponent: str(2**exponent) for exponent in range(7)}, {y: f"{y} %" for y in range(75, 101, 5)})
    for colour, (data, card) in zip(colours.hues, cards.items(), strict=True):
        cnn = statistics.mean(accuracies(card, CONVERTED, None))
        plot.line([(0, cnn), (6, cnn)], colour, width=1, dashes="7 4")
        curves = {
            kind: [
                (math.log2(steps), statistics.mean(found))
                for steps in sorted({network["timesteps"] for network in card["networks"]})
                if (found := accuracies(card, kind, steps))
            ]
            for kind in KINDS
        }
        papers = [
            (math.log2(network["timesteps"]), network["paper"]["accuracy"])
            for network in card["networks"]
            if "paper" in network
        ]
        plot.line(curves[CONVERTED], colour, width=2.5)
        plot.line(curves[FINE_TUNED], colour, width=1.2)
        plot.line(papers, colour, width=1.5, dashes="1.5 4")
        for point in curves[CONVERTED]:
            plot.dot(*point, colour)
        for point in (*curves[FINE_TUNED], *papers):
            plot.dot(*point, colour, hollow=True)
        # The curves of CIFAR-10 and Fashion-MNIST end only half a point apart.
        shift, last = {"fashion-mnist": -3.0, "cifar10": 12.0}.get(data, 4.0), curves[CONVERTED][-1][1]
        plot.text(6.12, last, f"{names[data]}, {last:.2f} %", colour, dy=shift)
    plot.text(0, 100.5, "test accuracy of the integers", dy=-14)
    plot.text(3, 75, "time steps T", anchor="middle", dy=36)
    plot.text(0, 75, "thick line: converted; thin line: fine-tuned; dashed: the CNN; dotted: Ngu &amp; Lee 2022", dy=60)
    plot.text(0, 75, "10,000 test images; MNIST: mean of training seeds 0, 1, 2; else seed 0", dy=78)
    return svg(740, 394, "Accuracy against the number of time steps, MNIST, Fashion-MNIST and CIFAR-10", plot.elements)


def graded_picture(rows: Sequence[Mapping[str, str]], names: Mapping[str, str], *, dark: bool) -> str:
    """Return points lost against synaptic operations: binary spikes as a line through their T, graded ones as a ring.

    ``rows`` are those of docs/results/graded.csv; ``names`` are titles of its networks, one plot each, two in a row.
    """
    colours, elements = theme(dark), list[str]()
    for index, (network, name) in enumerate(names.items()):
        own = [row for row in rows if row["network"] == network]
        (graded,) = (row for row in own if row["neurons"] == "graded")
        places = {row["timesteps"]: _work_and_loss(row) for row in own if row["neurons"] == "spikes"}
        works, losses = zip(*places.values(), _work_and_loss(graded), strict=True)
        ends = math.floor(min(works)), math.ceil(max(works))
        step = next(step for step in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if max(losses) <= 4.5 * step)
        rungs = range(math.ceil(max(losses) / step + 0.5) + 1)
        box = (56.0 + 360 * (index % 2), 44.0 + 214 * (index // 2), 280.0, 136.0)
        plot = Canvas(box, ends, (-step * rungs[-1], 0.3 * step), colours)
        decades = {float(x): _millions(x) for x in range(ends[0], ends[1] + 1)}
        plot.axes(decades, {-step * rung: f"{step * rung:g}" for rung in rungs})
        plot.text(ends[0], 0.3 * step, f"{name}, CNN {graded['cnn_accuracy']} %", dy=-18)
        plot.line([(x, -loss) for x, loss in places.values()], colours.hues[0], width=2)
        for steps, (x, loss) in places.items():
            plot.dot(x, -loss, colours.hues[0])
            plot.text(x, -loss, steps, colours.hues[0], anchor="middle", dy=18)
        plot.dot(works[-1], -losses[-1], colours.hues[1], hollow=True)
        plot.text(works[-1], -losses[-1], "graded", colours.hues[1], anchor="middle", dy=-8)
        elements += plot.elements
    height = 44 + 214 * math.ceil(len(names) / 2)
    words = Canvas((56, height, 280, 20), (0, 1), (0, 1), colours)
    words.text(0, 1, "across: synaptic operations per image; down: points below the CNN; numbers: T of binary spikes")
    title = "Points lost against synaptic operations, with graded spikes and with binary spikes"
    return svg(720, height + 16, title, elements + words.elements)


def peers_picture(rows: Sequence[Mapping[str, str]], *, dark: bool) -> str:
    """Return the speed of `ref` relative to other simulators as bars, one plot for each network, two in a row.

    ``rows`` are those of docs/results/peers.csv. lava-dl is left out: its bar would be hundreds of times as long.
    """
    colours, elements = theme(dark), list[str]()
    shown = [row for row in rows if row["measure"] == "speed_of_ref" and row["median"] and "lava" not in row["peer"]]
    longest = max(float(row["maximum"]) for row in shown)
    networks = list(dict.fromkeys((row["network"], row["timesteps"]) for row in shown))
    for index, (network, steps) in enumerate(networks):
        own = [row for row in shown if (row["network"], row["timesteps"]) == (network, steps)]
        box = (132.0 + 360 * (index % 2), 34.0 + 150 * (index // 2), 180.0, 20.0 * len(own))
        plot = Canvas(box, (0, longest), (len(own), 0), colours)
        plot.text(0, 0, f"{network}, T = {steps}", dy=-10)
        for place, row in enumerate(own):
            y, (median, least, most) = place + 0.5, (float(row[name]) for name in ("median", "minimum", "maximum"))
            plot.line([(0, y), (median, y)], colours.hues[0], width=12)
            plot.line([(least, y), (most, y)], colours.ink, width=1)
            plot.text(-0.03 * longest, y, row["peer"], anchor="end")
            plot.text(most + 0.03 * longest, y, row["median"])
        plot.line([(1, 0), (1, len(own))], colours.hues[1], width=1, dashes="4 3")
        elements += plot.elements
    height = 34 + 150 * math.ceil(len(networks) / 2)
    words = Canvas((16, height, 280, 20), (0, 1), (0, 1), colours)
    words.text(0, 1, "times as fast as each simulator: median, minimum to maximum; dashed: equal speed")
    return svg(720, height + 16, "Speed of ref relative to other simulators", elements + words.elements)


def _work_and_loss(row: Mapping[str, str]) -> Point:
    """The logarithm of the synaptic operations, and the points below the CNN."""
    return math.log10(float(row["synaptic_operations"])), float(row["cnn_accuracy"]) - float(row["accuracy"])


def _millions(exponent: int) -> str:
    return f"{10 ** (exponent - 6):g} M"


def reset_picture(*, dark: bool) -> str:
    """Return the membrane potential of a neuron over 12 steps, with soft and with hard reset."""
    colours, elements = theme(dark), list[str]()
    threshold, current, steps = 1.0, 0.42, 12
    for row, (name, is_soft) in enumerate((("soft reset", True), ("hard reset", False))):
        plot = Canvas((80, 30 + 150 * row, 560, 100), (0, steps), (0, 1.5), colours)
        plot.axes({step: str(step) for step in range(0, steps + 1, 2)}, {0: "0", threshold: "threshold"})
        potential, path, spikes = 0.0, [(0.0, 0.0)], 0
        for step in range(1, steps + 1):
            path.append((step, potential + current))
            potential += current
            if potential >= threshold:
                plot.dot(step, 1.4, colours.hues[1])
                potential, spikes = (potential - threshold if is_soft else 0.0), spikes + 1
                path.append((step, potential))
        plot.line(path, colours.hues[0])
        plot.line([(0, threshold), (steps, threshold)], colours.hues[1], width=1, dashes="7 4")
        rate = f"{spikes} spikes in {steps} steps x threshold = {spikes / steps:.2f}, for an input of {current:.2f}"
        plot.text(0, 1.5, f"{name}: {rate}", dy=-8)
        elements += plot.elements
    return svg(660, 316, "Membrane potential of one neuron with soft and with hard reset", elements)


def staircase_picture(*, dark: bool) -> str:
    """Return firing rate x threshold against the activation, for T = 4 and T = 16: clipped, and in T + 1 levels."""
    colours = theme(dark)
    plot = Canvas((80, 30, 400, 250), (0, 1.4), (0, 1.4), colours)
    plot.axes({0: "0", 0.5: "0.5", 1: "threshold"}, {0: "0", 0.5: "0.5", 1: "threshold"})
    plot.line([(0, 0), (1.4, 1.4)], colours.ink, width=1, dashes="7 4")
    plot.text(1.16, 1.3, "ReLU", anchor="end")
    for colour, steps in zip(colours.hues, (4, 16), strict=False):
        path: list[Point] = []
        for index in range(281):
            activation = index / 200
            # Soft reset from half the threshold gives round(T x activation) spikes, at most one per step.
            level = min(steps, math.floor(steps * activation + 0.5)) / steps
            if path and level != path[-1][1]:
                path.append((activation, path[-1][1]))
            path.append((activation, level))
        plot.line(path, colour, width=1.8)
        plot.text(1.42, 1, f"T = {steps}", colour, dy=-4 if steps == 4 else 14)
    plot.text(0, 1.4, "firing rate x threshold", dy=-10)
    plot.text(0.7, 0, "activation in the CNN", anchor="middle", dy=40)
    return svg(
        560, 332, "A spiking neuron clips its activation at the threshold and rounds it to T + 1 levels", plot.elements
    )
