"""What the user asked of `loihi-convert run`, parsed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loihi_convert.cli.console import log
from loihi_convert.cli.images import DataRequest, first_images
from loihi_convert.cli.run_output import RunScene
from loihi_convert.errors import UsageError

if TYPE_CHECKING:
    from loihi_convert.backends import Backend
    from loihi_convert.data import Dataset, DataSplits
    from loihi_convert.ground.arrays import Shape
    from loihi_convert.ground.normalization import Normalization
    from loihi_convert.ir.provenance import ModelRecord
    from loihi_convert.pipeline.options import RunOptions

SIM_IMAGES = 100
"""Images a run on Lava's simulator takes unless told otherwise: seconds, not minutes."""

CHIP_IMAGES = 10
"""The same on a board, where every layer is read after every step."""


@dataclass(frozen=True)
class RunRequest:
    """A run of ``.net`` files.

    Parameters
    ----------
    paths
        The files; at least one.
    output
        The run folder; None: a new one.
    data, image_count
        The images; None: as many as the backend runs quickly.
    options, backend
        T, early exit, recording; and where to run.
    model, arch
        The CNN; None: the one recorded in each file.
    normalization
        For files of other tools; None: the default.
    is_stream
        For graded spikes: whether the images are frames of one sequence.
    given
        Options for binary spikes alone: parameter to value, which is false unless the user gave the option.
    started
        Time of the monotonic clock when the command started.
    as_json, details
        How to answer.
    """

    paths: tuple[Path, ...]
    output: Path | None
    data: DataRequest
    image_count: int | None
    options: RunOptions
    backend: Backend
    model: Path | None
    arch: str | None
    normalization: Normalization | None
    is_stream: bool
    given: Mapping[str, object]
    started: float
    as_json: bool
    details: bool

    def require_one_file(self, what: str) -> Path:
        """Return the only file, of which ``what`` is true; raise a `UsageError` if there are others."""
        if len(self.paths) > 1:
            raise UsageError(what, where=self.paths[0], hint="Run such a file alone.")
        return self.paths[0]

    def load(self, recorded: ModelRecord, input_shape: Shape) -> DataSplits:
        """Return the data for the first file; ``recorded`` is the record of its CNN."""
        return self.data.load(self.paths[0], recorded, input_shape)

    def images(self, splits: DataSplits) -> Dataset:
        """Return the test images to run: as many as requested, else all, or as many as a slow backend runs quickly."""
        available = len(splits.test)
        default = {"sim": SIM_IMAGES, "loihi2": CHIP_IMAGES}.get(self.backend.name, available)
        count = first_images(self.image_count, default, available, f"test images of {splits.name}")
        if self.image_count is None and count < available:
            log(f"running the first {count} of {available} test images; choose with --images")
        return splits.test[:count]

    def scene(self, splits: DataSplits, no_early_exit: str = "") -> RunScene:
        """Return the context of the answer, when the run has ended."""
        seconds = time.monotonic() - self.started
        return RunScene(splits.name, self.backend.name, seconds, self.options.trace, self.arch, no_early_exit)
