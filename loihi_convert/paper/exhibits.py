"""The paper's tables and figures: what each shows. A new one is an entry here and a name in `choices`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from loihi_convert.report import paper

# Figure 11; the paper does not print its values.
_CIFAR10_TIMESTEPS: Final = (512, 256, 128, 64, 32, 16, 8, 4)
# The methods that tables 2 and 3 compare, and their neurons there.
_COMPARED: Final = (("spike-norm", "hard"), ("rmp", "soft"), ("act-norm-channelwise", "hard"), ("ngu-lee", "soft"))


@dataclass(frozen=True)
class Exhibit:
    """A table or figure of the paper.

    Parameters
    ----------
    kind, name
        Its name in the paper, as in ``table 2``; the names are those of `choices.PaperTable` and `choices.PaperFigure`.
    title
        Short title.
    cells
        Returns its cells; where the paper prints no value, the accuracy is None.
    shows
        Accuracies, or the firing rate or threshold of each channel.
    has_best
        Whether it also shows the best of our methods.
    curve
        What each curve stands for in a figure of accuracies.
    is_exported
        Whether the accuracies are those of exported files.
    default_timesteps
        The T that are shown unless others are requested; None for those of all cells.
    """

    kind: Literal["table", "figure"]
    name: str
    title: str
    cells: Callable[[], tuple[paper.Cell, ...]]
    shows: Literal["accuracies", "rates", "thresholds"] = "accuracies"
    has_best: bool = False
    curve: Literal["method", "method and reset", "alpha"] = "method"
    is_exported: bool = False
    default_timesteps: tuple[int, ...] | None = None

    def __str__(self) -> str:
        """The name used in messages: ``table 2``."""
        return f"{self.kind} {self.name}"

    @property
    def stem(self) -> str:
        """The name of its files, without suffix."""
        return f"{self.kind}-{self.name}"

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants in which its cells are measured unless others are requested."""
        return ("literal", "spikes", "compensated") if self.kind == "table" else ("literal",)


def _rows(*tables: str) -> Callable[[], tuple[paper.Cell, ...]]:
    return lambda: tuple(cell for table in tables for cell in paper.table(table))


def _own_rows(*tables: str) -> Callable[[], tuple[paper.Cell, ...]]:
    return lambda: tuple(cell for cell in _rows(*tables)() if cell.method == "ngu-lee")


def _cifar10() -> tuple[paper.Cell, ...]:
    printed = {(one.method, one.timesteps): one.accuracy for one in paper.table("headline") if one.data == "cifar10"}
    return tuple(
        paper.Cell("11", "cifar10", method, reset, 1.0, timesteps, printed.get((method, timesteps)))
        for timesteps in _CIFAR10_TIMESTEPS
        for method, reset in _COMPARED
    )


EXHIBITS: Final = {
    (one.kind, one.name): one
    for one in (
        Exhibit("table", "2", "Table 2: methods on MNIST", _rows("2"), has_best=True),
        Exhibit("table", "3", "Table 3: methods on Fashion-MNIST", _rows("3"), has_best=True),
        Exhibit("table", "A2", "Table A2: factors alpha on MNIST", _rows("A2")),
        Exhibit("table", "A3", "Table A3: factors alpha on Fashion-MNIST", _rows("A3")),
        Exhibit("table", "A4", "Table A4: neurons and methods on MNIST", _rows("A4")),
        Exhibit("table", "headline", "The numbers of the abstract", _rows("headline"), is_exported=True),
        Exhibit("figure", "6", "Figure 6: accuracy against latency, MNIST", _rows("2"), has_best=True),
        Exhibit(
            *("figure", "7", "Figure 7: average firing rate of every channel, MNIST", _rows("2"), "rates"),
            default_timesteps=(64,),
        ),
        Exhibit("figure", "8", "Figure 8: accuracy against latency, Fashion-MNIST", _rows("3"), has_best=True),
        Exhibit("figure", "9", "Figure 9: factors alpha", _own_rows("2", "3", "A2", "A3"), curve="alpha"),
        Exhibit("figure", "11", "Figure 11: accuracy against latency, CIFAR-10", _cifar10, has_best=True),
        Exhibit("figure", "12", "Figure 12: neurons and methods, MNIST", _rows("A4"), curve="method and reset"),
        Exhibit("figure", "A4", "Figure A4: thresholds of every channel, MNIST", _own_rows("2"), "thresholds"),
        Exhibit("figure", "A5", "Figure A5: thresholds of every channel, Fashion-MNIST", _own_rows("3"), "thresholds"),
    )
}
"""Every table and figure, by kind and name, in the order in which `reproduce all` writes them."""
