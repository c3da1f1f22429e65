"""One entry of the page per file of a run: its name there, its colour, and its figures."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final

from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.report.svg import STYLES
from loihi_convert.runs.stored_run import StoredRun

NEURONS: Final = {
    NeuronModel.SOFT.label: "subtracts the threshold, one per channel (the custom Process SoftResetIF)",
    f"{NeuronModel.SOFT.label} scalar": "the same with one threshold per layer; the differences between channels are "
    "folded into the weights",
    NeuronModel.CIRCUIT.label: "the same as soft, built of Lava's stock processes only",
    f"{NeuronModel.HARD.label} array": "Lava's own LIF, which returns to 0, with one threshold per channel; only the "
    "CPU models take them",
    f"{NeuronModel.HARD.label} scalar": "Lava's own LIF with one threshold per layer, as stock netx has it on hardware",
}
"""The neurons of exported files: what a spike does to their potential, and what shares a threshold."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One file of one run.

    Parameters
    ----------
    label
        Its name on the page, of which there is one in each data set.
    style
        Colour and shape of its marks.
    is_alone
        Whether the page is about one data set.
    file
        Its stem.
    neuron
        Its neurons, a key of `NEURONS`; ``None`` if the run does not say.
    run, evaluation
        Where it comes from, and its figures.
    """

    label: str
    style: int
    is_alone: bool
    file: str
    neuron: str | None
    run: StoredRun
    evaluation: Evaluation

    @property
    def data(self) -> str:
        """Name of the data set."""
        return self.run.manifest.data

    @property
    def line(self) -> str:
        """How its marks are joined, see `charts.Series`."""
        return "solid" if self.style < 4 else "dashed"

    @property
    def full_label(self) -> str:
        """The label where data sets stand together."""
        return self.label if self.is_alone else f"{self.label} on {self.data}"

    @property
    def point(self) -> Point:
        """The figures at its own T."""
        return self.evaluation.nominal_point

    @property
    def is_per_t(self) -> bool:
        """Whether the run went on to the T that the thresholds are balanced for, and there are labels."""
        return self.point.timesteps == self.evaluation.timesteps and self.point.accuracy is not None


def entries_of(runs: Sequence[StoredRun]) -> list[Entry]:
    """Return every file of ``runs``, by data set in the order of the runs, then by T."""
    sets = list(dict.fromkeys(run.manifest.data for run in runs))
    found = [(run.manifest.data, file, run) for run in runs for file in run.evaluations]
    found.sort(key=lambda one: (sets.index(one[0]), one[2].evaluations[one[1]].timesteps))
    names = [(data, file) for data, file, _ in found]
    neurons = {data: {_neuron_of(run, file) for other, file, run in found if other == data} for data in sets}
    entries: list[Entry] = []
    for data, file, run in found:
        # Run folders are called after their first file and the backend.
        longer = run.name if run.name.startswith(f"{file}-{run.manifest.backend}-") else f"{file}, {run.name}"
        label = file if names.count((data, file)) == 1 else longer
        neuron = _neuron_of(run, file)
        if len(neurons[data]) > 1:
            label = f"{label} ({neuron or 'unknown neurons'})"
        # Folders of one name may lie in different places.
        label = _not_among({entry.label for entry in entries if entry.data == data}, label)
        style = sum(entry.data == data for entry in entries) % STYLES
        entries.append(Entry(label, style, len(sets) == 1, file, neuron, run, run.evaluations[file]))
    return entries


def _not_among(taken: Set[str], label: str) -> str:
    """``label`` or, where that is taken, the first free one of ``label, 2``, ``label, 3`` and so on."""
    numbered = (f"{label}, {number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([label], numbered) if one not in taken)


def _neuron_of(run: StoredRun, file: str) -> str | None:
    """What `export` recorded of a file's neurons, as one of `NEURONS`."""
    provenance = run.manifest.provenance.get(file, {})
    balance, quantize = (provenance.get(stage) for stage in ("balance", "quantize"))
    if not isinstance(balance, dict) or not isinstance(quantize, dict) or balance.get("reset") not in ("soft", "hard"):
        return None
    if quantize.get("target") == "loihi2" and balance["reset"] == "soft":
        return NeuronModel.CIRCUIT.label
    model = NeuronModel(balance["reset"])
    # Files of earlier versions have a threshold per channel.
    if quantize.get("thresholds") == "scalar":
        return f"{model.label} scalar"
    return model.label if model is NeuronModel.SOFT else f"{model.label} array"


def family_of(file: str) -> str:
    """Return ``model`` of ``model-T4``: what `export` calls the files of one network for several T."""
    return re.sub(r"-T\d+$", "", file)
