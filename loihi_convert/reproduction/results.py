"""The results of a plan: of its cells, our accuracies with the paper's, and values of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loihi_convert.cells.cell import Cell, Outcome
from loihi_convert.cells.store import Store
from loihi_convert.report import paper
from loihi_convert.reproduction.exhibits import Exhibit
from loihi_convert.reproduction.measurements import Accuracy, Choosing, CnnAccuracy
from loihi_convert.reproduction.plan import Part, Plan
from loihi_convert.reproduction.stored import Best
from loihi_convert.reproduction.tables import BestEntry, Entry, Measured
from loihi_convert.reproduction.variants import Setting, Variant


@dataclass(frozen=True)
class Results:
    """The results of a plan."""

    plan: Plan
    store: Store
    failed: Mapping[str, Outcome]

    def of(self, cell: Cell[Any]) -> Outcome | None:
        """Return the outcome of a cell; None if it is not computed."""
        return self.store.get(cell) or self.failed.get(cell.name)

    def measured(self, cell: Accuracy | CnnAccuracy | Choosing, calibration_images: int) -> Measured | None:
        """Return an accuracy; None if it is not computed."""
        outcome = self.of(cell)
        if outcome is None:
            return None
        correct = None if outcome.result is None else outcome.result.correct
        return Measured(correct, cell.test.count, calibration_images, outcome.error)

    def cnn(self, data: str, timesteps: int | None) -> Measured:
        """Return the accuracy of the CNN on the test images for this T."""
        cell = self.plan.networks[data].cnn(timesteps)
        return self.measured(cell, 0) or Measured(None, cell.test.count, 0)

    def entry(self, cell: paper.Cell, variant: Variant, one: Setting | None) -> Entry:
        """Return a cell of the paper and how we measured it."""
        cnn, network, outcome = self.cnn(cell.data, cell.timesteps), self.plan.networks[cell.data], None
        if cell.method == paper.CNN:
            outcome = cnn
        elif one is not None:
            measuring = self.plan.accuracy(cell.data, one)
            outcome = self.measured(measuring, measuring.conversion.balancing.calibration.count)
        return Entry(cell, outcome, cnn, network.name, variant, one, int(network.source.provenance["seed"]))

    def channels(self, exhibit: Exhibit, cell: paper.Cell, one: Setting) -> Mapping[str, Sequence[float]] | None:
        """Return the values by layer name; None if they are not computed."""
        outcome = self.of(self.plan.channels(exhibit, cell.data, one))
        if outcome is None or outcome.result is None:
            return None
        if exhibit.shows == "rates":
            return dict(outcome.result.rates)
        names = [layer.name for layer in self.plan.networks[cell.data].source.network.layers]
        layers = zip(names, outcome.result.network(one).layers, strict=True)
        return {name: neurons.neuron.threshold.tolist() for name, neurons in layers if neurons is not None}

    def bests(self, part: Part) -> tuple[BestEntry, ...]:
        """Return the best of our methods for each data set and T that has been measured."""
        entries = []
        cells = part.exhibit.cells()
        for data, t in part.steps if part.exhibit.has_best else ():
            choosing = self.plan.bests.get((data, t))
            measured = choosing and self.measured(choosing, choosing.candidates[0].calibration.count)
            if choosing and measured:
                outcome = self.of(choosing)
                best = (outcome and outcome.result) or Best(network="", method="", correct=0)
                compared = [cell for cell in cells if (cell.data, cell.timesteps) == (data, t)]
                theirs = max(compared, key=lambda cell: cell.accuracy or 0.0)
                entries.append(BestEntry(theirs, measured, self.cnn(data, t), best.network, best.method))
        return tuple(entries)
