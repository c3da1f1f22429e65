"""Pictures for README.md and docs/ as SVG, light and dark; `tools/pages.py` writes them."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from netx_cards import CONVERTED, KINDS, accuracies

_HUES: Final = {False: ("#0072b2", "#c04f00", "#00795a"), True: ("#6cb8f0", "#f0a050", "#4fd0a5")}
"""Blue, orange and green that differ for colour-blind readers too (after Okabe and Ito)."""


def _style(dark: bool) -> Any:
    ink, faint = ("#e6e6e6", "#5a5a5a") if dark else ("#1a1a1a", "#c8c8c8")
    return {
        # Text stays text, and the same figures give the same bytes.
        "svg.fonttype": "none",
        "svg.hashsalt": "loihi-convert",
        "font.family": "sans-serif",
        "font.size": 10,
        **dict.fromkeys(("text.color", "axes.edgecolor", "xtick.color", "ytick.color", "axes.labelcolor"), ink),
        "axes.prop_cycle": cycler(color=_HUES[dark]),
        "grid.color": faint,
        "grid.linewidth": 0.6,
        **{f"axes.spines.{side}": False for side in ("left", "right", "top")},
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "ytick.major.size": 0,
        "lines.markersize": 5,
        "savefig.transparent": True,
    }


def picture(dark: bool, draw: Callable[..., None], *given: Any) -> str:
    """Return what ``draw(figure, *given)`` draws, as SVG for a light or a dark page."""
    with mpl.rc_context(_style(dark)):
        figure, stream = Figure(layout="constrained"), io.StringIO()
        draw(figure, *given)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def draw_accuracy(figure: Figure, cards: Mapping[str, dict[str, Any]], names: Mapping[str, str]) -> None:
    """Accuracy against T, converted and fine-tuned: a colour per data set; its CNN dashed, the paper dotted."""
    figure.set_size_inches(7.6, 4.1)
    axes = figure.subplots()
    for index, (data, card) in enumerate(cards.items()):
        colour = f"C{index}"
        steps = sorted({network["timesteps"] for network in card["networks"]})
        for kind, width in zip(KINDS, (2.2, 1.0), strict=True):
            curve = {count: statistics.mean(found) for count in steps if (found := accuracies(card, kind, count))}
            fill = colour if kind == CONVERTED else "none"
            axes.plot(list(curve), list(curve.values()), "o-", color=colour, linewidth=width, markerfacecolor=fill)
            if kind == CONVERTED:
                last, accuracy = list(curve.items())[-1]
                # The curves of CIFAR-10 and Fashion-MNIST end only half a point apart.
                place = last * 1.12, accuracy + {"fashion-mnist": 0.5, "cifar10": -0.6}.get(data, 0)
                axes.annotate(
                    f"{names[data]}, {accuracy:.2f} %", place, color=colour, va="center", annotation_clip=False
                )
        papers = {each["timesteps"]: each["paper"]["accuracy"] for each in card["networks"] if "paper" in each}
        axes.plot(list(papers), list(papers.values()), "o:", color=colour, linewidth=1.3, markerfacecolor="none")
        axes.axhline(statistics.mean(accuracies(card, CONVERTED, None)), color=colour, linewidth=0.9, linestyle="--")
    ticks = [2**exponent for exponent in range(7)]
    axes.set_xscale("log", base=2)
    axes.set(xticks=ticks, xticklabels=map(str, ticks), xlim=(0.93, 64), ylim=(75, 100.5), xlabel="time steps T")
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_title("test accuracy of the integers")
    axes.text(
        *(0, -0.2),
        "thick line: converted; thin line: fine-tuned; dashed: the CNN; dotted: Ngu & Lee 2022\n"
        "10,000 test images; MNIST: mean of training seeds 0, 1, 2; else seed 0",
        transform=axes.transAxes,
        va="top",
    )


def draw_graded(figure: Figure, rows: Sequence[Mapping[str, str]], names: Mapping[str, str]) -> None:
    """Points lost against synaptic operations: binary spikes as a line through their T, graded ones as a ring.

    ``rows`` are those of docs/results/graded.csv; ``names`` are titles of its networks, one plot each, two in a row.
    """
    height = math.ceil(len(names) / 2)
    figure.set_size_inches(7.5, 2.3 * height + 0.3)
    for axes, (network, name) in zip(figure.subplots(height, 2).flat, names.items(), strict=True):
        own = [row for row in rows if row["network"] == network]
        for kind, form in (("spikes", "C0o-"), ("graded", "C1o")):
            of_kind = [row for row in own if row["neurons"] == kind]
            works = [float(row["synaptic_operations"]) / 1e6 for row in of_kind]
            losses = [float(row["cnn_accuracy"]) - float(row["accuracy"]) for row in of_kind]
            axes.plot(works, losses, form, markerfacecolor=None if kind == "spikes" else "none")
            for row, *place in zip(of_kind, works, losses, strict=True):
                words, shift = (row["timesteps"], -13) if kind == "spikes" else ("graded", 7)
                axes.annotate(words, place, (0, shift), textcoords="offset points", ha="center", color=form[:2])
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:g} M")
        axes.xaxis.set_minor_formatter("")
        axes.margins(0.12, 0.25)
        axes.invert_yaxis()
        axes.set_title(f"{name}, CNN {own[0]['cnn_accuracy']} %")
    figure.supxlabel(
        "across: synaptic operations per image; down: points below the CNN; numbers: T of binary spikes", fontsize=10
    )


def draw_peers(figure: Figure, rows: Sequence[Mapping[str, str]]) -> None:
    """The speed of `ref` relative to other simulators as bars, one plot for each network, two in a row.

    ``rows`` are those of docs/results/peers.csv. lava-dl is left out: its bar would be hundreds of times as long.
    """
    shown = [row for row in rows if row["measure"] == "speed_of_ref" and row["median"] and "lava" not in row["peer"]]
    networks = list(dict.fromkeys((row["network"], row["timesteps"]) for row in shown))
    height = math.ceil(len(networks) / 2)
    figure.set_size_inches(7.5, 1.7 * height + 0.3)
    plots = figure.subplots(height, 2, sharex=True, squeeze=False)
    for unused in plots.flat[len(networks) :]:
        unused.set_axis_off()
    for axes, (network, steps) in zip(plots.flat, networks, strict=False):
        own = [row for row in shown if (row["network"], row["timesteps"]) == (network, steps)]
        median, least, most = ([float(row[name]) for row in own] for name in ("median", "minimum", "maximum"))
        spread = [
            [m - low for m, low in zip(median, least, strict=True)],
            [h - m for m, h in zip(median, most, strict=True)],
        ]
        bars = axes.barh(
            [row["peer"] for row in own], median, 0.6, color="C0", xerr=spread, ecolor=mpl.rcParams["text.color"]
        )
        axes.bar_label(bars, [row["median"] for row in own], padding=4)
        axes.axvline(1, color="C1", linewidth=0.9, linestyle="--")
        axes.grid(visible=False)
        axes.spines.bottom.set_visible(False)
        axes.tick_params("x", bottom=False, labelbottom=False)
        axes.margins(x=0.2)
        axes.invert_yaxis()
        axes.set_title(f"{network}, T = {steps}")
    figure.supxlabel("times as fast as each simulator: median, minimum to maximum; dashed: equal speed", fontsize=10)
