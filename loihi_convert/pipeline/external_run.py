"""An external netx file and images -> results of `ref`, their evaluation, and a run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from loihi_convert.data import Dataset, DataSplits
from loihi_convert.errors import UsageError
from loihi_convert.external.cuba import CubaNetwork
from loihi_convert.external.run import DEFAULT_NORMALIZATION, run_cuba, run_sdnn
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ground.progress import ProgressFactory, no_progress_bar
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.synapse import PixelBias
from loihi_convert.metrics.evaluation import evaluate
from loihi_convert.pipeline.run_results import FileRun, RunFolder, written
from loihi_convert.runs import run_folder

ExternalNetwork = CubaNetwork | GradedNetwork


def used_normalization(network: ExternalNetwork, given: Normalization | None) -> Normalization | None:
    """Return the normalization that a run uses: the given one, or `pixels.DEFAULT_NORMALIZATION`.

    A network without input neurons takes none: its pixels enter as they are.
    """
    if isinstance(network.layers[0].synapse, PixelBias):
        return given or DEFAULT_NORMALIZATION
    return given


def run_external_into_folder(
    output: str | Path | None,
    path: Path,
    network: ExternalNetwork,
    sha256: str,
    splits: DataSplits,
    images: Dataset,
    *,
    timesteps: Sequence[int] = (),
    is_stream: bool = False,
    normalization: Normalization | None = None,
    command_line: Sequence[str] = (),
    unwritten: Callable[[RunFolder[ExternalNetwork]], None] | None = None,
    bars: ProgressFactory = no_progress_bar,
) -> RunFolder[ExternalNetwork]:
    """Run the netx file ``path`` on ``images``, some of ``splits``, and write the results into a run folder.

    Parameters
    ----------
    output, command_line, unwritten
        As in `running.run_into_folder`.
    splits, images
        The data set, and those of its images to run.
    path, network, sha256
        The file, and its network and SHA-256 from `external.read_any`.
    timesteps
        The T to report; the run ends at the largest. Empty: the time steps per sample in the file.
    is_stream
        For graded spikes: whether the images are frames of one sequence, see `backends.reference.run_graded`.
    normalization
        That of the training; by default that of `used_normalization`.

    Raises
    ------
    InputError
        If the file cannot be run, the images do not fit it, or ``output`` is not empty or cannot be written.
    UsageError
        If neither the file nor ``timesteps`` gives T, it is not 1 for graded spikes, or ``normalization`` is
        invalid.
    """
    steps = max(timesteps, default=network.timesteps)
    if steps is None:
        raise UsageError(
            "the file does not record the number of time steps per sample", where=path, hint="Pass `timesteps`."
        )
    if isinstance(network, GradedNetwork) and steps != 1:
        expected = "must be 1: graded spikes take one step of each layer for an image"
        raise UsageError(f"found {steps}", where="timesteps", expected=expected)
    used = used_normalization(network, normalization)
    images.require_fit(network.task, network.shapes[-1][0], "data")
    run_folder.require_class_names(path.stem, network, splits.classes or None)
    with run_folder.run_folder(output, f"{path.stem}-ref") as folder:
        with bars(f"{path.name}: running on ref") as progress:
            if isinstance(network, GradedNetwork):
                result = run_sdnn(network, images.images, is_stream=is_stream, normalization=used, progress=progress)
            else:
                result = run_cuba(network, images.images, steps, normalization=used, progress=progress)
        evaluation = evaluate(result, network, labels=images.labels, timesteps=timesteps)
        mean, std = used or (None, None)
        stream = {"stream": is_stream} if isinstance(network, GradedNetwork) else {}
        return written(
            RunFolder(folder, (), (FileRun(path, network, result, evaluation, 0),)),
            [sha256],
            splits,
            images,
            backend="ref",
            command_line=command_line,
            unwritten=unwritten,
            more={"mean": mean, "std": std, **stream},
        )
