"""Page entries, one per file of a run: its label, its colour, and its results."""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.runs.run_folder import StoredRun

_Key = TypeVar("_Key", bound=Hashable)
_File = TypeVar("_File")


class ImageSet(NamedTuple):
    """The images of a run: results on different ones are not compared."""

    data: str
    fingerprint: str
    image_count: int


@dataclass(frozen=True, eq=False)
class Entry:
    """One file of one run.

    Parameters
    ----------
    label
        Its name on the page, unique within its data set.
    style
        Colour and shape of its marks, the same in every chart of the page.
    source
        Name of its data set, with the fingerprint if entries with the same name have several.
    images_name
        `source`, with the number of images if it differs among the entries with the same source.
    is_alone
        Whether all entries are of the same images.
    file
        File name without suffix.
    neuron
        Its kind of neurons, soft, hard array, ...; ``None`` if not recorded.
    has_other_neurons
        Whether files on the same images have other neurons.
    run, evaluation
        Its run, and its results.
    """

    label: str
    style: int
    source: str
    images_name: str
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
    def images(self) -> ImageSet:
        """The images of its run."""
        return _images_of(self.run, self.file)

    @property
    def line(self) -> str:
        """The line between its marks, see `axes.Series`."""
        return "solid" if self.style < 4 else "dashed"

    @property
    def full_label(self) -> str:
        """The label for tables and charts of results on different images."""
        return self.label if self.is_alone else f"{self.label} on {self.images_name}"

    @property
    def context(self) -> str:
        """Data set, images and, if files differ in it, neurons."""
        neuron = "graded spikes" if self.evaluation.is_graded else f"{self.neuron or 'unknown'} neurons"
        known = f", {neuron}" if self.has_other_neurons else ""
        return f"{self.source}, {self.evaluation.image_count:,} images{known}"

    @property
    def point(self) -> Point:
        """The results at its nominal T."""
        return self.evaluation.nominal_point

    @property
    def sent(self) -> str:
        """What its neurons send: ``"messages"`` if spikes are graded, otherwise ``"spikes"``."""
        return "messages" if self.evaluation.is_graded else "spikes"

    @property
    def is_per_t(self) -> bool:
        """Whether the run reached the T that the thresholds are balanced for, and labels are known."""
        return self.point.timesteps == self.evaluation.timesteps and self.point.accuracy is not None


LeftOut = tuple[str, StoredRun]
"""A file of an omitted run: its stem, and the run."""


def most_complete_of(runs: Sequence[StoredRun]) -> tuple[list[StoredRun], list[LeftOut]]:
    """Return ``runs`` reduced to the most complete run of each file, the newest among equals, and the omitted files.

    A later run on fewer images, or without the CNN, does not replace an earlier one.
    Two files are the same if their SHA-256, data, backend and `Manifest.options` are equal. A run without remaining
    files is omitted.
    """
    best: dict[tuple[object, ...], StoredRun] = {}
    for run in runs:
        for file in run.evaluations:
            key = _identity(run, file)
            if key not in best or _completeness(run, file) > _completeness(best[key], file):
                best[key] = run
    kept, left_out = [], []
    for run in runs:
        shown = {file: found for file, found in run.evaluations.items() if best[_identity(run, file)] is run}
        left_out += [(file, run) for file in run.evaluations if file not in shown]
        if shown:
            kept.append(replace(run, evaluations=shown))
    return kept, left_out


def _completeness(run: StoredRun, file: str) -> tuple[Any, ...]:
    found = run.evaluations[file]
    is_whole, has_exit = found.nominal_point.timesteps == found.timesteps, found.early_exit is not None
    return found.is_judged, is_whole, found.image_count, found.is_compared_with_cnn, has_exit, run.manifest.utc_time


def _identity(run: StoredRun, file: str) -> tuple[object, ...]:
    """Return the key by which two runs of a file are the same experiment; unique if its SHA-256 was not recorded."""
    sha256 = next((read.sha256 for read in run.manifest.files if Path(read.name).stem == file), id(run))
    return run.manifest.data, run.manifest.backend, file, sha256, *run.manifest.options


