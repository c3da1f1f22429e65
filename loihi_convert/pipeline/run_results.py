"""The results of a run of one or several files, with all that is known of their origin, written into its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from loihi_convert.backends.result import RunResult
from loihi_convert.data import Dataset, DataSplits
from loihi_convert.external import AnyNetwork
from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.runs.columns import FileResults, ImageFacts
from loihi_convert.runs.run_folder import ReadFile, new_manifest, write_run

_Network_co = TypeVar("_Network_co", bound=AnyNetwork, covariant=True)


@dataclass(frozen=True, eq=False)
class FileRun(Generic[_Network_co]):
    """Run of one file: its integers and its figures.

    Parameters
    ----------
    path, network, result, evaluation
        The file, its network, the integers, and the figures computed from them.
    equal_to_reference
        Number of images compared with `ref` and found equal; 0 if `ref` itself ran.
    backend_versions
        Versions of Python, NumPy and Lava in the backend's own processes, see `Backend.versions`; empty if there are
        none.
    """

    path: Path
    network: _Network_co
    result: RunResult
    evaluation: Evaluation
    equal_to_reference: int
    backend_versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RunFolder(Generic[_Network_co]):
    """A complete run folder: its path, its files, and the runs in it."""

    folder: Path
    files: tuple[Path, ...]
    runs: tuple[FileRun[_Network_co], ...]

    @property
    def figures(self) -> list[tuple[str, Evaluation]]:
        """The name, without suffix, and the figures of each file."""
        return [(ran.path.stem, ran.evaluation) for ran in self.runs]


def written(
    done: RunFolder[_Network_co],
    digests: Sequence[str],
    splits: DataSplits,
    images: Dataset,
    *,
    backend: str,
    command_line: Sequence[str],
    unwritten: Callable[[RunFolder[_Network_co]], None] | None,
    seed: int | None = None,
    more: Mapping[str, Any],
) -> RunFolder[_Network_co]:
    """Write the results of ``done`` on ``images``, some of ``splits``, into its folder; return it with its files.

    Parameters
    ----------
    digests
        SHA-256 of each file that was run.
    backend, command_line, seed
        As in `new_manifest`.
    unwritten
        Called with ``done`` before the error is raised, if the files cannot be written.
    more
        Further entries of the manifest.
    """
    classes = splits.classes or None
    made_by: dict[str, Any] = {
        "backend_versions": {name: version for ran in done.runs for name, version in ran.backend_versions.items()}
    }
    if backend != "ref":
        made_by["equal_to_ref"] = {ran.path.stem: ran.equal_to_reference for ran in done.runs}
    try:
        manifest = new_manifest(
            network=done.runs[0].path.stem,
            data=splits.name,
            data_fingerprint=splits.fingerprint,
            backend=backend,
            files=[ReadFile(name=ran.path.name, sha256=one) for ran, one in zip(done.runs, digests, strict=True)],
            command_line=command_line,
            seed=seed,
        )
        files = write_run(
            done.folder,
            [FileResults(ran.path.stem, ran.evaluation, ran.result, ran.network) for ran in done.runs],
            ImageFacts(images.labels, images.targets, images.paths, classes),
            {**manifest, "classes": classes, **made_by, **more},
        )
    except Exception:
        if unwritten is not None:
            unwritten(done)
        raise
    return replace(done, files=files)
