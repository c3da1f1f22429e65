"""One entry of the page per file of a run: its name there, its colour, and its results."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

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
        Its name on the page; no other file of its data set has it.
    style
        Colour and shape of its marks, the same in every chart of the page.
    is_alone
        Whether the page is about one data set.
    file
        Its stem.
    neuron
        Its neurons, a key of `NEURONS`; ``None`` if the run does not say.
    has_other_neurons
        Whether files of the same data set have other neurons.
    run, evaluation
        Where it comes from, and its results.
    """

    label: str
    style: int
    is_alone: bool
    file: str
    neuron: str | None
    has_other_neurons: bool
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
    def context(self) -> str:
        """Data, images and, where files differ in it, neurons."""
        neuron = f", {self.neuron or 'unknown'} neurons" if self.has_other_neurons else ""
        return f"{self.data}, {self.evaluation.image_count:,} images{neuron}"

    @property
    def point(self) -> Point:
        """The results at its own T."""
        return self.evaluation.nominal_point

    @property
    def is_per_t(self) -> bool:
        """Whether the run went on to the T that the thresholds are balanced for, and there are labels."""
        return self.point.timesteps == self.evaluation.timesteps and self.point.accuracy is not None


class LeftOut(NamedTuple):
    """A file that a later run has run again: its stem, the folder of the earlier run, and that of the later one."""

    file: str
    run: StoredRun
    newest: StoredRun


def newest_of(runs: Sequence[StoredRun]) -> tuple[list[StoredRun], list[LeftOut]]:
    """Return ``runs`` with the newest run alone of each file, and what that leaves out.

    Files are the same if their SHA-256 is, and they ran on the same data and backend. A run of which no file is left
    is left out altogether.
    """
    newest: dict[tuple[str, ...], StoredRun] = {}
    for run in runs:
        for file in run.evaluations:
            key = _identity(run, file)
            if key is not None and (key not in newest or run.manifest.utc_time > newest[key].manifest.utc_time):
                newest[key] = run
    kept, left_out = [], []
    for run in runs:
        repeated = {
            file: newest[key]
            for file in run.evaluations
            if (key := _identity(run, file)) is not None and newest[key] is not run
        }
        left_out += [LeftOut(file, run, later) for file, later in repeated.items()]
        others = {file: found for file, found in run.evaluations.items() if file not in repeated}
        if others:
            kept.append(replace(run, evaluations=others))
    return kept, left_out


def _identity(run: StoredRun, file: str) -> tuple[str, ...] | None:
    """What makes two runs of a file the same experiment; None where the file's SHA-256 was not recorded."""
    sha256 = next((read.sha256 for read in run.manifest.files if Path(read.name).stem == file), None)
    return None if sha256 is None else (run.manifest.data, run.manifest.backend, file, sha256)


def entries_of(runs: Sequence[StoredRun]) -> list[Entry]:
    """Return every file of ``runs``, by data set in the order of the runs, then by T."""
    sets = list(dict.fromkeys(run.manifest.data for run in runs))
    found = [(run.manifest.data, file, run) for run in runs for file in run.evaluations]
    found.sort(key=lambda one: (sets.index(one[0]), one[2].evaluations[one[1]].timesteps))
    neurons = {data: {_neuron_of(run, file) for other, file, run in found if other == data} for data in sets}
    entries: list[Entry] = []
    for data, file, run in found:
        namesakes = [(one, other) for known, one, other in found if (known, one) == (data, file)]
        # Folders of one name may lie in different places.
        label = _not_among({entry.label for entry in entries if entry.data == data}, _label(file, run, namesakes))
        entries.append(
            Entry(
                label=label,
                style=len(entries) % STYLES,
                is_alone=len(sets) == 1,
                file=file,
                neuron=_neuron_of(run, file),
                has_other_neurons=len(neurons[data]) > 1,
                run=run,
                evaluation=run.evaluations[file],
            )
        )
    return entries


def _label(file: str, run: StoredRun, namesakes: Sequence[tuple[str, StoredRun]]) -> str:
    """The file's stem and, where others are called alike, what tells them apart: neurons, or else the run folder."""
    if len(namesakes) == 1:
        return file
    if len({_neuron_of(other, one) for one, other in namesakes}) == len(namesakes):
        return f"{file} ({_neuron_of(run, file) or 'unknown neurons'})"
    # Run folders are called after their first file and the backend.
    return run.name if run.name.startswith(f"{file}-{run.manifest.backend}-") else f"{file}, {run.name}"


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