def entries_of(runs: Sequence[StoredRun]) -> list[Entry]:
    """Return every file of ``runs``, by data set and images in the order of the runs, then by T."""
    found = [(_images_of(run, file), file, run) for run in runs for file in run.evaluations]
    sets = list(dict.fromkeys(images.data for images, _, _ in found))
    groups = sorted(dict.fromkeys(images for images, _, _ in found), key=lambda images: sets.index(images.data))
    found.sort(key=lambda one: (groups.index(one[0]), one[2].evaluations[one[1]].timesteps))
    neurons = {images: {_neuron_of(run, file) for other, file, run in found if other == images} for images in groups}
    entries: list[Entry] = []
    for images, file, run in found:
        namesakes = [(one, other) for known, one, other in found if (known.data, one) == (images.data, file)]
        # Folders in different places may have the same name.
        taken = {entry.label for entry in entries if entry.data == images.data}
        label = _not_among(taken, _label(file, run, namesakes))
        entries.append(
            Entry(
                label=label,
                style=len(entries),
                source=_source(images, groups),
                images_name=_images_name(images, groups),
                is_alone=len(groups) == 1,
                file=file,
                neuron=_neuron_of(run, file),
                has_other_neurons=len(neurons[images]) > 1,
                run=run,
                evaluation=run.evaluations[file],
            )
        )
    return entries


def _images_of(run: StoredRun, file: str) -> ImageSet:
    return ImageSet(run.manifest.data, run.manifest.data_fingerprint, run.evaluations[file].image_count)


def _source(images: ImageSet, groups: Sequence[ImageSet]) -> str:
    if len({other.fingerprint for other in groups if other.data == images.data}) == 1:
        return images.data
    return f"{images.data} (fingerprint {images.fingerprint[:8]})"


def _images_name(images: ImageSet, groups: Sequence[ImageSet]) -> str:
    source = _source(images, groups)
    is_unique = sum(_source(other, groups) == source for other in groups) == 1
    return source if is_unique else f"{source}, {images.image_count:,} images"


def _label(file: str, run: StoredRun, namesakes: Sequence[tuple[str, StoredRun]]) -> str:
    """Return the file's stem and, if it is not unique, its neurons or else its run folder."""
    if len(namesakes) == 1:
        return file
    if len({_neuron_of(other, one) for one, other in namesakes}) == len(namesakes):
        return f"{file} ({_neuron_of(run, file) or 'unknown neurons'})"
    # Run folders are named after their first file and the backend.
    return run.name if run.name.startswith(f"{file}-{run.manifest.backend}-") else f"{file}, {run.name}"


def _not_among(taken: Set[str], label: str) -> str:
    """Return ``label`` or, if taken, the first free of ``label, 2``, ``label, 3`` and so on."""
    numbered = (f"{label}, {number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([label], numbered) if one not in taken)


def _neuron_of(run: StoredRun, file: str) -> str | None:
    """Return the kind of neurons that `export` recorded for a file."""
    provenance = run.manifest.provenance.get(file, {})
    balance, quantize = (provenance.get(stage) for stage in ("balance", "quantize"))
    if not isinstance(balance, dict) or not isinstance(quantize, dict) or balance.get("reset") not in ("soft", "hard"):
        return None
    if quantize.get("target") == "loihi2" and balance["reset"] == "soft" and run.manifest.neuron != "own":
        return NeuronModel.CIRCUIT.label
    model = NeuronModel(balance["reset"])
    # One threshold per channel, the default, is not recorded.
    if quantize.get("thresholds") == "scalar":
        return f"{model.label} scalar"
    return model.label if model is NeuronModel.SOFT else f"{model.label} array"


def stoppable(entries: Sequence[Entry]) -> list[Entry]:
    """Return the files whose runs can end after any step; with graded spikes, an image takes one step of each layer."""
    return [entry for entry in entries if not entry.evaluation.is_graded]


def by_network(files: Iterable[tuple[_Key, Evaluation, _File]]) -> list[tuple[_Key, tuple[_File, ...]]]:
    """Return the files of each network in the order of T, of ``files`` that were run on the same images.

    They have the same key, different T, and the same accuracy of the CNN, as far as it is known.
    """
    found: list[tuple[_Key, dict[int, _File], set[float | None]]] = []
    for key, evaluation, file in files:
        steps, accuracies = evaluation.nominal_point.timesteps, {evaluation.cnn_accuracy} - {None}
        for known, members, others in found:
            if known == key and steps not in members and len(accuracies | others) < 2:
                members[steps] = file
                others |= accuracies
                break
        else:
            found.append((key, {steps: file}, accuracies))
    return [(key, tuple(file for _, file in sorted(members.items()))) for key, members, _ in found]


def family_of(file: str) -> str:
    """Return ``model`` for ``model-T4``: the common name that `export` gives the files of one network."""
    return re.sub(r"-T\d+$", "", file)
