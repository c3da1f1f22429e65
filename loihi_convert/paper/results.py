"""The results of a plan: of its cells, our accuracies with the paper's, and values of channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loihi_convert.batch.computation import Computation, Outcome, Store
from loihi_convert.paper.measurements import Accuracy, Choosing, CnnAccuracy
from loihi_convert.paper.panels import MeasuredChannels
from loihi_convert.paper.plan import CellPlan, PlannedExhibit
from loihi_convert.paper.stored import BalancedRow, Best, Rates
from loihi_convert.paper.tables import BestEntry, Measured, PaperEntry
from loihi_convert.paper.variants import PaperSetting, Variant
from loihi_convert.report import paper


@dataclass(frozen=True)
class Results:
    """The results of a plan."""

    plan: CellPlan
    store: Store
    failed: Mapping[str, Outcome]

    def of(self, cell: Computation[Any]) -> Outcome | None:
        """Return the outcome of a cell; None if it is not computed."""
        return self.store.get(cell) or self.failed.get(cell.name)

    def cnn(self, data: str, timesteps: int | None) -> Measured:
        """Return the accuracy of the CNN on the test images for this T."""
        cell = self.plan.networks[data].cnn(timesteps)
        return _measured(cell, self.of(cell) or Outcome(), 0)

    def entries(self, part: PlannedExhibit) -> tuple[PaperEntry, ...]:
        """Return every cell of a table or figure in every variant."""
        return tuple(self._entry(cell, variant, one) for (cell, variant), one in part.settings.items())

    def _entry(self, cell: paper.Cell, variant: Variant, one: PaperSetting | None) -> PaperEntry:
        cnn, network, ours = self.cnn(cell.data, cell.timesteps), self.plan.networks[cell.data], None
        if cell.method == paper.CNN:
            ours = cnn
        elif one is not None:
            measuring = self.plan.accuracy(cell.data, one)
            if outcome := self.of(measuring):
                ours = _measured(measuring, outcome, measuring.conversion.balancing.calibration.count)
        return PaperEntry(cell, ours, cnn, network.name, variant, one, int(network.source.provenance["seed"]))

    def channels(self, part: PlannedExhibit) -> Iterator[MeasuredChannels]:
        """Yield the values of each cell of a figure of channels, by variant and T."""
        made = [(variant, cell, one) for (cell, variant), one in part.settings.items() if one is not None]
        made.sort(key=lambda each: (part.variants.index(each[0]), each[1].timesteps or 0))
        for variant, cell, one in made:
            outcome = self.of(self.plan.channels(part.exhibit, cell.data, one))
            values = {} if outcome is None or outcome.result is None else self._values(cell.data, one, outcome.result)
            yield MeasuredChannels(cell, variant, values)

    def _values(self, data: str, one: PaperSetting, result: Rates | BalancedRow) -> Mapping[str, Sequence[float]]:
        if isinstance(result, Rates):
            return result.rates
        names = [layer.name for layer in self.plan.networks[data].source.network.layers]
        layers = zip(names, result.network(one).layers, strict=True)
        return {name: neurons.neuron.threshold.tolist() for name, neurons in layers if neurons is not None}

    def bests(self, part: PlannedExhibit) -> tuple[BestEntry, ...]:
        """Return the best of our methods for each data set and T that has been measured."""
        cells, found = part.exhibit.cells(), []
        for data, t in part.best_steps:
            choosing = self.plan.bests.get((data, t))
            outcome = choosing and self.of(choosing)
            if choosing and outcome:
                ours = _measured(choosing, outcome, choosing.candidates[0].calibration.count)
                best = outcome.result or Best(network="", method="", correct=0)
                compared = [cell for cell in cells if (cell.data, cell.timesteps) == (data, t)]
                theirs = max(compared, key=lambda cell: cell.accuracy or 0.0)
                found.append(BestEntry(theirs, ours, self.cnn(data, t), best.network, best.method))
        return tuple(found)


def _measured(cell: Accuracy | CnnAccuracy | Choosing, outcome: Outcome, calibration_images: int) -> Measured:
    correct = None if outcome.result is None else outcome.result.correct
    return Measured(correct, cell.test.count, calibration_images, outcome.error)
