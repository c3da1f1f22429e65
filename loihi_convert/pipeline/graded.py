"""model.pt -> a netx file of graded spikes; such a file and images -> messages, evaluation, and a run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loihi_convert import netx
from loihi_convert.backends import Backend
from loihi_convert.backends.reference import run_graded
from loihi_convert.backends.result import as_reference, first_difference
from loihi_convert.conversion.agreement import MOST, Agreement, count_notes, require_calibration
from loihi_convert.conversion.graded import GradedLayerReport, require_relu, to_graded
from loihi_convert.conversion.scales import HEADROOM
from loihi_convert.data import Dataset, DataSplits
from loihi_convert.errors import InputError, UnsupportedModelError, VerificationError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.files import require_output
from loihi_convert.ground.progress import ProgressFactory, no_progress_bar
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.network import require_images
from loihi_convert.metrics.evaluation import evaluate_images
from loihi_convert.pipeline.exporting import NOT_THE_SAME, VERIFIED_IMAGES
from loihi_convert.pipeline.origin import notes_on, notes_on_images, require_layers_of, source_of
from loihi_convert.pipeline.run_results import FileRun, RunFolder, written
from loihi_convert.pipeline.same_outputs import COMPARED, require_same_outputs
from loihi_convert.reading.source import Source
from loihi_convert.runs import run_folder
from loihi_convert.simulation.relu import cnn_scores


@dataclass(frozen=True, eq=False)
class GradedExport:
    """One written file.

    Parameters
    ----------
    path, network
        The file, and the network in it.
    layers
        The integers of each layer.
    agreement
        Agreement of ``network`` with the CNN, on calibration images.
    notes
        Notes for the user, one sentence each: what was dropped from the CNN, and whether much is lost.
    verified_images
        Number of images on which the file was compared with the network in memory.
    """

    path: Path
    network: GradedNetwork
    layers: tuple[GradedLayerReport, ...]
    agreement: Agreement
    notes: tuple[str, ...]
    verified_images: int


def export_graded(
    source: Source,
    output: str | Path,
    calibration: Array,
    *,
    overwrite: bool = False,
    verify: bool = True,
    bars: ProgressFactory = no_progress_bar,
) -> GradedExport:
    """Write a netx file of graded spikes for the CNN ``source``.

    Parameters
    ----------
    source
        The CNN.
    output
        The ``.net`` file.
    calibration
        Training images, uint8 ``(N, C, H, W)``; the first `MOST` are used.
    overwrite
        Replace an existing file.
    verify
        Read the file back and compare it, bit for bit, with the network in memory.

    Raises
    ------
    InputError
        If the calibration images do not fit the CNN, or the file exists or cannot be written.
    UsageError
        If the file is the checkpoint.
    UnsupportedModelError
        If a part of the CNN has no equivalent in graded spikes.
    RangeError
        If a number does not fit Loihi at any scale.
    VerificationError
        If the written file does not compute the same as the network in memory.
    """
    output = Path(output)
    require_output(output, overwrite, source.path)
    if source.neurons is not None:
        raise UnsupportedModelError(
            "a spiking network", where=output.name, expected="must be a CNN: graded spikes carry its activations"
        )
    source = source.with_skip_copies(1)
    require_relu(source.network)
    calibration = np.asarray(calibration[:MOST])
    require_calibration(source.network, calibration)
    require_same_outputs(source, calibration[:COMPARED])
    with bars(f"{output.name}: rounding") as progress:
        made = to_graded(source.network, calibration, progress=progress)
    record = {"headroom": HEADROOM, "calibration_images": len(calibration)}
    provenance = made.network.provenance.with_parts(model=dict(source.provenance), graded=record)
    network = replace(made.network, provenance=provenance)
    netx.write_graded(network, output, overwrite=overwrite)
    verified = _verify(output, network, calibration[:VERIFIED_IMAGES]) if verify else 0
    notes = (*source.notes, *count_notes(calibration), *made.notes)
    return GradedExport(output, network, made.layers, made.agreement, notes, verified)


def _verify(path: Path, network: GradedNetwork, images: Array) -> int:
    """Compare the file with the network in memory: messages and activations of every layer; return the image count."""
    written = read_graded(path)
    for image in range(len(images)):
        found, meant = (run_graded(one, images[image : image + 1], trace=True) for one in (written, network))
        difference = first_difference(found, meant, first_image=image)
        if difference is not None:
            path.unlink()
            raise VerificationError(f"{NOT_THE_SAME}: {difference}", where=path)
    return len(images)


def read_graded(path: str | Path) -> GradedNetwork:
    """Return the network in the netx file at ``path``, which `export_graded` wrote.

    Raises
    ------
    InputError
        If it holds another network, or as in `netx.read_stored`.
    """
    network = netx.read_stored(path).network
    if not isinstance(network, GradedNetwork):
        raise InputError("does not hold graded spikes that `export` wrote", where=path)
    return network


def run_graded_into_folder(
    output: str | Path | None,
    path: Path,
    network: GradedNetwork,
    sha256: str,
    splits: DataSplits,
    images: Dataset,
    backend: Backend,
    *,
    is_stream: bool = False,
    model: Path | None = None,
    arch: str | None = None,
    command_line: Sequence[str] = (),
    unwritten: Callable[[RunFolder[GradedNetwork]], None] | None = None,
    bars: ProgressFactory = no_progress_bar,
) -> RunFolder[GradedNetwork]:
    """Run the netx file ``path``, which `export_graded` wrote, on ``images``, and write a run folder.

    Parameters
    ----------
    output, command_line, unwritten
        As in `running.run_into_folder`.
    splits, images
        The data set, and those of its images to run.
    path, network, sha256
        The file, and its network and SHA-256 from `external.read_any`.
    backend
        From `backends.open_backend`, started and stopped here: `ref` or `sim`. What `sim` gives is compared with `ref`,
        every message and activation of every layer.
    is_stream
        Whether the images are the frames of one sequence, see `run_graded`.
    model, arch
        The CNN, as in `origin.open_file`.

    Raises
    ------
    InputError
        If the CNN cannot be used or has other layers, the images do not fit, or ``output`` is not empty or cannot be
        written.
    UsageError
        If the backend does not run graded spikes.
    VerificationError
        If the backend's integers differ from those of `ref`.
    """
    images.require_fit(network.task, network.shapes[-1][0], "data")
    require_images(network.input_shape, images.images)
    run_folder.require_class_names(path.stem, network, splits.classes or None)
    source = source_of(path, network, model, arch)
    if source is not None:
        require_layers_of(network, source.network)
    with run_folder.run_folder(output, f"{path.stem}-{backend.name}") as folder:
        pixels = np.asarray(images.images)
        is_compared = backend.name != "ref"
        with backend, bars(f"{path.name}: running on {backend.name}") as progress:
            result = backend.run_graded(network, pixels, is_stream=is_stream, trace=is_compared, progress=progress)
            versions = backend.versions
        if is_compared:
            with bars(f"{path.name}: comparing with ref") as progress:
                reference = run_graded(network, pixels, is_stream=is_stream, trace=True, progress=progress)
            result = as_reference(result, reference, backend.name, path)
        cnn = None if source is None else source.compared
        scores = None if cnn is None else cnn_scores(cnn, pixels).reshape(len(pixels), -1)
        evaluation = evaluate_images(result, network, images, cnn=cnn, cnn_outputs=scores)
        of_cnn = () if source is None else notes_on(path, network, source)
        notes = (*notes_on_images(network, splits.test.fingerprint), *of_cnn, *evaluation.notes)
        evaluation = evaluation.model_copy(update={"notes": notes})
        ran = FileRun(path, network, result, evaluation, len(pixels) if is_compared else 0, versions)
        return written(
            RunFolder(folder, (), (ran,)),
            [sha256],
            splits,
            images,
            backend=backend.name,
            command_line=command_line,
            unwritten=unwritten,
            more={
                "spikes": "graded",
                "stream": is_stream,
                "provenance": {path.stem: dict(network.provenance)},
            },
        )
