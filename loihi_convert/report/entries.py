"""One entry of the page per file of a run: its name there, its colour, and its figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from loihi_convert.report.stored_run import StoredRun
from loihi_convert.report.svg import STYLES
from loihi_convert.results.evaluate import Evaluation, Point


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
    run, evaluation
        Where it comes from, and its figures.
    """

    label: str
    style: int
    is_alone: bool
    file: str
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
        return self.evaluation.own_point

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
    entries: list[Entry] = []
    for data, file, run in found:
        # Run folders are called after their first file.
        longer = run.name if run.name.startswith(file) else f"{file}, {run.name}"
        label = file if names.count((data, file)) == 1 else longer
        style = sum(entry.data == data for entry in entries) % STYLES
        entries.append(Entry(label, style, len(sets) == 1, file, run, run.evaluations[file]))
    return entries


def family_of(file: str) -> str:
    """Return ``model`` of ``model-T4``: what `export` calls the files of one network for several T."""
    return re.sub(r"-T\d+$", "", file)
